"""Make a sample disk: a file system of about 1 GiB with real files of the machine, as a fixed VHD.

``mke2fs -d`` makes the file system without root, where the program is installed. Without the program the files are stored
one after another in the partition of a GPT disk.
"""

import os
import shutil
import struct
import subprocess
import sys
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import OutputError
from imgstore.domain.storage.sizes import BLOCK_BYTES, GIB, MIB, PIECE_BYTES, SECTOR_BYTES, round_up
from imgstore.formats import LocalFile, create_writer, open_disk

SAMPLE_BYTES: Final = GIB
CONTENT_BYTES_MAX: Final = 240 * 10**6
"""Bytes of real files: less than the 300 MB that a trial may cost, with space for the file system's metadata."""

_FILE_BYTES_MAX: Final = 32 * MIB
_FOLDERS: Final = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", sys.prefix)
_PARTITION_AT: Final = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A sample disk."""

    path: Path
    how: str
    """Description for people: "ext4 made by mke2fs"."""
    files: int
    content_bytes: int


def make_sample(folder: Path) -> Sample:
    """Make ``sample.vhd`` in `folder`.

    Raises:
        OutputError: the folder has no space, or the permission is missing.
    """
    try:
        return _make_sample(folder)
    except OSError as error:
        raise OutputError(
            "The sample disk could not be made.",
            found=str(error),
            expected=f"space for about {3 * CONTENT_BYTES_MAX // 10**6} MB in {folder}",
            hint="free some space, or set TMPDIR to another file system",
            target=str(folder),
        ) from error


def _make_sample(folder: Path) -> Sample:
    raw, vhd = folder / "sample.raw", folder / "sample.vhd"
    files = list(_some_files())
    mke2fs = shutil.which("mke2fs", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
    if mke2fs is not None and _ext4(mke2fs, folder / "content", raw, files):
        how = "ext4 made by mke2fs"
    else:
        _gpt(raw, files)
        how = "a GPT disk with the files one after another in its partition (mke2fs was not found)"
    _as_vhd(raw, vhd)
    raw.unlink()
    return Sample(path=vhd, how=how, files=len(files), content_bytes=sum(size for _, size in files))


def _some_files() -> Iterator[tuple[Path, int]]:
    """List readable regular files of the machine in a fixed order, up to the limit."""
    left = CONTENT_BYTES_MAX
    for top in _FOLDERS:
        for folder, below, names in os.walk(top):
            below.sort()
            for name in sorted(names):
                path = Path(folder) / name
                if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                    continue
                size = path.stat().st_size
                if 0 < size <= min(left, _FILE_BYTES_MAX):
                    left -= size
                    yield path, size
            if left < MIB:
                return


def _ext4(mke2fs: str, content: Path, raw: Path, files: list[tuple[Path, int]]) -> bool:
    """Return True if mke2fs made the file system. The mke2fs of busybox has no option -d."""
    for path, _ in files:
        place = content / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    size = f"{SAMPLE_BYTES // 1024}k"
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-d", str(content), str(raw), size]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own arguments
    shutil.rmtree(content)
    return done.returncode == 0


def _gpt(raw: Path, files: list[tuple[Path, int]]) -> None:
    """Write a protective MBR, a GPT at both ends (UEFI specification, 5.2.3 and 5.3), and one partition with the files."""
    sectors = SAMPLE_BYTES // SECTOR_BYTES
    first, last = _PARTITION_AT // SECTOR_BYTES, sectors - 34
    kind = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")  # Linux file system data
    name = "imgstore sample".encode("utf-16-le").ljust(72, b"\0")
    entry = struct.pack("<16s16sQQQ72s", kind.bytes_le, uuid.UUID(int=1).bytes_le, first, last, 0, name)
    entries = entry.ljust(128 * 128, b"\0")
    with raw.open("wb") as file:
        file.truncate(SAMPLE_BYTES)
        mbr = struct.pack("<446sB3sB3sII48sH", b"", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, sectors - 1, b"", 0xAA55)
        file.write(mbr + _gpt_header(1, sectors - 1, 2, sectors, entries) + entries)
        at = _PARTITION_AT
        for path, size in files:
            file.seek(at)
            file.write(path.read_bytes())
            at += round_up(size, BLOCK_BYTES)
        file.seek((sectors - 33) * SECTOR_BYTES)
        file.write(entries + _gpt_header(sectors - 1, 1, sectors - 33, sectors, entries))


def _gpt_header(here: int, other: int, entries_at: int, sectors: int, entries: bytes) -> bytes:
    def pack_header(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x10000,
            92,
            checksum,
            0,
            here,
            other,
            34,
            sectors - 34,
            uuid.UUID(int=2).bytes_le,
            entries_at,
            128,
            128,
            zlib.crc32(entries),
        )

    return pack_header(zlib.crc32(pack_header(0))).ljust(SECTOR_BYTES, b"\0")


def _as_vhd(raw: Path, vhd: Path) -> None:
    source = LocalFile(raw)
    reader = open_disk(source, format=DiskFormat.RAW, scratch=vhd.parent)
    writer = create_writer(
        vhd,
        format=DiskFormat.VHD_FIXED,
        virtual_bytes=reader.virtual_bytes,
        extents=list(reader.extents()),
        disk_digest=bytes(32),
    )
    try:
        for extent in reader.extents():
            for offset in range(extent.offset, extent.end, PIECE_BYTES):
                writer.write_at(offset, reader.read_at(offset, min(PIECE_BYTES, extent.end - offset)))
        writer.publish()
    finally:
        writer.abandon()
        reader.close()
        source.close()
