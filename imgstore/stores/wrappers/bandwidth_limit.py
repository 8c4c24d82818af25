"""A wrapper that limits the bandwidth of a store by a token bucket, which any number of stores and threads share."""

import threading
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore
from imgstore.stores.wrappers.forwarding import ForwardingStore

Wait: TypeAlias = Callable[[float], None]
"""Sleeps for a number of seconds; may raise to prevent the next transfer."""

BURST_SECONDS: Final = 1.0
"""An idle bucket holds the bytes of this time."""

_WAIT_SECONDS_MIN: Final = 0.001
"""A shorter time is not worth a sleep, and may come from rounding."""


class TokenBucket:
    """A rate in bytes per second, with a burst of one second. Safe to use from several threads at once.

    A take may exceed the content of the bucket, because the length of a response is known only after its arrival. The
    bucket is then in debt, and the next caller waits until the debt is paid. The mean rate therefore holds for any
    lengths.
    """

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a full bucket.

        Args:
            bytes_per_second: the rate, above 0.
            clock: seconds of a monotonic clock.
        """
        assert bytes_per_second > 0, "a bandwidth of nothing is none"
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = bytes_per_second * BURST_SECONDS
        self._filled_at = clock()

    def take(self, taken_bytes: int) -> float:
        """Take bytes out of the bucket; 0 only asks.

        Returns:
            Seconds to wait before the next transfer.
        """
        with self._lock:
            now = self._clock()
            filled = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = min(filled, self._rate * BURST_SECONDS) - taken_bytes
            self._filled_at = now
            return max(0.0, -self._tokens / self._rate)


class BandwidthLimitedStore(ForwardingStore):
    """A store whose bodies count against a bucket. Listings, deletions and copies inside the store are free.

    The wrapper goes outside of retries, because pauses use no bandwidth: ``BandwidthLimitedStore(RetryingStore(...))``.
    """

    def __init__(self, store: ObjectStore, bucket: TokenBucket, wait: Wait = time.sleep) -> None:
        super().__init__(store)
        self._bucket = bucket
        self._wait = wait

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`. Every received copy counts, accepted or not."""
        received_bytes = 0

        def counting(body: bytes) -> bool:
            nonlocal received_bytes
            received_bytes += len(body)
            return accept is None or accept(body)

        self._pay(0)
        try:
            return self._store.get(key, counting)
        finally:
            self._bucket.take(received_bytes)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        self._pay(0)
        received = self._store.get_range(key, offset, length)
        self._bucket.take(len(received))
        return received

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`. The whole body counts, even if the put fails."""
        self._pay(memoryview(body).nbytes)
        return self._store.put(key, body, only_if_absent=only_if_absent)

    def _pay(self, sent_bytes: int) -> None:
        """Wait until the bucket has no debt, then take."""
        while (seconds := self._bucket.take(0)) > _WAIT_SECONDS_MIN:
            self._wait(seconds)
        self._bucket.take(sent_bytes)
