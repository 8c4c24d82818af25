"""The same four disks on XFS, btrfs and NTFS: the files of those on ext4, carried over.

What happens to a disk happens here too: v1 is filled, v2 and v3 are copies of the one before in which the files that
differ are written anew in place, r2 is v2's files on a fresh file system in another order. btrfs and XFS give free
blocks back (`discard`); NTFS under ntfs-3g keeps the old bytes in them, as Windows does until it trims.

Root and loop devices are needed, and xfsprogs, btrfs-progs or ntfs-3g (Debian's names): `PROGRAMS` says which.
"""

import argparse
import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.disks import (
    DISK_BYTES,
    MIB,
    PARTITION_BYTES,
    PARTITION_OFFSET,
    DiskName,
    Family,
    ProgramMissing,
    add_arguments,
    check_installed,
    data_extents,
    family_path,
    make_fixed_vhd,
    other_order,
    partition_script,
    raw_path,
    run,
)

PROGRAMS: Mapping[Family, tuple[Sequence[str], str]] = {
    Family.XFS: (("mkfs.xfs", "-q", "-L", "root"), "xfsprogs"),
    Family.BTRFS: (("mkfs.btrfs", "-q", "-L", "root"), "btrfs-progs"),
    Family.NTFS: (("mkfs.ntfs", "-q", "-Q", "-F", "-L", "root"), "ntfs-3g"),
}
"""What makes each file system in a file, and Debian's package of it."""

MOUNT_TYPES = {Family.XFS: "xfs", Family.BTRFS: "btrfs", Family.NTFS: "ntfs-3g"}


class OriginMissing(RuntimeError):
    """The disks on ext4 have not been made; the message says how."""


def check_programs(family: Family) -> None:
    """See that the family can be made here.

    Raises:
        ProgramMissing: not without another package.
    """
    (program, *_), package = PROGRAMS[family]
    check_installed({program: package, "sfdisk": "fdisk"})


def make_family(folder: Path, family: Family, *, vhd: bool) -> None:
    """Makes what is missing of a family's four disks, from those on ext4 in `folder`.

    Raises:
        ProgramMissing: a program is not installed.
        OriginMissing: the disks on ext4 have not been made.
        MakerFailed: a program failed.
    """
    check_programs(family)
    if absent := [name.value for name in DiskName if not raw_path(folder, name).exists()]:
        raise OriginMissing(f"no {', '.join(absent)} in {folder}: make those on ext4 first, `python -m bench disks`")
    family_path(folder, family, DiskName.V1).parent.mkdir(parents=True, exist_ok=True)
    for name in DiskName:
        path = family_path(folder, family, name)
        if not path.exists():
            print(f"making {name} on {family} ...", flush=True)
            _make(path, recipe(folder, family, name))
        if vhd and not path.with_suffix(".vhd").exists():
            make_fixed_vhd(path.with_suffix(".vhd"), path)


def recipe(folder: Path, family: Family, name: DiskName) -> Callable[[Path], None]:
    """How a disk is made at a path of the caller's."""
    origin = raw_path(folder, name)
    before = {DiskName.V2: DiskName.V1, DiskName.V3: DiskName.V2}.get(name)
    if before is None:
        return lambda image: _fill(image, family, origin)
    standing = family_path(folder, family, before)
    return lambda image: _change(image, family, origin, standing)


def _make(path: Path, make: Callable[[Path], None]) -> None:
    part = path.with_suffix(".part")
    try:
        make(part)
        run("fallocate", "--dig-holes", part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _fill(image: Path, family: Family, origin: Path) -> None:
    """v1 and r2: a fresh file system with the files of `origin` in another order than theirs."""
    make_file_system(image, family)
    with read_only(origin) as source, mounted(image, family) as target:
        carry(source, target, other_order(list(_paths(source))))


def _change(image: Path, family: Family, origin: Path, standing: Path) -> None:
    """v2 and v3: a copy of the disk before, changed in place into the files of `origin`."""
    run("cp", "--sparse=always", standing, image)
    with read_only(origin) as source, mounted(image, family) as target:
        there, wanted = set(_paths(target)), list(_paths(source))
        for path in sorted(there - set(wanted), reverse=True):
            _remove(target / path)
        carry(source, target, [path for path in other_order(wanted) if differ(source / path, target / path)])


def make_file_system(image: Path, family: Family) -> None:
    """A new sparse disk: GPT, one file system, made in a file of its own and moved into the partition."""
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("sfdisk", "--quiet", image, stdin=partition_script().encode())
    alone = image.with_suffix(".fs")
    try:
        with alone.open("wb") as file:
            file.truncate(PARTITION_BYTES)
        run(*PROGRAMS[family][0], alone)
        _place(alone, image)
    finally:
        alone.unlink(missing_ok=True)


def _place(alone: Path, image: Path) -> None:
    """Copies what is no hole into the partition."""
    with alone.open("rb") as source, image.open("r+b") as target:
        for start, length in data_extents(source.fileno()):
            for offset in range(start, start + length, MIB):
                data = os.pread(source.fileno(), min(MIB, start + length - offset), offset)
                os.pwrite(target.fileno(), data, PARTITION_OFFSET + offset)


@contextlib.contextmanager
def mounted(image: Path, family: Family) -> Iterator[Path]:
    """The file system of a disk, to be written; given back unmounted and trimmed where that is known."""
    discard = "" if family is Family.NTFS else ",discard"
    with _mount(image, MOUNT_TYPES[family], f"noatime{discard}") as root:
        yield root
        run("sync", "--file-system", root)
        if family is not Family.NTFS:
            run("fstrim", root)


@contextlib.contextmanager
def read_only(image: Path) -> Iterator[Path]:
    """The ext4 of a disk, which is not changed by being looked at."""
    with _mount(image, "ext4", "ro,noload") as root:
        yield root


@contextlib.contextmanager
def _mount(image: Path, kind: str, options: str) -> Iterator[Path]:
    root = image.with_name(f"{image.name}.{os.getpid()}.mnt")
    root.mkdir()
    where = f"loop,offset={PARTITION_OFFSET},sizelimit={PARTITION_BYTES}"
    try:
        run("mount", "-t", kind, "-o", f"{where},{options}", image, root)
        try:
            yield root
        finally:
            run("umount", root)
    finally:
        root.rmdir()


def _paths(root: Path) -> Iterator[str]:
    """All that is below, relative; what a file system puts there itself is left out."""
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        for name in [*folders, *files]:
            path = os.path.normpath(os.path.join(here, name))
            if path != "lost+found":
                yield path


def carry(source: Path, target: Path, paths: Sequence[str]) -> None:
    """Writes these paths of one tree into another, in this order, each in the place of what was there."""
    listing = os.fsencode("\0".join(paths))
    pack = shlex.join(["tar", "-C", str(source), "--no-recursion", "--null", "-T", "-", "-cf", "-"])
    unpack = shlex.join(["tar", "-C", str(target), "-xpf", "-"])
    run("bash", "-o", "pipefail", "-c", f"{pack} | {unpack}", stdin=listing)


def differ(one: Path, other: Path) -> bool:
    """Whether a file is to be written anew: as rsync sees it, by kind, length and second of change."""
    try:
        ours, theirs = one.lstat(), other.lstat()
    except FileNotFoundError:
        return True
    if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
        return True
    return stat.S_ISREG(ours.st_mode) and (ours.st_size, int(ours.st_mtime)) != (theirs.st_size, int(theirs.st_mtime))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(OSError):  # something is in it that is to stay
            path.rmdir()
    else:
        path.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.families", description="Make a family in this very mount namespace.")
    add_arguments(parser)
    given = parser.parse_args()
    try:
        make_family(given.folder, given.family, vhd=given.vhd)
    except (ProgramMissing, OriginMissing) as missing:
        sys.exit(str(missing))
