"""The sizes that cut a disk, and the relations between them (DESIGN.md, "Words")."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

SECTOR_BYTES: Final = 512

BLOCK_BYTES: Final = 4 * KIB
"""The unit of sameness: ext4, XFS, NTFS and btrfs all allocate in 4 KiB."""

PIECE_BYTES: Final = 4 * MIB
"""The unit of reading, of zero detection and of the disk's digest."""

PIECE_BLOCKS: Final = PIECE_BYTES // BLOCK_BYTES

SEGMENT_BLOCKS: Final = 1024
"""At most so many blocks in one stored object. boto3 costs about 4 ms of CPU a request, whatever its size: objects of
megabytes keep that under a fifth of the work."""

GIGABYTE: Final = 10**9
"""Prices are by the gigabyte of 10^9 bytes."""

HOURS_PER_MONTH: Final = 730
"""Azure's month, for prices given a gigabyte and month (365 x 24 / 12)."""

# A run's count is stored as count-1 and its block in segment as it is, both in sixteen bits; a run lies in one segment
# and in one piece, so neither bound may pass 65,536.
assert SEGMENT_BLOCKS <= 1 << 16
assert PIECE_BLOCKS <= 1 << 16
assert PIECE_BYTES % BLOCK_BYTES == 0


def ceil_div(amount: int, unit: int) -> int:
    """How many `unit` cover `amount`."""
    return -(-amount // unit)


def round_up(amount: int, unit: int) -> int:
    """The least multiple of `unit` that is not below `amount`."""
    return ceil_div(amount, unit) * unit
