"""Counts what moves: the `wire_bytes` of a transfer, retries included."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a meter had counted at one instant. Bytes are those of objects' bodies, without headers and listings."""

    sent_bytes: int
    """To the store. A put that failed counts whole: how far it came, nobody tells."""
    received_bytes: int
    """From the store, as they came, whether or not they were accepted."""
    server_side_bytes: int
    """Copied inside the store, past us."""
    requests: Mapping[str, int]
    """Calls by method: "get", "put", ... A listing is one."""

    @property
    def wire_bytes(self) -> int:
        """Both ways together."""
        return self.sent_bytes + self.received_bytes


class TrafficMeter:
    """Adds up, from any number of threads and stores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent_bytes = 0
        self._received_bytes = 0
        self._server_side_bytes = 0
        self._requests: Counter[str] = Counter()

    def add(self, method: str, *, sent_bytes: int = 0, received_bytes: int = 0, server_side_bytes: int = 0) -> None:
        """Count one call of `method`."""
        with self._lock:
            self._requests[method] += 1
            self._sent_bytes += sent_bytes
            self._received_bytes += received_bytes
            self._server_side_bytes += server_side_bytes

    @property
    def traffic(self) -> Traffic:
        """What was counted so far."""
        with self._lock:
            return Traffic(
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
                server_side_bytes=self._server_side_bytes,
                requests=MappingProxyType(dict(self._requests)),
            )


class Metered:
    """The store itself, counted. Around the bare store, so that retries count: ``Retrying(Metered(S3Store(...)))``."""

    def __init__(self, store: ObjectStore, meter: TrafficMeter) -> None:
        self._store = store
        self._meter = meter

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
        received_bytes = 0

        def counting(body: bytes) -> bool:
            nonlocal received_bytes
            received_bytes += len(body)
            return accept is None or accept(body)

        try:
            return self._store.get(key, counting)
        finally:
            self._meter.add("get", received_bytes=received_bytes)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        received = b""
        try:
            received = self._store.get_range(key, offset, length)
        finally:
            self._meter.add("get", received_bytes=len(received))
        return received

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        self._meter.add("head")
        return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        self._meter.add("list")
        return self._store.list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        self._meter.add("put", sent_bytes=memoryview(body).nbytes)
        return self._store.put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Deletes.delete`."""
        self._meter.add("delete")
        self._store.delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        info = self._store.copy_within(source_key, target_key)
        if self.properties.server_side_copy:
            self._meter.add("copy", server_side_bytes=info.stored_bytes)
        else:
            self._meter.add("copy", received_bytes=info.stored_bytes, sent_bytes=info.stored_bytes)
        return info
