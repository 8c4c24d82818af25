"""What an image version is made from besides files: disks, snapshots, managed images, other versions.

Each is a manifest in some slot: pinned while it is read, read by segment, and taken in like any source. Where the slot
that takes it in has the same content, that is a base, and nothing is stored twice.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from imgstore.catalog import Transaction
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk, disk_key
from imgstore.domain.errors import NotFound, SourceNotFound
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.requests import VersionSource
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
from imgstore.ledger.egress import charge_arrival
from imgstore.operations import lookup
from imgstore.operations.disks.export import pin_manifest, read_manifest, reading_under, siblings
from imgstore.operations.disks.placement import named_version
from imgstore.operations.disks.sources import COPIED, find_original, no_source
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.machines.images import find_image
from imgstore.operations.machines.machines import check_ready, find_machine
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.completion import party_of
from imgstore.operations.slots.degrade import degrade_damaged
from imgstore.operations.versions.source import has_arrived_from, list_possible_ids, list_source_ids
from imgstore.policy.os_compatibility import check_os_compatibility
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.stored_disk import StoredDisk

_WHAT = "gallery image version"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """The version that is to be made."""

    definition_path: DefinitionPath
    name: VersionName
    region: str
    """Its source region."""
    arrived: Mapping[str, VersionDisk]
    """Its disks by key, if it stands and is complete somewhere: their sources need not be there any more."""
    locations: frozenset[str] = frozenset()
    """Where its disks came from, in lower case, if it stands: older code stored the id of a shared image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """One disk of the source: its manifest in a slot, the slots that can stand in for it, and the pin."""

    location: str
    """The resource id that it is known by."""
    slot: Slot
    others: tuple[Slot, ...]
    manifest: ManifestRow
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDisks:
    """Disks that are stored here, open and pinned."""

    readers: Mapping[str, StoredDisk]
    """By key."""
    slots: Mapping[str, Slot]
    """Where each lies."""
    gone: frozenset[str]
    """Keys of disks that arrived from sources of the stated ids, which are gone now."""


@contextmanager
def open_stored_disks(
    installation: Installation, principal: Principal, source: VersionSource, taker: NewVersion
) -> Iterator[StoredDisks]:
    """The disks of a source that are stored here, by key: "os", "lun-0" and so on; pinned until the block ends.

    Args:
        installation: where.
        principal: who must be allowed to read the source.
        source: its files are left alone.
        taker: the version that takes it; its row is written down before more than a partition table is read.

    Raises:
        SourceNotFound, NotFound: it is not there, and not known to have arrived from there.
        InvalidInput: it is not in the region, or declares another system than the definition.
        AccessDenied: the principal may not read it.
    """
    reference = source.reference
    image = None if reference is None else admit_reader(installation, principal, reference)
    with installation.catalog.transaction() as transaction:
        chosen, gone = _chosen(installation, principal, transaction, source, image, taker)
    with ExitStack() as stack:
        for each in chosen.values():
            stack.callback(_let_go, installation, each.lease)
        readers = {key: stack.enter_context(_read(installation, key, each, taker)) for key, each in chosen.items()}
        yield StoredDisks(readers=readers, slots={key: each.slot for key, each in chosen.items()}, gone=gone)


def _let_go(installation: Installation, lease: Lease) -> None:
    """Whatever came of it: one that could not be opened leaves the pins of the others."""
    with installation.catalog.transaction() as transaction:
        transaction.works.abandon(lease.work_uid)


def _chosen(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    source: VersionSource,
    image: ImageReference | None,
    taker: NewVersion,
) -> tuple[dict[str, _Chosen], frozenset[str]]:
    """The disks that are there, and the keys of those that are gone since they arrived."""
    definition_path, group, region = taker.definition_path, taker.definition_path.gallery.group, taker.region
    if not source.is_single_resource:
        words = {disk_key(each.lun): each.source for each in source.data_snapshots}
        if source.os_snapshot is not None:
            words[OS_DISK] = source.os_snapshot
        originals = {}
        for key, word in words.items():
            try:
                originals[key] = _original(installation, principal, transaction, group, word, region)
            except SourceNotFound:
                if not has_arrived_from(taker.arrived, key, list_possible_ids(installation, group, word, *COPIED)):
                    raise
        gone = frozenset(words.keys() - originals.keys())
        return _of_disks(installation, transaction, originals, definition_path, region), gone
    try:
        return _of_whole(installation, principal, transaction, source, image, taker), frozenset()
    except (SourceNotFound, NotFound):
        named = list_source_ids(installation, group, source, image)
        if not all(has_arrived_from(taker.arrived, key, named) for key in taker.arrived) or not taker.arrived:
            raise
        return {}, frozenset(taker.arrived)


def _of_whole(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    source: VersionSource,
    image: ImageReference | None,
    taker: NewVersion,
) -> dict[str, _Chosen]:
    """All disks of one resource."""
    definition_path, group, region = taker.definition_path, taker.definition_path.gallery.group, taker.region
    if image is not None:
        return _of_version(installation, transaction, image, taker)
    if source.machine is not None:
        return _of_machine(installation, principal, transaction, source.machine, definition_path, region)
    assert source.managed_image is not None, "one of them was given"
    found = find_image(installation, principal, transaction, group, source.managed_image, what=_WHAT)
    return _of_disks(installation, transaction, found.by_key, definition_path, region)


def _of_machine(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    word: str,
    definition_path: DefinitionPath,
    region: str,
) -> dict[str, _Chosen]:
    """All disks of a machine, which says itself what it is; who reads them must be allowed to."""
    machine = find_machine(installation, principal, transaction, definition_path.gallery.group, word)
    if machine is None:
        raise no_source(word, "no virtual machine of that name", what=_WHAT, region=region, kind=SourceNotFound)
    check_ready(machine)
    if machine.location != region:
        raise no_source(word, f"it is in {machine.location}", what=_WHAT, region=region)
    _check_kin(machine.os_properties, definition_path, machine.name)
    disks = transaction.disks.list_attached(machine.resource_id)
    for disk in disks:
        authorize(principal, Action.EXPORT, disk.resource_id)
    chosen = {disk_key(disk.machine_lun): _of_disk(installation, transaction, disk) for disk in disks}
    return {key: replace(each, location=machine.resource_id) for key, each in chosen.items()}


def _original(
    installation: Installation, principal: Principal, transaction: Transaction, group: str, word: str, region: str
) -> ManagedDisk:
    """A snapshot or disk that stands for one disk of the version."""
    found = find_original(installation, principal, transaction, group, word, what=_WHAT)
    if found is None:
        raise no_source(word, "a file's name", what=_WHAT, region=region)
    return found


def _of_disks(
    installation: Installation,
    transaction: Transaction,
    disks: Mapping[str, ManagedDisk],
    definition_path: DefinitionPath,
    region: str,
) -> dict[str, _Chosen]:
    """Disks, snapshots or those of a managed image. What a data disk declares is of no matter: nobody boots from it."""
    for disk in disks.values():
        if disk.location != region:
            raise no_source(disk.resource_id, f"it is in {disk.location}", what=_WHAT, region=region)
    if OS_DISK in disks:
        _check_kin(disks[OS_DISK].os_properties, definition_path, disks[OS_DISK].name)
    return {key: _of_disk(installation, transaction, disk) for key, disk in disks.items()}


def _of_disk(installation: Installation, transaction: Transaction, disk: ManagedDisk) -> _Chosen:
    manifest = transaction.manifests.find(disk.uid, disk.slot.uid, OS_DISK)
    assert manifest is not None, "a disk that Succeeded has a manifest"
    others = siblings(transaction, disk.source_version_uid, disk.slot)
    return _Chosen(
        location=disk.resource_id,
        slot=disk.slot,
        others=_near(others, disk.slot),
        manifest=manifest,
        lease=pin_manifest(installation, disk.slot, disk.uid, manifest, transaction),
    )


def _of_version(
    installation: Installation, transaction: Transaction, reference: ImageReference, taker: NewVersion
) -> dict[str, _Chosen]:
    """All disks of a complete replica of another version, in the region if there is one."""
    definition_path, region = taker.definition_path, taker.region
    theirs = lookup.find_referenced_definition(transaction, installation.subscription, reference)
    version = _meant(installation, transaction, theirs, reference, region)
    version_id = theirs.version_id(version.name)
    location = version_id if version_id.lower() in taker.locations else reference.display_id(version_id)
    _check_kin(theirs.definition.os_properties, definition_path, location)
    replica = _nearest(transaction.replicas.list(version.uid), version, region)
    if replica is None:
        raise no_source(str(reference), "complete in no region", what=_WHAT)
    others = _near(siblings(transaction, version.uid, replica.slot), replica.slot)
    return {
        row.disk: _Chosen(
            location=location,
            slot=replica.slot,
            others=others,
            manifest=row,
            lease=pin_manifest(installation, replica.slot, version.uid, row, transaction),
        )
        for row in transaction.manifests.of_replica(version.uid, replica.slot.uid)
    }


def _meant(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    reference: ImageReference,
    region: str,
) -> ImageVersion:
    if reference.version is None:
        return named_version(installation, transaction, definition_path, reference, region)
    found = transaction.versions.get(definition_path.definition.uid, reference.version)
    if found is None or not found.is_visible:
        raise no_source(str(reference), "no such version", what=_WHAT, kind=SourceNotFound)
    return found


def _nearest(replicas: list[Replica], version: ImageVersion, region: str) -> Replica | None:
    """Of the complete replicas one in `region`, else in the version's own source region, else any."""
    order = {region: 0, version.location: 1}
    complete = [each for each in replicas if each.state is ReplicaState.COMPLETED]
    return min(
        complete,
        key=lambda each: (order.get(each.slot.key.region, 2), each.slot.key.region, each.slot.key.ordinal),
        default=None,
    )


def _near(others: tuple[Slot, ...], slot: Slot) -> tuple[Slot, ...]:
    """Those of the same region: what crosses a border is metered, and so comes from one region alone."""
    return tuple(each for each in others if each.key.region == slot.key.region)


def _check_kin(source: OsProperties, definition_path: DefinitionPath, name: str) -> None:
    check_os_compatibility(
        source, definition_path.definition.os_properties, source_name=name, taker_name=definition_path.definition.name
    )


@contextmanager
def _read(installation: Installation, key: str, chosen: _Chosen, taker: NewVersion) -> Iterator[StoredDisk]:
    """The disk, opened; its pin is let go when the block ends."""
    slots = (chosen.slot, *chosen.others)
    counter = ProgressCounter(installation, f"read {chosen.location.rsplit('/', 1)[-1]}")
    with reading_under(installation, chosen.lease) as hold:

        def patiently(seconds: float) -> None:
            installation.effects.wait(seconds)
            hold.check_cancelled()

        manifest = read_manifest(installation, chosen.slot, chosen.others, chosen.manifest)
        reader = SegmentReader(
            installation.access_all(slots, lambda slot: installation.access_from(taker.region, slot, patiently))
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
            check_cancelled=hold.check_cancelled,
            on_moved=counter.add_bytes,
            on_complete=lambda: _charge(installation, key, chosen, taker, manifest.stored_bytes),
        )
        try:
            yield disk
        finally:
            disk.close()
            degrade_damaged(installation, slots, reader.damages)
            if disk.is_complete:
                counter.end()


def _charge(installation: Installation, key: str, chosen: _Chosen, taker: NewVersion, stored_bytes: int) -> None:
    """Write down what crossed a border when another version was read for this one, before it is of use to anyone.

    Reading it again, after a crash, is not charged again.
    """
    source = chosen.slot.key.region
    if source == taker.region:
        return
    with installation.catalog.transaction() as transaction:
        version = transaction.versions.get(taker.definition_path.definition.uid, taker.name)
        assert version is not None, "its row is written down before its source is read"
        transaction.ledger.add(
            charge_arrival(
                key=f"{version.uid}/source/{key}",
                party=party_of(taker.definition_path, version),
                source=source,
                target=taker.region,
                replica=0,
                delivered_bytes=stored_bytes,
                crossing=True,
                prices=installation.regions.prices,
                time=transaction.now(),
            )
        )
