"""Retries of requests with a retryable error, as far as the contract of stores allows.

Two calls are sent once and never repeated here. A late repeat of `delete` could remove an object that was put again
(invariant G6). The lost response of `put` with `only_if_absent` may have been a success, and a repeat would take our
own object for another writer's.
"""

import random as _random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from imgstore.domain.errors import CircuitOpen, StoreError
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore
from imgstore.stores.wrappers.forwarding import ForwardingStore
from imgstore.stores.wrappers.hedging import is_urgent

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of attempts and the waits. Waits have full jitter: uniform between 0 and a bound that doubles.

    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    attempts_max: int = 6
    """Attempts in total, including the first."""
    first_wait_seconds_max: float = 0.2
    """Upper bound of the first wait."""
    wait_seconds_max: float = 10.0
    """Upper bound of any wait."""
    total_seconds_max: float = 60.0
    """No wait begins that would end later than this time after the begin of the call."""

    def wait_seconds(self, attempt: int, jitter: float) -> float:
        """Return the wait after the failed `attempt` (1, 2, ...); `jitter` is in [0, 1)."""
        return jitter * min(self.wait_seconds_max, self.first_wait_seconds_max * 2.0 ** (attempt - 1))


class Retrier:
    """A caller that repeats a call after a retryable `StoreError`. Stateless, and shared by threads."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        wait: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.monotonic = monotonic
        self._wait = wait
        self._random = random

    def __call__(self, call: Callable[[], T]) -> T:
        """Return the result of `call`, after repeats if needed.

        Raises:
            StoreError: the last error, if no attempt or no time is left, or the error is not retryable.
        """
        attempt, began = 1, self.monotonic()
        while True:
            try:
                return call()
            except StoreError as error:
                self.pause(error, attempt, began)
                attempt += 1

    def pause(self, error: StoreError, attempt: int, began: float) -> None:
        """Wait before the next attempt, or raise `error` if there is no next attempt."""
        if not error.retryable or attempt >= self.policy.attempts_max:
            raise error
        if isinstance(error, CircuitOpen) or is_urgent():
            raise error  # Another store may serve the request, and this store will not recover within a moment.
        seconds = self.policy.wait_seconds(attempt, self._random())
        if self.monotonic() - began + seconds > self.policy.total_seconds_max:
            raise error
        self._wait(seconds)


class RetryingStore(ForwardingStore):
    """A store whose requests are repeated after retryable errors. Deletions are sent once."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        policy: RetryPolicy | None = None,
        wait: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store)
        self._retry = Retrier(policy, wait=wait, random=random, monotonic=monotonic)

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return self._retry(lambda: self._store.get(key, accept))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self._retry(lambda: self._store.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self._retry(lambda: self._store.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`. A listing that broke off starts again and continues after the last returned key."""
        last = ""
        attempt, began = 1, self._retry.monotonic()
        while True:
            try:
                for info in self._store.list(prefix):
                    if info.key > last:
                        last = info.key
                        attempt, began = 1, self._retry.monotonic()  # The policy applies to each page.
                        yield info
            except StoreError as error:
                self._retry.pause(error, attempt, began)
                attempt += 1
            else:
                return

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`. A put with `only_if_absent` is sent once."""
        if only_if_absent:
            return self._store.put(key, body, only_if_absent=True)
        return self._retry(lambda: self._store.put(key, body))

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self._retry(lambda: self._store.copy_within(source_key, target_key))
