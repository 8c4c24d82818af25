"""Records which blocks of a device are read, in the order of the first read."""

import threading
from collections.abc import Iterable, Iterator

from imgstore.domain.disks.block_device import BlockDevice
from imgstore.domain.disks.sources import Extent
from imgstore.domain.storage.sizes import BLOCK_BYTES, ceil_div


class TracedDevice:
    """A device that records the blocks of all reads. Safe for several threads."""

    def __init__(self, device: BlockDevice, blocks_max: int) -> None:
        """Wrap a device. After `blocks_max` blocks, no further block is recorded."""
        self._device = device
        self._blocks_max = blocks_max
        self._lock = threading.Lock()
        self._seen: dict[int, None] = {}
        self.is_full = False
        """Whether blocks were left out."""

    @property
    def blocks(self) -> list[int]:
        """The recorded blocks, in the order of the first read."""
        with self._lock:
            return list(self._seen)

    @property
    def virtual_bytes(self) -> int:
        """The size of the disk."""
        return self._device.virtual_bytes

    @property
    def is_read_only(self) -> bool:
        """Whether every write is refused."""
        return self._device.is_read_only

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """Read bytes and record their blocks."""
        self._record(_data_blocks(self._device.extents(offset, offset + length), offset, offset + length))
        return self._device.read_at(offset, length)

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Return the ranges with data."""
        return self._device.extents(begin, end)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`."""
        self._device.write_at(offset, data)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range zero."""
        self._device.write_zeroes(offset, length)

    def flush(self) -> None:
        """Make all earlier writes durable."""
        self._device.flush()

    def prefetch(self, offset: int, length: int) -> None:
        """Fetch a range. A range that no client reads is not recorded."""
        self._device.prefetch(offset, length)

    def _record(self, blocks: Iterable[int]) -> None:
        with self._lock:
            for block in blocks:
                if block in self._seen:
                    continue
                if len(self._seen) >= self._blocks_max:
                    self.is_full = True
                    return
                self._seen[block] = None


def _data_blocks(extents: Iterable[Extent], begin: int, end: int) -> Iterator[int]:
    """Iterate over the blocks of [begin, end) with data. Blocks of zeros need no store."""
    for each in extents:
        first, last = max(begin, each.offset), min(end, each.end)
        yield from range(first // BLOCK_BYTES, ceil_div(last, BLOCK_BYTES))
