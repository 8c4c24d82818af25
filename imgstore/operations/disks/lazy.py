"""Open a stored disk as a block device: each read fetches only the missing segments (invariants D7 and W9).

The manifest is pinned while the device is open, so neither the disk nor the version is deleted. A read goes to another
replica if the first replica fails, replicas of the region first. If the disk has a boot pack, the pack is read ahead of the
guest (invariant D18).
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, NoReturn

from imgstore.domain import names
from imgstore.domain.disks.outage import OUTAGE_SECONDS, Outage
from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import ImgstoreError, OutputError, StoreError, StoreUnreachable
from imgstore.domain.identity.access import VERSIONS, Action, Principal
from imgstore.domain.names import ImageReference
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import DIGEST_BYTES, Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks.export import PinnedDisk, hold_pin, meter_reads, pin_disk, pin_image, read_manifest
from imgstore.operations.disks.read_ahead import CACHE_BYTES_MIN, ReadAhead
from imgstore.operations.gallery.sharing import image_scope
from imgstore.operations.installation import Installation
from imgstore.operations.leases import Hold
from imgstore.operations.replication.boot_packs import read_pack_key
from imgstore.operations.slots.cross_region_reads import CrossRegionReads
from imgstore.operations.slots.degrade import degrade_damaged
from imgstore.segments.manifest import Manifest
from imgstore.transfer.overlay.journal import OverlayBase
from imgstore.transfer.pack_reader import PackReader
from imgstore.transfer.scatter import Damage, SegmentReader
from imgstore.transfer.segment_cache import SegmentCache


class _Part(NamedTuple):
    """A part of a read: bytes of one segment."""

    at: int
    """The offset in the read."""
    segment: int
    """The index of the segment in the manifest."""
    name: Digest
    inside: int
    """The offset in the blocks of the segment."""
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunTable:
    """The runs of a disk, sorted by block, for the search of a few blocks: 2 us, and 12 us with numpy."""

    block: "memoryview[int]"
    count: "memoryview[int]"
    segment: "memoryview[int]"
    at: "memoryview[int]"
    names: bytes
    """The names of all segments."""

    @staticmethod
    def of(manifest: Manifest) -> "_RunTable":
        runs = manifest.runs
        columns = {name: memoryview(getattr(runs, name)) for name in ("block", "count", "segment", "at")}
        return _RunTable(**columns, names=manifest.segments.names.tobytes())

    def name(self, row: int) -> Digest:
        """Return the name of the segment of a run."""
        begin = self.segment[row] * DIGEST_BYTES
        return self.names[begin : begin + DIGEST_BYTES]


@dataclass(slots=True, kw_only=True)
class LazyDisk:
    """A stored disk as a read-only block device (`domain/disks/block_device.py`). Safe for several threads."""

    installation: Installation
    pinned: PinnedDisk
    manifest: Manifest
    segments: SegmentReader
    reads: CrossRegionReads
    cache: SegmentCache
    hold: Hold
    outage: Outage
    is_read_only: bool = field(default=True, init=False)
    virtual_bytes: int = field(init=False)
    read_ahead: ReadAhead = field(init=False)
    fetched_bytes: int = field(default=0, init=False)
    """The stored bytes of the fetched segments, and the fetched bytes of the boot pack."""
    pack: PackReader | None = field(default=None, init=False)
    """The boot pack, which is read ahead of the guest."""
    _data: tuple[Extent, ...] = field(init=False)
    _runs: "_RunTable" = field(init=False)
    _count: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.virtual_bytes = self.manifest.virtual_bytes
        self._data = tuple(self.manifest.extents())
        self._runs = _RunTable.of(self.manifest)
        self.read_ahead = ReadAhead(self.manifest.runs, self._fetch_ahead)

    @property
    def source(self) -> str:
        """The id of the disk or version."""
        return self.pinned.source

    @property
    def replica(self) -> int:
        """The ordinal of the replica that is read first."""
        return self.pinned.slot.key.ordinal

    def check(self) -> None:
        """Check that the pin is held.

        Raises:
            LeaseLost: the lease was not renewed, so the content may be deleted.
            KeyboardInterrupt: the process must end.
        """
        self.hold.check_cancelled()

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """Read bytes, and fetch missing segments. If no store answers, wait for a store (`Outage`).

        Raises:
            StoreError: no slot delivers a segment.
        """
        return self._assemble(length, self._parts(offset, length), self._read_part)

    def read_cached(self, offset: int, length: int) -> bytes | memoryview | None:
        """Read bytes if all segments are in the cache of the host, else return None."""
        parts = self._parts(offset, length)
        if len(parts) == 1 and parts[0].length == length:
            return self._find_part(parts[0])
        if all(self._holds_part(part) for part in parts):
            return self._assemble(length, parts, self._read_part)
        return None

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Iterate in order over the ranges with data that overlap [begin, end)."""
        for each in islice(self._data, bisect_right(self._data, begin, key=lambda each: each.end), None):
            if each.offset >= end:
                return
            yield each

    def prefetch(self, offset: int, length: int) -> None:
        """Fetch the missing segments of a range. A store that fails is no error, and is not awaited."""
        for name in {part.name for part in self._parts(offset, length)}:
            try:
                self.cache.blocks(name, _Fetch(self, name).attempt, self.check)
            except StoreError:
                return

    def write_at(self, offset: int, data: bytes | memoryview) -> NoReturn:
        """Refuse the write."""
        self._refuse()

    def write_zeroes(self, offset: int, length: int) -> NoReturn:
        """Refuse the write."""
        self._refuse()

    def flush(self) -> None:
        """Do nothing: there are no writes."""

    def _refuse(self) -> NoReturn:
        raise OutputError(
            f"The disk {self.source} is read-only.",
            found="a write",
            expected="reads",
            hint="write to an overlay of the disk",
            target=self.source,
        )

    def _parts(self, offset: int, length: int) -> list[_Part]:
        """Cut a range into parts of segments. Bytes outside of the parts are zero."""
        runs, stop = self._runs, offset + length
        parts: list[_Part] = []
        for row in range(max(0, bisect_right(runs.block, offset // BLOCK_BYTES) - 1), len(runs.block)):
            first = runs.block[row] * BLOCK_BYTES
            if first >= stop:
                break
            begin, end = max(offset, first), min(stop, first + runs.count[row] * BLOCK_BYTES)
            if begin < end:
                inside = runs.at[row] * BLOCK_BYTES + begin - first
                parts.append(_Part(begin - offset, runs.segment[row], runs.name(row), inside, end - begin))
        return parts

    @staticmethod
    def _assemble(length: int, parts: list[_Part], read: Callable[[_Part], bytes | memoryview]) -> bytes | memoryview:
        if len(parts) == 1 and parts[0].length == length:
            return read(parts[0])
        out = bytearray(length)
        for part in parts:
            out[part.at : part.at + part.length] = read(part)
        return memoryview(out)

    def _find_part(self, part: _Part) -> bytes | memoryview | None:
        """Read a part from the cache of the host: from a frame of the boot pack, or from a segment."""
        found = None if self.pack is None else self.pack.find(part.segment, part.inside, part.length)
        if found is None:
            found = self.cache.find(part.name, part.inside, part.length)
            if found is not None:
                self.read_ahead.note_read(part.segment)
        return found

    def _holds_part(self, part: _Part) -> bool:
        is_packed = self.pack is not None and self.pack.holds(part.segment, part.inside, part.length)
        return is_packed or self.cache.holds(part.name)

    def _read_part(self, part: _Part) -> bytes | memoryview:
        found = self._find_part(part)
        if found is None and self.pack is not None:
            found = self.pack.read(part.segment, part.inside, part.length)
        if found is not None:
            return found
        self.read_ahead.note_read(part.segment)
        return self.cache.read(part.name, part.inside, part.length, lambda: self._fetch(part.name), self.check)

    def _fetch(self, name: Digest) -> memoryview:
        """Fetch a segment, and wait for a store during an outage."""
        fetch = _Fetch(self, name)
        return self.outage.wait_out(fetch.attempt, self.check, fetch.may_pass)

    def _fetch_ahead(self, segment: int) -> bool:
        """Fetch a segment before its read. Return whether the cache keeps segments.

        Nothing is fetched ahead from another region, because the bytes cost money.
        """
        name = self.manifest.segments.name(segment)
        if self.cache.cache_bytes < CACHE_BYTES_MIN:
            return False
        if self.cache.holds(name) or self.installation.locator.is_avoided(self.pinned.slot):
            return True
        try:
            self.cache.blocks(name, _Fetch(self, name).attempt, self.check)
        except ImgstoreError:  # The read reports the error.
            return True
        return self.cache.holds(name)

    def count_fetched(self, length: int) -> None:
        """Count bytes that a store served."""
        with self._count:
            self.fetched_bytes += length

    def record_damage(self) -> None:
        """Degrade the replicas with damage. Each damage is recorded once, so that a long session needs no more memory."""
        found: list[Damage] = []
        while self.segments.damages:
            try:
                found.append(self.segments.damages.pop())
            except IndexError:  # Another thread was faster.
                break
        if found:
            degrade_damaged(self.installation, (self.pinned.slot, *self.pinned.others), found)


@dataclass(slots=True)
class _Fetch:
    """The fetch of a segment from the first slot that serves it. A repeat needs no store after a fetch without a count."""

    disk: LazyDisk
    name: Digest
    blocks: memoryview | None = None
    failed: list[StoreError] = field(default_factory=list)
    """The errors of the slots in the last attempt."""

    def attempt(self) -> memoryview:
        """Fetch the segment, count bytes of other regions, and record damage.

        Raises:
            StoreError: no slot serves the segment, or the database does not take the count.
        """
        disk, name = self.disk, self.name
        disk.check()
        self.failed.clear()
        disk.installation.locator.health.refresh()  # A recovered store of the region is probed, and then used again.
        try:
            with disk.reads.meter():
                if self.blocks is None:
                    self.blocks = disk.segments.blocks(name, self.failed.append)
                    disk.count_fetched(disk.reads.stored_bytes[name])
            return self.blocks
        finally:
            disk.record_damage()

    def may_pass(self, error: StoreError) -> bool:
        """Return whether a slot or the database did not answer."""
        return any(isinstance(each, StoreUnreachable) for each in (error, *self.failed))


@contextmanager
def open_lazy_disk(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    outage_seconds: float = OUTAGE_SECONDS,
) -> Iterator[LazyDisk]:
    """Open a managed disk as a block device, and pin the disk inside the block.

    Args:
        installation: the installation.
        principal: the caller.
        group: the resource group of the disk.
        name: the name of the disk.
        outage_seconds: the longest wait of reads for a store while no store answers.

    Raises:
        NotFound: there is no such disk.
        Conflict: the disk is not ready.
        ObjectCorrupt, StoreError: no replica can be read.
    """
    scope = names.disk_id(installation.subscription, group, name)
    with (
        installation.catalog.discarding_writes(),
        record_activity(installation, principal, Action.EXPORT, scope),
    ):
        installation.locator.health.refresh()
        with open_pinned(installation, pin_disk(installation, group, name), outage_seconds=outage_seconds) as opened:
            yield opened


@contextmanager
def open_lazy_image(
    installation: Installation,
    principal: Principal,
    *,
    reference: ImageReference,
    lun: int | None = None,
    location: str | None = None,
    outage_seconds: float = OUTAGE_SECONDS,
) -> Iterator[LazyDisk]:
    """Open a disk of an image version as a block device, and pin the version inside the block.

    Args:
        installation: the installation.
        principal: the caller.
        reference: the image. Without a version, the latest version that is complete in the region.
        lun: the LUN of a data disk. None means the OS disk.
        location: the region. None means the region of the gallery.
        outage_seconds: the longest wait of reads for a store while no store answers.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is not complete in the region.
        ObjectCorrupt, StoreError: no replica can be read.
    """
    scope = image_scope(installation, reference)
    with (
        installation.catalog.discarding_writes(),
        record_activity(installation, principal, Action.READ, scope, of=VERSIONS),
    ):
        installation.locator.health.refresh()
        pinned = pin_image(installation, reference, lun, location)
        with open_pinned(installation, pinned, outage_seconds=outage_seconds) as opened:
            yield opened


@contextmanager
def open_pinned(
    installation: Installation,
    pinned: PinnedDisk,
    *,
    outage_seconds: float = OUTAGE_SECONDS,
    uses_pack: bool = True,
) -> Iterator[LazyDisk]:
    """Open a pinned disk as a block device, and hold the pin inside the block. The caller has checked the rights.

    Args:
        installation: the installation.
        pinned: the disk.
        outage_seconds: the longest wait of reads for a store while no store answers.
        uses_pack: read the boot pack of the disk ahead of the reads.

    Raises:
        StoreError: no slot delivers the manifest.
    """
    with hold_pin(installation, pinned.lease) as hold:
        manifest = read_manifest(installation, pinned.slot, pinned.others, pinned.manifest)
        reads = meter_reads(installation, pinned, manifest)
        slots = installation.access_all([pinned.slot, *pinned.others])
        with closing(Outage(outage_seconds, installation.effects)) as outage:
            opened = LazyDisk(
                installation=installation,
                pinned=pinned,
                manifest=manifest,
                segments=SegmentReader(slots, on_served=reads.count_served),
                reads=reads,
                cache=installation.host_cache.open(),
                hold=hold,
                outage=outage,
            )
            with ExitStack() as stack:
                stack.enter_context(closing(opened.read_ahead))
                if uses_pack and opened.cache.cache_bytes:
                    opened.pack = stack.enter_context(closing(_make_pack_reader(opened)))
                    opened.pack.start()
                yield opened


def _make_pack_reader(disk: LazyDisk) -> PackReader:
    """Make the reader of the boot pack. A pack of another region is never read: only segments are metered."""
    installation, pinned = disk.installation, disk.pinned
    slots = [slot for slot in (pinned.slot, *pinned.others) if slot.key.region == pinned.slot.key.region]
    return PackReader(
        installation.access_all(slots),
        object_keys.pack_key(pinned.manifest.digest),
        disk.manifest,
        pinned.manifest.digest,
        pack_key=read_pack_key(installation, pinned.slot),
        cache=disk.cache,
        on_fetched=disk.count_fetched,
        on_fault=lambda reason: installation.note(disk.source, f"the boot pack is not used: {reason}"),
        check_cancelled=disk.check,
    )


def overlay_base(opened: LazyDisk, disk_key: str) -> OverlayBase:
    """Return the description of an open disk as the base of an overlay.

    Args:
        opened: the disk.
        disk_key: the disk of the image version, or `os`.
    """
    return OverlayBase(
        virtual_bytes=opened.virtual_bytes,
        disk_digest=opened.manifest.disk_digest,
        location=opened.source,
        disk_key=disk_key,
        region=opened.pinned.slot.key.region,
    )
