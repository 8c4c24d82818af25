"""Where the pieces of a disk come together while its segments arrive.

Most pieces have their blocks in one segment or two, and a few that are equal to blocks elsewhere in others. What comes
early is parked, so that a piece is compared with its digest and written as one, in its longest stretches and past the
page cache where the writer can. Parked bytes are bounded; a piece that finds no room any more is set apart: written as
it comes, and read back to be compared.

Figures of 2026-11, disks of `bench/disks.py`: v2 alone has 9,571 runs in 183 segments and 2,190 stretches, and parks
14 MiB at most; as the second version of its definition it would park 75; of the fourth (r2) 5 of 9 pieces come together
within 64.
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
"""Offset in the piece, in bytes, and what lies there."""
Span: TypeAlias = tuple[int, int]
"""[begin, end) in bytes of the piece."""

_ZEROS: Final = memoryview(bytes(PIECE_BYTES))


@dataclass(frozen=True, slots=True)
class PieceParts:
    """Some blocks of a piece."""

    parts: Sequence[Part] = ()
    blocks: int = 0
    """In `parts`, as the runs say."""
    whole: bool = False
    """They are all of the piece."""

    def __add__(self, other: "PieceParts") -> "PieceParts":
        return PieceParts([*self.parts, *other.parts], self.blocks + other.blocks)


class PieceAssembly:
    """The pieces that some runs make. Safe from several threads; each run is to be brought once."""

    def __init__(self, runs: Runs, *, parked_bytes_max: int = PARKED_BYTES_MAX) -> None:
        """Begin with nothing brought."""
        piece = runs.block // PIECE_BLOCKS
        self._left = np.zeros(int(piece.max(initial=-1)) + 1, dtype=np.int64)
        np.add.at(self._left, piece, runs.count)
        self._parked: dict[int, PieceParts] = {}
        self._room_blocks = parked_bytes_max // BLOCK_BYTES
        self._apart: set[int] = set()
        self._lock = threading.Lock()

    def add(self, piece: int, brought: PieceParts) -> PieceParts:
        """Take blocks of a piece, as they lie in one segment. None of their memory is held on to.

        Returns:
            What is to be written now: a whole piece, to be compared first; or blocks of one that is set apart, to be told
            to `record_written` afterwards; or nothing.
        """
        with self._lock:
            if piece in self._apart:
                return brought
            self._left[piece] -= brought.blocks
            if self._left[piece] == 0:
                return replace(self._taken(piece) + brought, whole=True)
            if brought.blocks <= self._room_blocks:
                own = PieceParts([(at, bytes(data)) for at, data in brought.parts], brought.blocks)
                self._parked[piece] = self._parked.get(piece, PieceParts()) + own
                self._room_blocks -= own.blocks
                return PieceParts()
            self._apart.add(piece)
            every = self._taken(piece) + brought
            self._left[piece] += every.blocks
            return every

    def record_written(self, piece: int, blocks: int) -> bool:
        """Blocks of a piece that is set apart are written; whether it is whole by it, which one caller is told."""
        with self._lock:
            self._left[piece] -= blocks
            return bool(self._left[piece] == 0)

    def _taken(self, piece: int) -> PieceParts:
        parked = self._parked.pop(piece, PieceParts())
        self._room_blocks += parked.blocks
        return parked


class PieceBuffers:
    """Memory for whole pieces, one for each thread at work, at page boundaries: so it can be written past the cache."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()

    @contextmanager
    def borrow(self) -> Iterator[memoryview]:
        """4 MiB, of unknown content, while the block runs."""
        try:
            room = self._free.pop()
        except IndexError:
            room = mmap.mmap(-1, PIECE_BYTES)
        with memoryview(room) as view:
            yield view
        self._free.append(room)


def join_parts(parts: Sequence[Part], room: memoryview) -> list[Span]:
    """Lay the parts of a piece into `room`, zeros between them; tells the stretches that they fill, each as long as can be."""
    stretches: list[Span] = []
    begin = end = 0
    for at, data in sorted(parts, key=itemgetter(0)):
        if at != end:
            room[end:at] = _ZEROS[end:at]
            if end > begin:
                stretches.append((begin, end))
            begin = at
        end = at + len(data)
        room[at:end] = data
    room[end:] = _ZEROS[end : len(room)]
    return [*stretches, (begin, end)]
