"""A wrapper of a store that passes every request on."""

from collections.abc import Iterable, Iterator

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties


class ForwardingStore:
    """The base of wrappers. A wrapper overrides the requests that it treats in another way."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def inner(self) -> ObjectStore:
        """The store that gets the requests."""
        return self._store

    @property
    def name(self) -> str:
        """See `Describes.name`."""
        return self.inner.name

    @property
    def properties(self) -> StoreProperties:
        """See `Describes.properties`."""
        return self.inner.properties

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return self.inner.get(key, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self.inner.get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self.inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        return self.inner.list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        return self.inner.put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        return self.inner.delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self.inner.copy_within(source_key, target_key)
