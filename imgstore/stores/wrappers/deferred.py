"""A store that is opened by its first request, so that a dead store delays only its own users."""

from collections.abc import Callable, Iterable, Iterator

from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties


class DeferredStore:
    """The store that `open` returns. Several threads may open the store at the same time, which must be harmless."""

    def __init__(self, name: str, open: Callable[[], ObjectStore]) -> None:  # noqa: A002 - the best name
        """Create the wrapper without opening the store.

        Args:
            name: the name of the store until it is open.
            open: returns the store; raises `StoreError` if the store cannot be opened, and is called again later.
        """
        self._name = name
        self._open = open
        self._opened: ObjectStore | None = None

    @property
    def is_open(self) -> bool:
        """Whether the store is open."""
        return self._opened is not None

    def open_store(self) -> ObjectStore:
        """Open the store unless it is open, and return it.

        Raises:
            StoreError: an error of `open`.
        """
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    @property
    def name(self) -> str:
        """See `Describes.name`."""
        return self._name if self._opened is None else self._opened.name

    @property
    def properties(self) -> StoreProperties:
        """See `Describes.properties`."""
        return self.open_store().properties

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return self.open_store().get(key, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self.open_store().get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self.open_store().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        return self.open_store().list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        return self.open_store().put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        return self.open_store().delete(keys)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self.open_store().copy_within(source_key, target_key)
