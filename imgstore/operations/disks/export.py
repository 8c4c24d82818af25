"""Export a managed disk or a disk of an image version to a sparse file, a pipe, or a block device.

Segments are fetched and written one by one, and each piece is verified. A failed export leaves no file. On a pipe or a
device, a failed export leaves a correct beginning of the disk (invariants D5 and P7).
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.sources import DiskFormat, DiskWriter
from imgstore.domain.disks.upload_tags import describe_waiting_disk
from imgstore.domain.disks.version_disks import OS_DISK, check_has_disk, disk_key
from imgstore.domain.errors import Conflict, ImgstoreError, ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.identity.access import VERSIONS, Action, Principal
from imgstore.domain.names import ImageReference
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BYTES, SEGMENT_BLOCKS
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import Export
from imgstore.formats import create_writer, describe_rest, export_warnings, padded_bytes, write_in_order
from imgstore.ledger.entries import Party
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks.placement import choose_readable_slot
from imgstore.operations.gallery.sharing import image_scope
from imgstore.operations.installation import Installation
from imgstore.operations.leases import Hold, is_dead
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.completion import version_party
from imgstore.operations.slots.cross_region_reads import CrossRegionReads
from imgstore.operations.slots.degrade import degrade_damaged, degrade_manifest
from imgstore.operations.slots.references import disk_party
from imgstore.operations.slots.works import acquire_work
from imgstore.segments.manifest import Manifest
from imgstore.transfer.in_order import pieces_in_order
from imgstore.transfer.ranges import RangeReader
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.segment_cache import CachedSegments, SegmentCache
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess, read_from_any

_UNLIMITED_BYTES: Final = 1 << 62
"""The limit of the segments that an export in order keeps, so that each segment is read once (D8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedDisk:
    """A disk that is being read: a pinned manifest in a slot, and alternative slots with the same content."""

    source: str
    owner_uid: str
    slot: Slot
    manifest: ManifestRow
    others: tuple[Slot, ...]
    lease: Lease
    party: Party
    """The party that pays for reads from another region."""


def export_disk(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    path: Path,
    format: DiskFormat = DiskFormat.VHD_FIXED,  # noqa: A002 - az's word
    overwrite: bool = False,
    pad: bool = False,
) -> Export:
    """Export a managed disk to a file.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the disk.
        path: the file in an existing folder, or a link to a file, standard output, a pipe, or a block device.
        format: vhd, vhd-dynamic, raw or qcow2.
        overwrite: replace an existing file.
        pad: round the size up to the next size that the format supports.

    Raises:
        OutputError: the file cannot be written. A partial file was removed.
        ObjectCorrupt, StoreError: no replica can be read.
    """
    scope = names.disk_id(installation.subscription, group, name)
    with (
        installation.catalog.discarding_writes(),
        record_activity(installation, principal, Action.EXPORT, scope),
    ):
        installation.locator.health.refresh()
        chosen = pin_disk(installation, group, name)
        return _write(installation, chosen, path, format, overwrite=overwrite, pad=pad)


def export_range(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    path: Path,
    offset: int,
    length: int,
    overwrite: bool = False,
) -> Export:
    """Export a range of a managed disk to a raw file. Only segments with bytes of the range are fetched.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the disk.
        path: the file in an existing folder, or a link to a file, standard output, a pipe, or a block device.
        offset: the first byte of the range in the disk.
        length: the number of bytes, at least 1.
        overwrite: replace an existing file.

    Raises:
        InvalidInput: the range is not inside the disk.
        OutputError: the file cannot be written. A partial file was removed.
        ObjectCorrupt, StoreError: no replica can be read.
    """
    scope = names.disk_id(installation.subscription, group, name)
    with (
        installation.catalog.discarding_writes(),
        record_activity(installation, principal, Action.EXPORT, scope),
    ):
        installation.locator.health.refresh()
        return _write_range(installation, pin_disk(installation, group, name), path, offset, length, overwrite)


def pin_disk(installation: Installation, group: str, name: str) -> PinnedDisk:
    """Find a managed disk for reading, and pin the manifest.

    Raises:
        Conflict: the disk is not ready.
    """
    with installation.catalog.transaction() as transaction:
        disk = lookup.find_disk(transaction, installation.subscription, group, name)
        scope = names.disk_id(installation.subscription, group, name)
        if disk.provisioning_state is not ProvisioningState.SUCCEEDED:
            found = f"provisioning state {disk.provisioning_state}"
            hint = "repeat the `imgstore disk create` command, which resumes the creation"
            if disk.awaits_upload:
                found, hint = describe_waiting_disk(disk.tags)
            raise Conflict(
                f"The disk '{disk.name}' is not ready.", found=found, expected="Succeeded", hint=hint, target=scope
            )
        manifest = transaction.manifests.find(disk.uid, disk.slot.uid, OS_DISK)
        assert manifest is not None, "a disk that Succeeded has a manifest"
        return PinnedDisk(
            source=scope,
            owner_uid=disk.uid,
            slot=disk.slot,
            manifest=manifest,
            others=list_alternative_slots(transaction, disk.source_version_uid, disk.slot),
            lease=pin_manifest(installation, disk.slot, disk.uid, manifest, transaction),
            party=disk_party(disk),
        )


def export_image(
    installation: Installation,
    principal: Principal,
    *,
    reference: ImageReference,
    lun: int | None = None,
    location: str | None = None,
    path: Path,
    format: DiskFormat = DiskFormat.VHD_FIXED,  # noqa: A002 - az's word
    overwrite: bool = False,
    pad: bool = False,
) -> Export:
    """Export a disk of an image version to a file without creating a managed disk. Replicas are chosen round robin.

    Args:
        installation: the installation.
        principal: the caller.
        reference: the image. Without a version, the latest version that is complete in the region.
        lun: the LUN of a data disk. None means the OS disk.
        location: the region. None means the region of the gallery.
        path: the file in an existing folder, or a link to a file, standard output, a pipe, or a block device.
        format: vhd, vhd-dynamic, raw or qcow2.
        overwrite: replace an existing file.
        pad: round the size up to the next size that the format supports.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is not complete in the region.
        OutputError: the file cannot be written. A partial file was removed.
        ObjectCorrupt, StoreError: no replica can be read.
    """
    scope = image_scope(installation, reference)
    with (
        installation.catalog.discarding_writes(),
        record_activity(installation, principal, Action.READ, scope, of=VERSIONS),
    ):
        installation.locator.health.refresh()
        chosen = pin_image(installation, reference, lun, location)
        return _write(installation, chosen, path, format, overwrite=overwrite, pad=pad)


def pin_image(
    installation: Installation, reference: ImageReference, lun: int | None, location: str | None
) -> PinnedDisk:
    """Find a disk of an image version for reading, choose a replica, and pin the manifest.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is not complete in the region.
    """
    subscription = reference.subscription or installation.subscription
    with installation.catalog.transaction() as transaction:
        definition_path = lookup.find_definition_path(
            transaction, subscription, reference.group, reference.gallery, reference.definition
        )
        region = installation.regions.get(location or definition_path.gallery.location, target="location").name
        image, slot = choose_readable_slot(installation, transaction, reference, region)
        key = disk_key(lun)
        check_has_disk(image.disk_keys, key, image.source)
        manifest = transaction.manifests.find(image.version_uid, slot.uid, key)
        assert manifest is not None, "a replica that was complete once has a manifest"
        return PinnedDisk(
            source=image.source,
            owner_uid=image.version_uid,
            slot=slot,
            manifest=manifest,
            others=list_alternative_slots(transaction, image.version_uid, slot),
            lease=pin_manifest(installation, slot, image.version_uid, manifest, transaction),
            party=version_party(definition_path, transaction.versions.by_uid(image.version_uid)),
        )


def list_alternative_slots(transaction: Transaction, version_uid: str | None, slot: Slot) -> tuple[Slot, ...]:
    """List the other slots with complete replicas of a version, the slots of the same region first.

    Without a version, the list is empty.
    """
    replicas = [] if version_uid is None else transaction.replicas.list(version_uid)
    others = [each.slot for each in replicas if each.state is ReplicaState.COMPLETED and each.slot.uid != slot.uid]
    return tuple(sorted(others, key=lambda other: other.key.region != slot.key.region))


def pin_manifest(
    installation: Installation, slot: Slot, owner_uid: str, manifest: ManifestRow, transaction: Transaction
) -> Lease:
    """Pin a manifest during an export. A deletion is refused while this process lives.

    Each export has a separate work, since any number of exports may read the same disk at the same time. Export works
    of dead processes in the slot are abandoned.
    """
    for work in transaction.works.list_open(slot.uid):
        if work.kind is WorkKind.EXPORT and is_dead(work.holder):
            transaction.works.abandon(work.uid)
    return acquire_work(
        installation,
        transaction,
        kind=WorkKind.EXPORT,
        slot=slot,
        owner_uid=installation.effects.new_uid(),
        plan={"manifest": manifest.uid, "owner": owner_uid},
        pins=(manifest.uid,),
    )[1]


@contextmanager
def hold_pin(installation: Installation, lease: Lease) -> Iterator[Hold]:
    """Hold the lease of a pin inside the block, and remove the pin at the end of the block, also after an error."""
    try:
        with installation.keeper.hold(lease) as hold:
            yield hold
    finally:
        with installation.catalog.transaction() as transaction:
            transaction.works.abandon(lease.work_uid)


def _write(
    installation: Installation, chosen: PinnedDisk, path: Path, form: DiskFormat, *, overwrite: bool, pad: bool
) -> Export:
    counter = ProgressCounter(installation, f"export {path.name}")
    with hold_pin(installation, chosen.lease) as hold:
        manifest = read_manifest(installation, chosen.slot, chosen.others, chosen.manifest)
        counter.total = manifest.content_bytes
        writer = create_writer(
            path,
            format=form,
            virtual_bytes=manifest.virtual_bytes,
            extents=manifest.extents(),
            disk_digest=manifest.disk_digest,
            container_metadata=manifest.container_metadata,
            overwrite=overwrite,
            pad=pad,
        )
        reads = meter_reads(installation, chosen, manifest)
        reader = SegmentReader(installation.access_all([chosen.slot, *chosen.others]), on_served=reads.count_served)
        try:
            container_bytes = padded_bytes(manifest.virtual_bytes, form) if pad else manifest.virtual_bytes
            for warning in export_warnings(form, container_bytes):
                installation.note(path.name, warning)
            if writer.in_order:
                counter.total = manifest.virtual_bytes  # A pipe gets zeros as bytes.
            counter.begin()
            with reads.meter():
                _write_pieces(installation, manifest, reader, writer, hold, counter, chosen.slot.key.region)
            file_bytes = writer.publish()
        except ImgstoreError:
            counter.fail()
            raise
        finally:
            writer.abandon()
            degrade_damaged(installation, (chosen.slot, *chosen.others), reader.damages)
    counter.end()
    return _report(installation, chosen, manifest, path, form, manifest.virtual_bytes, file_bytes)


def _write_pieces(
    installation: Installation,
    manifest: Manifest,
    reader: SegmentReader,
    writer: DiskWriter,
    hold: Hold,
    counter: ProgressCounter,
    region: str,
) -> None:
    """Write all verified pieces: in any order to a file, else in the order of the disk."""
    workers = installation.threads(installation.tuning.scatter_workers, region)
    source = cached_segments(installation, manifest, reader, region, hold.check_cancelled)
    if not writer.in_order:
        scatter(
            manifest,
            source,
            writer,
            workers=workers,
            check_cancelled=hold.check_cancelled,
            on_moved=counter.add_bytes,
        )
        return
    with (
        TemporaryDirectory(prefix="segments-", dir=installation.scratch) as folder,
        closing(SegmentCache(Path(folder), _UNLIMITED_BYTES, has_room=installation.has_free_space)) as own_cache,
    ):
        pieces = pieces_in_order(
            manifest,
            source,
            own_cache,
            workers=workers,
            check_cancelled=hold.check_cancelled,
        )

        def count_written(length: int) -> None:
            hold.check_cancelled()
            counter.add_bytes(length)

        with closing(pieces):
            write_in_order(writer, pieces, manifest.virtual_bytes, count_written)


def cached_segments(
    installation: Installation, manifest: Manifest, reader: SegmentReader, region: str, check_cancelled: CheckCancelled
) -> CachedSegments:
    """Read the segments of a whole disk through the cache of the host (invariant D17).

    The segments are added to the cache, except from a region on this machine, where a copy costs as much as a read. A
    disk that would replace more than half of the cache adds nothing either.
    """
    cache = installation.host_cache.open()
    content_bytes = len(manifest.segments) * SEGMENT_BLOCKS * BLOCK_BYTES
    keeps = not installation.regions.get(region).embedded and 2 * content_bytes <= cache.cache_bytes
    return CachedSegments(reader, cache, keeps=keeps, check_cancelled=check_cancelled)


def _write_range(
    installation: Installation,
    chosen: PinnedDisk,
    path: Path,
    offset: int,
    length: int,
    overwrite: bool,  # noqa: FBT001 - private
) -> Export:
    counter = ProgressCounter(installation, f"export {path.name}", length)
    slots = (chosen.slot, *chosen.others)
    with hold_pin(installation, chosen.lease) as hold:
        manifest = read_manifest(installation, chosen.slot, chosen.others, chosen.manifest)
        reads = meter_reads(installation, chosen, manifest)
        reader = SegmentReader(installation.access_all(slots), on_served=reads.count_served)
        ranges = RangeReader(manifest, reader, installation.host_cache.open())
        ranges.check(offset, length)
        counter.begin()
        writer = create_writer(
            path, format=DiskFormat.RAW, virtual_bytes=length, extents=(), disk_digest=b"", overwrite=overwrite
        )
        try:
            with reads.meter():
                for at in range(0, length, PIECE_BYTES):
                    hold.check_cancelled()
                    part = ranges.read_at(offset + at, min(PIECE_BYTES, length - at))
                    writer.write_at(at, part)
                    counter.add_bytes(len(part))
            file_bytes = writer.publish()
        except ImgstoreError:
            counter.fail()
            raise
        finally:
            writer.abandon()
            degrade_damaged(installation, slots, reader.damages)
    counter.end()
    return _report(installation, chosen, manifest, path, DiskFormat.RAW, length, file_bytes)


def _report(
    installation: Installation,
    chosen: PinnedDisk,
    manifest: Manifest,
    path: Path,
    form: DiskFormat,
    virtual_bytes: int,
    file_bytes: int,
) -> Export:
    rest = describe_rest(path, file_bytes)
    if rest is not None:
        installation.note(path.name, rest)
    return Export(
        path=path,
        format=form,
        virtual_bytes=virtual_bytes,
        file_bytes=file_bytes,
        disk_digest=manifest.disk_digest,
        source=chosen.source,
        replica=chosen.slot.key.ordinal,
    )


def meter_reads(installation: Installation, chosen: PinnedDisk, manifest: Manifest) -> CrossRegionReads:
    """Make a meter for the reads of a pinned disk from another region."""
    return CrossRegionReads.of(
        installation,
        party=chosen.party,
        home=chosen.slot,
        others=chosen.others,
        manifest=manifest,
        reader=chosen.lease.name,
    )


def read_manifest(installation: Installation, slot: Slot, others: Sequence[Slot], row: ManifestRow) -> Manifest:
    """Read a manifest from the slot of the manifest, or from another slot with the same content.

    A missing or damaged manifest is recorded, so that a repeated create repairs the manifest.

    Raises:
        StoreError: no slot delivers the manifest. The error is the error of the first slot.
    """
    by_label = {str(each.key): each for each in (slot, *others)}
    damaged: list[Slot] = []

    def note_damaged(access: SlotAccess, error: StoreError) -> None:
        if isinstance(error, (ObjectNotFound, ObjectCorrupt)):
            damaged.append(by_label[access.label])

    try:
        return read_from_any(
            installation.access_all(list(by_label.values())),
            lambda each: each.get_manifest(row.body_key, row.digest),
            note_damaged,
        )[1]
    finally:
        for each in damaged:
            degrade_manifest(installation, each, row)
