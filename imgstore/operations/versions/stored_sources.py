"""Stored sources of image versions: disks, snapshots, managed images, machines and other versions.

A stored source is a manifest in a slot, or an upload that was kept for a version. The manifest is pinned while the
source is read, by segment, and ingested. If the slot of the new version has the same content, that content is a base,
and nothing is stored twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from imgstore.catalog import Transaction
from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk, disk_key
from imgstore.domain.errors import NotFound, SourceNotFound
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.names import ImageReference
from imgstore.domain.resources import (
    ImageVersion,
    ManagedDisk,
    ManifestRow,
    OsProperties,
    Replica,
    Slot,
)
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import Lease
from imgstore.domain.views import DefinitionPath
from imgstore.ledger.egress import Transfer
from imgstore.ledger.entries import LedgerRow
from imgstore.operations import lookup
from imgstore.operations.billing.budgets import check_budget
from imgstore.operations.disks.export import hold_pin, list_alternative_slots, pin_manifest, read_manifest
from imgstore.operations.disks.placement import find_named_version
from imgstore.operations.disks.sources import COPYABLE_KINDS, find_original, source_not_found
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.machines.images import find_image
from imgstore.operations.machines.machines import check_ready, find_machine
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.completion import add_arrival, version_party
from imgstore.operations.slots.degrade import degrade_damaged
from imgstore.operations.versions.request import ResolvedRequest
from imgstore.operations.versions.source import has_arrived_from, list_possible_ids, list_source_ids
from imgstore.policy.os_compatibility import check_os_compatibility
from imgstore.transfer.scatter import Damage, SegmentReader
from imgstore.transfer.slot_access import CheckCancelled
from imgstore.transfer.stored_disk import StoredDisk

_NEW_RESOURCE = "gallery image version"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChosenDisk:
    """One disk of the source: the manifest in a slot, other slots with the same content, and the pin."""

    location: str
    """The resource id that is recorded as the source."""
    slot: Slot
    others: tuple[Slot, ...]
    manifest: ManifestRow
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedDisks:
    """The opened disks of a source."""

    readers: Mapping[str, DiskReader]
    """The readers of the available disks, by disk key: files, and disks that are stored in this installation."""
    slots: Mapping[str, Slot]
    """The slots of the stored disks, by disk key."""
    absent: Mapping[str, VersionDisk]
    """Disks that were ingested before, and have no available source any more."""
    uploads: Mapping[str, ManagedDisk]
    """Disks with an upload that was not ingested, by disk key."""


@contextmanager
def open_stored_disks(
    installation: Installation, principal: Principal, resolved: ResolvedRequest, *, pinned: bool = True
) -> Iterator[OpenedDisks]:
    """Open and pin the stored disks of the source of a version until the block ends. Files are not opened here.

    Args:
        installation: the installation.
        principal: the caller, who needs the right to read the source.
        resolved: the version. The row is written before more than a partition table is read.
        pinned: pin the disks, and charge for the bytes from another region. Otherwise nothing is written.

    Raises:
        SourceNotFound, NotFound: the source is missing, and no disk of the version was ingested from the source.
        InvalidInput: the source is in another region, or declares another operating system than the definition.
        AccessDenied: the principal may not read the source.
        Conflict: the source is in another region, and the budget of the month refuses new replications.
    """
    reference = resolved.request.source.reference
    image = None if reference is None else admit_reader(installation, principal, reference)
    with installation.catalog.transaction() if pinned else installation.catalog.simulation() as transaction:
        chosen, uploads, absent = _choose_disks(installation, principal, transaction, resolved, image)
    with ExitStack() as stack:
        if pinned:
            for each in chosen.values():
                stack.callback(_abandon_pin, installation, each.lease)
            if any(each.slot.key.region != resolved.location for each in chosen.values()):
                _check_crossing(installation, resolved)
        read = _read if pinned else _read_unpinned
        readers = {key: stack.enter_context(read(installation, key, each, resolved)) for key, each in chosen.items()}
        yield OpenedDisks(
            readers=readers,
            slots={key: each.slot for key, each in chosen.items()},
            absent={key: resolved.arrived[key] for key in absent},
            uploads=uploads,
        )


def _check_crossing(installation: Installation, resolved: ResolvedRequest) -> None:
    """Check the budget before a new version is made from bytes of another region. An accepted version continues."""
    if resolved.existing is None or not resolved.existing.is_visible:
        check_budget(installation)


def _abandon_pin(installation: Installation, lease: Lease) -> None:
    """Remove a pin. Each pin has this callback before the first disk is opened, since opening a disk may fail."""
    with installation.catalog.transaction() as transaction:
        transaction.works.abandon(lease.work_uid)


def _choose_disks(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    resolved: ResolvedRequest,
    image: ImageReference | None,
) -> tuple[dict[str, _ChosenDisk], dict[str, ManagedDisk], frozenset[str]]:
    """Choose and pin the available disks.

    Also return the disks with an upload, and the keys of ingested disks that have no source any more.
    """
    source, group = resolved.request.source, resolved.definition_path.gallery.group
    if not source.is_single_resource:
        words = {disk_key(each.lun): each.source for each in source.data_snapshots}
        if source.os_snapshot is not None:
            words[OS_DISK] = source.os_snapshot
        originals = {}
        for key, word in words.items():
            try:
                originals[key] = _find_source(installation, principal, transaction, group, word, resolved.location)
            except SourceNotFound:
                if not has_arrived_from(
                    resolved.arrived, key, list_possible_ids(installation, group, word, *COPYABLE_KINDS)
                ):
                    raise
        _check_stored_disks(originals, resolved)
        waiting = {key: disk for key, disk in originals.items() if disk.awaits_upload}
        uploads = {
            key: disk
            for key, disk in waiting.items()
            if not (resolved.is_served and has_arrived_from(resolved.arrived, key, [disk.resource_id]))
        }
        stored = {key: disk for key, disk in originals.items() if key not in waiting}
        absent = frozenset(words.keys() - uploads.keys() - stored.keys())
        return _choose_stored_disks(installation, transaction, stored), uploads, absent
    try:
        return _choose_all_disks(installation, principal, transaction, resolved, image), {}, frozenset()
    except (SourceNotFound, NotFound):
        named = list_source_ids(installation, group, source, image)
        if not all(has_arrived_from(resolved.arrived, key, named) for key in resolved.arrived) or not resolved.arrived:
            raise
        return {}, {}, frozenset(resolved.arrived)


def _choose_all_disks(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    resolved: ResolvedRequest,
    image: ImageReference | None,
) -> dict[str, _ChosenDisk]:
    """Choose and pin all disks of one resource."""
    source, group = resolved.request.source, resolved.definition_path.gallery.group
    if image is not None:
        return _choose_version_disks(installation, transaction, image, resolved)
    if source.machine is not None:
        return _choose_machine_disks(installation, principal, transaction, source.machine, resolved)
    assert source.managed_image is not None, "the source is an image version, a machine or a managed image"
    found = find_image(installation, principal, transaction, group, source.managed_image, what=_NEW_RESOURCE)
    _check_stored_disks(found.by_key, resolved)
    return _choose_stored_disks(installation, transaction, found.by_key)


def _choose_machine_disks(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    word: str,
    resolved: ResolvedRequest,
) -> dict[str, _ChosenDisk]:
    """Choose and pin all disks of a machine.

    The machine declares the OS; the caller needs the right to export each disk.
    """
    definition_path, region = resolved.definition_path, resolved.location
    machine = find_machine(installation, principal, transaction, definition_path.gallery.group, word)
    if machine is None:
        raise source_not_found(
            word, "no virtual machine of that name", what=_NEW_RESOURCE, region=region, kind=SourceNotFound
        )
    check_ready(machine)
    if machine.location != region:
        raise source_not_found(word, f"it is in {machine.location}", what=_NEW_RESOURCE, region=region)
    _check_os(machine.os_properties, definition_path, machine.name)
    disks = transaction.disks.list_attached(machine.resource_id)
    for disk in disks:
        authorize(principal, Action.EXPORT, disk.resource_id)
    chosen = {disk_key(disk.machine_lun): _choose_stored_disk(installation, transaction, disk) for disk in disks}
    return {key: replace(each, location=machine.resource_id) for key, each in chosen.items()}


def _find_source(
    installation: Installation, principal: Principal, transaction: Transaction, group: str, word: str, region: str
) -> ManagedDisk:
    """Find the snapshot or managed disk that is the source of one disk of the version."""
    found = find_original(installation, principal, transaction, group, word, what=_NEW_RESOURCE, takes_uploads=True)
    if found is None:
        raise source_not_found(word, "a file's name", what=_NEW_RESOURCE, region=region)
    return found


def _check_stored_disks(disks: Mapping[str, ManagedDisk], resolved: ResolvedRequest) -> None:
    """Check the region of managed disks, snapshots or the disks of a managed image, and the OS of the OS disk."""
    for disk in disks.values():
        if disk.location != resolved.location:
            raise source_not_found(
                disk.resource_id, f"it is in {disk.location}", what=_NEW_RESOURCE, region=resolved.location
            )
    if OS_DISK in disks:
        _check_os(disks[OS_DISK].os_properties, resolved.definition_path, disks[OS_DISK].name)


def _choose_stored_disks(
    installation: Installation, transaction: Transaction, disks: Mapping[str, ManagedDisk]
) -> dict[str, _ChosenDisk]:
    """Pin managed disks, snapshots or the disks of a managed image."""
    return {key: _choose_stored_disk(installation, transaction, disk) for key, disk in disks.items()}


def _choose_stored_disk(installation: Installation, transaction: Transaction, disk: ManagedDisk) -> _ChosenDisk:
    manifest = transaction.manifests.find(disk.uid, disk.slot.uid, OS_DISK)
    assert manifest is not None, "a disk in state Succeeded has a manifest"
    others = list_alternative_slots(transaction, disk.source_version_uid, disk.slot)
    return _ChosenDisk(
        location=disk.resource_id,
        slot=disk.slot,
        others=_same_region(others, disk.slot),
        manifest=manifest,
        lease=pin_manifest(installation, disk.slot, disk.uid, manifest, transaction),
    )


def _choose_version_disks(
    installation: Installation, transaction: Transaction, reference: ImageReference, resolved: ResolvedRequest
) -> dict[str, _ChosenDisk]:
    """Choose and pin all disks of a complete replica of another version, if possible in the region of the new version."""
    definition_path, region = resolved.definition_path, resolved.location
    theirs = lookup.find_referenced_definition(transaction, installation.subscription, reference)
    version = _find_version(installation, transaction, theirs, reference, region)
    version_id = theirs.version_id(version.name)
    location = version_id if version_id.lower() in resolved.recorded_locations else reference.display_id(version_id)
    _check_os(theirs.definition.os_properties, definition_path, location)
    replica = _choose_replica(transaction.replicas.list(version.uid), version, region)
    if replica is None:
        raise source_not_found(str(reference), "complete in no region", what=_NEW_RESOURCE)
    others = _same_region(list_alternative_slots(transaction, version.uid, replica.slot), replica.slot)
    return {
        row.disk: _ChosenDisk(
            location=location,
            slot=replica.slot,
            others=others,
            manifest=row,
            lease=pin_manifest(installation, replica.slot, version.uid, row, transaction),
        )
        for row in transaction.manifests.of_replica(version.uid, replica.slot.uid)
    }


def _find_version(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    reference: ImageReference,
    region: str,
) -> ImageVersion:
    if reference.version is None:
        return find_named_version(installation, transaction, definition_path, reference, region)
    found = transaction.versions.get(definition_path.definition.uid, reference.version)
    if found is None or not found.is_visible:
        raise source_not_found(str(reference), "no such version", what=_NEW_RESOURCE, kind=SourceNotFound)
    return found


def _choose_replica(replicas: list[Replica], version: ImageVersion, region: str) -> Replica | None:
    """Choose a complete replica in `region`, else in the source region of the version, else in any region."""
    order = {region: 0, version.location: 1}
    complete = [each for each in replicas if each.state is ReplicaState.COMPLETED]
    return min(
        complete,
        key=lambda each: (order.get(each.slot.key.region, 2), each.slot.key.region, each.slot.key.ordinal),
        default=None,
    )


def _same_region(others: tuple[Slot, ...], slot: Slot) -> tuple[Slot, ...]:
    """Return the slots in the region of `slot`. Bytes from another region are metered, so only one region may serve."""
    return tuple(each for each in others if each.key.region == slot.key.region)


def _check_os(source: OsProperties, definition_path: DefinitionPath, name: str) -> None:
    check_os_compatibility(
        source, definition_path.definition.os_properties, source_name=name, target_name=definition_path.definition.name
    )


@contextmanager
def _read(installation: Installation, key: str, chosen: _ChosenDisk, resolved: ResolvedRequest) -> Iterator[StoredDisk]:
    """Open a disk until the block ends. The pin ends with the block."""

    def charge(stored_bytes: int) -> bool:
        return _charge(installation, key, chosen, resolved, stored_bytes)

    with (
        hold_pin(installation, chosen.lease) as hold,
        _open(installation, chosen, resolved, hold.check_cancelled, charge) as (disk, damages),
    ):
        try:
            yield disk
        finally:
            degrade_damaged(installation, (chosen.slot, *chosen.others), damages)


@contextmanager
def _read_unpinned(
    installation: Installation, _key: str, chosen: _ChosenDisk, resolved: ResolvedRequest
) -> Iterator[StoredDisk]:
    """Open a disk for a prediction until the block ends. Nothing is written."""
    check = installation.keeper.check_cancelled
    with _open(installation, chosen, resolved, check, lambda _bytes: True) as (disk, _):
        yield disk


@contextmanager
def _open(
    installation: Installation,
    chosen: _ChosenDisk,
    resolved: ResolvedRequest,
    check_cancelled: CheckCancelled,
    on_complete: Callable[[int], bool],
) -> Iterator[tuple[StoredDisk, Sequence[Damage]]]:
    """Open a disk until the block ends.

    Args:
        installation: the installation.
        chosen: the disk.
        resolved: the version, in whose region the disk is read.
        check_cancelled: called before each request.
        on_complete: called with the stored bytes of the disk when the whole disk was fetched. With the result False, the next
            read calls again.

    Yields:
        The disk, and the damages that the reads have found until now.
    """
    slots = (chosen.slot, *chosen.others)
    counter = ProgressCounter(installation, f"read {chosen.location.rsplit('/', 1)[-1]}")

    def wait_or_stop(seconds: float) -> None:
        installation.effects.wait(seconds)
        check_cancelled()

    manifest = read_manifest(installation, chosen.slot, chosen.others, chosen.manifest)
    reader = SegmentReader(
        installation.access_all(slots, lambda slot: installation.access_from(resolved.location, slot, wait_or_stop))
    )
    counter.total = manifest.content_bytes
    disk = StoredDisk(
        manifest,
        reader,
        location=chosen.location,
        digest=chosen.manifest.digest,
        scratch=installation.scratch,
        check_scratch=installation.check_scratch,
        workers=installation.threads(installation.tuning.scatter_workers, chosen.slot.key.region),
        check_cancelled=check_cancelled,
        on_moved=counter.add_bytes,
        on_complete=lambda: on_complete(manifest.stored_bytes),
    )
    try:
        yield disk, reader.damages
    finally:
        disk.close()
        if disk.is_complete:
            counter.end()


def _charge(
    installation: Installation, key: str, chosen: _ChosenDisk, resolved: ResolvedRequest, stored_bytes: int
) -> bool:
    """Charge for the bytes of a source in another region, before the new version is visible (invariant M8).

    The charge key has the uid of the version, so a second reading after a crash is not charged again.

    Returns:
        False if the row of the version is not written yet: the partition table of a small disk was read.
    """
    source = chosen.slot.key.region
    if source == resolved.location:
        return True
    with installation.catalog.transaction() as transaction:
        version = transaction.versions.get(resolved.definition_path.definition.uid, resolved.request.version)
        if version is None:
            return False
        charge_source(installation, transaction, resolved.definition_path, version, key, source, stored_bytes)
        return True


def charge_source(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    version: ImageVersion,
    disk: str,
    source: str,
    stored_bytes: int,
) -> list[LedgerRow]:
    """Charge for a disk whose source is in another region (invariant M8). A prediction also runs this (M16).

    Args:
        installation: the installation.
        transaction: the open transaction.
        definition_path: the definition and the gallery of the version.
        version: the new version.
        disk: the disk key.
        source: the region of the source.
        stored_bytes: the stored bytes of all segments of the source.

    Returns:
        The charge, if the disk was not charged before.
    """
    arrival = Transfer(
        key=f"{version.uid}/source/{disk}",
        party=version_party(definition_path, version),
        source=source,
        target=version.location,
        replica=0,
        moved_bytes=stored_bytes,
        time=transaction.now(),
    )
    return add_arrival(installation, transaction, arrival, crossing=True)
