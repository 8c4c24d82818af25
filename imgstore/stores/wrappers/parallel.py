"""A wrapper that reduces the number of parallel bodies after timeouts, because slow links carry fewer at a time.

Additive increase and multiplicative decrease, as in TCP (RFC 5681, section 3.1).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from imgstore.domain.errors import StoreSilent
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore
from imgstore.stores.wrappers.forwarding import ForwardingStore

BODIES_MAX: Final = 64
"""More than the worker threads of any pipeline."""
_TIMEOUT_SECONDS_MIN: Final = 1.0
"""A request that fails sooner was refused: fewer parallel bodies would not help."""
_SMALL_BYTES: Final = 1 << 16
"""A body up to this size does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelLimit:
    """The limit of parallel bodies. Times are seconds of a monotonic clock."""

    bodies: int = BODIES_MAX
    bodies_max: int = BODIES_MAX
    arrived: int = 0
    """Bodies that arrived since the limit changed."""
    halved_at: float = float("-inf")

    def after_arrival(self) -> "ParallelLimit":
        """Return the limit after an arrival: one more after as many arrivals as the limit."""
        if self.bodies == self.bodies_max:
            return self
        if self.arrived + 1 < self.bodies:
            return replace(self, arrived=self.arrived + 1)
        return replace(self, bodies=self.bodies + 1, arrived=0)

    def after_timeout(self, began: float, now: float, running: int) -> "ParallelLimit":
        """Return the limit after a timeout: half, but only once for bodies that ran together.

        Args:
            began: the begin of the body that timed out.
            now: the present time.
            running: the number of running bodies, including this one.
        """
        if began < self.halved_at:
            return self
        return replace(self, bodies=max(1, min(self.bodies, running) // 2), arrived=0, halved_at=now)


class ParallelLimitedStore(ForwardingStore):
    """A store with as many parallel bodies as its link supports. Listings and small requests do not count.

    The wrapper goes inside of retries, because a body that waits for its next attempt is not running.
    """

    def __init__(
        self, store: ObjectStore, monotonic: Callable[[], float] = time.monotonic, bodies_max: int = BODIES_MAX
    ) -> None:
        super().__init__(store)
        self._monotonic = monotonic
        self._limit = ParallelLimit(bodies=bodies_max, bodies_max=bodies_max)
        self._running = 0
        self._changed = threading.Condition()

    @property
    def bodies_limit(self) -> int:
        """The present limit of parallel bodies."""
        return self._limit.bodies

    @contextmanager
    def _body(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._running < self._limit.bodies)
            self._running += 1
        began = self._monotonic()
        try:
            yield
        except StoreSilent:
            now = self._monotonic()
            if now - began >= _TIMEOUT_SECONDS_MIN:
                with self._changed:
                    self._limit = self._limit.after_timeout(began, now, self._running)
            raise
        else:
            with self._changed:
                self._limit = self._limit.after_arrival()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        with self._body():
            return self._store.get(key, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        with self._body():
            return self._store.get_range(key, offset, length)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        if memoryview(body).nbytes <= _SMALL_BYTES:
            return self._store.put(key, body, only_if_absent=only_if_absent)
        with self._body():
            return self._store.put(key, body, only_if_absent=only_if_absent)
