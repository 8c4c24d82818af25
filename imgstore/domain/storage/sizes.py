"""The sizes of blocks, pieces and segments, and conditions on the sizes (DESIGN.md, "Glossary")."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

SECTOR_BYTES: Final = 512

BLOCK_BYTES: Final = 4 * KIB
"""The unit of deduplication: ext4, XFS, NTFS and btrfs all allocate in 4 KiB."""

PIECE_BYTES: Final = 4 * MIB
"""The unit of reading, of zero detection and of the disk digest."""

PIECE_BLOCKS: Final = PIECE_BYTES // BLOCK_BYTES

SEGMENT_BLOCKS: Final = 1024
"""The highest number of blocks in a segment.

boto3 needs about 4 ms of CPU per request of any size. With objects of megabytes, requests take under a fifth of the CPU
time.
"""

SEGMENT_BYTES_MAX: Final = 16 + SEGMENT_BLOCKS * BLOCK_BYTES
"""The size of the largest segment: a header and raw blocks. A body that does not shrink is stored raw."""

GIGABYTE: Final = 10**9
"""Prices are per gigabyte of 10^9 bytes."""

HOURS_PER_MONTH: Final = 730
"""Azure's month for prices per gigabyte and month (365 x 24 / 12)."""

# A manifest stores count - 1 and the block in the segment of a run in sixteen bits each. A run is inside of a segment
# and of a piece, so neither size may exceed 65,536 blocks.
assert SEGMENT_BLOCKS <= 1 << 16
assert PIECE_BLOCKS <= 1 << 16
assert PIECE_BYTES % BLOCK_BYTES == 0


def ceil_div(amount: int, unit: int) -> int:
    """Return the number of units that cover `amount`."""
    return -(-amount // unit)


def round_up(amount: int, unit: int) -> int:
    """Return the lowest multiple of `unit` that is at least `amount`."""
    return ceil_div(amount, unit) * unit
