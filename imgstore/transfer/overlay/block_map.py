"""The places of the changed blocks of an overlay, in memory: two arrays for each piece with a changed block."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from imgstore.domain.storage.sizes import PIECE_BLOCKS
from imgstore.transfer.overlay.journal import ENTRY, Entries

Places = npt.NDArray[np.uint32]
"""UNCHANGED, ZEROED, or the slot of each block."""
BlockDigests = npt.NDArray[np.uint64]

UNCHANGED: Final = 0
ZEROED: Final = 1
FIRST_SLOT: Final = 2
"""Smaller numbers are no slots."""


class BlockMap:
    """The places of the blocks of a disk. Not safe for several threads."""

    def __init__(self) -> None:
        self._places: dict[int, Places] = {}
        self._digests: dict[int, BlockDigests] = {}

    def look_up(self, first: int, count: int) -> tuple[Places, BlockDigests]:
        """Return copies of the places and the digests of consecutive blocks."""
        places = np.zeros(count, dtype=np.uint32)
        digests = np.zeros(count, dtype=np.uint64)
        for piece, inside, part in _split(first, count):
            if piece in self._places:
                places[part] = self._places[piece][inside]
                digests[part] = self._digests[piece][inside]
        return places, digests

    def is_untouched(self, first: int, count: int) -> bool:
        """Return whether no piece of consecutive blocks has a changed block."""
        pieces = range(first // PIECE_BLOCKS, (first + count - 1) // PIECE_BLOCKS + 1)
        return not any(piece in self._places for piece in pieces)

    def put(self, first: int, places: Places, digests: BlockDigests) -> Places:
        """Set the places of consecutive blocks. Return the slots that the blocks had before."""
        before = [
            self._put_in_piece(piece, inside, places[part], digests[part])
            for piece, inside, part in _split(first, len(places))
        ]
        old = np.concatenate(before)
        return old[old >= FIRST_SLOT]

    def put_entries(self, entries: Entries) -> None:
        """Set the places of any blocks with data."""
        blocks = entries["block"].astype(np.int64)
        pieces = blocks // PIECE_BLOCKS
        order = np.argsort(pieces, kind="stable")
        begins = np.flatnonzero(np.diff(pieces[order], prepend=-1))
        for rows in np.split(order, begins[1:]):
            places, digests = self._arrays(int(pieces[rows[0]]))
            inside = blocks[rows] % PIECE_BLOCKS
            places[inside] = entries["slot"][rows]
            digests[inside] = entries["digest"][rows]

    def zero(self, first: int, count: int) -> Places:
        """Set consecutive blocks to zero. Return the slots that the blocks had before."""
        return self.put(first, np.full(count, ZEROED, dtype=np.uint32), np.zeros(count, dtype=np.uint64))

    def pieces(self, first_piece: int = 0, end_piece: int | None = None) -> list[int]:
        """Return the sorted indexes of the pieces with a changed block in [first_piece, end_piece)."""
        return sorted(
            piece for piece in self._places if piece >= first_piece and (end_piece is None or piece < end_piece)
        )

    def entries(self) -> Entries:
        """Return all blocks with data, sorted by block."""
        parts = []
        for piece in self.pieces():
            places = self._places[piece]
            inside = np.flatnonzero(places >= FIRST_SLOT)
            part = np.empty(len(inside), dtype=ENTRY)
            part["block"] = piece * PIECE_BLOCKS + inside
            part["slot"] = places[inside]
            part["digest"] = self._digests[piece][inside]
            parts.append(part)
        return np.concatenate(parts) if parts else np.empty(0, dtype=ENTRY)

    def zero_runs(self) -> Iterator[tuple[int, int]]:
        """Yield the first block and the number of blocks of each run of zeroed blocks, merged over pieces, sorted."""
        begin = end = 0
        for piece in self.pieces():
            zeroed = np.concatenate(([False], self._places[piece] == ZEROED, [False]))
            edges = np.flatnonzero(zeroed[1:] != zeroed[:-1]) + piece * PIECE_BLOCKS
            for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                if first != end:
                    if end > begin:
                        yield begin, end - begin
                    begin = first
                end = stop
        if end > begin:
            yield begin, end - begin

    def equals(self, other: "BlockMap") -> bool:
        """Return whether all blocks have equal places and digests."""
        return np.array_equal(self.entries(), other.entries()) and list(self.zero_runs()) == list(other.zero_runs())

    def _arrays(self, piece: int) -> tuple[Places, BlockDigests]:
        if piece not in self._places:
            self._places[piece] = np.zeros(PIECE_BLOCKS, dtype=np.uint32)
            self._digests[piece] = np.zeros(PIECE_BLOCKS, dtype=np.uint64)
        return self._places[piece], self._digests[piece]

    def _put_in_piece(self, piece: int, inside: slice, places: Places, digests: BlockDigests) -> Places:
        own_places, own_digests = self._arrays(piece)
        old = own_places[inside].copy()
        own_places[inside] = places
        own_digests[inside] = digests
        return old


def _split(first: int, count: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the piece, the range in the piece and the range in the argument of each part of consecutive blocks."""
    at = first
    while at < first + count:
        piece, begin = divmod(at, PIECE_BLOCKS)
        taken = min(PIECE_BLOCKS - begin, first + count - at)
        yield piece, slice(begin, begin + taken), slice(at - first, at - first + taken)
        at += taken
