"""A wrapper that counts the transferred bytes (`wire_bytes`, retries included) and measures the response time."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore
from imgstore.stores.wrappers.forwarding import ForwardingStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The counts of a meter at one instant. Bytes are bytes of objects' bodies, without headers and listings."""

    sent_bytes: int
    """Bytes to the store. A failed put counts with its whole body, because the sent part is unknown."""
    received_bytes: int
    """Bytes from the store, accepted or not."""
    server_side_bytes: int
    """Bytes that the store copied itself."""
    requests: Mapping[str, int]
    """Calls by method: "get", "put", ... A listing is one call."""

    @property
    def wire_bytes(self) -> int:
        """Sent and received bytes together."""
        return self.sent_bytes + self.received_bytes


class TrafficMeter:
    """A sum over any number of threads and stores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent_bytes = 0
        self._received_bytes = 0
        self._server_side_bytes = 0
        self._requests: Counter[str] = Counter()
        self._answer_seconds: float | None = None

    def add(self, method: str, *, sent_bytes: int = 0, received_bytes: int = 0, server_side_bytes: int = 0) -> None:
        """Count one call of `method`."""
        with self._lock:
            self._requests[method] += 1
            self._sent_bytes += sent_bytes
            self._received_bytes += received_bytes
            self._server_side_bytes += server_side_bytes

    def add_answer(self, seconds: float) -> None:
        """Note how long a call took until its answer."""
        with self._lock:
            self._answer_seconds = seconds if self._answer_seconds is None else min(seconds, self._answer_seconds)

    @property
    def answer_seconds(self) -> float:
        """The shortest time of an answered call: about one round trip. 0 before the first answer."""
        with self._lock:
            return self._answer_seconds or 0.0

    @property
    def traffic(self) -> Traffic:
        """The counts so far."""
        with self._lock:
            return Traffic(
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
                server_side_bytes=self._server_side_bytes,
                requests=MappingProxyType(dict(self._requests)),
            )


class MeteredStore(ForwardingStore):
    """A store with a meter.

    The wrapper goes around the bare store, so that retries count: ``RetryingStore(MeteredStore(S3Store(...)))``.
    """

    def __init__(
        self, store: ObjectStore, meter: TrafficMeter, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(store)
        self._meter = meter
        self._monotonic = monotonic

    @contextmanager
    def _measure(self) -> Iterator[None]:
        """Measure the block, unless it raises: a refused connection is no answer."""
        began = self._monotonic()
        yield
        self._meter.add_answer(self._monotonic() - began)

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        received_bytes = 0

        def counting(body: bytes) -> bool:
            nonlocal received_bytes
            received_bytes += len(body)
            return accept is None or accept(body)

        try:
            with self._measure():
                return self._store.get(key, counting)
        finally:
            self._meter.add("get", received_bytes=received_bytes)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        received = b""
        try:
            with self._measure():
                received = self._store.get_range(key, offset, length)
        finally:
            self._meter.add("get", received_bytes=len(received))
        return received

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        self._meter.add("head")
        with self._measure():
            return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        self._meter.add("list")
        return self._measure_first_page(self._store.list(prefix))

    def _measure_first_page(self, listing: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Measure the first page of a listing, which is one answer. A listing sends several requests."""
        with self._measure():
            first = tuple(islice(listing, 1))
        yield from first
        yield from listing

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        self._meter.add("put", sent_bytes=memoryview(body).nbytes)
        with self._measure():
            return self._store.put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        self._meter.add("delete")
        return self._store.delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        info = self._store.copy_within(source_key, target_key)
        if self.properties.server_side_copy:
            self._meter.add("copy", server_side_bytes=info.stored_bytes)
        else:
            self._meter.add("copy", received_bytes=info.stored_bytes, sent_bytes=info.stored_bytes)
        return info
