"""Make disks that are references to content of the slot: the work, the object, and the rows."""

from dataclasses import dataclass, replace

from imgstore.catalog import Transaction
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict
from imgstore.domain.resources import ManagedDisk, ManifestRow
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.ledger.entries import Party
from imgstore.operations.installation import Installation
from imgstore.operations.slots.attribution import open_interval
from imgstore.operations.slots.key_deletions import wait_for_deletions
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.segments.manifest import decode_manifest
from imgstore.segments.reference import Reference, encode_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedDisk:
    """A disk with its slot, and with a lease if the disk is not made yet."""

    disk: ManagedDisk
    lease: Lease | None = None
    """The lease of the work that makes the disk. None for a disk in state Succeeded."""
    origin: ManifestRow | None = None
    """The manifest that the reference of the disk names. None for a disk in state Succeeded."""


def lease_disk(installation: Installation, transaction: Transaction, disk: ManagedDisk) -> PlacedDisk:
    """Lease the work that makes the reference of a disk, and pin the manifest that the reference names (invariant W11).

    Raises:
        Conflict: no manifest of the slot has the content any more.
        WorkHeld: another process makes the disk.
    """
    if disk.provisioning_state is ProvisioningState.SUCCEEDED:
        return PlacedDisk(disk=disk)
    origin = find_origin(transaction, disk)
    _, lease = acquire_work(
        installation,
        transaction,
        kind=WorkKind.DISK,
        slot=disk.slot,
        owner_uid=disk.uid,
        plan={"digest": origin.digest.hex(), "body_key": origin.body_key, "manifest": origin.uid},
        pins=(origin.uid,),
    )
    return PlacedDisk(disk=disk, lease=lease, origin=origin)


def find_origin(transaction: Transaction, disk: ManagedDisk) -> ManifestRow:
    """Return the manifest that the reference of a disk names.

    Raises:
        Conflict: no manifest of the slot has the content any more.
    """
    origin = transaction.manifests.find_by_body(disk.slot.uid, disk.body_key)
    if origin is None:
        raise Conflict(
            f"The source of the {disk.kind.noun} '{disk.name}' was deleted before the {disk.kind.noun} was made.",
            found=f"an unfinished {disk.kind.noun} of an earlier run",
            expected=f"the source {disk.source_reference}",
            hint=f"run `imgstore {disk.kind.removesuffix('s')} delete -g {disk.group} -n {disk.name}`, "
            "then use another source",
            target=disk.name,
        )
    return origin


def put_disk(installation: Installation, placed: PlacedDisk, body: bytes) -> ManagedDisk:
    """Put the reference of a disk, and set the disk to Succeeded.

    Args:
        installation: the installation.
        placed: the disk in state Creating.
        body: the verified manifest that the reference names.
    """
    disk, lease, origin = placed.disk, placed.lease, placed.origin
    assert lease is not None, "an unmade disk has a lease"
    assert origin is not None, "an unmade disk has an origin"
    key = object_keys.manifest_key(disk.uid, OS_DISK)
    access = installation.access(disk.slot)
    data = reference_to(origin)
    made = replace(
        disk,
        provisioning_state=ProvisioningState.SUCCEEDED,
        source_format=decode_manifest(body).container_metadata.format,
    )
    with hold_work(installation, disk.slot, lease) as hold:
        wait_for_deletions(installation, disk.slot, [key], hold.check_cancelled)
        hold.check_cancelled()
        access.put_manifest(key, data)
        with installation.catalog.transaction() as transaction:
            transaction.works.guard(lease)
            transaction.slots.lock(disk.slot.uid)
            made = write_content(transaction, made)
            add_reference(installation, transaction, made, origin, len(data))
            transaction.works.complete(lease)
    return made


def lock_disk(transaction: Transaction, disk: ManagedDisk) -> ManagedDisk:
    """Lock the slot of a stored disk, and return the present row. Each change of the row holds this lock.

    Raises:
        NotFound: the disk was deleted.
    """
    while True:
        transaction.slots.lock(disk.slot.uid)
        present = transaction.disks.by_uid(disk.uid)
        if present.slot.uid == disk.slot.uid:
            return present
        disk = present  # Another process has moved the unfinished disk to another slot.


def write_content(transaction: Transaction, made: ManagedDisk) -> ManagedDisk:
    """Write the content and the state of a made disk to its row, and return the row.

    Tags and details of the row stay, because `made` may have been read before a change of tags (invariant L9). The caller
    holds the lock of the slot.

    Raises:
        NotFound: the disk was deleted.
    """
    present = replace(
        transaction.disks.by_uid(made.uid),
        provisioning_state=made.provisioning_state,
        virtual_bytes=made.virtual_bytes,
        disk_digest=made.disk_digest,
        source_format=made.source_format,
        source=made.source,
        source_reference=made.source_reference,
    )
    transaction.disks.update(present)
    return present


def reference_to(origin: ManifestRow) -> bytes:
    """Return the object of a disk that refers to a manifest."""
    return encode_reference(Reference(digest=origin.digest, body_key=origin.body_key))


def add_reference(
    installation: Installation, transaction: Transaction, disk: ManagedDisk, origin: ManifestRow, object_bytes: int
) -> None:
    """Add the complete row of a reference, and open the storage interval. A prediction also runs this (M16).

    The owner of the origin pays for the segments. The caller holds the slot lock.

    Args:
        installation: the installation.
        transaction: the open transaction.
        disk: the disk that owns the reference.
        origin: the manifest that the reference names.
        object_bytes: the length of the reference.
    """
    row = replace(
        origin, uid=installation.effects.new_uid(), owner_uid=disk.uid, disk=OS_DISK, object_bytes=object_bytes
    )
    transaction.manifests.add(row)
    transaction.manifests.complete(row.uid)
    party = disk_party(disk)
    open_interval(installation.effects, transaction, owner_uid=disk.uid, slot=disk.slot, party=party, own=object_bytes)


def disk_party(disk: ManagedDisk) -> Party:
    """Return the party that is billed for the bytes of a disk."""
    return Party(
        subscription=disk.subscription,
        group=disk.group,
        gallery=None,
        definition=None,
        version=None,
        disk=disk.name,
        tags=disk.tags,
    )
