"""The disks that the benches move: a real Debian, installed, extended, patched and rebuilt.

Four things happen to a golden image, and each disk shows one of them:

- `v1`: 8 GiB, GPT, one ext4 file system with a bootstrapped Debian: mostly holes;
- `v2`: v1, with nginx and PostgreSQL installed in place: a large change;
- `v3`: v2, with three small packages installed in place: a *patched* image;
- `r2`: the files of v2 on a fresh file system, written in another order: a *rebuilt* image, as a Packer run makes it.

Blocks that the file system holds free are holes in the file: it is mounted with `discard`, trimmed, and its zeros are
dug out. Mounts and programs live in namespaces of the maker's own, so that they end with it, even if it is killed.

Root, debootstrap, e2fsprogs, fdisk and util-linux are needed (qemu-utils for VHDs), and the machine's own apt
configuration is used: whatever mirror it names. Neither the mirror nor the machine's name stays on a disk.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import numpy as np

MIB = 1 << 20
GIB = 1 << 30
BLOCK_BYTES = 4096
DISK_BYTES = 8 * GIB
PARTITION_OFFSET = MIB
"""Where the file system begins: the usual alignment, and a multiple of 4 KiB, so file blocks are blocks of the disk."""
PARTITION_BYTES = DISK_BYTES - 2 * MIB
"""The last MiB holds the backup GPT."""

BASE_PACKAGES = ("linux-image-cloud-amd64", "openssh-server", "locales", "ca-certificates", "python3")
"""What v1 has beside a bootstrap's own: about what cloud images carry."""
SERVER_PACKAGES = ("nginx", "postgresql")
PATCH_PACKAGES = ("tree", "jq", "htop")

PROGRAMS = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "sfdisk": "fdisk", "fallocate": "util-linux"}
"""What makes the disks, and Debian's package of it."""

SAID_LINES_MAX = 20
"""So many lines of a failed program's output go into the error."""

CHROOT_ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}


class DiskName(StrEnum):
    """The disks, each made from the ones before it."""

    V1 = "v1"
    V2 = "v2"
    V3 = "v3"
    R2 = "r2"


class Family(StrEnum):
    """The file systems that the four disks are made on."""

    EXT4 = "ext4"
    """Made by a bootstrap; the others hold the very files of these."""
    XFS = "xfs"
    BTRFS = "btrfs"
    NTFS = "ntfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """What MANIFEST.json tells of one disk."""

    virtual_bytes: int
    """Size of the disk and of the file."""
    allocated_bytes: int
    """What the file takes on the host's file system."""
    content_bytes: int
    """4,096 x the blocks that are not all zero."""
    sha256: str
    """Of the whole raw file, holes as zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """One Debian archive, as the machine's apt knows it."""

    uri: str
    suite: str


# -- pure parts --------------------------------------------------------------------------------------------------------


def parse_sources(text: str) -> Iterator[Mirror]:
    """The archives named by an apt sources document, deb822 or one-line style (sources.list(5)), in order."""
    if re.search(r"(?im)^types\s*:", text):
        yield from _parse_deb822(text)
        return
    for line in text.splitlines():
        if match := re.match(r"deb\s+(?:\[[^]]*]\s+)?(\S+)\s+(\S+)", line.strip()):
            yield Mirror(uri=match[1], suite=match[2])


def _parse_deb822(text: str) -> Iterator[Mirror]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {name.lower(): value.strip() for name, value in re.findall(r"(?m)^(\S+?)\s*:\s*(.*)$", stanza)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Mirror(uri=uri, suite=suite)


def release_mirror(mirrors: Sequence[Mirror], codename: str) -> Mirror:
    """The archive to bootstrap `codename` from: the suite of that very name, not its updates.

    Raises:
        LookupError: the machine's apt knows none.
    """
    for mirror in mirrors:
        if mirror.suite == codename:
            return mirror
    raise LookupError(f"apt's sources name no archive of suite {codename}; found suites: {[m.suite for m in mirrors]}")


def other_order(paths: Sequence[str]) -> list[str]:
    """The same paths in the order of a rebuild: from the last to the first.

    A folder comes after all that is in it, so its times are set when nothing more is written into it.
    """
    return sorted(paths, key=lambda path: path.split("/"), reverse=True)


def partition_script() -> str:
    """What sfdisk is told: one Linux partition."""
    sectors = 512
    return f"label: gpt\nstart={PARTITION_OFFSET // sectors}, size={PARTITION_BYTES // sectors}, type=linux\n"


def data_extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each range of the file that is no hole (lseek(2), SEEK_DATA)."""
    offset, end = 0, os.fstat(descriptor).st_size
    while offset < end:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: holes up to the end
            return
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, offset - start


def examine(path: Path) -> DiskFacts:
    """Reads a raw disk once and tells its facts; holes cost hashing only."""
    digest, content_blocks, position, zeros = hashlib.sha256(), 0, 0, bytes(4 * MIB)
    with path.open("rb", buffering=0) as file:
        for start, length in data_extents(file.fileno()):
            _update_zeros(digest, start - position, zeros)
            position = start + length
            for offset in range(start, position, len(zeros)):
                data = os.pread(file.fileno(), min(len(zeros), position - offset), offset)
                digest.update(data)
                content_blocks += nonzero_blocks(data)
        size = os.fstat(file.fileno()).st_size
        _update_zeros(digest, size - position, zeros)
        allocated = os.fstat(file.fileno()).st_blocks * 512
    return DiskFacts(
        virtual_bytes=size,
        allocated_bytes=allocated,
        content_bytes=content_blocks * BLOCK_BYTES,
        sha256=digest.hexdigest(),
    )


def _update_zeros(digest: "hashlib._Hash", length: int, zeros: bytes) -> None:
    while length > 0:
        digest.update(zeros[:length])
        length -= len(zeros)


def nonzero_blocks(data: bytes) -> int:
    """How many of the 4 KiB blocks of `data` hold something; a shorter last block counts as one."""
    whole = len(data) // BLOCK_BYTES * BLOCK_BYTES
    blocks = np.frombuffer(data, dtype=np.uint8, count=whole).reshape(-1, BLOCK_BYTES)
    return int(blocks.any(axis=1).sum()) + any(data[whole:])


# -- the maker ---------------------------------------------------------------------------------------------------------


class ProgramMissing(RuntimeError):
    """A program that makes disks is not on this machine; the message says what to install."""


class MakerFailed(RuntimeError):
    """A program of the maker failed; what it said last, addresses left out, since the mirror is nobody's business."""

    def __init__(self, command: Sequence[str], code: int, said: str) -> None:
        lines = re.sub(r"\b\w+://\S+", "<address>", said).splitlines()[-SAID_LINES_MAX:]
        super().__init__(f"{command[0]} ended with {code}:\n" + "\n".join(lines))


def check_installed(packages: Mapping[str, str]) -> None:
    """See that programs are here before minutes are spent.

    Args:
        packages: Debian's package of each program.

    Raises:
        ProgramMissing: one is not.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in packages.items():
        if shutil.which(program, path=path) is None:
            raise ProgramMissing(f"no {program}: apt install {package}")


def run(*command: str | Path, stdin: bytes | None = None, environment: dict[str, str] | None = None) -> None:
    """Runs a program of the maker, silently; `stdin` is given to it.

    Raises:
        MakerFailed: it failed.
        FileNotFoundError: it is not installed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=environment
    )
    if done.returncode:
        raise MakerFailed(words, done.returncode, done.stdout.decode(errors="replace"))


@contextlib.contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """The file system of a disk, mounted in a folder beside it; given back unmounted, trimmed and with no trace."""
    root = image.with_name(image.name + ".mnt")
    root.mkdir(exist_ok=True)
    options = f"loop,offset={PARTITION_OFFSET},sizelimit={PARTITION_BYTES},discard,noatime"
    try:
        run("mount", "-o", options, image, root)
        try:
            yield root
            # Blocks freed in a transaction that is not committed yet are not trimmed.
            run("sync", "--file-system", root)
            run("fstrim", root)
        finally:
            run("umount", "--recursive", root)
    finally:
        root.rmdir()


@contextlib.contextmanager
def furnished(root: Path) -> Iterator[Path]:
    """A root in which packages can be installed: /proc, shared memory, the machine's apt and resolver; no services."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    resolver = root / "etc/resolv.conf"
    resolver.write_text(Path("/etc/resolv.conf").read_text())
    bound = (["-t", "proc", "proc"], "proc"), (["-t", "tmpfs", "tmpfs"], "dev/shm"), (["--bind", "/etc/apt"], "etc/apt")
    with contextlib.ExitStack() as undo:
        for arguments, folder in bound:
            run("mount", *arguments, root / folder)
            undo.callback(run, "umount", root / folder)
        yield root
    policy.unlink()
    anonymise(root)


def anonymise(root: Path) -> None:
    """Takes away what a bootstrap copies of the machine: its name, its resolver, its mirror."""
    (root / "etc/hostname").write_text("debian\n")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/apt/sources.list").write_text("# named by whoever starts a machine from this disk\n")
    for log in [*root.glob("var/log/bootstrap.log"), *root.glob("var/log/apt/*"), *root.glob("var/log/dpkg.log")]:
        log.unlink()


def install(root: Path, packages: Sequence[str]) -> None:
    """Installs packages into a root and leaves no download behind."""
    with furnished(root):
        apt = "chroot", str(root), "apt-get", "-q", "-y", "--no-install-recommends"
        run(*apt, "update", environment=CHROOT_ENVIRONMENT)
        run(*apt, "install", *packages, environment=CHROOT_ENVIRONMENT)
        run(*apt, "clean", environment=CHROOT_ENVIRONMENT)
    for folder in ("var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()


def make_file_system(image: Path) -> None:
    """A new sparse 8 GiB disk: GPT, one ext4 file system, its tables written now rather than by the kernel later."""
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("sfdisk", "--quiet", image, stdin=partition_script().encode())
    options = f"offset={PARTITION_OFFSET},lazy_itable_init=0,lazy_journal_init=0"
    run("mkfs.ext4", "-q", "-F", "-L", "root", "-E", options, image, f"{PARTITION_BYTES // 1024}k")


def bootstrap(image: Path, codename: str) -> None:
    """v1: a bootstrapped Debian."""
    texts = [path.read_text() for path in apt_sources()]
    mirror = release_mirror([mirror for text in texts for mirror in parse_sources(text)], codename)
    make_file_system(image)
    with mounted(image) as root:
        run("debootstrap", codename, root, mirror.uri, environment=CHROOT_ENVIRONMENT)
        install(root, BASE_PACKAGES)


def apt_sources() -> list[Path]:
    """The files from which the machine's apt reads its sources."""
    folder = Path("/etc/apt")
    found = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.sources"))]
    return [path for path in [*found, *sorted(folder.glob("sources.list.d/*.list"))] if path.exists()]


def extend(image: Path, source: Path, packages: Sequence[str]) -> None:
    """v2 and v3: a copy of `source`, changed in place."""
    run("cp", "--sparse=always", source, image)
    with mounted(image) as root:
        install(root, packages)


def rebuild(image: Path, source: Path) -> None:
    """r2: the files of `source` on a fresh file system, folder after folder in another order."""
    make_file_system(image)
    copied = image.with_suffix(".source")
    run("cp", "--sparse=always", source, copied)
    try:
        with mounted(copied) as old, mounted(image) as new:
            paths = [os.path.relpath(p, old) for p in old.rglob("*") if p.name != "lost+found"]
            listing = os.fsencode("\0".join(other_order(paths)))
            pack = shlex.join(["tar", "-C", str(old), "--xattrs", "--no-recursion", "--null", "-T", "-", "-cf", "-"])
            unpack = shlex.join(["tar", "-C", str(new), "--xattrs", "-xpf", "-"])
            run("bash", "-o", "pipefail", "-c", f"{pack} | {unpack}", stdin=listing)
    finally:
        copied.unlink()


def recipes(folder: Path, codename: str) -> dict[DiskName, Callable[[Path], None]]:
    """How each disk is made, at a path of the caller's."""
    return {
        DiskName.V1: lambda image: bootstrap(image, codename),
        DiskName.V2: lambda image: extend(image, raw_path(folder, DiskName.V1), SERVER_PACKAGES),
        DiskName.V3: lambda image: extend(image, raw_path(folder, DiskName.V2), PATCH_PACKAGES),
        DiskName.R2: lambda image: rebuild(image, raw_path(folder, DiskName.V2)),
    }


def make_disk(path: Path, make: Callable[[Path], None]) -> None:
    """Makes one disk under a temporary name, checks its file system, digs out its zeros and gives it its name."""
    part = path.with_suffix(".part")
    try:
        make(part)
        run("e2fsck", "-fn", f"{part}?offset={PARTITION_OFFSET}")
        run("fallocate", "--dig-holes", part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def make_fixed_vhd(path: Path, raw: Path) -> None:
    """The same disk as a fixed VHD, sparse, by a writer that is not ours."""
    part = path.with_suffix(".part")
    options = "subformat=fixed,force_size=on"
    try:
        run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


# -- the cache ---------------------------------------------------------------------------------------------------------


def default_folder() -> Path:
    """Where the disks are kept: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgstore/bench/disks"


def raw_path(folder: Path, name: DiskName) -> Path:
    return folder / f"{name}.raw"


def family_path(folder: Path, family: Family, name: DiskName) -> Path:
    """Where a family's disk is: those on ext4 in the folder itself, the others in one of their own."""
    return raw_path(folder if family is Family.EXT4 else folder / family, name)


def vhd_path(folder: Path, name: DiskName) -> Path:
    return folder / f"{name}.vhd"


def make_all(folder: Path, *, codename: str, vhd: bool) -> None:
    """Makes what is missing of the four disks, and writes MANIFEST.json after each.

    Raises:
        ProgramMissing: a program is not installed.
        MakerFailed: a program failed.
    """
    check_installed(PROGRAMS | ({"qemu-img": "qemu-utils"} if vhd else {}))
    folder.mkdir(parents=True, exist_ok=True)
    transaction = read_manifest(folder)
    for name, make in recipes(folder, codename).items():
        path = raw_path(folder, name)
        if not path.exists():
            print(f"making {name} ...", flush=True)
            make_disk(path, make)
            transaction.pop(name, None)
        if name not in transaction:
            transaction[name] = examine(path)
            write_manifest(folder, transaction, codename=codename)
        if vhd and not vhd_path(folder, name).exists():
            make_fixed_vhd(vhd_path(folder, name), path)
        print(f"{name}: {transaction[name].content_bytes / 1e6:,.0f} MB of content in 8 GiB", flush=True)


def read_manifest(folder: Path) -> dict[DiskName, DiskFacts]:
    """What MANIFEST.json tells, nothing where there is none."""
    try:
        document = json.loads((folder / "MANIFEST.json").read_text())
    except FileNotFoundError:
        return {}
    return {DiskName(name): DiskFacts(**transaction) for name, transaction in document["disks"].items()}


def write_manifest(folder: Path, transaction: dict[DiskName, DiskFacts], *, codename: str) -> None:
    document = {
        "debian": codename,
        "written": datetime.now(UTC).date().isoformat(),
        "disks": {name: asdict(value) for name, value in transaction.items()},
    }
    (folder / "MANIFEST.json").write_text(json.dumps(document, indent=2) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where the disks are kept")
    parser.add_argument("--vhd", action="store_true", help="make each as a fixed VHD, too")
    parser.add_argument("--codename", default="bookworm", help="the Debian release; apt must know its archive")
    parser.add_argument(
        "--family",
        type=Family,
        choices=Family,
        default=Family.EXT4,
        help="the file system; others than ext4 are made from the disks on ext4",
    )


def make_apart(folder: Path, *, codename: str = "bookworm", vhd: bool = False, family: Family = Family.EXT4) -> None:
    """`make_all` in a process with a mount namespace of its own: however it ends, no mount and no loop device stays.

    Raises:
        subprocess.CalledProcessError: a disk could not be made; what was missing stood on standard error.
    """
    apart = ["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child"]
    arguments = ["--folder", str(folder), "--codename", codename, *(["--vhd"] if vhd else [])]
    module = "bench.disks" if family is Family.EXT4 else "bench.families"
    chosen = [] if family is Family.EXT4 else ["--family", family]
    subprocess.run([*apart, sys.executable, "-m", module, *arguments, *chosen], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.disks", description="Make the disks in this very mount namespace.")
    add_arguments(parser)
    given = parser.parse_args()
    try:
        make_all(given.folder, codename=given.codename, vhd=given.vhd)
    except ProgramMissing as missing:
        sys.exit(str(missing))
