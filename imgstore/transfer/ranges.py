"""Reads a disk at offsets directly from a slot, through the segment cache of the host.

This is for readers of a few ranges. A whole disk is read by `scatter`, which fetches each segment once.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import BLOCK_BYTES, SEGMENT_BLOCKS, ceil_div
from imgstore.segments.manifest import Manifest
from imgstore.transfer.scatter import BlockSource
from imgstore.transfer.segment_cache import FilePart, SegmentCache

_FETCHES_MAX: Final = 1.5
_SLOT_BYTES: Final = SEGMENT_BLOCKS * BLOCK_BYTES + BLOCK_BYTES
"""The file of a full segment with its hashes."""


def count_fetches(manifest: Manifest, cache_bytes: int) -> int:
    """Count the segment fetches of a sequential read of the disk through an empty cache of `cache_bytes`.

    If the cache holds all segments, each is fetched once.
    """
    places = max(1, cache_bytes // _SLOT_BYTES)
    if len(manifest.segments) <= places:
        return len(manifest.segments)
    held: OrderedDict[int, None] = OrderedDict()
    fetched = 0
    for segment in manifest.runs.segment.tolist():
        if segment in held:
            held.move_to_end(segment)
            continue
        fetched += 1
        held[segment] = None
        if len(held) > places:
            held.popitem(last=False)
    return fetched


class RangeReader:
    """A reader of any range of a disk. Each fetched segment is compared with its name."""

    def __init__(self, manifest: Manifest, reader: BlockSource, cache: SegmentCache) -> None:
        self._manifest = manifest
        self._reader = reader
        self._cache = cache

    @property
    def prefers_scatter(self) -> bool:
        """Whether reading the whole disk would fetch more than 1.5 times its segments (invariant D8)."""
        return count_fetches(self._manifest, self._cache.cache_bytes) > _FETCHES_MAX * len(self._manifest.segments)

    @property
    def virtual_bytes(self) -> int:
        """Size of the disk."""
        return self._manifest.virtual_bytes

    def check(self, offset: int, length: int) -> None:
        """Reject a range that is not inside the disk.

        Raises:
            InvalidInput: the range begins before the disk, is empty, or ends after the disk.
        """
        if offset < 0 or length < 1 or offset + length > self.virtual_bytes:
            raise InvalidInput(
                "The range is not inside the disk.",
                found=f"{length} bytes from {offset}",
                expected=f"at least one byte, inside 0 to {self.virtual_bytes}",
                hint="request a range that ends at or before the end of the disk",
            )

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes of the disk from `offset`.

        Raises:
            InvalidInput: the range is not inside the disk.
            StoreError: no slot serves a segment.
        """
        self.check(offset, length)
        out = bytearray(length)
        runs = self._manifest.runs
        part = runs.overlapping(offset // BLOCK_BYTES, ceil_div(offset + length, BLOCK_BYTES))
        rows = (runs.block[part], runs.count[part], runs.segment[part], runs.at[part])
        for block, count, segment, at in zip(*(column.tolist() for column in rows), strict=True):
            begin = max(offset, block * BLOCK_BYTES)
            end = min(offset + length, (block + count) * BLOCK_BYTES)
            inside = at * BLOCK_BYTES + begin - block * BLOCK_BYTES
            out[begin - offset : end - offset] = self._segment_part(segment, inside, end - begin)
        return bytes(out)

    @contextmanager
    def locate(self, offset: int, length: int) -> Iterator[FilePart | None]:
        """Yield the place of a range in a file of the cache, for `os.sendfile`.

        None if the range is not inside a single run of blocks. Then `read_at` reads the range.

        Raises:
            InvalidInput: the range is not inside the disk.
            StoreError: no slot serves the segment.
        """
        self.check(offset, length)
        runs = self._manifest.runs
        part = runs.overlapping(offset // BLOCK_BYTES, ceil_div(offset + length, BLOCK_BYTES))
        if part.stop - part.start != 1:
            yield None
            return
        row = part.start
        begin, count = int(runs.block[row]), int(runs.count[row])
        if offset < begin * BLOCK_BYTES or offset + length > (begin + count) * BLOCK_BYTES:
            yield None
            return
        name = self._manifest.segments.name(int(runs.segment[row]))
        inside = int(runs.at[row]) * BLOCK_BYTES + offset - begin * BLOCK_BYTES
        with self._cache.locate(name, inside, length, lambda: self._reader.blocks(name)) as place:
            yield place

    def _segment_part(self, segment: int, offset: int, length: int) -> bytes | memoryview:
        name = self._manifest.segments.name(segment)
        return self._cache.read(name, offset, length, lambda: self._reader.blocks(name))
