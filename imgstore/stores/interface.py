"""The interface of stores: one Protocol per ability, a contract of atomicity, and declared properties.

A key is a relative path of ASCII letters, digits, ``-``, ``_``, ``.`` and ``/``. The parts are not empty and do not
begin with a dot (`check_key`). No key may be the folder of another key ("a" and "a/b"): S3 accepts both keys, but
directories, MinIO and SeaweedFS do not. A body is bytes. Every store here and every wrapper passes the suite in
``imgstore/testing/store_contract.py``.

All methods are safe to call from several threads at once. Every method may raise `StoreError` and its subclasses
(``domain/errors.py``), and no error of a vendor's library.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, Protocol, TypeAlias, TypeVar

from isal import isal_zlib

from imgstore.domain.errors import InvalidInput

Body: TypeAlias = bytes | bytearray | memoryview
Accept: TypeAlias = Callable[[bytes], bool]
"""Decides whether a body matches its key."""

_T = TypeVar("_T")

DELETE_KEYS_MAX: Final = 1000
"""Keys in one request of `delete`: the limit of S3's DeleteObjects. A batch of garbage collection is one such request.
"""

_KEY_BYTES_MAX: Final = 1024
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*", re.ASCII)


def check_key(key: str) -> str:
    """Return the key if every store can hold it.

    Raises:
        InvalidInput: the key leaves the store ("..", "/x"), or has characters or parts that some store refuses.
    """
    if len(key) <= _KEY_BYTES_MAX and _KEY.fullmatch(key):
        return key
    raise InvalidInput(
        f"'{key}' is not a valid object key.",
        found=repr(key),
        expected=f"parts of ASCII letters, digits, '-', '_' and '.', none empty nor beginning with a dot, joined by '/', "
        f"in all at most {_KEY_BYTES_MAX} characters",
        hint="this is a fault in imgstore: please report it",
    )


def split_batches(keys: Iterable[_T]) -> Iterator[list[_T]]:
    """Split the keys, or the versions of objects, into lists of at most `DELETE_KEYS_MAX`."""
    left = iter(keys)
    while batch := list(islice(left, DELETE_KEYS_MAX)):
        yield batch


def crc32_checksum(body: Body) -> str:
    """Compute the checksum for `ObjectInfo.checksum`: "CRC32:" and the big-endian number in base64, as S3 does."""
    return "CRC32:" + base64.b64encode(isal_zlib.crc32(body).to_bytes(4, "big")).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """The metadata of an object."""

    key: str
    stored_bytes: int
    last_modified: datetime
    """An aware time of the store's own clock."""
    checksum: str | None
    """A full-object checksum that the store keeps, "ALGORITHM:base64".

    None if the store keeps none, or the call does not return the checksum (most listings).
    """
    certain: bool = True
    """False in a listing of three zones if the object's existence is unknown: one zone has a copy, and another zone
    does not answer or missed a write of the key.

    Such an entry proves neither presence nor absence (invariant Z10).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProperties:
    """The differences between stores."""

    verifies_checksum: bool
    """The store refuses a put whose body arrives damaged, so an acknowledged put is a confirmed put (invariant W12)."""
    server_side_copy: bool
    """`copy_within` moves no bytes through this process, and the store computes the checksum of the new object."""
    atomic_create: bool
    """Exactly one of several concurrent puts with `only_if_absent` succeeds."""


class Describes(Protocol):
    """A store with a name and properties, as every store has."""

    @property
    def name(self) -> str:
        """The name for people: "directory /srv/x", "s3 http://127.0.0.1:9000/bucket"."""
        ...

    @property
    def properties(self) -> StoreProperties:
        """The promises of the store."""
        ...


class Gets(Describes, Protocol):
    """A store that returns objects."""

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """Return the whole object.

        A store with several copies returns the first copy that `accept` accepts. Idempotent.

        Raises:
            ObjectNotFound: the key does not exist (in no zone, after all zones were asked).
            ObjectCorrupt: `accept` rejects every copy. A rejected body is never returned.
        """
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, or fewer if the object ends before.

        The bytes are not verified: callers that need certainty read the whole object.

        Raises:
            ObjectNotFound: the key does not exist.
        """
        ...


class Heads(Describes, Protocol):
    """A store that returns the metadata of an object."""

    def head(self, key: str) -> ObjectInfo:
        """Return length, time and checksum.

        Raises:
            ObjectNotFound: the key does not exist.
        """
        ...


class Lists(Describes, Protocol):
    """A store that lists objects."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object whose key starts with `prefix`, in the order of the keys. Read-after-write consistent.

        An object of unknown existence is listed with `certain` False.
        """
        ...


class Puts(Describes, Protocol):
    """A store that accepts new objects."""

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """Store the object durably: a crash of the machine after the return does not lose the object.

        Atomic: no reader ever sees a part of the object, and a put of an existing key replaces the whole object.
        Idempotent.

        Args:
            key: the key of the object.
            body: the bytes; not kept after the call.
            only_if_absent: raise instead of replacing an object. Exclusive only if `atomic_create` is declared.

        Raises:
            StoreFull, StoreDenied, StoreUnreachable: the former state of `key` is visible; after StoreUnreachable,
                perhaps the whole new object.
            Conflict: `only_if_absent` is set, and the key exists.
        """
        ...


class Deletes(Describes, Protocol):
    """A store that removes objects."""

    def delete(self, keys: Iterable[str]) -> bool:
        """Remove the objects, in requests of at most 1,000 keys. A missing object is no error. Idempotent.

        Returns:
            Whether no request can be carried out later. A store of several zones may succeed without the answer of a
            zone, and that zone may carry out the request later, within the request limit (invariant G14).

        Raises:
            StoreError: the store refused the request, or did not answer and may still carry out the request.
        """
        ...


class Copies(Describes, Protocol):
    """A store that copies an object to a new key."""

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """Copy inside this store. The `checksum` of the result is reliable only if `server_side_copy` is declared.

        Raises:
            ObjectNotFound: the source does not exist.
        """
        ...


class ObjectStore(Gets, Heads, Lists, Puts, Deletes, Copies, Protocol):
    """All abilities together. Functions should require the smallest sufficient Protocol instead."""
