"""Puts a disk together by segment: fetch each segment once, scatter its runs, check each piece when its last has landed.

By offset, a disk that was patched often would fetch each segment 6 to 9 times over (rules.md, rule 15); by segment the
bytes read are the bytes stored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Protocol, TypeVar

import numpy as np

from imgstore.domain.errors import ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, PIECE_BYTES
from imgstore.segments.manifest import Column, Manifest, Runs, piece_bytes
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.piece_assembly import Part, PieceAssembly, PieceBuffers, PieceParts, join_parts
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess, read_from_any

_T = TypeVar("_T")


class ScatterTarget(Protocol):
    """What can be written and read at offsets: a `DiskWriter`, as far as it is needed here."""

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Put `data` at `offset`, which `read_at` asks for soon or not at all. Safe from several threads."""
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

    @property
    def is_certain(self) -> bool:
        """Whether the object itself is missing or wrong. Any other error, as of a missing bucket, says nothing of it."""
        return isinstance(self.error, (ObjectNotFound, ObjectCorrupt))


def ignore_served(_slot: SlotAccess, _name: Digest, _is_damaged: bool, /) -> None:  # noqa: FBT001 - as `served`
    """Do nothing: most readers have one slot."""


@dataclass(slots=True)
class SegmentReader:
    """Reads segments from the first of several slots that serves them, and remembers what was damaged."""

    slots: Sequence[SlotAccess]
    damages: list[Damage] = field(default_factory=list)
    on_served: Callable[[SlotAccess, Digest, bool], None] = ignore_served
    """Told each segment, the slot that served it, and whether another slot has it missing or wrong; from the reading
    threads. Also told of a slot that served it too late to be used (`read_from_any`): its bytes have moved all the same."""

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
        met: list[Damage] = []

        def failed(slot: SlotAccess, error: StoreError) -> None:
            met.append(Damage(slot=slot, name=name, error=error))
            self.damages.append(met[-1])

        def count(slot: SlotAccess) -> None:
            self.on_served(slot, name, any(each.is_certain for each in met))

        slot, found = read_from_any(self.slots, read, failed, on_unused=count)
        count(slot)
        return found


def scatter(
    manifest: Manifest,
    reader: SegmentReader,
    writer: ScatterTarget,
    *,
    workers: int,
    check_cancelled: CheckCancelled,
    on_moved: Callable[[int], None],
    only: Column | None = None,
) -> None:
    """Write the disk's data into `writer`; every piece has been checked when this returns.

    A piece is checked before it is written, or, where it was set apart (`assembly`), read back.

    Args:
        manifest: the disk.
        reader: where its segments are.
        writer: where its bytes go; what no run covers is left alone and reads as zeros there.
        workers: threads; each holds one segment of up to 4 MiB.
        check_cancelled: called before each request.
        on_moved: told the bytes of the disk that were written, from worker threads.
        only: indexes of the pieces to put together; None is all of them.

    Raises:
        ObjectCorrupt: a piece does not match its digest.
        StoreError: a segment can be had from no slot.
    """
    runs = manifest.runs
    chosen = np.zeros(-(-manifest.virtual_bytes // PIECE_BYTES), dtype=np.bool_)
    chosen[manifest.pieces.index if only is None else only] = True
    wanted = np.flatnonzero(chosen[runs.block // PIECE_BLOCKS])
    order = wanted[np.argsort(runs.segment[wanted], kind="stable")]
    begins = np.flatnonzero(np.diff(runs.segment[order], prepend=-1))
    assembly, buffers = PieceAssembly(runs.take(wanted)), PieceBuffers()

    def place(part: Column) -> None:
        """Fetch the one segment of these runs, and bring its blocks to their pieces."""
        check_cancelled()
        blocks = reader.blocks(manifest.segments.name(int(runs.segment[part[0]])))
        on_moved(sum(put(*each) for each in _group_by_piece(runs.take(part), blocks, manifest.virtual_bytes)))

    def put(piece: int, added: PieceParts) -> int:
        """Write what can be written now, check the piece if it is whole by it; how many bytes were written."""
        first, length = piece * PIECE_BYTES, piece_bytes(manifest.virtual_bytes, piece)
        now = assembly.add(piece, added)
        if now.whole:
            with buffers.borrow() as buffer:
                whole = buffer[:length]
                spans = join_parts(now.parts, whole)
                _check_piece(manifest, piece, whole)
                for begin, end in spans:
                    writer.write_at(first + begin, whole[begin:end])
        else:
            for at, data in now.parts:
                writer.write_at(first + at, data, read_soon=True)
            if now.blocks and assembly.record_written(piece, now.blocks):
                _check_piece(manifest, piece, writer.read_at(first, length))
        return sum(len(data) for _, data in now.parts)

    with BoundedPool(workers, workers * 2, "scatter") as pool:
        for begin, end in pairwise([*begins.tolist(), len(order)]):
            pool.submit(place, order[begin:end])


def _group_by_piece(runs: Runs, content: memoryview, virtual_bytes: int) -> Iterator[tuple[int, PieceParts]]:
    """What the runs of one segment bring to each piece.

    Args:
        runs: of one segment, in the disk's order.
        content: its blocks.
        virtual_bytes: of the disk, whose last block may be short.
    """
    rows = zip(runs.block.tolist(), runs.count.tolist(), runs.at.tolist(), strict=True)
    for piece, own in groupby(rows, lambda row: row[0] // PIECE_BLOCKS):
        parts: list[Part] = []
        blocks = 0
        for block, count, at in own:
            length = min(count * BLOCK_BYTES, virtual_bytes - block * BLOCK_BYTES)
            begin = at * BLOCK_BYTES
            parts.append((block * BLOCK_BYTES - piece * PIECE_BYTES, content[begin : begin + length]))
            blocks += count
        yield piece, PieceParts(parts, blocks)


def _check_piece(manifest: Manifest, index: int, data: bytes | memoryview) -> None:
    found, expected = digest_of(data), manifest.pieces.find(index)
    if found != expected:
        raise ObjectCorrupt(
            f"The piece at byte {index * PIECE_BYTES} does not come out as it went in.",
            found=f"BLAKE3 {found.hex()}",
            expected=f"BLAKE3 {expected.hex() if expected else '(all zero)'}",
            hint="check the disk that is written to and this machine's memory, then repeat the command",
        )
