"""Reads a disk at offsets directly from a slot, through a bounded cache of decoded segments in a local file.

This is for readers of a few ranges. A whole disk is read by `scatter`, which fetches each segment once.
"""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, GIB, SEGMENT_BLOCKS, ceil_div
from imgstore.segments.manifest import Manifest
from imgstore.transfer.scatter import SegmentReader

CACHE_BYTES: Final = 2 * GIB
_FETCHES_MAX: Final = 1.5
_SLOT_BYTES: Final = SEGMENT_BLOCKS * BLOCK_BYTES


class SegmentCache:
    """Decoded segments in an unnamed file.

    The least recently read segment is evicted first. Safe for several threads.
    """

    def __init__(
        self, scratch: Path, cache_bytes: int = CACHE_BYTES, has_room: Callable[[int], bool] = lambda _bytes: True
    ) -> None:
        """Make an empty cache.

        Args:
            scratch: a folder for the file.
            cache_bytes: the maximal size of the cache.
            has_room: returns whether the given number of bytes may be written. If not, the segment is not cached.
        """
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - lives as long as the cache; see close
        self._has_room = has_room
        self._places: OrderedDict[Digest, tuple[int, int]] = OrderedDict()
        self._free = list(range(max(1, cache_bytes // _SLOT_BYTES)))
        self._lock = threading.Lock()
        self.cache_bytes: Final = cache_bytes

    def get(self, name: Digest, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return part of a segment's blocks, or None if the segment is not in the cache. By default, return all blocks."""
        with self._lock:
            if name not in self._places:
                return None
            self._places.move_to_end(name)
            place, segment_bytes = self._places[name]
            self._file.seek(place * _SLOT_BYTES + offset)
            return self._file.read(segment_bytes - offset if length is None else length)

    def put(self, name: Digest, blocks: memoryview) -> None:
        """Add a segment's blocks."""
        with self._lock:
            if name in self._places or not self._has_room(len(blocks)):
                return
            if not self._free:
                _, (freed, _) = self._places.popitem(last=False)
                self._free.append(freed)
            place = self._free.pop()
            try:
                self._file.seek(place * _SLOT_BYTES)
                self._file.write(blocks)
                self._file.flush()
            except OSError:  # Reads also work without the cache.
                self._free.append(place)
                return
            self._places[name] = (place, len(blocks))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


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

    def __init__(self, manifest: Manifest, reader: SegmentReader, cache: SegmentCache) -> None:
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

    def _segment_part(self, segment: int, offset: int, length: int) -> bytes | memoryview:
        name = self._manifest.segments.name(segment)
        held = self._cache.get(name, offset, length)
        if held is not None:
            return held
        blocks = self._reader.blocks(name)
        self._cache.put(name, blocks)
        return blocks[offset : offset + length]
