"""A wrapper of a store that sends no writes, for predictions."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from imgstore.domain.errors import ObjectNotFound
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties
from imgstore.stores.wrappers.forwarding import ForwardingStore


class OverlayStore(ForwardingStore):
    """A store whose writes go into another store. Reads of whole objects find the objects of both.

    The listing of the wrapped store does not change, and nothing is deleted.
    """

    def __init__(self, store: ObjectStore, overlay: ObjectStore, keeps: Callable[[str], bool]) -> None:
        """Wrap a store.

        Args:
            store: the store that is read only.
            overlay: the store that gets the writes.
            keeps: whether an object with this key is read later. Other objects are dropped.
        """
        super().__init__(store)
        self._overlay = overlay
        self._keeps = keeps

    @property
    def properties(self) -> StoreProperties:
        """See `Describes.properties`. A dropped object cannot be read back, so no put needs a confirmation."""
        return replace(self.inner.properties, verifies_checksum=True)

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        try:
            return self._overlay.get(key, accept)
        except ObjectNotFound:
            return self.inner.get(key, accept)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        if self._keeps(key):
            return self._overlay.put(key, body, only_if_absent=only_if_absent)
        return ObjectInfo(key=key, stored_bytes=len(body), last_modified=datetime.now(UTC), checksum=None)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`. Nothing is deleted."""
        for _ in keys:
            raise AssertionError("a prediction deletes nothing")
        return True

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self.put(target_key, self.get(source_key))
