"""Protocol of a disk that a server offers as a block device."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from imgstore.domain.disks.sources import Extent


class BlockDevice(Protocol):
    """A disk with reads and writes at any offset. Safe for several threads.

    Each range must be inside the disk. The server checks ranges before a call.
    """

    @property
    def virtual_bytes(self) -> int:
        """The size of the disk."""
        ...

    @property
    def is_read_only(self) -> bool:
        """Whether every write is refused."""
        ...

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly `length` bytes from `offset`.

        Raises:
            StoreError: no store delivers the bytes.
        """
        ...

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Return the ranges with data that overlap [begin, end), sorted and disjoint. Bytes elsewhere are zero."""
        ...

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`. The bytes are durable after the next `flush`.

        Raises:
            OutputError: the device is read-only.
            StoreFull: no space is left.
        """
        ...

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range zero without sending zeros. The range is durable after the next `flush`.

        Raises:
            OutputError: the device is read-only.
            StoreFull: no space is left.
        """
        ...

    def flush(self) -> None:
        """Make all earlier writes durable.

        Raises:
            HostFault: a write cannot be made durable.
        """
        ...

    def prefetch(self, offset: int, length: int) -> None:
        """Fetch a range ahead of later reads. A failure of the fetch is no error."""
        ...


@runtime_checkable
class CachedDevice(Protocol):
    """A device that knows whether a read needs no store."""

    def read_cached(self, offset: int, length: int) -> bytes | memoryview | None:
        """Return the bytes if the read needs no store, else None."""
        ...
