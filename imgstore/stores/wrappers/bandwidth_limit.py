"""Reads and writes a store no faster than allowed: a token bucket that any number of stores and threads share."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties

Wait: TypeAlias = Callable[[float], None]
"""Sleeps so many seconds; may raise instead, where nothing further is to be begun."""

BURST_SECONDS: Final = 1.0
"""A bucket that stood idle holds the bytes of so long."""

_WAIT_SECONDS_MIN: Final = 0.001
"""Less is not worth a sleep, and may be nothing but rounding."""


class TokenBucket:
    """So many bytes a second, with a burst of one second's. Safe to use from several threads at once.

    What is taken may exceed what is there (the length of an answer is known when it has come): the bucket is in debt
    then, and the next waits until it is paid. So the mean is kept, whatever the lengths.
    """

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        """A full bucket.

        Args:
            bytes_per_second: above 0.
            clock: seconds that only go forward.
        """
        assert bytes_per_second > 0, "a bandwidth of nothing is none"
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = bytes_per_second * BURST_SECONDS
        self._filled_at = clock()

    def take(self, taken_bytes: int) -> float:
        """Take bytes out; 0 asks only.

        Returns:
            Seconds to wait before anything else is moved.
        """
        with self._lock:
            now = self._clock()
            filled = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = min(filled, self._rate * BURST_SECONDS) - taken_bytes
            self._filled_at = now
            return max(0.0, -self._tokens / self._rate)


class BandwidthLimitedStore:
    """The store itself, its bodies counted against a bucket. Listings and deletions are free.

    Outside of retries, whose pauses are no bandwidth: ``BandwidthLimitedStore(RetryingStore(...))``.
    """

    def __init__(self, store: ObjectStore, bucket: TokenBucket, wait: Wait = time.sleep) -> None:
        self._store = store
        self._bucket = bucket
        self._wait = wait

    @property
    def name(self) -> str:
        """See `Describes.name`."""
        return self._store.name

    @property
    def properties(self) -> StoreProperties:
        """See `Describes.properties`."""
        return self._store.properties

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`. Every copy that came is counted, accepted or not."""
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

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        return self._store.list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`. What was sent is counted whole, whether or not it arrived."""
        self._pay(memoryview(body).nbytes)
        return self._store.put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Deletes.delete`."""
        self._store.delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`: it crosses nothing."""
        return self._store.copy_within(source_key, target_key)

    def _pay(self, sent_bytes: int) -> None:
        """Wait until the bucket is out of debt, then take."""
        while (seconds := self._bucket.take(0)) > _WAIT_SECONDS_MIN:
            self._wait(seconds)
        self._bucket.take(sent_bytes)
