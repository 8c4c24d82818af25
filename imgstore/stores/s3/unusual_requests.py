"""Requests to an S3 bucket that only an analysis sends: damaged, broken off and given up (`UnusualRequests`)."""

from collections.abc import Iterator
from contextlib import suppress

from imgstore.domain.errors import ObjectCorrupt, StoreDenied, StoreError, StoreFull, StoreUnreachable
from imgstore.stores.interface import ObjectInfo, crc32_checksum
from imgstore.stores.s3.connections import give_up_requests
from imgstore.stores.s3.store import S3Store


class S3UnusualRequests:
    """See `UnusualRequests`."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def list_in_pages(self, prefix: str, page_keys: int) -> Iterator[ObjectInfo]:
        """See `UnusualRequests.list_in_pages`."""
        return self._store.list_in_pages(prefix, page_keys)

    def put_damaged(self, key: str, body: bytes, announced: bytes) -> bool:
        """See `UnusualRequests.put_damaged`."""
        try:
            self._store._put(key, body, crc32_checksum(announced))
        except ObjectCorrupt:
            return False
        except StoreError as error:
            if error.retryable or isinstance(error, (StoreDenied, StoreFull)):
                raise
            return False  # A server has its own code for a wrong checksum.
        return True

    def break_off_put(self, key: str, body: bytes) -> int:
        """See `UnusualRequests.break_off_put`."""
        with suppress(StoreUnreachable), give_up_requests(body_part=0.5):
            self._store.put(key, body)
        return len(body) // 2

    def give_up_put(self, key: str, body: bytes) -> None:
        """See `UnusualRequests.give_up_put`."""
        with suppress(StoreUnreachable), give_up_requests():
            self._store.put(key, body)

    def give_up_delete(self, key: str) -> None:
        """See `UnusualRequests.give_up_delete`."""
        with suppress(StoreUnreachable), give_up_requests():
            self._store.delete([key])
