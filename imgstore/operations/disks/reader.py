"""Read managed disks at any offset as fixed VHD files, for signed URLs with read access."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from imgstore.domain.disks.sources import DiskFormat, DiskWriter, Extent
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.resources import ManagedDisk, Slot
from imgstore.formats import create_writer, fixed_footer
from imgstore.operations.disks.export import cached_segments, list_alternative_slots, read_manifest
from imgstore.operations.installation import Installation
from imgstore.operations.slots.cross_region_reads import CrossRegionReads
from imgstore.operations.slots.degrade import degrade_damaged
from imgstore.operations.slots.references import disk_party
from imgstore.segments.manifest import Manifest
from imgstore.transfer.ranges import RangeReader
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.segment_cache import SegmentCache

_SECTOR_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDisk:
    """A managed disk with random read access. Threads may share the object."""

    installation: Installation
    slots: tuple[Slot, ...]
    ranges: RangeReader
    manifest: Manifest
    segments: SegmentReader
    reads: CrossRegionReads
    data: tuple[Extent, ...]
    footer: bytes
    """The VHD footer. Empty if the disk size is impossible for a VHD. Such a disk is read as a raw file."""

    @property
    def file_bytes(self) -> int:
        """The size of the disk and the footer."""
        return self.ranges.virtual_bytes + len(self.footer)

    @contextmanager
    def open_whole(self) -> Iterator["OpenDisk | WholeDisk"]:
        """Open the disk for reading as a whole.

        The result is this object, or a scratch file if direct reading would fetch segments repeatedly (invariant D8).

        Raises:
            StoreError: no slot delivers a segment.
            StoreFull: a limit of the scratch space is exceeded.
            OutputError: the file system of the home is full.
        """
        if not self.ranges.prefers_scatter:
            yield self
            return
        installation = self.installation
        region = self.slots[0].key.region
        path = installation.scratch / f"whole-{installation.effects.new_uid()}"
        installation.check_scratch(path, self.manifest.content_bytes)
        writer = create_writer(
            path, format=DiskFormat.RAW, virtual_bytes=self.manifest.virtual_bytes, extents=(), disk_digest=b""
        )
        segments = SegmentReader(self.segments.slots, on_served=self.reads.count_served)

        def check_cancelled() -> None:
            installation.keeper.check_cancelled()
            installation.check_scratch(path, 0)

        try:
            with self.reads.meter():
                scatter(
                    self.manifest,
                    cached_segments(installation, self.manifest, segments, region, check_cancelled),
                    writer,
                    workers=installation.threads(installation.tuning.scatter_workers, region),
                    check_cancelled=check_cancelled,
                )
            yield WholeDisk(disk=self, writer=writer)
        finally:
            writer.abandon()
            degrade_damaged(installation, self.slots, segments.damages)

    def extents(self, begin: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Iterate in order over the ranges with data that overlap [begin, end). The footer is the last range."""
        first = bisect_right(self.data, begin, key=lambda each: each.end)
        for each in islice(self.data, first, None):
            if end is not None and each.offset >= end:
                return
            yield each
        if self.footer:
            yield Extent(offset=self.ranges.virtual_bytes, length=len(self.footer))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`. The range must be inside the file.

        Raises:
            StoreError: no slot delivers a segment.
        """
        disk_bytes = self.ranges.virtual_bytes
        inside = max(0, min(length, disk_bytes - offset))
        before = len(self.segments.damages)
        try:
            with self.reads.meter():
                part = self.ranges.read_at(offset, inside) if inside else b""
        finally:
            if len(self.segments.damages) > before:
                degrade_damaged(self.installation, self.slots, self.segments.damages[before:])
        behind = max(0, offset - disk_bytes)
        return part + self.footer[behind : behind + length - inside]


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeDisk:
    """A disk that was assembled in a scratch file."""

    disk: OpenDisk
    writer: DiskWriter

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`. The range must be inside the file."""
        disk_bytes, footer = self.disk.ranges.virtual_bytes, self.disk.footer
        inside = max(0, min(length, disk_bytes - offset))
        behind = max(0, offset - disk_bytes)
        return self.writer.read_at(offset, inside) + footer[behind : behind + length - inside]


def open_disk_reader(installation: Installation, disk: ManagedDisk, cache: SegmentCache) -> OpenDisk:
    """Open a complete disk for reading with a cache that several disks share.

    Raises:
        StoreError: no slot delivers the manifest of the disk.
    """
    with installation.catalog.reading() as transaction:
        row = transaction.manifests.find(disk.uid, disk.slot.uid, OS_DISK)
        assert row is not None, "a disk that Succeeded has a manifest"
        others = list_alternative_slots(transaction, disk.source_version_uid, disk.slot)
    slots = (disk.slot, *others)
    manifest = read_manifest(installation, disk.slot, others, row)
    reads = CrossRegionReads.of(
        installation,
        party=disk_party(disk),
        home=disk.slot,
        others=others,
        manifest=manifest,
        reader=installation.effects.new_uid(),
    )
    segments = SegmentReader(installation.access_all(slots), on_served=reads.count_served)
    footer = b""
    if manifest.virtual_bytes % _SECTOR_BYTES == 0:
        footer = fixed_footer(manifest.virtual_bytes, manifest.container_metadata, manifest.disk_digest)
    return OpenDisk(
        installation=installation,
        slots=slots,
        ranges=RangeReader(manifest, segments, cache),
        manifest=manifest,
        segments=segments,
        reads=reads,
        data=tuple(manifest.extents()),
        footer=footer,
    )
