"""Reads segments through the folder of the host: each segment is fetched once by all threads and processes."""

import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imgstore.domain.host.os_errors import describe
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import GIB
from imgstore.transfer.scatter import BlockSource
from imgstore.transfer.segment_cache.cache_folder import CacheFolder, CacheUsage
from imgstore.transfer.segment_cache.segment_file import FilePart, SegmentFile, UnusableFile
from imgstore.transfer.slot_access import CheckCancelled, never_cancelled

CACHE_BYTES: Final = 10 * GIB
_OPEN_FILES_MAX: Final = 1024
"""Opening a file and checking its trailer takes 25 us, more than the read of 4 KiB."""
_UNKEPT_MAX: Final = 4
"""Segments in memory, each with at most 4 MiB, while the folder takes none."""
_OPEN_FILES_DIVISOR: Final = 4
"""The cache has at most this part of the open files that the process may have."""
_TOUCH_SECONDS: Final = 1.0
_WAIT_SECONDS: Final = 0.05
"""The interval between two checks of a waiting thread whether its caller was cancelled."""


@dataclass(slots=True)
class _Flight:
    """The fetch of a segment by one thread of this process."""

    is_done: threading.Event = field(default_factory=threading.Event)
    blocks: memoryview | None = None
    """None after a failed fetch."""


class SegmentCache:
    """The cache of a host as one process sees it. Safe for several threads.

    A fault of the folder, such as a full disk, never fails a read: the segment is fetched, and the last such segments are
    in memory. A cache with the limit 0 keeps nothing.
    """

    def __init__(
        self,
        folder: Path,
        cache_bytes: int = CACHE_BYTES,
        *,
        namespace: str = "shared",
        has_room: Callable[[int], bool] = lambda _bytes: True,
        on_fault: Callable[[str], None] = lambda _text: None,
        monotonic: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Describe a cache. The folder is opened at the first read.

        Args:
            folder: the folder, which is created if it is missing.
            cache_bytes: the largest size of all files. With less than a segment, nothing is kept. If processes have
                different limits, a process that adds a segment removes others until its own limit is kept.
            namespace: letters, digits and hyphens; the installation. Segments of other namespaces are not read.
            has_room: returns whether the given number of bytes may be written. If not, the segment is not kept.
            on_fault: called with a text at the first fault of the folder.
            monotonic: seconds of a clock that never steps back.
            now_ns: nanoseconds since 1970, for the times of use.
            pause: waits for the given seconds.
        """
        self.folder: Final = folder
        self.cache_bytes: Final = cache_bytes
        self._namespace = namespace
        self._has_room = has_room
        self._on_fault = on_fault
        self._monotonic = monotonic
        self._now_ns = now_ns
        self._pause = pause
        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._open_files_max = min(_OPEN_FILES_MAX, max(1, open_files // _OPEN_FILES_DIVISOR))
        self._lock = threading.Lock()
        self._opened: OrderedDict[Digest, SegmentFile] = OrderedDict()
        self._flights: dict[Digest, _Flight] = {}
        self._unkept: OrderedDict[Digest, memoryview] = OrderedDict()
        """The last segments that the folder did not take."""
        self._place: CacheFolder | None = None
        self._is_closed = False
        self._has_reported = False

    def read(
        self,
        name: Digest,
        offset: int,
        length: int,
        fetch: Callable[[], memoryview],
        check_cancelled: CheckCancelled = never_cancelled,
    ) -> bytes | memoryview:
        """Read `length` bytes of a segment's blocks from `offset`, and fetch a missing segment.

        Args:
            name: the segment.
            offset: the first byte in the blocks.
            length: at least 1; the part is inside the blocks.
            fetch: returns the verified blocks of the segment.
            check_cancelled: called while another thread or process fetches the segment.

        Raises:
            Exception: the exception of `fetch` or `check_cancelled`.
        """
        held = self._read_held(name, offset, length)
        return held if held is not None else self._obtain(name, fetch, check_cancelled)[offset : offset + length]

    def blocks(
        self,
        name: Digest,
        fetch: Callable[[], memoryview],
        check_cancelled: CheckCancelled = never_cancelled,
        *,
        keeps: bool = True,
    ) -> memoryview:
        """Read all blocks of a segment as `read` does.

        Args:
            name: the segment.
            fetch: returns the verified blocks of the segment.
            check_cancelled: called while another thread or process fetches the segment.
            keeps: add a missing segment to the cache. If not, no other thread or process waits for the fetch.
        """
        held = self._read_held(name, 0, None)
        if held is not None:
            return held
        return self._obtain(name, fetch, check_cancelled) if keeps else fetch()

    @contextmanager
    def locate(
        self,
        name: Digest,
        offset: int,
        length: int,
        fetch: Callable[[], memoryview],
        check_cancelled: CheckCancelled = never_cancelled,
    ) -> Iterator[FilePart]:
        """Verify a part of a segment, and yield the place of the part in a file, for `os.sendfile`.

        The bytes stay in the file inside the block, also during an eviction. A segment that cannot be kept is in a file
        in memory. The arguments and errors are those of `read`.
        """
        with ExitStack() as stack:
            part = self._enter_sending(stack, name, offset, length)
            if part is None:
                blocks = self._obtain(name, fetch, check_cancelled)
                part = self._enter_sending(stack, name, offset, length)
                if part is None:
                    part = stack.enter_context(_in_memory(blocks[offset : offset + length]))
            yield part

    def find(self, name: Digest, offset: int, length: int) -> memoryview | None:
        """Read a part of a segment as `read` does if the segment is in the cache, else return None."""
        return self._read_held(name, offset, length)

    def holds(self, name: Digest) -> bool:
        """Return whether the segment is in the cache. No byte of the blocks is verified."""
        return self._find(name) is not None

    def measure(self) -> CacheUsage:
        """Count the segments of all namespaces in the folder.

        Raises:
            OSError: the folder cannot be used.
        """
        return self._open_place().measure()

    def clear(self) -> CacheUsage:
        """Remove all segments of all namespaces, and return the count of the removed segments.

        Raises:
            OSError: the folder cannot be used.
        """
        with self._lock:
            self._opened.clear()
            self._unkept.clear()
        return self._open_place().clear()

    def close(self) -> None:
        """Close the files. Later reads fetch each segment."""
        with self._lock:
            self._is_closed = True
            self._opened.clear()
            self._unkept.clear()
            self._place = None

    # -- held segments

    def _read_held(self, name: Digest, offset: int, length: int | None) -> memoryview | None:
        """Read a part of a held segment, or return None. A damaged file is removed."""
        opened = self._find(name)
        if opened is None:
            return self._read_unkept(name, offset, length)
        try:
            return opened.read(offset, opened.length if length is None else length)
        except UnusableFile:
            self._drop(name, opened)
        except OSError as error:
            self._drop(name, opened)
            self._report(error)
        return None

    def _read_unkept(self, name: Digest, offset: int, length: int | None) -> memoryview | None:
        if not self._unkept:
            return None
        with self._lock:
            blocks = self._unkept.get(name)
            if blocks is None:
                return None
            self._unkept.move_to_end(name)
        return blocks[offset:] if length is None else blocks[offset : offset + length]

    def _remember(self, name: Digest, blocks: memoryview) -> None:
        """Keep a segment in memory that the folder did not take. Otherwise each read of 4 KiB would fetch 4 MiB."""
        with self._lock:
            self._unkept[name] = blocks
            while len(self._unkept) > _UNKEPT_MAX:
                self._unkept.popitem(last=False)

    def _enter_sending(self, stack: ExitStack, name: Digest, offset: int, length: int) -> FilePart | None:
        opened = self._find(name)
        if opened is None:
            return None
        try:
            return stack.enter_context(opened.send(offset, length))
        except UnusableFile:
            self._drop(name, opened)
        except BlockingIOError:  # An eviction, or a writer that has just named the file.
            self._forget(name, opened)
        except OSError as error:
            self._drop(name, opened)
            self._report(error)
        return None

    def _find(self, name: Digest) -> SegmentFile | None:
        """Find an open file, or open the file of the folder. Record the use."""
        with self._lock:
            opened = self._opened.get(name)
            if opened is not None:
                self._opened.move_to_end(name)
        if opened is None:
            opened = self._open(name)
            if opened is None:
                return None
        now = self._monotonic()
        if now - opened.touched >= _TOUCH_SECONDS:
            if opened.is_removed:
                self._forget(name, opened)
                return None
            opened.touched = now
            opened.touch(self._now_ns())
        return opened

    def _open(self, name: Digest) -> SegmentFile | None:
        place = self._try_place()
        if place is None:
            return None
        try:
            opened = place.open_segment(self._file(name), name)
        except OSError as error:
            self._report(error)
            return None
        if opened is None:
            return None
        with self._lock:
            if not self._is_closed:
                self._opened[name] = opened
                while len(self._opened) > self._open_files_max:
                    self._opened.popitem(last=False)
        return opened

    def _forget(self, name: Digest, opened: SegmentFile) -> None:
        with self._lock:
            if self._opened.get(name) is opened:
                del self._opened[name]

    def _drop(self, name: Digest, opened: SegmentFile) -> None:
        """Forget and remove a damaged file."""
        self._forget(name, opened)
        if (place := self._try_place()) is not None:
            place.remove(self._file(name), opened)

    # -- missing segments

    def _obtain(self, name: Digest, fetch: Callable[[], memoryview], check_cancelled: CheckCancelled) -> memoryview:
        """Fetch and keep a segment, or wait for the thread or process that fetches the segment."""
        with self._lock:
            flight = self._flights.get(name)
            is_first = flight is None
            if flight is None:
                flight = self._flights[name] = _Flight()
        if not is_first:
            while not flight.is_done.wait(_WAIT_SECONDS):
                check_cancelled()
            # The fetch of another caller may have failed for a reason that does not concern this caller.
            return flight.blocks if flight.blocks is not None else fetch()
        try:
            with ExitStack() as stack:
                place = self._try_place()
                if place is not None and self.cache_bytes:
                    stack.enter_context(place.hold_flight(name, check_cancelled))
                blocks = self._read_held(name, 0, None)  # Another process may have fetched the segment.
                if blocks is None:
                    blocks = fetch()
                    flight.blocks = blocks
                    flight.is_done.set()
                    self._keep(name, blocks)
                flight.blocks = blocks
            return blocks
        finally:
            with self._lock:
                del self._flights[name]
            flight.is_done.set()

    def _keep(self, name: Digest, blocks: memoryview) -> None:
        """Add a segment. Without room or with a fault, only the last segments are kept, in memory."""
        if self._is_closed or not self.cache_bytes:
            return
        if not self._add(name, blocks):
            self._remember(name, blocks)

    def _add(self, name: Digest, blocks: memoryview) -> bool:
        """Add a segment to the folder. Return whether the folder has the segment."""
        place = self._try_place()
        if place is None:
            return False
        if not self._has_room(len(blocks)):
            self._report_text("its file system keeps a reserve for other programs")
            return False
        try:
            # Opening the file records the use.
            return place.add(self._file(name), name, blocks, self.cache_bytes) and self._find(name) is not None
        except OSError as error:
            if place.is_deleted:
                with self._lock:
                    self._place = None
                    self._opened.clear()
            else:
                self._report(error)
            return False

    # -- the folder

    def _file(self, name: Digest) -> str:
        return f"{self._namespace}-{name.hex()}"

    def _open_place(self) -> CacheFolder:
        with self._lock:
            if self._place is None:
                self._place = CacheFolder(self.folder, self._pause)
            return self._place

    def _try_place(self) -> CacheFolder | None:
        place = self._place
        if place is not None:
            return place
        if self._is_closed or not self.cache_bytes:
            return None
        try:
            return self._open_place()
        except OSError as error:
            self._report(error)
            return None

    def _report(self, error: OSError) -> None:
        self._report_text(describe(error, self.folder))

    def _report_text(self, reason: str) -> None:
        with self._lock:
            if self._has_reported:
                return
            self._has_reported = True
        self._on_fault(f"the segment cache in {self.folder} is not used: {reason}")


@dataclass(frozen=True, slots=True)
class CachedSegments:
    """A source of segments through a cache."""

    source: BlockSource
    cache: SegmentCache
    keeps: bool = True
    """Add missing segments to the cache."""
    check_cancelled: CheckCancelled = never_cancelled

    def blocks(self, name: Digest) -> memoryview:
        """Read the blocks of a segment from the cache, or else from the source, verified."""
        return self.cache.blocks(name, lambda: self.source.blocks(name), self.check_cancelled, keeps=self.keeps)


@contextmanager
def _in_memory(part: memoryview) -> Iterator[FilePart]:
    """Yield a file in memory with the bytes of `part`."""
    descriptor = os.memfd_create("imgstore-segment", os.MFD_CLOEXEC)
    try:
        written = 0
        while written < len(part):
            written += os.write(descriptor, part[written:])
        yield FilePart(descriptor, 0, len(part))
    finally:
        os.close(descriptor)
