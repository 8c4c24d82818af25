"""A store in memory, for tests and as the simplest implementation of the contract."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from imgstore.stores.errors import check_accepted, check_length, existing_object_error, missing_object_error
from imgstore.stores.interface import Accept, Body, ObjectInfo, StoreProperties, check_key, crc32_checksum


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredObject:
    body: bytes
    time: datetime


class MemoryStore:
    """Objects in a dictionary. The store copies objects itself and computes the checksum of the new object."""

    properties = StoreProperties(verifies_checksum=True, server_side_copy=True, atomic_create=True)

    def __init__(self, name: str = "memory", now: Callable[[], datetime] = _now) -> None:
        self.name = name
        self._now = now
        self._objects: dict[str, _StoredObject] = {}
        self._lock = threading.Lock()

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        body = self._find_object(key).body
        check_length(self.name, key, len(body))
        return check_accepted(self.name, key, body, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self._find_object(key).body[offset : offset + length]

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return _info(key, self._find_object(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        with self._lock:
            found = sorted((key, kept) for key, kept in self._objects.items() if key.startswith(prefix))
        return (_info(key, kept) for key, kept in found)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        kept = _StoredObject(body=bytes(body), time=self._now())
        with self._lock:
            if only_if_absent and key in self._objects:
                raise existing_object_error(self.name, key)
            self._objects[check_key(key)] = kept
        return _info(key, kept)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        with self._lock:
            for key in keys:
                self._objects.pop(check_key(key), None)
        return True

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self.put(target_key, self._find_object(source_key).body)

    def _find_object(self, key: str) -> _StoredObject:
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise missing_object_error(self.name, key) from None


def _info(key: str, kept: _StoredObject) -> ObjectInfo:
    return ObjectInfo(key=key, stored_bytes=len(kept.body), last_modified=kept.time, checksum=crc32_checksum(kept.body))
