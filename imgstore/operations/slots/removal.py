"""Deletion: tombstone, manifests, rows, in this order (invariants W8 and G11).

Segments that nothing names any more stay in their slots until a collection (``operations/maintenance/gc.py``).
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.disks.signed_urls import DiskGrant, format_expiry
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, ImgstoreError, NotFound, StoreError, WorkHeld
from imgstore.domain.resources import ImageVersion, ManagedDisk, ManifestRow, Replica, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import named_segments, remove_manifests
from imgstore.operations.slots.key_deletions import record_deletion, send_deletion
from imgstore.operations.slots.leftovers import is_removal_of_keys
from imgstore.operations.slots.works import remove_start_markers
from imgstore.operations.stores.catalog_checks import check_catalog_is_current, find_referenced_bodies
from imgstore.transfer.slot_access import CheckCancelled, never_cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class FreedBytes:
    """What the removal of a version from a slot set free, in stored bytes."""

    freed_bytes: int = 0
    """Nothing in the slot names them any more: they are billed no longer."""
    shared_bytes: int = 0
    """Other versions name them."""
    disk_bytes: int = 0
    """Managed disks, snapshots or managed images alone name them."""
    disks: tuple[str, ...] = ()
    """These."""


def remove_version(installation: Installation, version: ImageVersion) -> None:
    """Make the version invisible, take its manifests out of every slot, then its rows. May be repeated.

    Raises:
        CatalogOutdated: the catalog is older than its buckets; nothing was changed.
        WorkHeld: a live process writes or reads it.
        StoreError: a store did not answer; the version has left all other slots.
    """
    check_catalog_is_current(installation)
    with installation.catalog.transaction() as transaction:
        transaction.versions.lock(version.uid)  # No worker begins one of its replicas from here on.
        _end_works(installation, transaction, version.uid, str(version.name))
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
            _forget_owner(installation, replica.slot, version.uid, _objects(version))
        except ImgstoreError as error:  # Its store does not answer: the other regions are left and no longer billed.
            first_error = first_error or error
            continue
        with suppress(NotFound), installation.catalog.transaction() as transaction:
            transaction.replicas.remove(replica.uid)
    if first_error is not None:
        raise first_error
    with suppress(NotFound), installation.catalog.transaction() as transaction:  # Another process may finish it first.
        transaction.versions.delete(version.uid)


def _objects(version: ImageVersion) -> list[str]:
    """The keys of its manifests, below any slot."""
    return [object_keys.manifest_key(version.uid, disk) for disk in version.disk_keys]


def remove_replica(installation: Installation, replica: Replica) -> FreedBytes:
    """Take a replica that is Deleting out of its slot, then its row. May be repeated.

    Unlike a deleted version, this one may come back to the slot, with the same keys: so one process at a time removes
    it, under a lease, and nobody begins the new replica before the old one's row is gone.

    Raises:
        NotFound: another process was quicker.
        WorkHeld: a live process writes it, reads from it or removes it.
        StoreError: the slot's store could not remove the manifest; nothing names it any more.
    """
    slot, owner_uid = replica.slot, replica.version_uid
    check_catalog_is_current(installation)
    keeper = installation.keeper
    with installation.catalog.transaction() as transaction:
        abandon_writers(installation, transaction, owner_uid, str(slot.key), slot)
        transaction.replicas.get(replica.uid)
        objects = _objects(transaction.versions.by_uid(owner_uid))
        work = transaction.works.open(kind=WorkKind.REMOVAL, slot_uid=slot.uid, owner_uid=owner_uid, plan={}, pins=())
        lease = transaction.works.lease(work.uid, holder=keeper.holder, lease_seconds=keeper.lease_seconds)
    freed = FreedBytes()

    def reckon(transaction: Transaction, rows: Sequence[ManifestRow]) -> None:
        nonlocal freed
        if any(transaction.manifests.is_complete(row.uid) for row in rows):
            freed = _reckoned(transaction, slot, rows)

    try:
        with keeper.hold(lease) as hold:
            _forget_owner(installation, slot, owner_uid, objects, hold.check_cancelled, reckon)
            with suppress(StoreError):  # An empty object that the next work in the slot takes away.
                remove_start_markers(installation, slot, installation.access(slot))
            with installation.catalog.transaction() as transaction:
                transaction.works.guard(lease)
                transaction.replicas.remove(replica.uid)
                transaction.works.complete(lease)
    except BaseException:
        with installation.catalog.transaction() as transaction:
            transaction.works.abandon(work.uid)
        raise
    return freed


def remove_disks(installation: Installation, disks: Sequence[ManagedDisk], *, attached_to: str | None = None) -> None:
    """Make the disks (of a managed image all) invisible, take their manifests out of their slots, then their rows.

    May be repeated.

    Args:
        installation: where.
        disks: which.
        attached_to: the machine that goes with them.

    Raises:
        Conflict: one is attached to another machine.
        WorkHeld: a live process reads or makes one.
        Conflict: somebody has a signed URL of one.
    """
    check_catalog_is_current(installation, {disk.slot.uid: disk.slot for disk in disks}.values())
    with installation.catalog.transaction() as transaction:
        for disk in disks:
            check_no_signed_url(transaction, transaction.disks.by_uid(disk.uid))
            _end_works(installation, transaction, disk.uid, disk.name)
            if not transaction.disks.begin_deleting(disk.uid, attached_to=attached_to):
                raise _attached(transaction.disks.by_uid(disk.uid))
    first_error: ImgstoreError | None = None
    for disk in disks:
        try:
            _forget_owner(
                installation, disk.slot, disk.uid, (object_keys.manifest_key(disk.uid, OS_DISK), disk.body_key)
            )
        except ImgstoreError as error:  # The disks of a managed image may be in several slots.
            first_error = first_error or error
            continue
        with suppress(NotFound), installation.catalog.transaction() as transaction:  # As with versions.
            transaction.disks.delete(disk.uid)
    if first_error is not None:
        raise first_error


def _forget_owner(
    installation: Installation,
    slot: Slot,
    owner_uid: str,
    objects: Sequence[str],
    check_cancelled: CheckCancelled = never_cancelled,
    leaving: Callable[[Transaction, Sequence[ManifestRow]], None] = lambda _facts, _rows: None,
) -> None:
    """Rows first, then those of the owner's objects that no row needs any more.

    The tombstone outlives both, so that after a crash between them the same command takes the objects.

    Args:
        installation: where.
        slot: the slot.
        owner_uid: whose rows go.
        objects: the owner's keys below the slot.
        check_cancelled: called before the request.
        leaving: told the rows, in their transaction, before they go.
    """
    kept = find_referenced_bodies(installation, slot)
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)  # Two that do the same at once: the later one finds the rows gone.
        rows = transaction.manifests.of_replica(owner_uid, slot.uid)
        for row in rows:
            _check_unpinned(installation, transaction, row)
        leaving(transaction, rows)
        remove_manifests(installation, transaction, slot, rows)
        unused = [
            key for key in objects if key not in kept and transaction.manifests.count_body_users(slot.uid, key) == 0
        ]
        deletion = record_deletion(installation, transaction, slot, unused, recorded_at)
    send_deletion(installation, deletion, check_cancelled)


def _reckoned(transaction: Transaction, slot: Slot, rows: Sequence[ManifestRow]) -> FreedBytes:
    """What stays of the bytes of a version's manifests once their rows have gone, and for whom."""
    transaction.slots.lock(slot.uid)
    disks = {disk.uid: disk.name for disk in transaction.disks.in_slot(slot.uid)}
    going = {row.uid for row in rows}
    others = [each for each in transaction.manifests.in_slot(slot.uid) if each.uid not in going]
    bodies = {each.body_key for each in others}
    ids = named_segments(rows)
    shared = np.intersect1d(ids, named_segments(each for each in others if each.owner_uid not in disks))
    theirs = [each for each in others if each.owner_uid in disks and np.isin(ids, named_segments([each])).any()]
    kept = np.setdiff1d(np.intersect1d(ids, named_segments(theirs)), shared)
    body_bytes = sum(row.object_bytes for row in rows if row.body_key in bodies)
    pool_uid = slot.key.pool_uid
    total = transaction.segments.stored_bytes(pool_uid, ids) + sum(row.object_bytes for row in rows)
    shared_bytes = transaction.segments.stored_bytes(pool_uid, shared)
    disk_bytes = transaction.segments.stored_bytes(pool_uid, kept) + body_bytes
    return FreedBytes(
        freed_bytes=total - shared_bytes - disk_bytes,
        shared_bytes=shared_bytes,
        disk_bytes=disk_bytes,
        disks=tuple(sorted(disks[each.owner_uid] for each in theirs)) if disk_bytes else (),
    )


def _check_unpinned(installation: Installation, transaction: Transaction, row: ManifestRow) -> None:
    """Refuse while an open work pins the manifest; reads whose process is gone pin nothing."""
    for work in transaction.works.list_open():
        if row.uid in work.pins and not _ended(installation, transaction, work):
            raise _held(work, "a manifest of it")


def abandon_writers(
    installation: Installation,
    transaction: Transaction,
    owner_uid: str,
    name: str,
    slot: Slot | None = None,
    *,
    kinds: Collection[WorkKind] = frozenset(WorkKind),
) -> None:
    """Close the works that write a version's replicas, all of them or the one in `slot`, of all `kinds` or some.

    Raises:
        WorkHeld: a live process is at one.
    """
    for work in transaction.works.list_open(None if slot is None else slot.uid):
        if work.owner_uid == owner_uid and work.kind in kinds:
            if is_work_alive(installation, transaction, work):
                raise _held(work, f"'{name}'")
            transaction.works.abandon(work.uid)


def _end_works(installation: Installation, transaction: Transaction, owner_uid: str, name: str) -> None:
    mine = {row.uid for row in transaction.manifests.of_owner(owner_uid)}
    for work in transaction.works.list_open():
        if is_removal_of_keys(work):
            continue
        if work.owner_uid == owner_uid or (work.kind is WorkKind.EXPORT and mine.intersection(work.pins)):
            if is_work_alive(installation, transaction, work):
                raise _held(work, f"'{name}'")
            transaction.works.abandon(work.uid)


def _ended(installation: Installation, transaction: Transaction, work: Work) -> bool:
    if work.kind is WorkKind.EXPORT and not is_work_alive(installation, transaction, work):
        transaction.works.abandon(work.uid)
        return True
    return False


def is_work_alive(installation: Installation, transaction: Transaction, work: Work) -> bool:
    """Whether some process may still be at it: leased, in time, and not known to be dead."""
    if work.holder is None or work.lease_expires_at is None or installation.keeper.can_take_over(work):
        return False
    return work.lease_expires_at > transaction.now()


def _attached(disk: ManagedDisk) -> Conflict:
    return Conflict(
        f"Disk {disk.name} is attached to VM {disk.managed_by}.",
        found=f"managed by {disk.managed_by}",
        expected="a disk that is attached to nothing",
        hint="delete the virtual machine first: its disks stay",
        target=disk.name,
        code="OperationNotAllowed",
    )


def _held(work: Work, what: str) -> WorkHeld:
    return WorkHeld(
        f"{what} is in use.",
        found=f"a work of kind {work.kind}, open since {work.opened_at.isoformat()}, held by {work.holder or 'nobody'}",
        expected="no open work that needs it",
        hint="let that command end (repeat it if it was killed), then delete again",
        target=work.uid,
    )


OPERATION_NOT_ALLOWED: Final = "OperationNotAllowed"


def check_no_signed_url(transaction: Transaction, disk: ManagedDisk) -> None:
    """Refuse to take away what somebody may have a URL of (design: reads by URL pin the disk until they expire).

    Raises:
        Conflict: so it is.
    """
    standing = disk.active_grant(transaction.now())
    if standing is not None:
        raise signed_url_conflict(disk, standing)


def signed_url_conflict(disk: ManagedDisk, standing: DiskGrant) -> Conflict:
    """Make the error for a disk that a signed URL in force still opens."""
    return Conflict(
        f"There is an active shared access signature outstanding for disk {disk.name}. Call EndGetAccess before "
        "attaching or deleting the disk.",
        found=f"{standing.level} access until {format_expiry(standing.expires_at)}",
        expected="no signed URL that is good",
        hint=f"`imgstore disk revoke-access -g {disk.group} -n {disk.name}`, or wait until it has run out",
        target=disk.name,
        code=OPERATION_NOT_ALLOWED,
    )
