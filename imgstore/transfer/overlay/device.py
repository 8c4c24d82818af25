"""A block device of a read-only base and an overlay of its changed blocks."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from imgstore.domain.disks.block_device import BlockDevice, CachedDevice
from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, PIECE_BYTES, ceil_div
from imgstore.transfer.overlay.block_map import FIRST_SLOT, ZEROED
from imgstore.transfer.overlay.overlay import Overlay

_ZEROS: Final = bytes(BLOCK_BYTES)


class _NotCached(Exception):
    """A read that needs a store."""


class OverlayDevice:
    """A writable `BlockDevice`. Writes go to the overlay only. Safe for several threads."""

    def __init__(self, base: BlockDevice, overlay: Overlay) -> None:
        """Put an overlay over a base.

        Raises:
            InvalidInput: the base has another size than the base of the overlay.
        """
        if base.virtual_bytes != overlay.base.virtual_bytes:
            raise InvalidInput(
                "The overlay does not fit the disk.",
                found=f"a disk of {base.virtual_bytes} bytes",
                expected=f"{overlay.base.virtual_bytes} bytes",
                hint="name the disk or version of the first attach",
                target=overlay.base.location,
            )
        self._base = base
        self._cached = base if isinstance(base, CachedDevice) else None
        self._overlay = overlay
        self._blocks = ceil_div(base.virtual_bytes, BLOCK_BYTES)

    @property
    def virtual_bytes(self) -> int:
        """The size of the disk."""
        return self._base.virtual_bytes

    @property
    def is_read_only(self) -> bool:
        """Return False."""
        return False

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly `length` bytes from `offset`. Raises the errors of the base and of `Overlay.read`."""
        first, end = offset // BLOCK_BYTES, ceil_div(offset + length, BLOCK_BYTES)
        if self._overlay.is_untouched(first, end - first):
            return self._base.read_at(offset, length)
        blocks = self._overlay.read(first, end - first, self._read_base)
        return blocks[offset - first * BLOCK_BYTES :][:length]

    def read_cached(self, offset: int, length: int) -> bytes | memoryview | None:
        """Read a range that needs no store, else return None: changed blocks, and bytes that the base has cached."""
        first, end = offset // BLOCK_BYTES, ceil_div(offset + length, BLOCK_BYTES)
        if self._overlay.is_untouched(first, end - first):
            return None if self._cached is None else self._cached.read_cached(offset, length)
        try:
            blocks = self._overlay.read(first, end - first, self._read_cached_base)
        except _NotCached:
            return None
        return blocks[offset - first * BLOCK_BYTES :][:length]

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Return the ranges with data that overlap [begin, end), sorted and disjoint."""
        return _merge(self._extents(begin, end))

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`. The bytes are durable after the next `flush`.

        Raises the errors of `Overlay.write`, and errors of the base for a block that is written in part.
        """
        view = memoryview(data).cast("B")
        for first, count, inside, begin, end in self._split(offset, len(view)):
            part = view[begin:end]
            if count:
                self._overlay.write(first, part if len(part) == count * BLOCK_BYTES else _pad(part))
            else:
                self._write_part(first, inside, part)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range zero. The range is durable after the next `flush`. Raises errors as `write_at`."""
        for first, count, inside, begin, end in self._split(offset, length):
            if not count:
                self._write_part(first, inside, memoryview(_ZEROS)[: end - begin])
                continue
            # Other blocks are zero already. A discard of a whole large disk costs nothing for the holes of the base.
            for each in list(self.extents(first * BLOCK_BYTES, min((first + count) * BLOCK_BYTES, self.virtual_bytes))):
                low, high = max(first, each.offset // BLOCK_BYTES), ceil_div(each.end, BLOCK_BYTES)
                self._overlay.zero(low, high - low)

    def flush(self) -> None:
        """Make all earlier writes durable. Raises the errors of `Overlay.flush`."""
        self._overlay.flush()

    def prefetch(self, offset: int, length: int) -> None:
        """Fetch a range of the base ahead of later reads."""
        self._base.prefetch(offset, length)

    def _split(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Split a range into parts of blocks and runs of whole blocks.

        Yields:
            First block, number of whole blocks (0 for a part of a block), begin of the part in its block, and
            [begin, end) in the range. The last block of the disk may be short, and then counts as whole.
        """
        at, stop = offset, offset + length
        while at < stop:
            first, inside = divmod(at, BLOCK_BYTES)
            if inside or (stop - at < BLOCK_BYTES and stop < self.virtual_bytes):
                until, count = min(stop, (first + 1) * BLOCK_BYTES), 0
            elif stop == self.virtual_bytes:
                until, count = stop, self._blocks - first
            else:
                count = (stop - at) // BLOCK_BYTES
                until = at + count * BLOCK_BYTES
            yield first, count, inside, at - offset, until - offset
            at = until

    def _write_part(self, block: int, inside: int, part: memoryview) -> None:
        """Change a part of a block. The base is read without the lock, because a store may be slow."""
        below = b"" if self._overlay.look_up(block, 1).any() else self._read_base(block, 1)
        with self._overlay.exclude_writers():
            whole = self._overlay.read(block, 1, lambda _first, _count: below)
            whole[inside : inside + len(part)] = part
            self._overlay.write(block, whole)

    def _read_base(self, first: int, count: int) -> bytes | memoryview:
        offset = first * BLOCK_BYTES
        return self._base.read_at(offset, min(count * BLOCK_BYTES, self.virtual_bytes - offset))

    def _read_cached_base(self, first: int, count: int) -> bytes | memoryview:
        """Read blocks of the base that need no store.

        Raises:
            _NotCached: a block needs a store.
        """
        offset = first * BLOCK_BYTES
        length = min(count * BLOCK_BYTES, self.virtual_bytes - offset)
        found = None if self._cached is None else self._cached.read_cached(offset, length)
        if found is None:
            raise _NotCached
        return found

    def _extents(self, begin: int, end: int) -> Iterator[Extent]:
        at = begin
        for piece in self._overlay.changed_pieces(begin // PIECE_BYTES, ceil_div(end, PIECE_BYTES)):
            low, high = max(begin, piece * PIECE_BYTES), min(end, (piece + 1) * PIECE_BYTES)
            if at < low:
                yield from self._base_extents(at, low)
            yield from self._extents_of_piece(piece, low, high)
            at = high
        if at < end:
            yield from self._base_extents(at, end)

    def _base_extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Return the ranges with data of the base, cut to [begin, end)."""
        for each in self._base.extents(begin, end):
            low, high = max(begin, each.offset), min(end, each.end)
            if low < high:
                yield Extent(offset=low, length=high - low)

    def _extents_of_piece(self, piece: int, begin: int, end: int) -> Iterator[Extent]:
        first = piece * PIECE_BLOCKS
        has_data = np.zeros(PIECE_BLOCKS + 2, dtype=np.bool_)
        for each in self._base_extents(begin, end):
            has_data[1 + each.offset // BLOCK_BYTES - first : 1 + ceil_div(each.end, BLOCK_BYTES) - first] = True
        places = self._overlay.look_up(first, PIECE_BLOCKS)
        has_data[1:-1][places >= FIRST_SLOT] = True
        has_data[1:-1][places == ZEROED] = False
        edges = (np.flatnonzero(has_data[1:] != has_data[:-1]) + first) * BLOCK_BYTES
        for low, high in zip(
            np.maximum(edges[::2], begin).tolist(), np.minimum(edges[1::2], end).tolist(), strict=True
        ):
            if low < high:
                yield Extent(offset=low, length=high - low)


def _merge(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Join adjacent ranges."""
    held: Extent | None = None
    for each in extents:
        if held is not None and held.end == each.offset:
            held = Extent(offset=held.offset, length=held.length + each.length)
            continue
        if held is not None:
            yield held
        held = each
    if held is not None:
        yield held


def _pad(part: memoryview) -> bytes:
    return bytes(part).ljust(ceil_div(len(part), BLOCK_BYTES) * BLOCK_BYTES, b"\0")
