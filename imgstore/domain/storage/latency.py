"""The latency of a store or a source, and the number of threads that compensates for the latency.

A segment or a piece needs a few milliseconds of work here and a single request. With a near store, a few threads use
all processors. With a store 80 ms away, the same threads wait nine tenths of the time. The shortest answer time so far
is a good estimate of the round trip, for any bandwidth and load.
"""

import math
from collections.abc import Callable
from typing import Final

NEAR_SECONDS: Final = 0.010
"""A shorter answer time is near. More threads would only compete for the same processors."""
THREADS_MAX: Final = 16
"""Each thread holds a segment or a piece: 64 MiB of bodies for a replica, a disk or a source, 128 MiB with compression.
"""

_PROBES: Final = 2
"""The first probe may have to open a connection."""
_PROBE_BYTES: Final = 4096


def choose_threads(workers: int, answer_seconds: float, threads_max: int = THREADS_MAX) -> int:
    """Return the number of threads that keeps the processors as busy as `workers` threads do without latency.

    A thread that waits k times `NEAR_SECONDS` for an answer leaves processor time for k other threads.

    Args:
        workers: the number of threads without latency.
        answer_seconds: the sum of the shortest answer times of all stores that a thread asks one after another.
        threads_max: the limit for any latency.
    """
    return max(workers, min(threads_max, workers * (1 + int(answer_seconds / NEAR_SECONDS))))


def measure_latency(read_at: Callable[[int, int], bytes], file_bytes: int, monotonic: Callable[[], float]) -> float:
    """Return the latency of a source in seconds: the shorter time of two short reads.

    Args:
        read_at: reads (offset, length) of the source.
        file_bytes: the length of the source.
        monotonic: a monotonic clock, in seconds.
    """
    shortest = math.inf
    for _ in range(_PROBES):
        began = monotonic()
        read_at(0, min(_PROBE_BYTES, file_bytes))
        shortest = min(shortest, monotonic() - began)
    return shortest
