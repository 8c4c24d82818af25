"""Make disks in the slot of a replica, and move the disks to another replica if the store of the slot fails.

All disks of a machine move together (invariant D3). A removal work in the old slot deletes manifests that late requests
may still put there (``operations/slots/leftovers.py``). A disk never returns to a slot with an open removal work for the
disk, because a late removal would delete the new manifest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from imgstore.catalog import Transaction
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, LeaseLost, ObjectCorrupt, ObjectNotFound, StoreError, StoreSilent
from imgstore.domain.resources import ManagedDisk, ManifestRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import remove_manifests
from imgstore.operations.slots.degrade import degrade_owners
from imgstore.operations.slots.leftovers import open_removal
from imgstore.operations.slots.references import PlacedDisk, lease_disk, put_disk
from imgstore.segments.manifest import ManifestCheck
from imgstore.stores.wrappers.hedging import race
from imgstore.transfer.slot_access import SlotAccess, read_from_any


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServedManifests:
    """The manifests of all disks from a slot."""

    slot: Slot
    bodies: Sequence[bytes]
    """The bytes of the manifests in the order of the disks. The bytes are empty for a complete disk."""


def make_placed_disks(installation: Installation, disks: Sequence[PlacedDisk]) -> list[ManagedDisk]:
    """Put the references of disks that share a slot, and move all disks to another replica if the store fails.

    The manifests are read first from the slot of the disks. If the store of the slot fails or is late, another replica
    of the region is read as well. The disks are made in the slot that answers first. A store that is late with a later
    write is given up if another replica answers.

    Raises:
        StoreError: no replica of the region can be used. The error is the first error.
        LeaseLost: another process makes the disks.
    """
    made = list(disks)
    tried: set[str] = set()
    failed: StoreError | None = None
    while any(each.lease is not None for each in made):
        try:
            served = _read_manifests(installation, made, tried)
        except StoreError as error:
            raise failed or error from None
        if served.slot.uid != made[0].disk.slot.uid:
            try:
                made = _move(installation, made, served.slot)
            except LeaseLost as error:
                made = _find_completed_disks(installation, made, error)
                continue
        try:
            for place, each in enumerate(made):
                if each.lease is not None:
                    disk = _put_unless_late(installation, made, place, served.bodies[place], tried)
                    made[place] = replace(each, disk=disk, lease=None)
        except StoreError as error:
            failed = failed or error
            tried.add(made[0].disk.slot.uid)
            if not _other_slots(installation, made, tried):
                raise failed from None
    return [each.disk for each in made]


def _read_manifests(installation: Installation, disks: Sequence[PlacedDisk], tried: set[str]) -> _ServedManifests:
    """Read the manifests of all disks from the first slot that answers.

    Raises:
        StoreError: no slot delivers the manifests.
    """
    own = disks[0].disk.slot
    asks = []
    if own.uid not in tried:
        asks.append(partial(_read_own, installation, disks))
    if disks[0].disk.source_version_uid is not None:
        asks.append(partial(_read_elsewhere, installation, disks, tried | {own.uid}))
    if installation.locator.is_avoided(own):
        asks.reverse()
    errors: list[StoreError] = []
    for outcome in race(asks):
        if outcome.late:
            if asks[outcome.place].func is _read_own:
                installation.locator.note_late(own, outcome.age_seconds)
        elif outcome.error is None:
            return outcome.value
        elif asks[outcome.place].func is _read_own:
            errors.insert(0, outcome.error)
        else:
            errors.append(outcome.error)
    if own.uid not in tried and errors[0].retryable:
        return _read_own(installation, disks)  # Wait longer, since no other slot has the manifests.
    raise errors[0]


def _put_unless_late(
    installation: Installation, disks: Sequence[PlacedDisk], place: int, body: bytes, tried: set[str]
) -> ManagedDisk:
    """Put the reference of a disk. If the store is late and another replica answers, give the store up.

    Without an answer from another replica, the function waits for the slow store. An abandoned request continues in a
    thread. After the move of the disk, the transaction of that thread fails, and the stored objects are removed
    (`_move_disk`).

    Raises:
        StoreSilent: the store was late, and another replica answers.
    """
    slot = disks[place].disk.slot
    asks: list[Callable[[], ManagedDisk | _ServedManifests]] = [partial(put_disk, installation, disks[place], body)]
    if disks[place].disk.source_version_uid is not None:
        asks.append(partial(_read_elsewhere, installation, disks, tried | {slot.uid}))
    for outcome in race(asks, patient=True):
        if outcome.late:
            if outcome.place == 0:
                installation.locator.note_late(slot, outcome.age_seconds)
        elif outcome.place == 0 and outcome.error is not None:
            raise outcome.error
        elif outcome.error is None and isinstance(outcome.value, ManagedDisk):
            return outcome.value
        elif outcome.error is None:
            break
    raise StoreSilent(
        f"The store of {slot.key} is late with the disk '{disks[place].disk.name}'.",
        found="no answer yet, while another replica of the region answers",
        expected="an answer",
        hint="check the store with `imgstore regions check`",
        target=str(slot.key),
    )


def _find_completed_disks(installation: Installation, disks: Sequence[PlacedDisk], lost: LeaseLost) -> list[PlacedDisk]:
    """Return the disks with the present rows, after an abandoned request completed at least one of the disks.

    Raises:
        LeaseLost: no disk was completed, so another process makes the disks.
    """
    with installation.catalog.reading() as transaction:
        rows = [transaction.disks.by_uid(each.disk.uid) for each in disks]
    made = [
        replace(each, disk=row, lease=None)
        if each.lease is not None
        and row.slot.uid == each.disk.slot.uid
        and row.provisioning_state is ProvisioningState.SUCCEEDED
        else each
        for each, row in zip(disks, rows, strict=True)
    ]
    if made == list(disks):
        raise lost
    return made


def _read_own(installation: Installation, disks: Sequence[PlacedDisk]) -> _ServedManifests:
    """Read the manifests from the slot of the disks."""
    slot = disks[0].disk.slot
    try:
        bodies = _read_bodies(installation.access(slot), [each.origin for each in disks])
    except (ObjectNotFound, ObjectCorrupt):
        _degrade_replica(installation, disks, slot)
        raise
    return _ServedManifests(slot=slot, bodies=bodies)


def _read_elsewhere(installation: Installation, disks: Sequence[PlacedDisk], tried: set[str]) -> _ServedManifests:
    """Read the manifests from another replica of the region.

    Raises:
        ObjectNotFound: no other replica has the content of all disks.
        StoreError: no other replica delivers the manifests.
    """
    slots = _other_slots(installation, disks, tried)
    if not slots:
        raise ObjectNotFound(
            f"No other replica in {disks[0].disk.location} can take the disk '{disks[0].disk.name}'.",
            found="no other complete replica of the same storage account type with all disks",
            expected="another complete replica in the region",
            hint="check that the store of the replica answers, or add replicas of the version in the region",
            target=disks[0].disk.source_reference,
        )
    with installation.catalog.reading() as transaction:
        origins = {
            str(slot.key): [transaction.manifests.find_by_body(slot.uid, each.disk.body_key) for each in disks]
            for slot in slots
        }
    by_label = {str(slot.key): slot for slot in slots}
    broken: list[Slot] = []

    def note_broken(access: SlotAccess, error: StoreError) -> None:
        if isinstance(error, (ObjectNotFound, ObjectCorrupt)):
            broken.append(by_label[access.label])

    try:
        access, bodies = read_from_any(
            installation.access_all(slots), lambda each: _read_bodies(each, origins[each.label]), note_broken
        )
    finally:
        for slot in broken:
            _degrade_replica(installation, disks, slot)
    return _ServedManifests(slot=by_label[access.label], bodies=bodies)


def _read_bodies(access: SlotAccess, origins: Sequence[ManifestRow | None]) -> list[bytes]:
    """Read the manifests. The result is empty for a complete disk."""
    return [b"" if each is None else access.get_object(each.body_key, ManifestCheck(each.digest)) for each in origins]


def _other_slots(installation: Installation, disks: Sequence[PlacedDisk], tried: set[str]) -> list[Slot]:
    """List the untried slots of the region that have the content of all disks and can hold the disks.

    The slots have the storage account type of the disks, and no open removal work for a disk.
    """
    disk = disks[0].disk
    if disk.source_version_uid is None:
        return []
    with installation.catalog.reading() as transaction:
        replicas = transaction.replicas.list(disk.source_version_uid)
        slots = [
            each.slot
            for each in replicas
            if each.state is ReplicaState.COMPLETED
            and each.slot.key.region == disk.location
            and each.slot.key.storage_account_type is disk.storage_account_type
            and each.slot.uid not in tried
        ]
        return [slot for slot in slots if all(_can_hold(transaction, each.disk, slot) for each in disks)]


def _can_hold(transaction: Transaction, disk: ManagedDisk, slot: Slot) -> bool:
    if transaction.works.find_open(WorkKind.REMOVAL, slot.uid, disk.uid) is not None:
        return False
    return transaction.manifests.find_by_body(slot.uid, disk.body_key) is not None


def _degrade_replica(installation: Installation, disks: Sequence[PlacedDisk], slot: Slot) -> None:
    """Degrade the replica of the version in a slot, because a manifest is missing or damaged (invariant W15)."""
    version_uid = disks[0].disk.source_version_uid
    if version_uid is not None:
        degrade_owners(installation, slot, {version_uid}, "missing or damaged when a disk was made of it")


def _move(installation: Installation, disks: Sequence[PlacedDisk], slot: Slot) -> list[PlacedDisk]:
    """Move all disks to another slot, with a removal work for each disk in the old slot.

    Raises:
        LeaseLost: another process makes a disk.
        Conflict: a complete disk is being read or has a signed URL.
    """
    left = disks[0].disk.slot
    with installation.catalog.transaction() as transaction:
        for each in disks:
            if each.lease is not None:
                transaction.works.guard(each.lease)
        for slot_uid in sorted({slot.uid, left.uid}):
            transaction.slots.lock(slot_uid)
        moved = [_move_disk(installation, transaction, each, slot) for each in disks]
    name = disks[0].disk.name
    installation.note(name, f"replica {left.key} cannot be used, so the disk is made from replica {slot.key.ordinal}")
    return moved


def _move_disk(installation: Installation, transaction: Transaction, placed: PlacedDisk, slot: Slot) -> PlacedDisk:
    old = transaction.disks.by_uid(placed.disk.uid)
    if placed.lease is not None:
        transaction.works.abandon(placed.lease.work_uid)
    else:
        rows = transaction.manifests.of_replica(old.uid, old.slot.uid)
        if old.grant is not None or any(transaction.works.is_pinned(row.uid) for row in rows):
            raise _in_use(old)
        remove_manifests(installation, transaction, old.slot, rows)
    open_removal(transaction, old.slot, old.uid, [object_keys.manifest_key(old.uid, OS_DISK)])
    new = replace(old.in_slot(slot), provisioning_state=ProvisioningState.CREATING)
    transaction.disks.update(new)
    return lease_disk(installation, transaction, new)


def _in_use(disk: ManagedDisk) -> Conflict:
    return Conflict(
        f"The disk '{disk.name}' can't be placed in another replica.",
        found="a complete disk that is being read or has a signed URL",
        expected="a disk that is not in use until all disks of the machine are complete",
        hint="repeat the command when the store of the replica answers again",
        target=disk.name,
    )
