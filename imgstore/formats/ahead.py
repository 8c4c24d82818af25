"""A source read from its beginning to its end, some of it ahead."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from imgstore.domain.distance import sounded, threads_for
from imgstore.domain.geometry import PIECE_BYTES
from imgstore.domain.sources import ByteSource

_THREADS: Final = 2


def read_through(source: ByteSource, monotonic: Callable[[], float] = time.monotonic) -> Generator[tuple[int, bytes]]:
    """(offset, bytes) of all that the source's extents cover, in order, at most 4 MiB at a time.

    The farther off the source, the more of them are asked for at once.

    Raises:
        as `ByteSource.read_at`.
    """
    threads = threads_for(_THREADS, sounded(source.read_at, source.file_bytes, monotonic))
    waiting: deque[tuple[int, Future[bytes]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for extent in source.extents():
                for at in range(extent.offset, extent.end, PIECE_BYTES):
                    waiting.append((at, pool.submit(source.read_at, at, min(PIECE_BYTES, extent.end - at))))
                    if len(waiting) > threads:
                        yield _done(waiting.popleft())
            while waiting:
                yield _done(waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _done(read: tuple[int, Future[bytes]]) -> tuple[int, bytes]:
    at, future = read
    return at, future.result()
