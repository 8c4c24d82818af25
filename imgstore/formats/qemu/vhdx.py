"""Checks VHDX images before qemu-img reads them.

Source: Microsoft, [MS-VHDX].
"""

import struct
from typing import Final
from uuid import UUID

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.storage.sizes import KIB, MIB, SECTOR_BYTES
from imgstore.formats.checks import (
    FailureKind,
    Finding,
    all_passed,
    header_finding,
    inside_file_finding,
    make_finding,
    size_finding,
)

_REGIONS_AT: Final = 192 * KIB
"""[MS-VHDX] 2.2.3: the first of the two region tables."""


_TABLE_BYTES: Final = 64 * KIB


_ENTRIES_MAX: Final = 2047


_METADATA: Final = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le


_FILE_PARAMETERS: Final = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le


_DISK_SIZE: Final = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le


_PARENT_LOCATOR: Final = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le


_HAS_PARENT: Final = 0b10


_BLOCK_BYTES: Final = [MIB << power for power in range(9)]
"""2.2.2.2.1: a power of two, 1 MiB to 256 MiB."""


def examine_vhdx(source: ByteSource) -> tuple[tuple[Finding, ...], int | None]:
    """Check the region tables and metadata of a VHDX. Return the findings and the virtual bytes."""
    end = _REGIONS_AT + _TABLE_BYTES
    whole = header_finding(source.read_at(0, min(8, source.file_bytes)), 8, b"vhdxfile")
    regions_in_file = inside_file_finding("region-table-in-file", source, "the region table", _REGIONS_AT, _TABLE_BYTES)
    if not (whole.passed and regions_in_file.passed):
        return (whole, regions_in_file), None
    regions = _read_table(source.read_at(_REGIONS_AT, _TABLE_BYTES), b"regi", "<4x4xI", head_bytes=16)
    at, length, _ = struct.unpack("<QII", regions.get(_METADATA, bytes(16)))
    findings = (
        whole,
        regions_in_file,
        make_finding(
            "metadata-region",
            passed=at >= end and length >= _TABLE_BYTES,
            found=f"a metadata region of {length:,} bytes at {at:,}" if at else "no metadata region",
            expected=f"a region of at least 64 KiB after {end:,}",
            kind=FailureKind.DAMAGED,
        ),
        inside_file_finding("regions-in-file", source, "the furthest region", *_last_region(regions)),
    )
    if not all_passed(findings):
        return findings, None
    more, virtual_bytes = _read_metadata(source, at, length)
    return findings + more, virtual_bytes


def _read_metadata(source: ByteSource, at: int, length: int) -> tuple[tuple[Finding, ...], int | None]:
    """Check the metadata items of [MS-VHDX] 2.6. Return the findings and the virtual bytes."""
    items = _read_table(source.read_at(at, _TABLE_BYTES), b"metadata", "<8x2xH", head_bytes=32)

    def item(guid: bytes, item_bytes: int) -> bytes | None:
        offset, _, _, _ = struct.unpack("<IIII", items.get(guid, bytes(16)))
        inside = _TABLE_BYTES <= offset <= length - item_bytes
        return source.read_at(at + offset, item_bytes) if inside else None

    parameters, size = item(_FILE_PARAMETERS, 8), item(_DISK_SIZE, 8)
    known = make_finding(
        "metadata-items",
        passed=bool(parameters and size),
        found=f"{len(items)} items",
        expected="items for the file parameters and the virtual disk size, inside the region",
        kind=FailureKind.DAMAGED,
    )
    if not parameters or not size:
        return (known,), None
    block_bytes, bits = struct.unpack("<II", parameters)
    virtual_bytes = int.from_bytes(size, "little")
    parent = bool(bits & _HAS_PARENT) or _PARENT_LOCATOR in items
    return (
        known,
        make_finding(
            "no-parent",
            passed=not parent,
            found="a differencing disk" if parent else "no parent",
            expected="a disk that needs no other file",
            hint="merge the disk into its parent (Hyper-V: Merge-VHD) and use the parent",
        ),
        size_finding(virtual_bytes, multiple_of=SECTOR_BYTES),
        make_finding(
            "block-size",
            passed=block_bytes in _BLOCK_BYTES,
            found=f"blocks of {block_bytes:,} bytes",
            expected="a power of two from 1 MiB to 256 MiB",
        ),
    ), virtual_bytes


def _last_region(regions: dict[bytes, bytes]) -> tuple[int, int]:
    """Return (offset, length) of the region with the highest end."""
    spans = (struct.unpack("<QI", entry[:12]) for entry in regions.values())
    return max(spans, key=sum, default=(0, 0))


def _read_table(raw: bytes, signature: bytes, head: str, *, head_bytes: int) -> dict[bytes, bytes]:
    """Read the entries of a region or metadata table: 16 bytes each, by GUID."""
    (count,) = struct.unpack_from(head, raw)
    if not raw.startswith(signature) or count > _ENTRIES_MAX:
        return {}
    entries = (raw[at : at + 32] for at in range(head_bytes, head_bytes + 32 * count, 32))
    return {entry[:16]: entry[16:] for entry in entries if len(entry) == 32}
