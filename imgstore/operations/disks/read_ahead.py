"""Fetches the next segments of a disk ahead of a client that reads in order (D9).

A client that waits for each read pays the distance to the store once for each segment. A copy program with many requests
in flight pays the distance rarely. The fetched bytes wait for the client in the segment cache.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from imgstore.domain.storage.sizes import BLOCK_BYTES, SEGMENT_BLOCKS
from imgstore.segments.manifest import Runs

SEGMENTS_AHEAD: Final = 4
"""The fetches at the same time. Each holds at most 4 MiB, stored and unpacked."""
_PENDING_MAX: Final = 2 * SEGMENTS_AHEAD
_IN_ORDER: Final = 3
"""The segments that a client has read in order before the next are fetched. A boot rarely reads so much in order."""
_REMEMBERED: Final = 64
CACHE_BYTES_MIN: Final = 8 * SEGMENTS_AHEAD * SEGMENT_BLOCKS * BLOCK_BYTES
"""In a smaller cache, the fetched segments could replace each other before the client reads them."""


class ReadAhead:
    """Notices reads in the order of the disk, and fetches the next segments in threads. Safe for several threads."""

    def __init__(self, runs: Runs, fetch: Callable[[int], bool]) -> None:
        """Prepare for a disk.

        Args:
            runs: the runs of the disk.
            fetch: fetches the segment with an index, without an exception. Returns whether more fetches are of use.
        """
        _, first_rows = np.unique(runs.segment, return_index=True)
        self._order: list[int] = runs.segment[np.sort(first_rows)].tolist()
        """The segments in the order of their first blocks."""
        self._place = {segment: place for place, segment in enumerate(self._order)}
        self._fetch = fetch
        self._read: OrderedDict[int, None] = OrderedDict()
        """The places of the last segments that the client has read."""
        self._pending: set[int] = set()
        """The places of the fetches that have not ended."""
        self._last = -1
        """The segment of the last read."""
        self._is_off = False
        self._changed = threading.Condition()
        self._pool: ThreadPoolExecutor | None = None

    def note_read(self, segment: int) -> None:
        """Note that the client reads a segment, and begin fetches if the client reads in order."""
        if segment == self._last or self._is_off:
            return
        self._last = segment
        with self._changed:
            place = self._place[segment]
            is_first = place not in self._read
            self._read[place] = None
            self._read.move_to_end(place)
            if len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
            if not is_first or any(place - back not in self._read for back in range(1, _IN_ORDER)):
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SEGMENTS_AHEAD, thread_name_prefix="read-ahead")
            for each in range(place + 1, min(place + 1 + SEGMENTS_AHEAD, len(self._order))):
                if each not in self._pending and len(self._pending) < _PENDING_MAX and not self._is_off:
                    self._pending.add(each)
                    self._pool.submit(self._run, each)

    def wait(self) -> None:
        """Wait until all begun fetches have ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)

    def close(self) -> None:
        """Begin no more fetches, and wait for the running fetches."""
        with self._changed:
            self._is_off = True
            pool = self._pool
        if pool is not None:
            pool.shutdown()

    def _run(self, place: int) -> None:
        try:
            if not self._is_off and not self._fetch(self._order[place]):
                self._is_off = True
        finally:
            with self._changed:
                self._pending.discard(place)
                self._changed.notify_all()
