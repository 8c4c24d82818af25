"""Detects the machine generation of a disk from the partition table.

UEFI Specification 2.10, chapter 5 (GUID Partition Table): 5.2.1 the MBR, 5.2.3 the protective MBR, 5.3.2 the header,
5.3.3 the entries.
"""

import struct
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.resources import HyperVGeneration
from imgstore.domain.storage.sizes import SECTOR_BYTES

_EFI_SYSTEM_PARTITION: Final = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le

_MBR_SIGNATURE: Final = b"\x55\xaa"
_MBR_TYPES: Final = range(446 + 4, 446 + 4 * 16, 16)
_GPT_PROTECTIVE: Final = 0xEE

_GPT_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_SIGNATURE: Final = b"EFI PART"
_LOGICAL_BLOCKS: Final = (512, 4096)
"""A GPT is at logical block 1: nearly always 512 bytes, 4,096 bytes on a disk from a 4Kn drive."""

_ENTRIES_MAX: Final = 1024
"""Every tool writes 128 entries. The count comes from an untrusted header, so this limit bounds the memory."""
_ENTRY_BYTES: Final = (128, 256, 512, 1024, 2048, 4096)
"""128 x 2^n, 5.3.2; bounded for the same reason."""


def detect_generation(reader: DiskReader) -> HyperVGeneration | None:
    """Detect the generation of machines that can boot the disk.

    A GPT with an EFI System Partition means V2. An MBR, no partition table, or a GPT without that partition (which
    boots from a BIOS boot partition) means V1. A protective MBR without a GPT means None: the generation is unknown.

    Raises:
        ImageRefused: the container is damaged at the partition table.
    """
    if reader.virtual_bytes < SECTOR_BYTES:
        return HyperVGeneration.V1
    sector = reader.read_at(0, SECTOR_BYTES)
    protective = any(sector[at] == _GPT_PROTECTIVE for at in _MBR_TYPES)
    if sector[510:] != _MBR_SIGNATURE or not protective:
        return HyperVGeneration.V1
    types = next((types for block in _LOGICAL_BLOCKS if (types := _partition_types(reader, block)) is not None), None)
    if types is None:
        return None
    return HyperVGeneration.V2 if _EFI_SYSTEM_PARTITION in types else HyperVGeneration.V1


def _partition_types(reader: DiskReader, block_bytes: int) -> frozenset[bytes] | None:
    if reader.virtual_bytes < block_bytes + _GPT_HEADER.size:
        return None
    header = _GPT_HEADER.unpack(reader.read_at(block_bytes, _GPT_HEADER.size))
    signature, entries_at, count, entry_bytes = header[0], header[10] * block_bytes, header[11], header[12]
    fits = entries_at + count * entry_bytes <= reader.virtual_bytes
    if signature != _GPT_SIGNATURE or count > _ENTRIES_MAX or entry_bytes not in _ENTRY_BYTES or not fits:
        return None
    table = reader.read_at(entries_at, count * entry_bytes)
    return frozenset(_type_guids(table, entry_bytes))


def _type_guids(table: bytes, entry_bytes: int) -> Iterator[bytes]:
    return (table[at : at + 16] for at in range(0, len(table), entry_bytes))
