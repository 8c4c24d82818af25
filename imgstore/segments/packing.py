"""Packs blocks into segments in disk order, and decides which old segments are not worth naming any more.

Pure: `Packer` hands each full buffer to a callable and never waits for anything.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, SEGMENT_BLOCKS, ceil_div
from imgstore.segments.codec import HEADER_BYTES, SEGMENT_BYTES_MAX
from imgstore.segments.fingerprint_index import NOWHERE, SEGMENT_NUMBER_MAX, ZERO, Locations
from imgstore.segments.fingerprints import Fingerprints, Indexes
from imgstore.segments.manifest import Column, Runs

Blocks: TypeAlias = npt.NDArray[np.uint8]
"""Shape (n, 4096): the blocks of a piece."""

REUSE_MIN: Final = 0.25
"""A version that uses less of an older segment packs those blocks again, so reading it never unpacks more than four
times its own blocks (container capping: Lillibridge et al., FAST '13)."""


class Packer:
    """Fills segments of 1,024 blocks one after another. For one thread."""

    def __init__(self, first_number: int, emit: Callable[[int, memoryview, Fingerprints], None]) -> None:
        """Begin with the segment of that number.

        Args:
            first_number: the bases' segments have the numbers below it.
            emit: called with (segment number, buffer as `encode_segment` takes it, the blocks' fingerprints), in the
                order of numbers; the buffer is the callee's.
        """
        self._first_number = self._number = first_number
        self._emit = emit
        self._filled = 0
        self._buffer = _fresh_buffer()
        self._parts: list[Fingerprints] = []

    @property
    def segments(self) -> int:
        """How many segments are begun or emitted."""
        return self._number - self._first_number + (self._filled > 0)

    @property
    def packed_blocks(self) -> int:
        """How many blocks were added."""
        return (self._number - self._first_number) * SEGMENT_BLOCKS + self._filled

    def add(self, blocks: Blocks, indexes: Indexes, fingerprints: Fingerprints) -> Locations:
        """Pack the blocks at `indexes`; give where each now lies."""
        locations = np.empty(len(indexes), dtype=np.uint32)
        done = 0
        while done < len(indexes):
            count = min(len(indexes) - done, SEGMENT_BLOCKS - self._filled)
            part = slice(done, done + count)
            begin = HEADER_BYTES + self._filled * BLOCK_BYTES
            room = self._buffer[begin : begin + count * BLOCK_BYTES].reshape(count, BLOCK_BYTES)
            np.take(blocks, indexes[part], axis=0, out=room, mode="clip")
            self._parts.append(fingerprints.take(part))
            first = self._number * SEGMENT_BLOCKS + self._filled
            locations[part] = np.arange(first, first + count, dtype=np.uint32)
            self._filled += count
            done += count
            if self._filled == SEGMENT_BLOCKS:
                self.flush()
        return locations

    def flush(self) -> None:
        """Emit what is packed so far, if anything."""
        if not self._filled:
            return
        assert self._number <= SEGMENT_NUMBER_MAX, "a version of more than 16 TiB of distinct blocks"
        fingerprints = Fingerprints(
            np.concatenate([part.high for part in self._parts]), np.concatenate([part.low for part in self._parts])
        )
        buffer, blocks = self._buffer, self._filled
        number, self._number = self._number, self._number + 1
        self._filled, self._parts, self._buffer = 0, [], _fresh_buffer()
        self._emit(number, buffer[: HEADER_BYTES + blocks * BLOCK_BYTES].data, fingerprints)


def _fresh_buffer() -> Blocks:
    """Room for a segment, not cleared: what is not written is not emitted. Clearing it took 1 ms a segment."""
    return np.empty(SEGMENT_BYTES_MAX, dtype=np.uint8)


def runs_of(first_block: int, locations: Locations) -> Runs:
    """The runs of consecutive blocks from `first_block`, each at its location or ZERO; none crosses a piece or segment.

    Args:
        first_block: of the disk, a multiple of the piece's blocks.
        locations: of each block of one piece.
    """
    assert first_block % PIECE_BLOCKS == 0
    assert len(locations) <= PIECE_BLOCKS
    assert not (locations == NOWHERE).any()
    full = np.flatnonzero(locations != ZERO)
    where = locations[full].astype(np.int64)
    segment, at = np.divmod(where, SEGMENT_BLOCKS)
    goes_on = (np.diff(full) == 1) & (np.diff(where) == 1) & (np.diff(segment) == 0)
    starts = np.flatnonzero(np.concatenate(([True], ~goes_on))) if len(full) else full
    counts = np.diff(np.append(starts, len(full)))
    return Runs(
        block=first_block + full[starts].astype(np.int64),
        count=counts.astype(np.int64),
        segment=segment[starts],
        at=at[starts],
    )


def locations_of(runs: Runs) -> tuple[Column, Locations]:
    """The blocks of the disk that `runs` cover, and each one's location: the inverse of `runs_of`."""
    total = int(runs.count.sum())
    within = np.arange(total) - np.repeat(np.cumsum(runs.count) - runs.count, runs.count)
    blocks = np.repeat(runs.block, runs.count) + within
    where = np.repeat(runs.segment * SEGMENT_BLOCKS + runs.at, runs.count) + within
    return blocks, where.astype(np.uint32)


def used_blocks(runs: Runs, segments: int, *, runs_at_once: int = 1 << 16) -> npt.NDArray[np.bool_]:
    """Which blocks of the segments numbered below `segments` the runs use: shape (segments, 1024).

    Distinct blocks count: a block that the disk holds a thousand times is used once (rules.md, rule 13). A kilobyte a
    segment, whatever the disk's size.
    """
    used = np.zeros(segments * SEGMENT_BLOCKS, dtype=np.bool_)
    old = np.flatnonzero(runs.segment < segments)
    for begin in range(0, len(old), runs_at_once):
        used[locations_of(runs.take(old[begin : begin + runs_at_once]))[1]] = True
    return used.reshape(segments, SEGMENT_BLOCKS)


def choose_segments_to_repack(
    used_counts: Column, segment_blocks: Column, *, new_segments: int, content_blocks: int
) -> Column:
    """The numbers of the old segments whose blocks are to be packed again, ascending.

    Those of which less than a quarter is used; and, where the version would still name more than
    2 x ceil(blocks / 1,024) + 16 segments, the least filled besides (rules.md, rule 13).

    Args:
        used_counts: distinct blocks that the version uses, of each old segment.
        segment_blocks: blocks that each old segment holds.
        new_segments: segments that the ingest packed.
        content_blocks: distinct blocks of the version.
    """
    named = used_counts > 0
    poor = named & (used_counts < REUSE_MIN * segment_blocks)
    keep = np.flatnonzero(named & ~poor)
    repacked_blocks = int(used_counts[poor].sum())
    limit = 2 * ceil_div(content_blocks, SEGMENT_BLOCKS) + 16
    order = keep[np.argsort(used_counts[keep], kind="stable")]
    taken = 0
    while taken < len(order) and _named_after(len(order) - taken, new_segments, repacked_blocks) > limit:
        repacked_blocks += int(used_counts[order[taken]])
        taken += 1
    return np.sort(np.concatenate((np.flatnonzero(poor), order[:taken]))).astype(np.int64)


def _named_after(kept: int, new_segments: int, repacked_blocks: int) -> int:
    return kept + new_segments + ceil_div(repacked_blocks, SEGMENT_BLOCKS)
