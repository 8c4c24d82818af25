"""Collects the blocks of a disk's pieces while the disk's segments arrive.

Most pieces have their blocks in a single segment or two, and a few blocks in other segments that hold equal blocks.
Early blocks are parked in memory. A piece is therefore compared with its digest and written as a whole. The writes are
the longest possible spans, and bypass the page cache if the writer can do so. The parked bytes are bounded. If there is
no space for the blocks of a piece, the piece is unparked. Its blocks are then written immediately, and the whole piece
is read back for the comparison.

Figures of 2026-11, disks of `bench/disks.py`. v2 alone has 9,571 runs in 183 segments and 2,190 spans, and parks at
most 14 MiB. As the second version of its definition, v2 would park 75 MiB. Of the fourth version (r2), 5 of 9 pieces
fit into 64 MiB.
"""

import mmap
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final, TypeAlias

import numpy as np

from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB, PIECE_BLOCKS, PIECE_BYTES
from imgstore.segments.manifest import Runs

PARKED_BYTES_MAX: Final = 64 * MIB

Part: TypeAlias = tuple[int, bytes | memoryview]
"""Offset in the piece, in bytes, and the bytes at this offset."""
Span: TypeAlias = tuple[int, int]
"""[begin, end) in bytes of the piece."""

_ZEROS: Final = memoryview(bytes(PIECE_BYTES))


@dataclass(frozen=True, slots=True)
class PieceParts:
    """Some blocks of a piece."""

    parts: Sequence[Part] = ()
    blocks: int = 0
    """The number of blocks in `parts`, as the runs count."""
    whole: bool = False
    """Whether the parts are the whole piece."""

    def __add__(self, other: "PieceParts") -> "PieceParts":
        return PieceParts([*self.parts, *other.parts], self.blocks + other.blocks)


class PieceAssembly:
    """The pieces that some runs make. Safe for several threads. Add each run once."""

    def __init__(self, runs: Runs, *, parked_bytes_max: int = PARKED_BYTES_MAX) -> None:
        """Prepare the pieces of `runs`, all without blocks."""
        piece = runs.block // PIECE_BLOCKS
        self._left = np.zeros(int(piece.max(initial=-1)) + 1, dtype=np.int64)
        np.add.at(self._left, piece, runs.count)
        self._parked: dict[int, PieceParts] = {}
        self._free_blocks = parked_bytes_max // BLOCK_BYTES
        self._unparked: set[int] = set()
        self._lock = threading.Lock()

    def add(self, piece: int, added: PieceParts) -> PieceParts:
        """Add blocks of a piece from a segment. Parked blocks are copied, so no reference to the given memory remains.

        Returns:
            The blocks to write now. A whole piece must be compared first. After writing blocks of an unparked piece,
            call `record_written`. The result may be empty.
        """
        with self._lock:
            if piece in self._unparked:
                return added
            self._left[piece] -= added.blocks
            if self._left[piece] == 0:
                return replace(self._take_parked(piece) + added, whole=True)
            if added.blocks <= self._free_blocks:
                own = PieceParts([(at, bytes(data)) for at, data in added.parts], added.blocks)
                self._parked[piece] = self._parked.get(piece, PieceParts()) + own
                self._free_blocks -= own.blocks
                return PieceParts()
            self._unparked.add(piece)
            every = self._take_parked(piece) + added
            self._left[piece] += every.blocks
            return every

    def record_written(self, piece: int, blocks: int) -> bool:
        """Count written blocks of an unparked piece. Return True in the single call that completes the piece."""
        with self._lock:
            self._left[piece] -= blocks
            return bool(self._left[piece] == 0)

    def _take_parked(self, piece: int) -> PieceParts:
        parked = self._parked.pop(piece, PieceParts())
        self._free_blocks += parked.blocks
        return parked


class PieceBuffers:
    """Page-aligned memory for whole pieces, a buffer for each working thread.

    Aligned memory can bypass the page cache.
    """

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()

    @contextmanager
    def borrow(self) -> Iterator[memoryview]:
        """Lend 4 MiB of unknown content while the block runs."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = mmap.mmap(-1, PIECE_BYTES)
        with memoryview(buffer) as view:
            yield view
        self._free.append(buffer)


def join_parts(parts: Sequence[Part], buffer: memoryview) -> list[Span]:
    """Copy the parts of a piece into `buffer`, with zeros in the gaps. Return the filled spans, as long as possible."""
    spans: list[Span] = []
    begin = end = 0
    for at, data in sorted(parts, key=itemgetter(0)):
        if at != end:
            buffer[end:at] = _ZEROS[end:at]
            if end > begin:
                spans.append((begin, end))
            begin = at
        end = at + len(data)
        buffer[at:end] = data
    buffer[end:] = _ZEROS[end : len(buffer)]
    return [*spans, (begin, end)]
