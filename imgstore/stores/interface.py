"""What a store can do: one Protocol an ability, an atomicity contract, and properties that are declared, not imitated.

A key is a relative path of ASCII letters, digits, ``-``, ``_``, ``.`` and ``/``; a body is bytes. Every store here, and
every wrapper, passes the one suite in ``imgstore/testing/store_contract.py``.

All methods are safe to call from several threads at once. Every method may raise `StoreError` and its children
(``domain/errors.py``) and nothing else that is the vendor's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

Body: TypeAlias = bytes | bytearray | memoryview
Accept: TypeAlias = Callable[[bytes], bool]
"""Says whether a body is the one that its key promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store tells of an object without its body."""

    key: str
    stored_bytes: int
    last_modified: datetime
    """By the store's own clock, aware."""
    checksum: str | None
    """A full-object checksum that the store itself keeps, "ALGORITHM:base64"; None where it keeps none or the call does
    not tell (a listing usually does not)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProperties:
    """What differs between stores."""

    verifies_checksum: bool
    """A put whose body arrives damaged is refused: an acknowledged put is a confirmed one (rules.md, rule 4)."""
    server_side_copy: bool
    """`copy_within` moves no byte through us, and its checksum is computed by the store over the new object."""
    atomic_create: bool
    """`put` with `only_if_absent` lets exactly one of many writers win."""


class Describes(Protocol):
    """Every store tells who and how it is."""

    @property
    def name(self) -> str:
        """For people: "directory /srv/x", "s3 http://127.0.0.1:9000/bucket"."""
        ...

    @property
    def properties(self) -> StoreProperties:
        """What it can promise."""
        ...


class Gets(Describes, Protocol):
    """A store that can be read."""

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """The whole object.

        A store that holds several copies gives the first that `accept` takes. Idempotent.

        Raises:
            ObjectNotFound: no such key (in no zone, once all have been asked).
            ObjectCorrupt: no copy that `accept` takes. Never serves what it does not take.
        """
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the object ends before. Not verified: callers who need
        certainty read the whole.

        Raises:
            ObjectNotFound: no such key.
        """
        ...


class Heads(Describes, Protocol):
    """A store that tells of one object."""

    def head(self, key: str) -> ObjectInfo:
        """Length, time and checksum.

        Raises:
            ObjectNotFound: no such key.
        """
        ...


class Lists(Describes, Protocol):
    """A store that tells of many objects."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in the order of their keys. Read-after-write consistent."""
        ...


class Puts(Describes, Protocol):
    """A store that can be written."""

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """Store the object durably: after it returns, a crash of the machine does not lose it.

        Atomic: no reader ever sees a part of it; a put of an existing key replaces it whole. Idempotent.

        Args:
            key: where.
            body: what. Not kept after the call.
            only_if_absent: raise instead of replacing. Exclusive only where `atomic_create` is declared.

        Raises:
            StoreFull, StoreDenied, StoreUnreachable: nothing is visible at `key` that was not before; after
                StoreUnreachable it may be the whole new object.
            Conflict: `only_if_absent`, and the key is there.
        """
        ...


class Deletes(Describes, Protocol):
    """A store from which objects can be taken away."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove the objects, in requests of at most 1,000 keys. A key that is not there is no error. Idempotent."""
        ...


class Copies(Describes, Protocol):
    """A store that can copy an object under a new key by itself."""

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """Copy inside this store. Its `checksum` is trustworthy only where `server_side_copy` is declared.

        Raises:
            ObjectNotFound: no such source.
        """
        ...


class ObjectStore(Gets, Heads, Lists, Puts, Deletes, Copies, Protocol):
    """All abilities together. Ask for the least that compiles instead wherever you can."""
