"""A wrapper that reports the result of every request to a watch, and sends no request that the watch refuses.

The wrapper goes inside of retries, so that each attempt counts:
``RetryingStore(WatchedStore(MeteredStore(S3Store(...))))``.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol, TypeVar

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore
from imgstore.stores.wrappers.forwarding import ForwardingStore

T = TypeVar("T")


class Watch(Protocol):
    """An observer of a store's requests. Safe to use from several threads at once."""

    def request(self) -> AbstractContextManager[None]:
        """Observe how the request inside the block ends.

        Raises:
            CircuitOpen: the request must not be sent.
        """
        ...


class WatchedStore(ForwardingStore):
    """A store with a watch."""

    def __init__(self, store: ObjectStore, watch: Watch) -> None:
        super().__init__(store)
        self._watch = watch

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        with self._watch.request():
            return self._store.get(key, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        with self._watch.request():
            return self._store.get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        with self._watch.request():
            return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`. The watch sees the first page, and any later page that fails."""
        listing = self._store.list(prefix)
        yield from self._observe(lambda: tuple(islice(listing, 1)))
        while some := self._observe(lambda: tuple(islice(listing, _PAGE))):
            yield from some

    def _observe(self, act: Callable[[], T]) -> T:
        with self._watch.request():
            return act()

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        with self._watch.request():
            return self._store.put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        with self._watch.request():
            return self._store.delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        with self._watch.request():
            return self._store.copy_within(source_key, target_key)


_PAGE = 1000
