"""Reads a boot pack ahead of a guest into the segment cache of the host.

A frame of a pack is a segment, so the cache keeps frames as it keeps segments: verified, and shared by all processes. A
thread reads the pack in its order. A read of a block that did not arrive yet fetches the chunk with this block first. A
chunk is the unit of a request: successive frames of up to 1 MiB.

Nothing depends on a pack. If the pack is missing, damaged, late or does not fit into the cache, reads use the segments.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from imgstore.domain.errors import ImgstoreError, ObjectNotFound
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, KIB, MIB
from imgstore.segments.boot_pack import PackHead, decode_head, head_length
from imgstore.segments.codec import decode_segment
from imgstore.segments.manifest import Manifest
from imgstore.segments.pack_plan import locate_blocks
from imgstore.transfer.segment_cache import SegmentCache
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess, read_from_any

PATIENCE_SECONDS: Final = 2.0
"""The longest wait of a read for the pack. Then reads use the segments, perhaps of another replica."""
_FIRST_BYTES: Final = 32 * KIB
"""The bytes of the first request. The head of a pack of 60 MiB fits."""
_CHUNK_BYTES_MIN: Final = 256 * KIB
_CHUNK_BYTES_MAX: Final = MIB
"""Chunks grow to this size, so that the first frames arrive soon and later requests are few."""
_AHEAD: Final = 4
"""Chunks that are fetched at once."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pack whose head was read."""

    access: SlotAccess
    head: PackHead
    rest: bytes
    """The bytes after the head that came with the head."""
    places: dict[int, int]
    """The index in `head.block` of each content of the disk (segment x 1,024 + block in segment)."""
    frame_of: list[int]
    """The frame of each index in `head.block`."""
    chunk_of: list[int]
    """The chunk of each frame."""
    chunks: list[tuple[int, int]]
    """The first frame and the end of each chunk."""


class PackReader:
    """The pack of an open disk. Safe for several threads."""

    def __init__(
        self,
        slots: Sequence[SlotAccess],
        key: str,
        manifest: Manifest,
        digest: Digest,
        *,
        pack_key: bytes,
        cache: SegmentCache,
        on_fetched: Callable[[int], None],
        on_fault: Callable[[str], None],
        check_cancelled: CheckCancelled,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Describe a pack. `start` begins to read.

        Args:
            slots: slots of one region with the disk, the preferred slot first.
            key: the key of the pack below a slot.
            manifest: the disk.
            digest: the digest of the manifest.
            pack_key: the key of the head.
            cache: keeps the frames.
            on_fetched: called with the bytes of each answer.
            on_fault: called once with a text if the pack cannot be used any more.
            check_cancelled: called before each request.
            patience_seconds: the longest wait of a read for the pack.
        """
        self._slots = slots
        self._key = key
        self._manifest = manifest
        self._digest = digest
        self._pack_key = pack_key
        self._cache = cache
        self._on_fetched = on_fetched
        self._on_fault = on_fault
        self._check_cancelled = check_cancelled
        self._patience_seconds = patience_seconds
        self._is_ready = threading.Event()
        self._is_stopped = False
        self._opened: _Opened | None = None
        self._lock = threading.Lock()
        self._pending: dict[int, Future[None]] = {}
        self._ahead = ThreadPoolExecutor(_AHEAD, thread_name_prefix="boot-pack")
        self._urgent = ThreadPoolExecutor(_AHEAD, thread_name_prefix="boot-pack-read")

    def start(self) -> None:
        """Begin to read the pack."""
        self._ahead.submit(self._run)

    def close(self) -> None:
        """Begin no further request."""
        with self._lock:
            self._is_stopped = True
            self._ahead.shutdown(wait=False, cancel_futures=True)
            self._urgent.shutdown(wait=False, cancel_futures=True)
        self._is_ready.set()

    def wait_until_read(self) -> bool:
        """Wait until the whole pack is in the cache. Return whether the pack is used."""
        self._is_ready.wait()
        for each in list(self._pending.values()):
            if not each.cancelled():
                each.exception()
        return self._opened is not None

    def read(self, segment: int, inside: int, length: int) -> memoryview | None:
        """Read a part of a segment from the pack, or return None: the caller reads the segment.

        Args:
            segment: the index of the segment in the manifest.
            inside: the first byte in the blocks of the segment.
            length: at least 1.
        """
        if not self._is_ready.is_set():
            self._is_ready.wait(self._patience_seconds)
        return self._read(segment, inside, length, self._read_frame)

    def find(self, segment: int, inside: int, length: int) -> memoryview | None:
        """Read a part as `read` does if its frames are in the cache, else return None at once."""
        return self._read(segment, inside, length, self._find_frame)

    def holds(self, segment: int, inside: int, length: int) -> bool:
        """Return whether the part is in the pack and in the cache."""
        opened = self._opened
        places = None if opened is None else _find_places(opened, segment, inside, length)
        if opened is None or places is None:
            return False
        return all(self._cache.holds(opened.head.name(frame)) for frame in {opened.frame_of[each] for each in places})

    def _read(
        self,
        segment: int,
        inside: int,
        length: int,
        read_frame: Callable[[_Opened, int, int, int], memoryview | None],
    ) -> memoryview | None:
        opened = self._opened
        places = None if opened is None else _find_places(opened, segment, inside, length)
        if opened is None or places is None:
            return None
        parts: list[memoryview] = []
        for frame, offset, part_length in _split_by_frame(opened, places, inside % BLOCK_BYTES, length):
            part = read_frame(opened, frame, offset, part_length)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    # -- reading ahead

    def _run(self) -> None:
        try:
            self._opened = self._open()
        except ObjectNotFound:  # Most disks have no pack.
            pass
        except ImgstoreError as error:
            self._on_fault(error.message)
        except BaseException:
            if not self._is_stopped:
                raise
        else:
            with self._lock:
                if not self._is_stopped and self._opened is not None:
                    for chunk in range(len(self._opened.chunks)):
                        self._pending[chunk] = self._ahead.submit(self._fetch_chunk, self._opened, chunk)
        finally:
            self._is_ready.set()

    def _open(self) -> _Opened | None:
        self._check_cancelled()
        access, data = read_from_any(self._slots, lambda slot: self._get_range(slot, 0, _FIRST_BYTES))
        length = head_length(data)
        if length > len(data):
            data += self._get_range(access, len(data), length - len(data))
        head = decode_head(data, self._pack_key, self._digest)
        if int(head.frame_blocks.sum()) * BLOCK_BYTES > self._cache.cache_bytes:
            return None
        content = locate_blocks(self._manifest.runs, head.block)
        content[head.block < 0] = -1
        chunks = list(_cut_chunks(head))
        return _Opened(
            access=access,
            head=head,
            rest=data[length:],
            places={each: at for at, each in enumerate(content.tolist()) if each >= 0},
            frame_of=np.repeat(np.arange(len(head)), head.frame_blocks).tolist(),
            chunk_of=[chunk for chunk, (first, end) in enumerate(chunks) for _ in range(first, end)],
            chunks=chunks,
        )

    def _get_range(self, access: SlotAccess, offset: int, length: int) -> bytes:
        data = access.store.get_range(access.prefix + self._key, offset, length)
        self._on_fetched(len(data))
        return data

    def _fetch_chunk(self, opened: _Opened, chunk: int) -> None:
        """Fetch the missing frames of a chunk into the cache. One process of the host fetches, the others wait."""
        missing = self._find_missing(opened, chunk)
        while missing and not self._is_stopped and self._opened is not None:
            try:
                self._fetch_run(opened, missing)
            except ImgstoreError as error:
                self._give_up(error.message)
            missing = missing[_run_length(missing) :]

    def _find_missing(self, opened: _Opened, chunk: int) -> list[int]:
        first, end = opened.chunks[chunk]
        return [frame for frame in range(first, end) if not self._cache.holds(opened.head.name(frame))]

    def _fetch_run(self, opened: _Opened, missing: list[int]) -> None:
        """Fetch the first successive frames of `missing` with one request."""
        head, first = opened.head, missing[0]

        def fetch() -> memoryview:
            # Another process may have fetched the frames, and then the first.
            frames = missing[: _run_length(missing)]
            begin, end = int(head.offset[first]), int(head.offset[frames[-1] + 1])
            data = self._read_range(opened, begin, end)
            found: dict[int, memoryview] = {}
            for frame in frames:
                at = int(head.offset[frame]) - begin
                found[frame] = decode_segment(data[at : at + int(head.stored_bytes[frame])], head.name(frame))
            for frame in frames[1:]:
                self._cache.blocks(head.name(frame), partial(found.__getitem__, frame), self._check_cancelled)
            return found[first]

        self._cache.blocks(head.name(first), fetch, self._check_cancelled)

    def _read_range(self, opened: _Opened, begin: int, end: int) -> bytes:
        rest_begin = opened.head.head_bytes
        rest_end = rest_begin + len(opened.rest)
        known = opened.rest[begin - rest_begin : end - rest_begin] if begin < rest_end else b""
        if begin + len(known) == end:
            return known
        self._check_cancelled()
        return known + self._get_range(opened.access, begin + len(known), end - begin - len(known))

    def _give_up(self, reason: str) -> None:
        with self._lock:
            was_used = self._opened is not None
            self._opened = None
        if was_used and not self._is_stopped:
            self._on_fault(reason)

    # -- reads of the guest

    def _find_frame(self, opened: _Opened, frame: int, offset: int, length: int) -> memoryview | None:
        return self._cache.find(opened.head.name(frame), offset, length)

    def _read_frame(self, opened: _Opened, frame: int, offset: int, length: int) -> memoryview | None:
        held = self._find_frame(opened, frame, offset, length)
        if held is not None:
            return held
        try:
            self._await_chunk(opened, opened.chunk_of[frame])
        except FutureTimeout:
            opened.access.on_late(self._patience_seconds)
            self._give_up("the store is too slow")
            return None
        held = self._find_frame(opened, frame, offset, length)
        if held is None:
            self._give_up("the cache does not keep the pack")
        return held

    def _await_chunk(self, opened: _Opened, chunk: int) -> None:
        """Wait until a chunk was fetched, at most for the patience of a read. A chunk that is far ahead is fetched now.

        Raises:
            FutureTimeout: the fetch takes too long.
        """
        with self._lock:
            if self._is_stopped:
                return
            pending = self._pending.get(chunk)
            if pending is None or pending.done() or pending.cancel():
                pending = self._pending[chunk] = self._urgent.submit(self._fetch_chunk, opened, chunk)
        pending.result(self._patience_seconds)


def _run_length(frames: Sequence[int]) -> int:
    """Return the number of successive frames at the beginning of a list."""
    length = 1
    while length < len(frames) and frames[length] == frames[0] + length:
        length += 1
    return length


def _cut_chunks(head: PackHead) -> Iterator[tuple[int, int]]:
    """Cut the frames of a pack into chunks. Equal heads have equal chunks, so processes wait for each other's requests."""
    sizes = head.stored_bytes.tolist()
    first, chunk_bytes, limit_bytes = 0, 0, _CHUNK_BYTES_MIN
    for frame, size in enumerate(sizes):
        if frame > first and chunk_bytes + size > limit_bytes:
            yield first, frame
            first, chunk_bytes = frame, 0
            limit_bytes = min(2 * limit_bytes, _CHUNK_BYTES_MAX)
        chunk_bytes += size
    if sizes:
        yield first, len(sizes)


def _find_places(opened: _Opened, segment: int, inside: int, length: int) -> list[int] | None:
    """Return the indexes in the pack of all blocks of a part, or None if the pack does not contain all blocks."""
    base = segment * 1024
    places: list[int] = []
    for at in range(inside // BLOCK_BYTES, (inside + length - 1) // BLOCK_BYTES + 1):
        place = opened.places.get(base + at)
        if place is None:
            return None
        places.append(place)
    return places


def _split_by_frame(
    opened: _Opened, places: Sequence[int], skipped_bytes: int, length: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (frame, offset in the blocks of the frame, bytes) of a part, in order."""
    first_block = opened.head.first_block
    at = 0
    while at < len(places):
        frame, end = opened.frame_of[places[at]], at + 1
        while end < len(places) and places[end] == places[end - 1] + 1 and opened.frame_of[places[end]] == frame:
            end += 1
        begin = (places[at] - int(first_block[frame])) * BLOCK_BYTES + (skipped_bytes if at == 0 else 0)
        done = at * BLOCK_BYTES - (skipped_bytes if at else 0)
        part_length = min((end - at) * BLOCK_BYTES - (skipped_bytes if at == 0 else 0), length - done)
        yield frame, begin, part_length
        at = end
