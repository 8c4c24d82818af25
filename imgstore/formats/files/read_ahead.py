"""Reads a source from beginning to end, with reads started in advance."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.storage.latency import choose_threads, measure_latency
from imgstore.domain.storage.sizes import PIECE_BYTES

_THREADS: Final = 2
_T = TypeVar("_T")


def results_in_order(futures: Iterable[Future[_T]], ahead: int) -> Generator[_T]:
    """Yield the results of the futures, in order.

    At most `ahead` futures have started and not yet returned their results.

    If the caller stops early, or a future fails, the waiting futures are cancelled.
    """
    waiting: deque[Future[_T]] = deque()
    try:
        for future in futures:
            waiting.append(future)
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def read_through(source: ByteSource, monotonic: Callable[[], float] = time.monotonic) -> Generator[tuple[int, bytes]]:
    """Yield (offset, bytes) of all extents of the source, in order, at most 4 MiB at a time.

    A source with a higher latency is read by more threads.

    Raises:
        ImgstoreError: an error of `ByteSource.read_at`.
    """
    threads = choose_threads(_THREADS, measure_latency(source.read_at, source.file_bytes, monotonic))

    def read(at: int, length: int) -> tuple[int, bytes]:
        return at, source.read_at(at, length)

    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        reads = (
            pool.submit(read, at, min(PIECE_BYTES, extent.end - at))
            for extent in source.extents()
            for at in range(extent.offset, extent.end, PIECE_BYTES)
        )
        yield from results_in_order(reads, threads + 1)
