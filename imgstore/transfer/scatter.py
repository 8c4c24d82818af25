"""Puts a disk together by segment: fetch each segment once, scatter its runs, check each piece when its last has landed.

By offset, a disk that was patched often would fetch each segment 6 to 9 times over (rules.md, rule 15); by segment the
bytes read are the bytes stored.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from imgstore.domain.digests import Digest, digest_of
from imgstore.domain.errors import ObjectCorrupt, StoreError
from imgstore.domain.geometry import BLOCK_BYTES, PIECE_BLOCKS, PIECE_BYTES
from imgstore.segments.manifest import Column, Manifest, piece_bytes
from imgstore.transfer.bounded import Bounded
from imgstore.transfer.slots import GoOn, SlotAccess

_T = TypeVar("_T")


class Placing(Protocol):
    """What can be written and read at offsets: a `DiskWriter`, as far as it is needed here."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Put `data` at `offset`. Safe from several threads."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """What was written there, zeros elsewhere."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A segment that a slot should have served and could not."""

    slot: SlotAccess
    name: Digest
    error: StoreError


@dataclass(slots=True)
class SegmentReader:
    """Reads segments from the first of several slots that serves them, and remembers what was damaged."""

    slots: Sequence[SlotAccess]
    damages: list[Damage] = field(default_factory=list)

    def blocks(self, name: Digest) -> memoryview:
        """The blocks of a segment, checked.

        Raises:
            StoreError: no slot serves it; the first slot's error.
        """
        return self._first(name, lambda slot: slot.segment_blocks(name))

    def body(self, name: Digest) -> bytes:
        """A segment as stored, checked. Raises as `blocks`."""
        return self._first(name, lambda slot: slot.segment_body(name))

    def _first(self, name: Digest, read: Callable[[SlotAccess], _T]) -> _T:
        first: StoreError | None = None
        for slot in self.slots:
            try:
                return read(slot)
            except StoreError as error:
                self.damages.append(Damage(slot=slot, name=name, error=error))
                first = first or error
        assert first is not None, "a reader needs a slot"
        raise first


class _Pieces:
    """How many blocks of each piece are still to land. Safe from several threads."""

    def __init__(self, manifest: Manifest, chosen: npt.NDArray[np.bool_]) -> None:
        piece = manifest.runs.block // PIECE_BLOCKS
        self._left = np.zeros(len(chosen), dtype=np.int64)
        np.add.at(self._left, piece[chosen[piece]], manifest.runs.count[chosen[piece]])
        self._lock = threading.Lock()

    def landed(self, pieces: Column, counts: Column) -> list[int]:
        """Note that blocks have landed; the pieces that are whole by it, each told to one caller only."""
        touched = np.unique(pieces)
        with self._lock:
            np.subtract.at(self._left, pieces, counts)
            return [int(piece) for piece in touched if self._left[piece] == 0]


def scatter(
    manifest: Manifest,
    reader: SegmentReader,
    writer: Placing,
    *,
    workers: int,
    go_on: GoOn,
    moved: Callable[[int], None],
    only: Column | None = None,
) -> None:
    """Write the disk's data into `writer`; every piece has been checked when this returns.

    A piece that lies whole in one segment is checked on its way; one that comes together from several is read back.

    Args:
        manifest: the disk.
        reader: where its segments are.
        writer: where its bytes go; what no run covers is left alone and reads as zeros there.
        workers: threads; each holds one segment of up to 4 MiB.
        go_on: called before each request.
        moved: told the bytes of the disk that were written, from worker threads.
        only: indexes of the pieces to put together; None is all of them.

    Raises:
        ObjectCorrupt: a piece does not match its digest.
        StoreError: a segment can be had from no slot.
    """
    runs = manifest.runs
    chosen = np.zeros(-(-manifest.virtual_bytes // PIECE_BYTES), dtype=np.bool_)
    chosen[manifest.pieces.index if only is None else only] = True
    pieces = _Pieces(manifest, chosen)
    wanted = np.flatnonzero(chosen[runs.block // PIECE_BLOCKS])
    order = wanted[np.lexsort((runs.at[wanted], runs.segment[wanted]))]
    begins = np.flatnonzero(np.diff(runs.segment[order], prepend=-1))

    def place(part: Column) -> None:
        """Fetch the one segment of these runs, write them, check the pieces that they complete."""
        go_on()
        blocks = reader.blocks(manifest.segments.name(int(runs.segment[part[0]])))
        written = 0
        checked: set[int] = set()
        by_disk = part[np.argsort(runs.block[part], kind="stable")]
        for block, count, at in zip(
            runs.block[by_disk].tolist(), runs.count[by_disk].tolist(), runs.at[by_disk].tolist(), strict=True
        ):
            offset = block * BLOCK_BYTES
            length = min(count * BLOCK_BYTES, manifest.virtual_bytes - offset)
            begin = at * BLOCK_BYTES
            data = blocks[begin : begin + length]
            index, within = divmod(offset, PIECE_BYTES)
            if within == 0 and length == piece_bytes(manifest.virtual_bytes, index):
                _check_piece(manifest, index, data)  # whole already: no need to read it back
                checked.add(index)
            writer.write_at(offset, data)
            written += length
        for index in pieces.landed(runs.block[part] // PIECE_BLOCKS, runs.count[part]):
            if index not in checked:
                length = piece_bytes(manifest.virtual_bytes, index)
                _check_piece(manifest, index, writer.read_at(index * PIECE_BYTES, length))
        moved(written)

    with Bounded(workers, workers * 2, "scatter") as pool:
        for begin, end in pairwise([*begins.tolist(), len(order)]):
            pool.submit(place, order[begin:end])


def _check_piece(manifest: Manifest, index: int, data: bytes | memoryview) -> None:
    found, expected = digest_of(data), manifest.pieces.find(index)
    if found != expected:
        raise ObjectCorrupt(
            f"The piece at byte {index * PIECE_BYTES} does not come out as it went in.",
            found=f"BLAKE3 {found.hex()}",
            expected=f"BLAKE3 {expected.hex() if expected else '(all zero)'}",
            hint="check the disk that is written to and this machine's memory, then repeat the command",
        )
