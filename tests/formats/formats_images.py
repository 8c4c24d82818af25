"""Disks and images for the tests of formats, and comparisons by qemu-img."""

import json
import random
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from imgstore.domain.disks.sources import DiskFormat, Extent, SourceIdentity
from imgstore.formats import LocalFile, create_writer, open_disk

QEMU_NAMES = {
    DiskFormat.VHD_FIXED: "vpc",
    DiskFormat.VHD_DYNAMIC: "vpc",
    DiskFormat.RAW: "raw",
    DiskFormat.QCOW2: "qcow2",
    DiskFormat.VHDX: "vhdx",
    DiskFormat.VMDK: "vmdk",
}
DIGEST = bytes(range(32))
MIB = 1 << 20


def qemu_img(*arguments: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def qemu_info(path: Path, form: DiskFormat) -> dict[str, Any]:
    output: dict[str, Any] = json.loads(qemu_img("info", "--output=json", "-f", QEMU_NAMES[form], path))
    return output


def qemu_compare(path: Path, form: DiskFormat, raw: Path) -> None:
    """Compare two images, sizes included.

    qemu-img's strict mode would also compare allocation, which depends on the container.
    """
    output = qemu_img("compare", "-f", QEMU_NAMES[form], "-F", "raw", path, raw)
    assert output == "Images are identical.\n"


def random_disk(virtual_bytes: int, extents: Sequence[Extent], seed: int = 1) -> bytes:
    disk = bytearray(virtual_bytes)
    source = random.Random(seed)
    for extent in extents:
        disk[extent.offset : extent.end] = source.randbytes(extent.length)
    return bytes(disk)


def write_sparse(path: Path, disk: bytes) -> Path:
    """Write `disk` as a raw file with a hole for each 4 KiB of zeros."""
    with open(path, "wb") as file:
        file.truncate(len(disk))
        for at in range(0, len(disk), 4096):
            block = disk[at : at + 4096]
            if any(block):
                file.seek(at)
                file.write(block)
    return path


def write_image(path: Path, form: DiskFormat, disk: bytes, extents: Sequence[Extent] | None = None) -> Path:
    """Write an image by imgstore."""
    spans = [Extent(offset=0, length=len(disk))] if extents is None else extents
    writer = create_writer(path, format=form, virtual_bytes=len(disk), extents=spans, disk_digest=DIGEST)
    try:
        for span in spans:
            writer.write_at(span.offset, disk[span.offset : span.end])
        writer.publish()
    finally:
        writer.abandon()
    return path


def read_image(path: Path, form: DiskFormat | None, scratch: Path) -> bytes:
    """Read the disk of an image by its extents; other ranges must be zero."""
    source = LocalFile(path)
    try:
        reader = open_disk(source, format=form, scratch=scratch)
        try:
            disk = bytearray(reader.virtual_bytes)
            for extent in reader.extents():
                disk[extent.offset : extent.end] = reader.read_at(extent.offset, extent.length)
            assert bytes(disk) == reader.read_at(0, reader.virtual_bytes)
            return bytes(disk)
        finally:
            reader.close()
    finally:
        source.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tail(path: Path) -> bytes:
    """Return the last 512 bytes."""
    with open(path, "rb") as file:
        file.seek(-512, 2)
        return file.read()


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Write `data` into a file; a negative offset counts from the end."""
    with open(path, "r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(data)
    return path


def reseal_footer(raw: bytes, **fields: bytes) -> bytes:
    """Return a footer with changed fields and a right checksum, which this function computes by the specification."""
    places = {"cookie": 0, "data_offset": 16, "creator": 28, "current_size": 48, "geometry": 56, "disk_type": 60}
    return _reseal(raw, {places[name]: value for name, value in fields.items()}, 64)


def reseal_header(raw: bytes, **fields: bytes) -> bytes:
    """Return a dynamic header with changed fields and a right checksum."""
    places = {"table_offset": 16, "version": 24, "entries": 28, "block_size": 32}
    return _reseal(raw, {places[name]: value for name, value in fields.items()}, 36)


def _reseal(raw: bytes, fields: dict[int, bytes], checksum_at: int) -> bytes:
    changed = bytearray(raw)
    for place, value in fields.items():
        changed[place : place + len(value)] = value
    changed[checksum_at : checksum_at + 4] = bytes(4)
    changed[checksum_at : checksum_at + 4] = struct.pack(">I", ~sum(changed) & 0xFFFFFFFF)
    return bytes(changed)


class MemorySource:
    """A byte source in memory, like a source over HTTP: its holes are unknown."""

    def __init__(self, data: bytes, location: str = "https://example.invalid/image") -> None:
        self.data = data
        self.location = location

    @property
    def file_bytes(self) -> int:
        return len(self.data)

    def identity(self) -> SourceIdentity:
        return SourceIdentity(location=self.location, file_bytes=len(self.data), stamp="etag")

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset + length <= len(self.data)
        return self.data[offset : offset + length]

    def extents(self) -> Iterator[Extent]:
        yield Extent(offset=0, length=len(self.data))

    def close(self) -> None:
        pass


def gpt_disk(*types: UUID, block_bytes: int = 512, virtual_bytes: int = 2 * MIB) -> bytes:
    """Make a disk with a protective MBR and a GPT of empty partitions."""
    disk = bytearray(virtual_bytes)
    disk[446 + 4] = 0xEE
    disk[510:512] = b"\x55\xaa"
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 65536, 92, 0, 0, 1, 0, 34, 0, bytes(16), 2, 128, 128, 0)
    disk[block_bytes : block_bytes + len(header)] = header
    for number, guid in enumerate(types):
        at = 2 * block_bytes + 128 * number
        disk[at : at + 16] = guid.bytes_le
    return bytes(disk)
