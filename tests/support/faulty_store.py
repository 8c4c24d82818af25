"""A store that fails on purpose at chosen calls, and is deterministic.

A system must survive these faults: an error, a lost response after a successful request, and changed bytes. No fault
waits; slowness is simulated by the clock of a test.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imgstore.domain.errors import StoreError, StoreUnreachable
from imgstore.stores.errors import check_accepted
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties


class Kind(StrEnum):
    """The kind of a fault."""

    REFUSED = "refused"
    """The error comes before the request has an effect."""
    LOST = "lost"
    """The error comes after the request succeeded: the response was lost."""
    DAMAGED = "damaged"
    """`get` and `get_range` return other bytes than stored."""


def unreachable() -> StoreError:
    """Create the error of a store that does not answer."""
    return StoreUnreachable(
        "The store does not answer.",
        found="a fault made on purpose",
        expected="an answer",
        hint="none: this is a test",
    )


def flip_first_bit(body: bytes) -> bytes:
    """Return the body with one bit changed; an empty body stays unchanged."""
    return bytes([body[0] ^ 1]) + body[1:] if body else body


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of chosen calls."""

    method: str | None = None
    """"get", "get_range", "head", "list", "put", "delete" or "copy_within"; None is any method."""
    calls: frozenset[int] | None = None
    """The numbers of the calls, from 1, among the calls that match `method` and `key_part`; None is every call."""
    key_part: str = ""
    """Only calls whose key contains this text. For `delete`, any of the keys."""
    kind: Kind = Kind.REFUSED
    error: Callable[[], StoreError] = unreachable
    damage: Callable[[bytes], bytes] = flip_first_bit


class FaultyStore:
    """A store with faults. A test may assign another `script` at any time."""

    def __init__(self, store: ObjectStore, script: Sequence[Fault] = ()) -> None:
        self._store = store
        self._seen: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._script: tuple[Fault, ...] = ()
        self.script = script

    @property
    def script(self) -> Sequence[Fault]:
        """The faults. An assignment resets the counts."""
        return self._script

    @script.setter
    def script(self, faults: Sequence[Fault]) -> None:
        with self._lock:
            self._script = tuple(faults)
            self._seen.clear()

    def die(self) -> None:
        """Fail every call from now on."""
        self.script = [Fault()]

    def heal(self) -> None:
        """Remove all faults."""
        self.script = []

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
        return check_accepted(self.name, key, self._read("get", key, lambda: self._store.get(key)), accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self._read("get_range", key, lambda: self._store.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        with _Call(self._faults("head", [key])):
            return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`. A lost response breaks off after the last object."""
        with _Call(self._faults("list", [prefix])):
            yield from self._store.list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        with _Call(self._faults("put", [key])):
            return self._store.put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        every = list(keys)
        with _Call(self._faults("delete", every)):
            return self._store.delete(every)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        with _Call(self._faults("copy_within", [source_key, target_key])):
            return self._store.copy_within(source_key, target_key)

    def _read(self, method: str, key: str, read: Callable[[], bytes]) -> bytes:
        faults = self._faults(method, [key])
        with _Call(faults):
            body = read()
        for fault in faults:
            if fault.kind is Kind.DAMAGED:
                body = fault.damage(body)
        return body

    def _faults(self, method: str, keys: Sequence[str]) -> Sequence[Fault]:
        """Return the faults of this call."""
        with self._lock:
            return [fault for number, fault in enumerate(self._script) if self._strikes(number, fault, method, keys)]

    def _strikes(self, number: int, fault: Fault, method: str, keys: Sequence[str]) -> bool:
        if fault.method not in {None, method} or not any(fault.key_part in key for key in keys or [""]):
            return False
        self._seen[number] += 1
        return fault.calls is None or self._seen[number] in fault.calls


class _Call:
    """A context manager around the real call, which raises the faults of the call."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults

    def __enter__(self) -> None:
        self._raise(Kind.REFUSED)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._raise(Kind.LOST)

    def _raise(self, kind: Kind) -> None:
        for fault in self._faults:
            if fault.kind is kind:
                raise fault.error()
