"""How far off a store or a source is, and how many threads make up for it.

A segment or a piece is a few milliseconds of work here, and one request there. Near by, a handful of threads keeps the
processors busy; 80 ms away the same handful waits nine tenths of its time. Distance is told by the shortest answer so
far: about one way there and back, whatever the bandwidth and however busy both ends are.
"""

import math
from collections.abc import Callable
from typing import Final

NEAR_SECONDS: Final = 0.010
"""What answers within it is near: more threads would only take turns on the same processors."""
THREADS_MAX: Final = 16
"""Each holds a segment or a piece: 64 MiB of bodies for a replica, a disk or a source, 128 where they are compressed."""

_SOUNDINGS: Final = 2
"""The first may have to make a connection."""
_SOUNDED_BYTES: Final = 4096


def choose_threads(workers: int, answer_seconds: float, threads_max: int = THREADS_MAX) -> int:
    """How many threads keep the processors as busy as `workers` do where nothing is waited for.

    One that waits k times `NEAR_SECONDS` for its answer leaves room for k others.

    Args:
        workers: threads for what is near.
        answer_seconds: of those that a thread asks one after another, their shortest answers added up.
        threads_max: no more for any distance.
    """
    return max(workers, min(threads_max, workers * (1 + int(answer_seconds / NEAR_SECONDS))))


def measure_latency(read_at: Callable[[int, int], bytes], file_bytes: int, monotonic: Callable[[], float]) -> float:
    """How far off a source is, in seconds: the shortest of two reads of next to nothing.

    Args:
        read_at: of the source: (offset, length).
        file_bytes: its length.
        monotonic: seconds that only go forward.
    """
    shortest = math.inf
    for _ in range(_SOUNDINGS):
        began = monotonic()
        read_at(0, min(_SOUNDED_BYTES, file_bytes))
        shortest = min(shortest, monotonic() - began)
    return shortest
