"""Assembles a disk piece by piece in order, for targets that take no bytes at offsets: pipes and block devices.

A window of pieces is assembled by `scatter` while the pieces of the window before are written. A segment is read once for
each window that uses the segment. Segments of later windows wait in a cache.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import PIECE_BLOCKS, PIECE_BYTES
from imgstore.formats.files.read_ahead import results_in_order
from imgstore.segments.manifest import Column, Manifest, piece_bytes
from imgstore.transfer.scatter import BlockSource, scatter
from imgstore.transfer.segment_cache import SegmentCache
from imgstore.transfer.slot_access import CheckCancelled

WINDOW_PIECES: Final = 8
"""Pieces that are assembled together: 32 MiB. Up to three windows are in memory."""

_Piece: TypeAlias = tuple[int, memoryview]


def pieces_in_order(
    manifest: Manifest,
    reader: BlockSource,
    cache: SegmentCache,
    *,
    workers: int,
    check_cancelled: CheckCancelled,
) -> Generator[_Piece]:
    """Yield offset and bytes of each piece that is not zero, in order. Each piece was compared with its digest.

    Args:
        manifest: the disk.
        reader: the source of the segments.
        cache: an own cache for the segments that later pieces also use, large enough for all.
        workers: threads that read segments.
        check_cancelled: called before each request.

    Raises:
        ObjectCorrupt: a piece does not match its digest.
        StoreError: no slot serves a segment.
    """
    runs = manifest.runs
    last_pieces = np.zeros(len(manifest.segments), dtype=np.int64)
    np.maximum.at(last_pieces, runs.segment, runs.block // PIECE_BLOCKS)

    def assemble(indexes: Column) -> list[_Piece]:
        first, last = int(indexes[0]), int(indexes[-1])
        own = runs.take(runs.between(first * PIECE_BLOCKS, (last + 1) * PIECE_BLOCKS))
        used = np.unique(own.segment)
        needed_later = {manifest.segments.name(int(each)) for each in used[last_pieces[used] > last]}
        window = _Window({index: bytearray(piece_bytes(manifest.virtual_bytes, index)) for index in indexes.tolist()})
        scatter(
            replace(manifest, runs=own),
            _LaterSegments(reader, cache, needed_later),
            window,
            workers=workers,
            check_cancelled=check_cancelled,
            only=indexes,
        )
        return [(index * PIECE_BYTES, memoryview(data)) for index, data in window.pieces.items()]

    indexes = manifest.pieces.index
    with ThreadPoolExecutor(1, thread_name_prefix="window") as pool:
        windows = (
            pool.submit(assemble, indexes[begin : begin + WINDOW_PIECES])
            for begin in range(0, len(indexes), WINDOW_PIECES)
        )
        for window in results_in_order(windows, 2):
            yield from window


@dataclass(frozen=True, slots=True)
class _Window:
    """The memory of some pieces. A write stays inside a piece, as `scatter` promises."""

    pieces: dict[int, bytearray]

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write bytes of a piece."""
        index, at = divmod(offset, PIECE_BYTES)
        self.pieces[index][at : at + len(data)] = data

    def read_at(self, offset: int, length: int) -> bytes:
        """Read bytes of a piece."""
        index, at = divmod(offset, PIECE_BYTES)
        return bytes(self.pieces[index][at : at + length])


@dataclass(frozen=True, slots=True)
class _LaterSegments:
    """A source of segments that keeps the segments of later windows."""

    source: BlockSource
    cache: SegmentCache
    needed_later: set[Digest]

    def blocks(self, name: Digest) -> memoryview:
        """Read the blocks of a segment from the cache, or else from the source."""
        return self.cache.blocks(name, lambda: self.source.blocks(name), keeps=name in self.needed_later)
