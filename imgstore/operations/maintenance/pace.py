"""Limit the bandwidth of maintenance."""

import threading
from collections.abc import Callable
from typing import Final

from imgstore.stores.wrappers.bandwidth_limit import TokenBucket

_WAIT_SECONDS_MIN: Final = 0.001
_WAIT_SECONDS_MAX: Final = 0.5
"""A process that must stop waits for this time at most."""


def make_pace(
    bytes_per_second: int,
    *,
    check: Callable[[], None],
    wait: Callable[[float], None],
    monotonic: Callable[[], float],
) -> Callable[[int], None]:
    """Return a function that is called with the length of each read, and waits to keep a bandwidth limit.

    Several threads may call the function.

    Args:
        bytes_per_second: the limit. 0 is no limit.
        check: raises if the process must stop.
        wait: waits for a number of seconds, and may raise to stop the process.
        monotonic: seconds of a monotonic clock.
    """
    if not bytes_per_second:
        return lambda _length: check()
    bucket, lock = TokenBucket(bytes_per_second, monotonic), threading.Lock()

    def pace(length: int) -> None:
        check()
        with lock:  # One thread at a time. Otherwise each thread would wait for the reads of all.
            bucket.take(length)
            while (seconds := bucket.take(0)) > _WAIT_SECONDS_MIN:
                wait(min(seconds, _WAIT_SECONDS_MAX))
                check()

    return pace
