"""Packs blocks into segments in disk order, and selects old segments whose blocks are packed again.

Pure: `Packer` passes each full buffer to a callable and never waits.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, SEGMENT_BLOCKS, SEGMENT_BYTES_MAX, ceil_div
from imgstore.segments.codec import HEADER_BYTES
from imgstore.segments.fingerprint_index import NOWHERE, SEGMENT_NUMBER_MAX, ZERO, Locations
from imgstore.segments.fingerprints import Fingerprints, Indexes
from imgstore.segments.manifest import Column, Runs

Blocks: TypeAlias = npt.NDArray[np.uint8]
"""Shape (n, 4096): the blocks of a piece."""

REUSE_MIN: Final = 0.25
"""The share of an old segment that a version must use. Otherwise the version packs those blocks again.

A read therefore decompresses at most four times the blocks of the version (container capping: Lillibridge et al.,
FAST '13).
"""


class Packer:
    """A packer that fills segments of 1,024 blocks in sequence. For a single thread."""

    def __init__(self, first_number: int, emit: Callable[[int, memoryview, Fingerprints], None]) -> None:
        """Begin with the segment `first_number`.

        Args:
            first_number: the segments of the bases have the lower numbers.
            emit: called in the order of numbers with (segment number, buffer for `encode_segment`, fingerprints of the
                blocks). The buffer then belongs to the callee.
        """
        self._first_number = self._number = first_number
        self._emit = emit
        self._filled = 0
        self._buffer = _new_buffer()
        self._parts: list[Fingerprints] = []

    @property
    def segments(self) -> int:
        """The number of segments that were begun or emitted."""
        return self._number - self._first_number + (self._filled > 0)

    @property
    def packed_blocks(self) -> int:
        """The number of blocks that were added."""
        return (self._number - self._first_number) * SEGMENT_BLOCKS + self._filled

    def add(self, blocks: Blocks, indexes: Indexes, fingerprints: Fingerprints) -> Locations:
        """Pack the blocks at `indexes`, and return the new location of each."""
        locations = np.empty(len(indexes), dtype=np.uint32)
        done = 0
        while done < len(indexes):
            count = min(len(indexes) - done, SEGMENT_BLOCKS - self._filled)
            part = slice(done, done + count)
            begin = HEADER_BYTES + self._filled * BLOCK_BYTES
            place = self._buffer[begin : begin + count * BLOCK_BYTES].reshape(count, BLOCK_BYTES)
            np.take(blocks, indexes[part], axis=0, out=place, mode="clip")
            self._parts.append(fingerprints.take(part))
            first = self._number * SEGMENT_BLOCKS + self._filled
            locations[part] = np.arange(first, first + count, dtype=np.uint32)
            self._filled += count
            done += count
            if self._filled == SEGMENT_BLOCKS:
                self.flush()
        return locations

    def flush(self) -> None:
        """Emit the current segment if it holds any block."""
        if not self._filled:
            return
        assert self._number <= SEGMENT_NUMBER_MAX, "a version of more than 16 TiB of distinct blocks"
        fingerprints = Fingerprints(
            np.concatenate([part.high for part in self._parts]), np.concatenate([part.low for part in self._parts])
        )
        buffer, blocks = self._buffer, self._filled
        number, self._number = self._number, self._number + 1
        self._filled, self._parts, self._buffer = 0, [], _new_buffer()
        self._emit(number, buffer[: HEADER_BYTES + blocks * BLOCK_BYTES].data, fingerprints)


def _new_buffer() -> Blocks:
    """Allocate a buffer for a segment without clearing it: only written bytes are emitted.

    Clearing took 1 ms a segment.
    """
    return np.empty(SEGMENT_BYTES_MAX, dtype=np.uint8)


def runs_of(first_block: int, locations: Locations) -> Runs:
    """Build the runs of consecutive blocks from `first_block`. No run crosses a piece or a segment.

    Args:
        first_block: the first block on the disk, a multiple of the blocks of a piece.
        locations: the location of each block of a single piece, or ZERO.
    """
    assert first_block % PIECE_BLOCKS == 0
    assert len(locations) <= PIECE_BLOCKS
    assert not (locations == NOWHERE).any()
    full = np.flatnonzero(locations != ZERO)
    where = locations[full].astype(np.int64)
    segment, at = np.divmod(where, SEGMENT_BLOCKS)
    continues = (np.diff(full) == 1) & (np.diff(where) == 1) & (np.diff(segment) == 0)
    starts = np.flatnonzero(np.concatenate(([True], ~continues))) if len(full) else full
    counts = np.diff(np.append(starts, len(full)))
    return Runs(
        block=first_block + full[starts].astype(np.int64),
        count=counts.astype(np.int64),
        segment=segment[starts],
        at=at[starts],
    )


def locations_of(runs: Runs) -> tuple[Column, Locations]:
    """Return the disk blocks that `runs` cover, and the location of each: the inverse of `runs_of`."""
    total = int(runs.count.sum())
    within = np.arange(total) - np.repeat(np.cumsum(runs.count) - runs.count, runs.count)
    blocks = np.repeat(runs.block, runs.count) + within
    where = np.repeat(runs.segment * SEGMENT_BLOCKS + runs.at, runs.count) + within
    return blocks, where.astype(np.uint32)


def used_blocks(runs: Runs, segments: int, *, runs_at_once: int = 1 << 16) -> npt.NDArray[np.bool_]:
    """Find the blocks that the runs use in the segments with a number below `segments`: shape (segments, 1024).

    A block that the disk holds a thousand times counts once (invariant I10). The result takes a kilobyte a segment,
    whatever the size of the disk.
    """
    used = np.zeros(segments * SEGMENT_BLOCKS, dtype=np.bool_)
    old = np.flatnonzero(runs.segment < segments)
    for begin in range(0, len(old), runs_at_once):
        used[locations_of(runs.take(old[begin : begin + runs_at_once]))[1]] = True
    return used.reshape(segments, SEGMENT_BLOCKS)


def choose_segments_to_repack(
    used_counts: Column, segment_blocks: Column, *, new_segments: int, content_blocks: int
) -> Column:
    """Choose the old segments to repack; return their numbers, ascending.

    The version uses less than a quarter of such a segment (invariant I10). If the version would still name more than
    2 x ceil(blocks / 1,024) + 16 segments, the least used segments follow (invariant I11).

    Args:
        used_counts: the distinct blocks that the version uses, for each old segment.
        segment_blocks: the blocks of each old segment.
        new_segments: the number of segments that the ingest packed.
        content_blocks: the distinct blocks of the version.
    """
    named = used_counts > 0
    poor = named & (used_counts < REUSE_MIN * segment_blocks)
    keep = np.flatnonzero(named & ~poor)
    repacked_blocks = int(used_counts[poor].sum())
    limit = 2 * ceil_div(content_blocks, SEGMENT_BLOCKS) + 16
    order = keep[np.argsort(used_counts[keep], kind="stable")]
    taken = 0
    while taken < len(order) and _segments_after(len(order) - taken, new_segments, repacked_blocks) > limit:
        repacked_blocks += int(used_counts[order[taken]])
        taken += 1
    return np.sort(np.concatenate((np.flatnonzero(poor), order[:taken]))).astype(np.int64)


def _segments_after(kept: int, new_segments: int, repacked_blocks: int) -> int:
    return kept + new_segments + ceil_div(repacked_blocks, SEGMENT_BLOCKS)
