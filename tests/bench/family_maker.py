"""Four small disks on ext4, then a family made of them: run by test_bench_families.py in a mount namespace of its own."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import disks, families
from bench.disks import DiskName, Family, raw_path


def found(root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/x").write_bytes(os.urandom(300_000))
    (root / "a/y").write_bytes(b"y" * 5_000)
    (root / "a/link").symlink_to("b/x")
    (root / "a/hard").hardlink_to(root / "a/y")
    (root / "gone").write_text("in v1 alone")


def change(root: Path) -> None:
    (root / "gone").unlink()
    (root / "a/new").write_bytes(os.urandom(100_000))
    (root / "a/b/x").write_bytes(os.urandom(200_000))


def patch(root: Path) -> None:
    (root / "patch").write_text("p" * 9_000)


def in_place(source: Path, target: Path, act: Callable[[Path], None]) -> None:
    disks.run("cp", "--sparse=always", source, target)
    with disks.mounted(target) as root:
        act(root)


def contents(root: Path) -> dict[str, bytes | str | None]:
    """Each path's bytes, or where it points, or None for a folder."""
    told = dict[str, bytes | str | None]()
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if name != "lost+found":
            told[name] = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return told


def main(folder: Path, family: Family) -> None:
    v1, v2, v3, r2 = (raw_path(folder, name) for name in DiskName)
    disks.make_file_system(v1)
    with disks.mounted(v1) as root:
        found(root)
    in_place(v1, v2, change)
    in_place(v2, v3, patch)
    disks.rebuild(r2, v2)
    families.make_family(folder, family, vhd=False)
    for name in DiskName:
        with (
            families.read_only(raw_path(folder, name)) as origin,
            families.mounted(disks.family_path(folder, family, name), family) as made,
        ):
            same = contents(origin) == contents(made)
        sys.stdout.write(f"{name}: {'the same files' if same else 'other files'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Family(sys.argv[2]))
