"""Probe the abilities of an S3 server: checksums, copies and conditional creates."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from imgstore.domain.errors import (
    Conflict,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
)
from imgstore.stores.access import PROBES
from imgstore.stores.interface import (
    StoreProperties,
    crc32_checksum,
)
from imgstore.stores.s3.store import S3Store
from imgstore.stores.s3.unusual_requests import S3UnusualRequests

_PROBE_WRITERS: Final = 8


def probe_properties(store: S3Store, random_hex: str) -> StoreProperties:
    """Probe the abilities of a store with a few small objects under ``imgstore-probe/<random_hex>/``.

    Args:
        store: the store to probe; its bucket exists.
        random_hex: makes the keys unique among concurrent probes.

    Raises:
        StoreError: the store cannot be written or read.
    """
    prefix = f"{PROBES}{random_hex}"
    try:
        return StoreProperties(
            verifies_checksum=_refuses_damage(store, f"{prefix}/damaged"),
            server_side_copy=_computes_at_copy(store, f"{prefix}/source", f"{prefix}/copy"),
            atomic_create=_creates_once(store, f"{prefix}/once"),
        )
    finally:
        store.delete([info.key for info in store.list(prefix + "/")])


def _refuses_damage(store: S3Store, key: str) -> bool:
    """Return whether the store refuses a body that does not match its checksum, and stores nothing."""
    store.put(key + "-whole", b"whole")  # a store that refuses every put does not verify checksums
    if S3UnusualRequests(store).put_damaged(key, b"damaged", b"whole"):
        return False
    try:
        store.head(key)
    except ObjectNotFound:
        return True
    return False


def _computes_at_copy(store: S3Store, source_key: str, target_key: str) -> bool:
    """Return whether a copy of a source without a checksum has a checksum, which the store must have computed."""
    body = b"a source without a checksum"
    try:
        store._put(source_key, body, None)  # A bucket with object lock refuses a body without a checksum.
        copied = store._copy(source_key, target_key, "CRC32")
    except StoreError as error:
        if error.retryable or isinstance(error, (StoreDenied, StoreFull)):
            raise
        return False
    return copied.checksum == crc32_checksum(body)


def _creates_once(store: S3Store, key: str) -> bool:
    """Return whether exactly one of several concurrent writers succeeds, and a later writer fails."""

    def wins(writer: int) -> bool:
        try:
            store.put(key, str(writer).encode(), only_if_absent=True)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(_PROBE_WRITERS) as pool:
        winners = [writer for writer, won in enumerate(pool.map(wins, range(_PROBE_WRITERS))) if won]
    return not wins(_PROBE_WRITERS) and [str(writer).encode() for writer in winners] == [store.get(key)]
