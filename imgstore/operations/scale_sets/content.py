"""Make the disks of new instances: references in the slots of replicas, written in parallel (invariants D22 and D23).

The disks of one slot share a work, which pins the content, and one transaction completes them. So the requests for a set
of 1,000 instances are the objects of its disks, and few others.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.resources import ManagedDisk, ManifestRow, Slot
from imgstore.domain.scale_sets import ScaleSetLease
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.ledger.entries import StorageInterval
from imgstore.operations.disks.remote_content import lease_content
from imgstore.operations.disks.remote_content import make_content as make_remote_content
from imgstore.operations.installation import Installation
from imgstore.operations.scale_sets.leases import renew
from imgstore.operations.slots.degrade import degrade_owners
from imgstore.operations.slots.leftovers import open_removal
from imgstore.operations.slots.references import disk_party, find_origin, reference_to
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.segments.manifest import ManifestCheck, decode_manifest

_PUTS_AT_ONCE: Final = 16
_SLOTS_AT_ONCE: Final = 8
_RENEWAL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _SlotWork:
    """The leased work of a set in a slot."""

    lease: Lease
    disks: Sequence[tuple[ManagedDisk, ManifestRow]]
    """Each disk in state Creating, with the manifest that its reference names."""


def make_disks(
    installation: Installation,
    lease: ScaleSetLease,
    disks: Sequence[ManagedDisk],
    *,
    allow_remote: bool,
    on_made: Callable[[Sequence[ManagedDisk]], None] = lambda _disks: None,
) -> None:
    """Make the disks of instances. The disks of a slot that fails move to the other replicas of the region.

    Args:
        installation: the installation.
        lease: the lease of the set.
        disks: the rows in state Creating.
        allow_remote: whether content may be copied from another region.
        on_made: called with disks that were made.

    Raises:
        StoreError: no replica of the region can be used. The error is the first error.
        Conflict: the content was deleted.
        LeaseLost: another process changes the set.
    """
    rest, failures = list(disks), dict[str, StoreError]()
    if allow_remote:
        rest = _copy_first_disks(installation, lease, rest, on_made)
    while rest:
        works = _lease_works(installation, lease, rest)
        errors = _make_in_slots(installation, lease, works, on_made)
        rest = [disk for disk in rest if disk.slot.uid in errors]
        failures |= errors
        if rest:
            rest = _move(installation, lease, rest, failures)


def _copy_first_disks(
    installation: Installation,
    lease: ScaleSetLease,
    disks: Sequence[ManagedDisk],
    on_made: Callable[[Sequence[ManagedDisk]], None],
) -> list[ManagedDisk]:
    """Make one disk of each content that its slot misses, with bytes of another region. Return the other disks."""
    rest, seen = [], set[tuple[str, str]]()
    for disk in disks:
        place = disk.slot.uid, disk.body_key
        if place in seen:
            rest.append(disk)
            continue
        seen.add(place)
        renew(installation, lease)
        with installation.catalog.transaction() as transaction:
            if transaction.manifests.find_by_body(disk.slot.uid, disk.body_key) is not None:
                rest.append(disk)
                continue
            leased = lease_content(installation, transaction, disk, allow_remote=True)
        make_remote_content(installation, leased)
        on_made([disk])
    return rest


def _lease_works(
    installation: Installation, lease: ScaleSetLease, disks: Sequence[ManagedDisk]
) -> dict[str, _SlotWork]:
    """Lease a work in each slot, which pins the content, by uid of the slot."""
    by_slot = defaultdict[str, list[ManagedDisk]](list)
    for disk in disks:
        by_slot[disk.slot.uid].append(disk)
    works: dict[str, _SlotWork] = {}
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.guard(lease)
        for slot_uid, mine in sorted(by_slot.items()):
            origins: dict[str, ManifestRow] = {}
            for disk in mine:
                if disk.body_key not in origins:
                    origins[disk.body_key] = find_origin(transaction, disk)
            pins = [origin.uid for origin in origins.values()]
            work, work_lease = acquire_work(
                installation,
                transaction,
                kind=WorkKind.DISK,
                slot=mine[0].slot,
                owner_uid=lease.uid,
                plan={},
                pins=pins,
            )
            if set(work.pins) != set(pins):  # A killed command has left the work.
                transaction.works.update_plan(work_lease, {}, pins)
            works[slot_uid] = _SlotWork(lease=work_lease, disks=[(disk, origins[disk.body_key]) for disk in mine])
    return works


def _make_in_slots(
    installation: Installation,
    lease: ScaleSetLease,
    works: dict[str, _SlotWork],
    on_made: Callable[[Sequence[ManagedDisk]], None],
) -> dict[str, StoreError]:
    """Make the disks of all slots at once. Return the error of each slot that failed."""
    errors: dict[str, StoreError] = {}
    with (
        ThreadPoolExecutor(_PUTS_AT_ONCE, thread_name_prefix="references") as puts,
        ThreadPoolExecutor(_SLOTS_AT_ONCE, thread_name_prefix="slots") as slots,
    ):
        running: dict[Future[None], str] = {
            slots.submit(_make_in_slot, installation, lease, work, puts): uid for uid, work in works.items()
        }
        while running:
            done, _ = wait(running, timeout=_RENEWAL_SECONDS, return_when="FIRST_COMPLETED")
            for future in done:
                uid = running.pop(future)
                try:
                    future.result()
                except StoreError as error:
                    errors[uid] = error
                else:
                    on_made([disk for disk, _ in works[uid].disks])
            if running:
                renew(installation, lease)
    return errors


def _make_in_slot(installation: Installation, lease: ScaleSetLease, work: _SlotWork, puts: ThreadPoolExecutor) -> None:
    slot = work.disks[0][0].slot
    access = installation.access(slot)
    with hold_work(installation, slot, work.lease) as hold:
        origins = {origin.body_key: origin for _, origin in work.disks}
        try:
            formats = {
                key: decode_manifest(access.get_object(key, ManifestCheck(origin.digest))).container_metadata.format
                for key, origin in origins.items()
            }
        except (ObjectNotFound, ObjectCorrupt):
            versions = {disk.source_version_uid for disk, _ in work.disks if disk.source_version_uid is not None}
            degrade_owners(installation, slot, versions, "missing or damaged when a scale set was made of it")
            raise
        bodies = {key: reference_to(origin) for key, origin in origins.items()}

        def put(disk: ManagedDisk) -> None:
            hold.check_cancelled()
            access.put_manifest(object_keys.manifest_key(disk.uid, OS_DISK), bodies[disk.body_key])

        for each in [puts.submit(partial(put, disk)) for disk, _ in work.disks]:
            each.result()
        with installation.catalog.transaction() as transaction:
            transaction.scale_sets.guard(lease)
            transaction.works.guard(work.lease)
            transaction.slots.lock(slot.uid)
            made = [replace(disk, source_format=formats[disk.body_key]) for disk, _ in work.disks]
            _complete(installation, transaction, made, origins, {key: len(body) for key, body in bodies.items()})
            transaction.works.complete(work.lease)


def _complete(
    installation: Installation,
    transaction: Transaction,
    disks: Sequence[ManagedDisk],
    origins: dict[str, ManifestRow],
    object_bytes: dict[str, int],
) -> None:
    """Add the complete rows of references, and open the storage intervals."""
    transaction.disks.complete(disks)
    new_uid, now = installation.effects.new_uid, transaction.now()
    transaction.manifests.add_complete(
        [
            replace(
                origins[disk.body_key],
                uid=new_uid(),
                owner_uid=disk.uid,
                disk=OS_DISK,
                object_bytes=object_bytes[disk.body_key],
            )
            for disk in disks
        ]
    )
    transaction.ledger.open_intervals_of(
        [
            StorageInterval(
                uid=new_uid(),
                party=disk_party(disk),
                owner_uid=disk.uid,
                slot_uid=disk.slot.uid,
                region=disk.slot.key.region,
                replica=disk.slot.key.ordinal,
                storage_account_type=disk.slot.key.storage_account_type,
                stored_bytes=object_bytes[disk.body_key],
                opened_at=now,
            )
            for disk in disks
        ]
    )


def _move(
    installation: Installation,
    lease: ScaleSetLease,
    disks: Sequence[ManagedDisk],
    failures: dict[str, StoreError],
) -> list[ManagedDisk]:
    """Move unmade disks to the other replicas of the region, in turn. All disks of an instance move together.

    Raises:
        StoreError: no other replica has the content. The error is the first error.
    """
    moved: list[ManagedDisk] = []
    turns: dict[str | None, int] = {}
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.guard(lease)
        for slot_uid in sorted({disk.slot.uid for disk in disks}):
            work = transaction.works.find_open(WorkKind.DISK, slot_uid, lease.uid)
            if work is not None:
                transaction.works.abandon(work.uid)
        places: dict[str | None, list[Slot]] = {}
        for disk in disks:
            if disk.source_version_uid not in places:
                places[disk.source_version_uid] = _other_slots(transaction, disk, failures)
            others = places[disk.source_version_uid]
            if not others:
                raise next(iter(failures.values()))
            turn = turns.setdefault(disk.managed_by, len(turns))
            open_removal(transaction, disk.slot, disk.uid, [object_keys.manifest_key(disk.uid, OS_DISK)])
            new = disk.in_slot(others[turn % len(others)])
            transaction.disks.update(new)
            moved.append(new)
    installation.note(disks[0].source_reference, f"{len(turns)} instances move to other replicas of the region")
    return moved


def _other_slots(transaction: Transaction, disk: ManagedDisk, failures: dict[str, StoreError]) -> list[Slot]:
    if disk.source_version_uid is None:
        return []
    return [
        each.slot
        for each in transaction.replicas.in_region(disk.source_version_uid, disk.location)
        if each.state is ReplicaState.COMPLETED
        and each.slot.uid not in failures
        and each.slot.key.storage_account_type is disk.storage_account_type
        and transaction.manifests.find_by_body(each.slot.uid, disk.body_key) is not None
    ]
