"""Small disks with realistic structure. The same seed gives the same bytes on every machine.

A disk resembles the layout of a file system: a partition table, a table of files that changes with every file, and
files in 4 KiB blocks with holes between. Some files are fragmented, some contain noise or text, and some exist twice.
`patch_disk` changes a disk like the installation of a package. Another `layout` is like a rebuild by a pipeline: the
same files in other places.
"""

import hashlib
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB, PIECE_BYTES, SECTOR_BYTES, ceil_div
from imgstore.formats import LocalFile, create_writer, open_disk

PARTITION_AT: Final = MIB
_TABLE_BYTES: Final = 256 * 1024
_FILE_BYTES_MAX: Final = 1536 * 1024
_WORDS: Final = (
    b"root daemon sys /usr/sbin/nologin /var/lib systemd network 0 1 2 4096 enabled static true false\n".split()
)


def make_raw(
    path: Path, *, seed: int, layout: int = 0, virtual_bytes: int = 24 * MIB, content_bytes: int = 10 * MIB
) -> Path:
    """Write a sparse raw disk.

    Args:
        path: the file, which is replaced.
        seed: selects the files on the disk.
        layout: selects the places of the files.
        virtual_bytes: the size of the disk, a multiple of 512.
        content_bytes: the approximate size of all files.
    """
    files = list(_files(seed, content_bytes))
    with path.open("wb") as file:
        file.truncate(virtual_bytes)
        file.write(_mbr(virtual_bytes))
        table, places = b"", _places(layout, virtual_bytes)
        for number, content in enumerate(files):
            for begin in range(0, len(content), _FRAGMENT_BYTES):
                at = next(places)
                table += struct.pack("<III", number, at // BLOCK_BYTES, len(content))
                file.seek(at)
                file.write(content[begin : begin + _FRAGMENT_BYTES])
        assert len(table) <= _TABLE_BYTES, "too many files for the table"
        file.seek(PARTITION_AT)
        file.write(table)
    return path


def patch_disk(source: Path, target: Path, *, seed: int, blocks: int = 12) -> Path:
    """Copy a sparse raw disk, and overwrite `blocks` random blocks of its partition."""
    rng = random.Random(seed)
    _copy_sparse(source, target)
    with target.open("r+b") as file:
        last = (target.stat().st_size - PARTITION_AT) // BLOCK_BYTES - 1
        for number in rng.sample(range(last), blocks):
            file.seek(PARTITION_AT + number * BLOCK_BYTES)
            file.write(rng.randbytes(BLOCK_BYTES))
    return target


def write_vhd(raw: Path, vhd: Path, form: DiskFormat = DiskFormat.VHD_FIXED) -> Path:
    """Write a raw disk into a VHD."""
    source = LocalFile(raw)
    reader = open_disk(source, format=DiskFormat.RAW, scratch=vhd.parent)
    extents = list(reader.extents())
    writer = create_writer(
        vhd, format=form, virtual_bytes=reader.virtual_bytes, extents=extents, disk_digest=bytes(32), overwrite=True
    )
    try:
        for extent in extents:
            for offset in range(extent.offset, extent.end, PIECE_BYTES):
                writer.write_at(offset, reader.read_at(offset, min(PIECE_BYTES, extent.end - offset)))
        writer.publish()
    finally:
        writer.abandon()
        reader.close()
        source.close()
    return vhd


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, with holes as zeros."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_FRAGMENT_BYTES: Final = 512 * 1024
"""The maximum length of a fragment of a file."""


def _files(seed: int, content_bytes: int) -> Iterator[bytes]:
    """Yield the contents of files: noise, text, and sometimes an earlier file."""
    rng = random.Random(seed)
    seen: list[bytes] = []
    left = content_bytes
    while left > 0:
        length = min(left, rng.randrange(BLOCK_BYTES, _FILE_BYTES_MAX))
        kind = rng.randrange(8)
        if kind == 0 and seen:
            content = rng.choice(seen)
        elif kind <= 2:
            content = b" ".join(rng.choices(_WORDS, k=length // 8))
        else:
            content = rng.randbytes(length)
        seen.append(content)
        left -= len(content)
        yield content


def _places(layout: int, virtual_bytes: int) -> Iterator[int]:
    """Yield offsets for fragments in the partition, in an order that depends on the layout."""
    begin = PARTITION_AT + _TABLE_BYTES
    count = (virtual_bytes - begin) // _FRAGMENT_BYTES
    order = list(range(count))
    random.Random(layout).shuffle(order)
    shift = (layout % 16) * BLOCK_BYTES  # another file system's inode tables are of another length
    for number in order[:-1] if shift else order:
        yield begin + shift + number * _FRAGMENT_BYTES


def _mbr(virtual_bytes: int) -> bytes:
    """Create a master boot record with one Linux partition up to the end."""
    first = PARTITION_AT // SECTOR_BYTES
    sectors = virtual_bytes // SECTOR_BYTES - first
    entry = struct.pack("<B3sB3sII", 0x80, b"\xff\xff\xff", 0x83, b"\xff\xff\xff", first, sectors)
    return b"\0" * 446 + entry + b"\0" * 48 + b"\x55\xaa"


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        size = source.stat().st_size
        written.truncate(size)
        for block in range(ceil_div(size, _FRAGMENT_BYTES)):
            data = read.read(_FRAGMENT_BYTES)
            if data.strip(b"\0"):
                written.seek(block * _FRAGMENT_BYTES)
                written.write(data)
