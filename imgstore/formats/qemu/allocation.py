"""Reads the allocation tables of qcow2 and VMDK to find the last byte of the file that the disk needs.

qemu-img reads missing data after the end of such a file as zeros, without an error. A truncated download would be
stored as a disk with holes. (For a VHDX, qemu-img checks this itself.)

Each table is read once, however often the image refers to the table, and a single table is in memory at a time. The
length of the file therefore bounds the work.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.storage.sizes import SECTOR_BYTES, ceil_div

QCOW2_OFFSET: Final = np.uint64(0x00FF_FFFF_FFFF_FE00)
"""QEMU, "docs/interop/qcow2.txt", "Cluster mapping": bits 9 to 55 of an L1 or L2 entry."""
QCOW2_COMPRESSED: Final = np.uint64(1 << 62)
QCOW2_ZERO: Final = np.uint64(1)

_VMDK_TABLE_ENTRIES: Final = 512
_VMDK_MARKER_BYTES: Final = 12
"""The marker before a compressed grain: its sector as u64, its length as u32."""
_VMDK_ZEROED: Final = 1
"""A grain table entry of 0 is no grain, an entry of 1 is a grain of zeros: VMware, "Virtual Disk Format 5.0"."""

Columns = npt.NDArray[np.uint64]


def qcow2_reach(source: ByteSource, *, l1_at: int, cluster_bits: int, virtual_bytes: int) -> int:
    """Return the end of the last byte that the active L1 table, its L2 tables and their clusters need.

    If a table is beyond the end of the file, the search stops at this table and returns an offset beyond the file.
    """
    cluster_bytes = 1 << cluster_bits
    clusters = ceil_div(virtual_bytes, cluster_bytes)
    table_entries = cluster_bytes // 8
    l1 = read_column(source, l1_at, ceil_div(clusters, table_entries), ">u8") & QCOW2_OFFSET
    tables = np.unique(l1[l1 != 0])
    reach = int(tables[-1]) + cluster_bytes if len(tables) else 0
    for table_at in tables.tolist() if reach <= source.file_bytes else ():
        ends = _qcow2_ends(read_column(source, table_at, table_entries, ">u8"), cluster_bits)
        if table_at == l1[-1] and (last := (clusters - 1) % table_entries) < len(ends) and ends[last]:
            ends[last] -= np.uint64(clusters * cluster_bytes - virtual_bytes)  # the disk ends inside its last cluster
        reach = max(reach, int(ends.max()))
    return reach


def _qcow2_ends(entries: Columns, cluster_bits: int) -> Columns:
    """Return for each L2 entry the end of the required bytes of its cluster; 0 for no cluster."""
    offsets = entries & QCOW2_OFFSET
    present = (offsets != 0) & (entries & QCOW2_ZERO == 0)
    plain = np.where(present, offsets + np.uint64(1 << cluster_bits), np.uint64(0))
    # "Compressed Clusters Descriptor": the offset, then how many sectors follow the first. The last one may be short.
    offset_bits = 62 - (cluster_bits - 8)
    start = entries & np.uint64((1 << offset_bits) - 1)
    more = (entries & (QCOW2_COMPRESSED - np.uint64(1))) >> np.uint64(offset_bits)
    packed = start // np.uint64(SECTOR_BYTES) * np.uint64(SECTOR_BYTES) + more * np.uint64(SECTOR_BYTES) + np.uint64(1)
    return np.where(entries & QCOW2_COMPRESSED, packed, plain)


def vmdk_reach(
    source: ByteSource, *, directory_at: int, capacity_sectors: int, grain_sectors: int, compressed: bool
) -> int:
    """Return the end of the last byte that the grain directory, its tables and their grains need."""
    grains = ceil_div(capacity_sectors, grain_sectors)
    directory = read_column(source, directory_at, ceil_div(grains, _VMDK_TABLE_ENTRIES), "<u4")
    tables = np.unique(directory[directory != 0])
    reach = int(tables[-1]) * SECTOR_BYTES + 4 * _VMDK_TABLE_ENTRIES if len(tables) else 0
    needed = np.uint64(_VMDK_MARKER_BYTES if compressed else grain_sectors * SECTOR_BYTES)
    furthest = 0
    for table_at in tables.tolist() if reach <= source.file_bytes else ():
        entries = read_column(source, table_at * SECTOR_BYTES, _VMDK_TABLE_ENTRIES, "<u4")
        ends = np.where(entries > _VMDK_ZEROED, entries * np.uint64(SECTOR_BYTES) + needed, np.uint64(0))
        last = (grains - 1) % _VMDK_TABLE_ENTRIES
        if table_at == directory[-1] and ends[last] and not compressed:
            ends[last] -= np.uint64((grains * grain_sectors - capacity_sectors) * SECTOR_BYTES)
        furthest = max(furthest, int(ends.max()))
    if compressed and 0 < furthest <= source.file_bytes:
        furthest += int.from_bytes(source.read_at(furthest - 4, 4), "little")  # the marker ends with the grain's length
    return max(reach, furthest)


def read_column(source: ByteSource, at: int, entries: int, kind: str) -> Columns:
    """Read a table of unsigned integers, with the type of each entry in numpy's words."""
    raw = source.read_at(at, entries * np.dtype(kind).itemsize)
    return np.frombuffer(raw, kind).astype(np.uint64)
