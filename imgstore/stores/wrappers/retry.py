"""Tries again what trying again may mend, as the store itself judged, and as its contract allows.

Sent once only, so never repeated here: `delete`, since a late repeat could take away what was put anew (invariant G6),
and `put` with `only_if_absent`, since the answer that was lost may have been "yes", and a repeat would take our own
object for another writer's.
"""

import random as _random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from imgstore.domain.errors import CircuitOpen, StoreError
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties
from imgstore.stores.wrappers.hedging import is_urgent

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long. Waits have full jitter: evenly between 0 and a bound that doubles.

    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    attempts_max: int = 6
    """Tries in all, the first included."""
    first_wait_seconds_max: float = 0.2
    """Bound of the first wait."""
    wait_seconds_max: float = 10.0
    """Bound of any wait."""
    total_seconds_max: float = 60.0
    """No wait begins that would end later than this after the call began."""

    def wait_seconds(self, attempt: int, jitter: float) -> float:
        """How long to wait after the failed `attempt` (1, 2, ...); `jitter` is in [0, 1)."""
        return jitter * min(self.wait_seconds_max, self.first_wait_seconds_max * 2.0 ** (attempt - 1))


class Retrier:
    """Calls again what raised a retryable `StoreError`, within a policy. Shared by threads; it keeps no state."""

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
        """What `call` returns, once it does.

        Raises:
            StoreError: the last one, when no attempt or no time is left, or it is not retryable.
        """
        attempt, began = 1, self.monotonic()
        while True:
            try:
                return call()
            except StoreError as error:
                self.pause(error, attempt, began)
                attempt += 1

    def pause(self, error: StoreError, attempt: int, began: float) -> None:
        """Wait before the next attempt, or raise `error` where there is to be none."""
        if not error.retryable or attempt >= self.policy.attempts_max:
            raise error
        if isinstance(error, CircuitOpen) or is_urgent():
            raise error  # Another store may serve it, and a store that was down for a while is not back in a moment.
        seconds = self.policy.wait_seconds(attempt, self._random())
        if self.monotonic() - began + seconds > self.policy.total_seconds_max:
            raise error
        self._wait(seconds)


class RetryingStore:
    """The store itself, with patience."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        policy: RetryPolicy | None = None,
        wait: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._persist = Retrier(policy, wait=wait, random=random, monotonic=monotonic)

    @property
    def name(self) -> str:
        """See `Describes.name`."""
        return self._store.name

    @property
    def properties(self) -> StoreProperties:
        """See `Describes.properties`."""
        return self._store.properties

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return self._persist(lambda: self._store.get(key, accept))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self._persist(lambda: self._store.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self._persist(lambda: self._store.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`. A listing that broke off begins anew and goes on after the last key that it told."""
        last = ""
        attempt, began = 1, self._persist.monotonic()
        while True:
            try:
                for info in self._store.list(prefix):
                    if info.key > last:
                        last = info.key
                        attempt, began = (
                            1,
                            self._persist.monotonic(),
                        )  # it moves: patience is for a page, not for the whole
                        yield info
            except StoreError as error:
                self._persist.pause(error, attempt, began)
                attempt += 1
            else:
                return

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`. With `only_if_absent` it is sent once."""
        if only_if_absent:
            return self._store.put(key, body, only_if_absent=True)
        return self._persist(lambda: self._store.put(key, body))

    def delete(self, keys: Iterable[str]) -> None:
        """See `Deletes.delete`. Sent once."""
        self._store.delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self._persist(lambda: self._store.copy_within(source_key, target_key))
