"""Remove versions, replicas and disks: tombstone, manifests, rows, in this order (invariant G11).

Segments that no manifest names any more stay in the slot until garbage collection (`operations/maintenance/gc.py`).
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.disks.signed_urls import DiskGrant, format_expiry
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, ImgstoreError, NotFound, StoreError, WorkHeld
from imgstore.domain.resources import ImageVersion, ManagedDisk, ManifestRow, Replica, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.leases import is_dead
from imgstore.operations.slots.completion import remove_manifests
from imgstore.operations.slots.held_segments import record_paid
from imgstore.operations.slots.key_deletions import record_deletion, send_deletion
from imgstore.operations.slots.leftovers import is_removal_of_keys
from imgstore.operations.slots.works import remove_start_markers
from imgstore.operations.stores.catalog_checks import check_catalog_is_current, find_referenced_bodies
from imgstore.transfer.slot_access import CheckCancelled, never_cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class FreedBytes:
    """The stored bytes of a removed replica, by the owners that still need the bytes."""

    freed_bytes: int = 0
    """Bytes that no manifest of the slot names any more. These bytes are not billed any more."""
    shared_bytes: int = 0
    """Bytes that other versions name."""
    disk_bytes: int = 0
    """Bytes that only managed disks, snapshots or managed images name."""
    disks: tuple[str, ...] = ()
    """The names of the disks of `disk_bytes`."""


def remove_version(installation: Installation, version: ImageVersion) -> None:
    """Make a version invisible, remove its manifests from all slots, then remove its rows. May be repeated.

    Raises:
        CatalogOutdated: the catalog is older than its buckets. Nothing was changed.
        WorkHeld: a live process writes or reads the version.
        StoreError: a store did not answer. The version is removed from all other slots.
    """
    check_catalog_is_current(installation)
    with installation.catalog.transaction() as transaction:
        transaction.versions.lock(version.uid)  # From here on, no worker begins a replica of the version.
        end_works(transaction, version.uid, str(version.name))
        for replica in transaction.replicas.list(version.uid):
            if replica.state is not ReplicaState.DELETING:
                transaction.replicas.move(replica.uid, ReplicaState.DELETING)
        transaction.versions.update(
            replace(transaction.versions.by_uid(version.uid), provisioning_state=ProvisioningState.DELETING)
        )
    with installation.catalog.reading() as transaction:
        replicas = transaction.replicas.list(version.uid)
    first_error: ImgstoreError | None = None
    for replica in replicas:
        try:
            _remove_owner(installation, replica.slot, version.uid, _manifest_keys(version))
        except ImgstoreError as error:  # The store does not answer. The version still leaves the other regions.
            first_error = first_error or error
            continue
        with suppress(NotFound), installation.catalog.transaction() as transaction:
            transaction.replicas.delete(replica.uid)
    if first_error is not None:
        raise first_error
    with (
        suppress(NotFound),
        installation.catalog.transaction() as transaction,
    ):  # Another process may delete the row first.
        transaction.versions.delete(version.uid)


def _manifest_keys(version: ImageVersion) -> list[str]:
    """Return the keys of the manifests of a version, below any slot."""
    return [object_keys.manifest_key(version.uid, disk) for disk in version.disk_keys]


def remove_replica(installation: Installation, replica: Replica) -> FreedBytes:
    """Remove a replica in state Deleting from its slot, then remove its row. May be repeated.

    Unlike a deleted version, a replica may return to the slot with the same keys. So one process at a time removes the
    replica under a lease, and the new replica begins after the old row is removed (invariant S8).

    Raises:
        NotFound: another process has removed the replica.
        WorkHeld: a live process writes, reads or removes the replica.
        StoreError: the store could not delete the manifests. No row names the manifests any more.
    """
    slot, owner_uid = replica.slot, replica.version_uid
    check_catalog_is_current(installation)
    keeper = installation.keeper
    with installation.catalog.transaction() as transaction:
        abandon_writers(transaction, owner_uid, str(slot.key), slot)
        transaction.replicas.by_uid(replica.uid)
        objects = _manifest_keys(transaction.versions.by_uid(owner_uid))
        work = transaction.works.open(kind=WorkKind.REMOVAL, slot_uid=slot.uid, owner_uid=owner_uid, plan={}, pins=())
        lease = transaction.works.lease(work.uid, holder=keeper.holder, lease_seconds=keeper.lease_seconds)
    freed = FreedBytes()

    def measure_freed(transaction: Transaction, rows: Sequence[ManifestRow]) -> None:
        nonlocal freed
        if any(transaction.manifests.is_complete(row.uid) for row in rows):
            freed = _measure_freed(transaction, slot, rows)

    try:
        with keeper.hold(lease) as hold:
            _remove_owner(installation, slot, owner_uid, objects, hold.check_cancelled, measure_freed)
            with suppress(StoreError):  # The next work in the slot removes the empty marker.
                remove_start_markers(installation, slot, installation.access(slot))
            with installation.catalog.transaction() as transaction:
                transaction.works.guard(lease)
                transaction.replicas.delete(replica.uid)
                transaction.works.complete(lease)
    except BaseException:
        with installation.catalog.transaction() as transaction:
            transaction.works.abandon(work.uid)
        raise
    return freed


def remove_disks(installation: Installation, disks: Sequence[ManagedDisk], *, attached_to: str | None = None) -> None:
    """Make disks invisible, remove their manifests from the slots, then remove their rows. May be repeated.

    Args:
        installation: the installation.
        disks: the disks; for a managed image all its disks.
        attached_to: the machine that is deleted together with the disks.

    Raises:
        Conflict: a disk is attached to another machine, or a signed URL of a disk is valid.
        WorkHeld: a live process reads or makes a disk.
    """
    check_catalog_is_current(installation, {disk.slot.uid: disk.slot for disk in disks}.values())
    with installation.catalog.transaction() as transaction:
        for disk in disks:
            check_no_signed_url(transaction, transaction.disks.by_uid(disk.uid))
            end_works(transaction, disk.uid, disk.name)
            begin_deleting(transaction, disk, attached_to=attached_to)
    first_error: ImgstoreError | None = None
    for disk in disks:
        try:
            _remove_owner(
                installation, disk.slot, disk.uid, (object_keys.manifest_key(disk.uid, OS_DISK), disk.body_key)
            )
        except ImgstoreError as error:  # The disks of a managed image may be in several slots.
            first_error = first_error or error
            continue
        with (
            suppress(NotFound),
            installation.catalog.transaction() as transaction,
        ):  # Another process may delete the row first.
            transaction.disks.delete(disk.uid)
    if first_error is not None:
        raise first_error


def begin_deleting(transaction: Transaction, disk: ManagedDisk, *, attached_to: str | None = None) -> None:
    """Set a disk to Deleting. See `remove_disks`.

    Raises:
        Conflict: the disk is attached to another machine.
    """
    if not transaction.disks.begin_deleting(disk.uid, attached_to=attached_to):
        raise _attached_error(transaction.disks.by_uid(disk.uid))


def _remove_owner(
    installation: Installation,
    slot: Slot,
    owner_uid: str,
    objects: Sequence[str],
    check_cancelled: CheckCancelled = never_cancelled,
    on_remove: Callable[[Transaction, Sequence[ManifestRow]], None] = lambda _facts, _rows: None,
) -> None:
    """Remove the manifest rows of an owner in a slot, then the objects of the owner that no row needs.

    The tombstone is removed after both. So after a crash between the two steps, the same command removes the objects.

    Args:
        installation: the installation.
        slot: the slot.
        owner_uid: the owner.
        objects: the keys of the owner below the slot.
        check_cancelled: called before the request.
        on_remove: called with the rows in the transaction, before the rows are removed.
    """
    kept = find_referenced_bodies(installation, slot)
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        copies = transaction.works.lock_open(WorkKind.COPY, slot.uid)  # Before the slot (invariant L3).
        transaction.slots.lock(slot.uid)  # If two processes remove the owner at once, the later one finds no rows.
        rows = transaction.manifests.of_replica(owner_uid, slot.uid)
        check_unpinned(transaction, rows)
        record_paid(transaction, copies, rows)
        on_remove(transaction, rows)
        remove_manifests(installation, transaction, slot, rows)
        unused = [
            key for key in objects if key not in kept and transaction.manifests.count_body_users(slot.uid, key) == 0
        ]
        deletion = record_deletion(installation, transaction, slot, unused, recorded_at)
    send_deletion(installation, deletion, check_cancelled)


def _measure_freed(transaction: Transaction, slot: Slot, rows: Sequence[ManifestRow]) -> FreedBytes:
    """Compute the bytes that stay after the removal of manifest rows, and the owners that need these bytes."""
    transaction.slots.lock(slot.uid)
    disks = {disk.uid: disk.name for disk in transaction.disks.in_slot(slot.uid)}
    removed = {row.uid for row in rows}
    others = [each for each in transaction.manifests.in_slot(slot.uid) if each.uid not in removed]
    bodies = {each.body_key for each in others}
    ids = named_segments(rows)
    shared = np.intersect1d(ids, named_segments(each for each in others if each.owner_uid not in disks))
    disk_rows = [each for each in others if each.owner_uid in disks and np.isin(ids, named_segments([each])).any()]
    kept = np.setdiff1d(np.intersect1d(ids, named_segments(disk_rows)), shared)
    body_bytes = sum(row.object_bytes for row in rows if row.body_key in bodies)
    pool_uid = slot.key.pool_uid
    total = transaction.segments.stored_bytes(pool_uid, ids) + sum(row.object_bytes for row in rows)
    shared_bytes = transaction.segments.stored_bytes(pool_uid, shared)
    disk_bytes = transaction.segments.stored_bytes(pool_uid, kept) + body_bytes
    return FreedBytes(
        freed_bytes=total - shared_bytes - disk_bytes,
        shared_bytes=shared_bytes,
        disk_bytes=disk_bytes,
        disks=tuple(sorted(disks[each.owner_uid] for each in disk_rows)) if disk_bytes else (),
    )


def check_unpinned(transaction: Transaction, rows: Sequence[ManifestRow]) -> None:
    """Refuse to remove manifests while an open work pins one of the manifests. A read of a dead process pins nothing.

    Raises:
        WorkHeld: an open work pins a manifest.
    """
    uids = {row.uid for row in rows}
    for work in transaction.works.list_open():
        if uids.intersection(work.pins) and not _abandon_dead_export(transaction, work):
            raise _in_use_error(work, "a manifest of it")


def abandon_writers(
    transaction: Transaction,
    owner_uid: str,
    name: str,
    slot: Slot | None = None,
    *,
    kinds: Collection[WorkKind] = frozenset(WorkKind),
) -> None:
    """Abandon the works that write the replicas of a version, in all slots or in `slot`, of all `kinds` or some.

    Raises:
        WorkHeld: a live process has the lease of a work.
    """
    for work in transaction.works.list_open(None if slot is None else slot.uid):
        if work.owner_uid == owner_uid and work.kind in kinds:
            if is_work_alive(transaction, work):
                raise _in_use_error(work, f"'{name}'")
            transaction.works.abandon(work.uid)


def end_works(transaction: Transaction, owner_uid: str, name: str) -> None:
    """Abandon the works on a version or disk that is deleted, and the exports of its manifests.

    Raises:
        WorkHeld: a live process has the lease of a work.
    """
    own_rows = {row.uid for row in transaction.manifests.of_owner(owner_uid)}
    for work in transaction.works.list_open():
        if is_removal_of_keys(work):
            continue
        if work.owner_uid == owner_uid or (work.kind is WorkKind.EXPORT and own_rows.intersection(work.pins)):
            if is_work_alive(transaction, work):
                raise _in_use_error(work, f"'{name}'")
            transaction.works.abandon(work.uid)


def _abandon_dead_export(transaction: Transaction, work: Work) -> bool:
    if work.kind is WorkKind.EXPORT and not is_work_alive(transaction, work):
        transaction.works.abandon(work.uid)
        return True
    return False


def is_work_alive(transaction: Transaction, work: Work) -> bool:
    """Return whether a process may still hold the work: the lease is valid, and the holder is not known to be dead."""
    if work.holder is None or work.lease_expires_at is None or is_dead(work.holder):
        return False
    return work.lease_expires_at > transaction.now()


def _attached_error(disk: ManagedDisk) -> Conflict:
    return Conflict(
        f"Disk {disk.name} is attached to VM {disk.managed_by}.",
        found=f"managed by {disk.managed_by}",
        expected="a disk that is not attached",
        hint="delete the virtual machine first; the disks of the machine stay",
        target=disk.name,
        code="OperationNotAllowed",
    )


def _in_use_error(work: Work, what: str) -> WorkHeld:
    return WorkHeld(
        f"{what} is in use.",
        found=f"a work of kind {work.kind}, open since {work.opened_at.isoformat()}, held by {work.holder or 'nobody'}",
        expected="no open work that needs this resource",
        hint="wait for the end of that command, or end a `disk attach` (repeat a killed command), then delete again",
        target=work.uid,
    )


OPERATION_NOT_ALLOWED: Final = "OperationNotAllowed"


def check_no_signed_url(transaction: Transaction, disk: ManagedDisk) -> None:
    """Refuse to remove a disk while a signed URL of the disk is valid (invariant W10).

    Raises:
        Conflict: a signed URL is valid.
    """
    grant = disk.active_grant(transaction.now())
    if grant is not None:
        raise signed_url_conflict(disk, grant)


def signed_url_conflict(disk: ManagedDisk, grant: DiskGrant) -> Conflict:
    """Make the error for a disk with a valid signed URL."""
    return Conflict(
        f"There is an active shared access signature outstanding for disk {disk.name}. Call EndGetAccess before "
        "attaching or deleting the disk.",
        found=f"{grant.level} access until {format_expiry(grant.expires_at)}",
        expected="no valid signed URL",
        hint=f"run `imgstore disk revoke-access -g {disk.group} -n {disk.name}`, or wait until the URL has expired",
        target=disk.name,
        code=OPERATION_NOT_ALLOWED,
    )
