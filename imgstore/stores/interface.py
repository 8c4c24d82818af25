"""What a store can do: one Protocol an ability, an atomicity contract, and properties that are declared, not imitated.

A key is a relative path of ASCII letters, digits, ``-``, ``_``, ``.`` and ``/``, whose parts are not empty and do not
begin with a dot (`check_key`). No key may be another one's folder ("a" beside "a/b"): S3 itself would take both, a
directory, MinIO and SeaweedFS do not. A body is bytes. Every store here, and every wrapper, passes the one suite in
``imgstore/testing/store_contract.py``.

All methods are safe to call from several threads at once. Every method may raise `StoreError` and its children
(``domain/errors.py``) and nothing else that is the vendor's.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, Protocol, TypeAlias

from isal import isal_zlib

from imgstore.domain.errors import InvalidInput

Body: TypeAlias = bytes | bytearray | memoryview
Accept: TypeAlias = Callable[[bytes], bool]
"""Says whether a body is the one that its key promises."""

DELETE_KEYS_MAX: Final = 1000
"""Keys in one request of `delete`: S3's DeleteObjects takes no more, and a collector's batch is one such request."""

_KEY_BYTES_MAX: Final = 1024
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*", re.ASCII)


def check_key(key: str) -> str:
    """The key itself, if every store can hold it.

    Raises:
        InvalidInput: it leaves the store ("..", "/x"), or has characters or parts that not every store takes.
    """
    if len(key) <= _KEY_BYTES_MAX and _KEY.fullmatch(key):
        return key
    raise InvalidInput(
        f"'{key}' is no key of an object.",
        found=repr(key),
        expected=f"parts of ASCII letters, digits, '-', '_' and '.', none empty nor beginning with a dot, joined by '/', "
        f"in all at most {_KEY_BYTES_MAX} characters",
        hint="this is a fault in the program that asked: please report it",
    )


def split_batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys in lists of at most `DELETE_KEYS_MAX`."""
    left = iter(keys)
    while batch := list(islice(left, DELETE_KEYS_MAX)):
        yield batch


def crc32_checksum(body: Body) -> str:
    """The checksum in the form of `ObjectInfo.checksum`: "CRC32:" and the big-endian number in base64, as S3 tells it."""
    return "CRC32:" + base64.b64encode(isal_zlib.crc32(body).to_bytes(4, "big")).decode()


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
    certain: bool = True
    """False in a listing of three zones, if nobody can tell whether the object exists: one zone has a copy, and another
    zone does not answer or missed a write of the key. Neither presence nor absence may be concluded (invariant Z10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProperties:
    """What differs between stores."""

    verifies_checksum: bool
    """A put whose body arrives damaged is refused: an acknowledged put is a confirmed one (invariant W12)."""
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
        """`length` bytes from `offset`; fewer only where the object ends before.

        Not verified: callers who need certainty read the whole.

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
        """Every object whose key starts with `prefix`, in the order of their keys. Read-after-write consistent.

        An object whose existence is unknown is listed too, as not `certain`.
        """
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
