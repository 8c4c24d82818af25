"""A store that is opened by its first request, so that a dead store delays only its own users."""

from collections.abc import Callable

from imgstore.stores.interface import ObjectStore
from imgstore.stores.wrappers.forwarding import ForwardingStore


class DeferredStore(ForwardingStore):
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
    def inner(self) -> ObjectStore:
        """See `open_store`."""
        return self.open_store()

    @property
    def name(self) -> str:
        """See `Describes.name`."""
        return self._name if self._opened is None else self._opened.name
