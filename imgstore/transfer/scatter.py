"""Assembles a disk by segment: fetch each segment once, write its runs, check each piece after its last run.

A read by offset would fetch each segment of an often patched disk 6 to 9 times (invariant D7). By segment, the bytes
read are the bytes stored (invariant D6).
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
    """A target that can be written and read at offsets: the methods of `DiskWriter` that `scatter` needs."""

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write `data` at `offset`.

        `read_soon` announces that `read_at` reads the bytes soon. Safe for several threads.
        """
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Read the written bytes, zeros elsewhere."""
        ...


class BlockSource(Protocol):
    """A source of verified segments: the method of `SegmentReader` that `scatter` needs."""

    def blocks(self, name: Digest) -> memoryview:
        """Read the blocks of a segment, verified. Safe for several threads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A segment that a slot should have served and could not."""

    slot: SlotAccess
    name: Digest
    error: StoreError

    @property
    def is_certain(self) -> bool:
        """Whether the object is missing or wrong. Any other error, such as a missing bucket, is no proof."""
        return isinstance(self.error, (ObjectNotFound, ObjectCorrupt))


def ignore_served(_slot: SlotAccess, _name: Digest, _is_damaged: bool, /) -> None:  # noqa: FBT001 - as `served`
    """Do nothing: most readers have a single slot."""


@dataclass(slots=True)
class SegmentReader:
    """A reader of segments from the first of several slots that serves a segment. The reader records damage."""

    slots: Sequence[SlotAccess]
    damages: list[Damage] = field(default_factory=list)
    on_served: Callable[[SlotAccess, Digest, bool], None] = ignore_served
    """Called from the reading threads with each segment, the serving slot, and whether another slot has the segment
    missing or wrong. Also called for a slot that served too late to be used (`read_from_any`), because its bytes were
    transferred."""

    def blocks(self, name: Digest, on_failed: Callable[[StoreError], None] = lambda _error: None) -> memoryview:
        """Read the blocks of a segment, verified. `on_failed` is called with the error of each slot that fails.

        Raises:
            StoreError: no slot serves the segment; the error of the first slot.
        """
        return self._read_first(name, lambda slot: slot.segment_blocks(name), on_failed)

    def body(self, name: Digest) -> bytes:
        """Read a segment as stored, verified.

        Raises:
            StoreError: no slot serves the segment; the error of the first slot.
        """
        return self._read_first(name, lambda slot: slot.segment_body(name))

    def _read_first(
        self,
        name: Digest,
        read: Callable[[SlotAccess], _T],
        on_failed: Callable[[StoreError], None] = lambda _error: None,
    ) -> _T:
        found_damage: list[Damage] = []

        def record_damage(slot: SlotAccess, error: StoreError) -> None:
            found_damage.append(Damage(slot=slot, name=name, error=error))
            self.damages.append(found_damage[-1])
            on_failed(error)

        def report_served(slot: SlotAccess) -> None:
            self.on_served(slot, name, any(each.is_certain for each in found_damage))

        slot, found = read_from_any(self.slots, read, record_damage, on_unused=report_served)
        report_served(slot)
        return found


def scatter(
    manifest: Manifest,
    reader: BlockSource,
    writer: ScatterTarget,
    *,
    workers: int,
    check_cancelled: CheckCancelled,
    on_moved: Callable[[int], None] = lambda _length: None,
    only: Column | None = None,
) -> None:
    """Write the disk's data into `writer`. Every piece was checked when this function returns.

    A piece is checked before the write, or read back if its blocks were written unparked (`piece_assembly`).

    Args:
        manifest: the disk.
        reader: the source of the segments.
        writer: the target of the bytes. Ranges without runs are not written and must read as zeros.
        workers: threads; each holds a segment of up to 4 MiB.
        check_cancelled: called before each request.
        on_moved: called with the written bytes of the disk, from worker threads.
        only: indexes of the pieces to assemble; None means all.

    Raises:
        ObjectCorrupt: a piece does not match its digest.
        StoreError: no slot serves a segment.
    """
    runs = manifest.runs
    chosen = np.zeros(-(-manifest.virtual_bytes // PIECE_BYTES), dtype=np.bool_)
    chosen[manifest.pieces.index if only is None else only] = True
    wanted = np.flatnonzero(chosen[runs.block // PIECE_BLOCKS])
    order = wanted[np.argsort(runs.segment[wanted], kind="stable")]
    begins = np.flatnonzero(np.diff(runs.segment[order], prepend=-1))
    assembly, buffers = PieceAssembly(runs.take(wanted)), PieceBuffers()

    def place(part: Column) -> None:
        """Fetch the segment of these runs, and add its blocks to the pieces."""
        check_cancelled()
        blocks = reader.blocks(manifest.segments.name(int(runs.segment[part[0]])))
        on_moved(sum(put(*each) for each in _group_by_piece(runs.take(part), blocks, manifest.virtual_bytes)))

    def put(piece: int, added: PieceParts) -> int:
        """Write the blocks that are ready, check a completed piece, and return the number of written bytes."""
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
    """Group the blocks of a segment's runs by piece.

    Args:
        runs: the runs of a single segment, in disk order.
        content: the blocks of the segment.
        virtual_bytes: the size of the disk, which may end inside its last block.
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
            f"The piece at byte {index * PIECE_BYTES} does not have the content that was stored.",
            found=f"BLAKE3 {found.hex()}",
            expected=f"BLAKE3 {expected.hex() if expected else '(all zero)'}",
            hint="check the target disk and the memory of this machine, then repeat the command",
        )
