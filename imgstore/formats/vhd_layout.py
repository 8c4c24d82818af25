"""The structures of a VHD file, byte by byte: packed and unpacked here, judged in vhd.py.

Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0, October 2006; the sections are named
beside the fields. All numbers are big-endian.

A fixed disk is the disk's bytes and the footer. A dynamic disk is a copy of the footer, the dynamic disk header, the
block allocation table (BAT), blocks (each a sector bitmap and its data), and the footer.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from imgstore.domain.storage.sizes import GIB, MIB, SECTOR_BYTES, ceil_div, round_up

FOOTER_BYTES: Final = 512
HEADER_BYTES: Final = 1024

FOOTER_COOKIE: Final = b"conectix"
HEADER_COOKIE: Final = b"cxsparse"

FORMAT_VERSION: Final = 0x0001_0000
"""Of the footer and of the dynamic header alike. The high half is the major version, which tells incompatible ones."""

TYPE_FIXED: Final = 2
TYPE_DYNAMIC: Final = 3
TYPE_DIFFERENCING: Final = 4

BLOCK_BYTES_DEFAULT: Final = 2 * MIB
""""Dynamic Disk Header Format", Block Size: the specification's own default."""

UNALLOCATED: Final = 0xFFFF_FFFF
"""A BAT entry without a block ("Block Allocation Table and Data Blocks")."""

DYNAMIC_BYTES_MAX: Final = 2040 * GIB
"""The most that a dynamic disk holds: block addresses are sectors in 32 bits, and Microsoft's tools stop here."""

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
"""Hyper-V's name. Readers believe the current size of this creator, and CHS geometry, which is coarser, of others."""
_CREATOR_VERSION: Final = 0x000A_0000
_CREATOR_HOST_OS: Final = b"Wi2k"
"""Windows: one of the two values that the specification knows."""


def checksum(structure: bytes, *, field_at: int) -> int:
    """The one's complement of the sum of all bytes but the checksum's own four ("Checksum")."""
    return ~(sum(structure) - sum(structure[field_at : field_at + 4])) & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Cylinders, heads and sectors per track ("Disk Geometry"). Never the truth about a size: it is too coarse."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def bytes(self) -> int:
        """How many bytes this geometry can address."""
        return self.cylinders * self.heads * self.sectors * SECTOR_BYTES

    @classmethod
    def of(cls, virtual_bytes: int) -> Self:
        """The geometry that the specification's appendix, "CHS Calculation", gives a disk."""
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
    """The fields of a footer that are judged or told ("Hard Disk Footer Format")."""

    cookie: bytes
    version: int
    data_offset: int
    """Of the dynamic header in the file; all ones in a fixed disk."""
    creator: bytes
    current_bytes: int
    """Size of the disk: the truth."""
    geometry: Geometry
    disk_type: int
    checksum: int

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """The fields of 512 bytes, whatever they hold."""
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
    """The fields of a dynamic header that are judged ("Dynamic Disk Header Format")."""

    cookie: bytes
    table_offset: int
    """Of the BAT in the file."""
    version: int
    table_entries_max: int
    """How many entries the BAT has."""
    block_bytes: int
    """Data bytes of a block, without its sector bitmap."""
    checksum: int

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """The fields of 1,024 bytes, whatever they hold."""
        cookie, _, table_offset, version, entries, block_bytes, found_checksum, *_ = _HEADER.unpack(raw)
        return cls(
            cookie=cookie,
            table_offset=table_offset,
            version=version,
            table_entries_max=entries,
            block_bytes=block_bytes,
            checksum=found_checksum,
        )


def footer_checksum(raw: bytes) -> int:
    """What a footer's checksum should be."""
    return checksum(raw, field_at=_FOOTER_CHECKSUM_AT)


def header_checksum(raw: bytes) -> int:
    """What a dynamic header's checksum should be."""
    return checksum(raw, field_at=_HEADER_CHECKSUM_AT)


def is_sound_footer(raw: bytes) -> bool:
    """Whether these are the 512 bytes of an undamaged footer."""
    return raw[:8] == FOOTER_COOKIE and Footer.unpack(raw).checksum == footer_checksum(raw)


def looks_like_footer(raw: bytes) -> bool:
    """Whether these 512 bytes are, or were before some damage, a footer.

    The cookie tells; and where the cookie itself is damaged, a checksum that would be right with it.
    """
    return raw[:8] == FOOTER_COOKIE or is_sound_footer(FOOTER_COOKIE + raw[8:])


def bitmap_bytes(block_bytes: int) -> int:
    """The sector bitmap before a block's data: a bit a sector, padded to whole sectors."""
    return round_up(ceil_div(block_bytes // SECTOR_BYTES, 8), SECTOR_BYTES)


def pack_footer(*, virtual_bytes: int, disk_type: int, disk_digest: bytes) -> bytes:
    """A footer of ours: a function of the disk alone, so that the same disk makes the same file.

    Args:
        virtual_bytes: the disk's size, a multiple of 512.
        disk_type: TYPE_FIXED or TYPE_DYNAMIC.
        disk_digest: its first 16 bytes are the unique id; the time stamp is 0.
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
    return _sealed(raw, footer_checksum(raw), _FOOTER_CHECKSUM_AT)


def pack_dynamic_header(*, table_offset: int, table_entries: int, block_bytes: int = BLOCK_BYTES_DEFAULT) -> bytes:
    """A dynamic header without a parent."""
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
    return _sealed(raw, header_checksum(raw), _HEADER_CHECKSUM_AT)


def _sealed(raw: bytes, value: int, field_at: int) -> bytes:
    return raw[:field_at] + value.to_bytes(4, "big") + raw[field_at + 4 :]
