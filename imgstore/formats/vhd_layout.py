"""Packs and unpacks the structures of a VHD file. The checks are in vhd.py.

Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0, October 2006. Docstrings name the
sections. All numbers are big-endian.

A fixed VHD is the bytes of the disk and the footer. A dynamic VHD is a copy of the footer, the dynamic disk header, the
block allocation table (BAT), blocks (each a sector bitmap and its data), and the footer.
"""

import struct
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from imgstore.domain.storage.sizes import GIB, MIB, SECTOR_BYTES, ceil_div, round_up

FOOTER_BYTES: Final = 512
HEADER_BYTES: Final = 1024

FOOTER_COOKIE: Final = b"conectix"
HEADER_COOKIE: Final = b"cxsparse"

FORMAT_VERSION: Final = 0x0001_0000
"""The version of both footer and dynamic header. A change of the high half, the major version, is incompatible."""

TYPE_FIXED: Final = 2
TYPE_DYNAMIC: Final = 3
TYPE_DIFFERENCING: Final = 4

BLOCK_BYTES_DEFAULT: Final = 2 * MIB
""""Dynamic Disk Header Format", Block Size: the default of the specification."""

UNALLOCATED: Final = 0xFFFF_FFFF
"""A BAT entry without a block ("Block Allocation Table and Data Blocks")."""

DYNAMIC_BYTES_MAX: Final = 2040 * GIB
"""The largest dynamic disk. Block addresses are sectors in 32 bits, and Microsoft's tools have this limit."""

_NO_DATA_OFFSET: Final = 0xFFFF_FFFF_FFFF_FFFF

_FOOTER: Final = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_FOOTER_CHECKSUM_AT: Final = 64
_HEADER: Final = struct.Struct(">8sQQIIII16sII512s192s256x")
_HEADER_CHECKSUM_AT: Final = 36

assert _FOOTER.size == FOOTER_BYTES
assert _HEADER.size == HEADER_BYTES

_FEATURES_RESERVED: Final = 0x0000_0002
""""Hard Disk Footer Format", Features: this bit must always be set."""
_CREATOR: Final = b"win "
"""Hyper-V's name. For this creator, readers use the current size, otherwise the less precise CHS geometry."""
_CREATOR_VERSION: Final = 0x000A_0000
_CREATOR_HOST_OS: Final = b"Wi2k"
"""Windows, among the two values of the specification."""


def checksum(structure: bytes, *, field_at: int) -> int:
    """Compute the one's complement of the sum of all bytes except the four bytes of the checksum ("Checksum")."""
    return ~(sum(structure) - sum(structure[field_at : field_at + 4])) & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Cylinders, heads and sectors per track ("Disk Geometry"). Too imprecise for the size of a disk."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def bytes(self) -> int:
        """The number of bytes that this geometry can address."""
        return self.cylinders * self.heads * self.sectors * SECTOR_BYTES

    @classmethod
    def of(cls, virtual_bytes: int) -> Self:
        """Compute the geometry of a disk by the specification's appendix, "CHS Calculation"."""
        total = min(virtual_bytes // SECTOR_BYTES, 65535 * 16 * 255)
        if total >= 65535 * 16 * 63:
            return cls(cylinders=total // 255 // 16, heads=16, sectors=255)
        sectors = 17
        tracks = total // sectors
        heads = max((tracks + 1023) // 1024, 4)
        if tracks >= heads * 1024 or heads > 16:
            sectors, heads = 31, 16
            tracks = total // sectors
        if tracks >= heads * 1024:
            sectors, heads = 63, 16
            tracks = total // sectors
        return cls(cylinders=tracks // heads, heads=heads, sectors=sectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """The fields of a footer that imgstore checks or reports ("Hard Disk Footer Format")."""

    cookie: bytes
    version: int
    data_offset: int
    """Offset of the dynamic header in the file; all ones in a fixed disk."""
    creator: bytes
    current_bytes: int
    """Size of the disk: the authoritative value."""
    geometry: Geometry
    disk_type: int
    checksum: int

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Unpack the fields of 512 bytes, without checks."""
        fields = _FOOTER.unpack(raw)
        return cls(
            cookie=fields[0],
            version=fields[2],
            data_offset=fields[3],
            creator=fields[5],
            current_bytes=fields[9],
            geometry=Geometry(cylinders=fields[10], heads=fields[11], sectors=fields[12]),
            disk_type=fields[13],
            checksum=fields[14],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicHeader:
    """The fields of a dynamic header that imgstore checks ("Dynamic Disk Header Format")."""

    cookie: bytes
    table_offset: int
    """Offset of the BAT in the file."""
    version: int
    table_entries_max: int
    """The number of BAT entries."""
    block_bytes: int
    """Data bytes of a block, without its sector bitmap."""
    checksum: int

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Unpack the fields of 1,024 bytes, without checks."""
        cookie, _, table_offset, version, entries, block_bytes, found_checksum, *_ = _HEADER.unpack(raw)
        return cls(
            cookie=cookie,
            table_offset=table_offset,
            version=version,
            table_entries_max=entries,
            block_bytes=block_bytes,
            checksum=found_checksum,
        )


footer_checksum: Final = partial(checksum, field_at=_FOOTER_CHECKSUM_AT)
header_checksum: Final = partial(checksum, field_at=_HEADER_CHECKSUM_AT)


def is_sound_footer(raw: bytes) -> bool:
    """Return whether `raw` is an undamaged footer of 512 bytes."""
    return raw[:8] == FOOTER_COOKIE and Footer.unpack(raw).checksum == footer_checksum(raw)


def looks_like_footer(raw: bytes) -> bool:
    """Return whether these 512 bytes are a footer, perhaps a damaged footer.

    The cookie decides. If the cookie is damaged, a checksum that matches the right cookie decides.
    """
    return raw[:8] == FOOTER_COOKIE or is_sound_footer(FOOTER_COOKIE + raw[8:])


def bitmap_bytes(block_bytes: int) -> int:
    """Return the size of the sector bitmap before a block's data: a bit a sector, padded to whole sectors."""
    return round_up(ceil_div(block_bytes // SECTOR_BYTES, 8), SECTOR_BYTES)


def pack_footer(*, virtual_bytes: int, disk_type: int, disk_digest: bytes) -> bytes:
    """Pack a footer that depends on the disk only, so that equal disks make equal files (invariant F7).

    Args:
        virtual_bytes: the disk's size, a multiple of 512.
        disk_type: TYPE_FIXED or TYPE_DYNAMIC.
        disk_digest: the first 16 bytes become the unique id. The time stamp is 0.
    """
    geometry = Geometry.of(virtual_bytes)
    raw = _FOOTER.pack(
        FOOTER_COOKIE,
        _FEATURES_RESERVED,
        FORMAT_VERSION,
        _NO_DATA_OFFSET if disk_type == TYPE_FIXED else FOOTER_BYTES,
        0,
        _CREATOR,
        _CREATOR_VERSION,
        _CREATOR_HOST_OS,
        virtual_bytes,
        virtual_bytes,
        geometry.cylinders,
        geometry.heads,
        geometry.sectors,
        disk_type,
        0,
        disk_digest[:16],
        0,
    )
    return _insert_checksum(raw, footer_checksum(raw), _FOOTER_CHECKSUM_AT)


def pack_dynamic_header(*, table_offset: int, table_entries: int, block_bytes: int = BLOCK_BYTES_DEFAULT) -> bytes:
    """Pack a dynamic header without a parent."""
    raw = _HEADER.pack(
        HEADER_COOKIE,
        _NO_DATA_OFFSET,
        table_offset,
        FORMAT_VERSION,
        table_entries,
        block_bytes,
        0,
        bytes(16),
        0,
        0,
        bytes(512),
        bytes(192),
    )
    return _insert_checksum(raw, header_checksum(raw), _HEADER_CHECKSUM_AT)


def _insert_checksum(raw: bytes, value: int, field_at: int) -> bytes:
    return raw[:field_at] + value.to_bytes(4, "big") + raw[field_at + 4 :]
