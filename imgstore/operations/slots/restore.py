"""Restore replicas that were complete once: read all objects, and complete the replica if all are right.

A replica was complete once if the catalog has complete manifests of the replica (`Manifests.complete_slots`). Scrub
restores the replicas of a slot. Workers and a repeated create restore the replicas of a version without a complete
replica. All callers use a work of kind copy, so that the next process takes over the work of an interrupted process.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments, unpack_ids
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound
from imgstore.domain.resources import ManifestRow, Replica, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.completion import LeasedReplica, complete_replica
from imgstore.operations.slots.runner import begin_copy, run_work
from imgstore.policy.copy_plan import is_restorable
from imgstore.segments.manifest import ManifestCheck
from imgstore.transfer.slot_access import CheckCancelled

RESTORED: Final = "restored: all objects are right"
"""The report of a restored replica."""

DAMAGED_REST_SECONDS: Final = 86_400.0
"""Workers restore a damaged replica again after a day, because each try reads all objects. A scrub does not wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan(LeasedReplica):
    """The leased work of a replica that was complete once."""

    rows: Sequence[ManifestRow]
    """The manifest rows of all disks of the version in the slot."""
    segments: Mapping[Digest, int]
    """The stored bytes of the segments of the replica, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """The result of restoring the replicas of one slot for a scrub."""

    restored: int = 0
    """The number of replicas that are Completed again."""
    unrestored: tuple[str, ...] = ()
    """One text for each replica that is not Completed: the version and the reason."""


def restore_replicas(
    installation: Installation,
    slot: Slot,
    damaged: Collection[str],
    *,
    dry_run: bool = False,
    pace: Callable[[int], None] = lambda _length: None,
) -> Restoration:
    """Restore the replicas of a slot that were complete once and have no damaged object any more.

    Args:
        installation: the installation.
        slot: the slot.
        damaged: keys below the slot of damaged objects. Replicas that need one of these objects are left alone.
        dry_run: report the replicas and change nothing.
        pace: called with the length of each read segment. May wait to limit the bandwidth.
    """
    with installation.catalog.reading() as transaction:
        found = [
            (replica, _name_of(transaction, replica))
            for replica in transaction.replicas.in_slot(slot.uid)
            if _is_candidate(installation, transaction, replica)
        ]
        wrong = {replica.uid: _damaged_objects(transaction, replica, damaged) for replica, _ in found}
    restored, unrestored = 0, []
    for replica, name in found:
        if wrong[replica.uid]:
            unrestored.append(f"{name}: {wrong[replica.uid]} of its objects are missing or damaged")
        elif dry_run:
            unrestored.append(f"{name}: {replica.state}; not read from end to end in a dry run")
        else:
            try:
                restored += _restore(installation, replica, pace)
            except ImgstoreError as error:
                installation.note(f"{slot.key.region}/{slot.key.ordinal}", f"{name} not restored: {error.message}")
                unrestored.append(f"{name}: {error.message}")
    return Restoration(restored=restored, unrestored=tuple(unrestored))


def restore_repaired(installation: Installation, slot: Slot) -> None:
    """Restore the replicas of a slot that share segments with a repaired disk, and name no lost object any more."""
    with installation.catalog.reading() as transaction:
        lost = transaction.lost_objects.list(slot.uid)
    restore_replicas(installation, slot, lost)


def find_once_complete(transaction: Transaction, version_uid: str, replicas: Sequence[Replica]) -> frozenset[str]:
    """Return the uids of the replicas of a version that were complete once, in any present state."""
    slots = transaction.manifests.complete_slots(version_uid)
    return frozenset(each.uid for each in replicas if each.slot.uid in slots)


def plan_restore(installation: Installation, transaction: Transaction, replica: Replica) -> RestorePlan:
    """Open or take over the work of a replica, and set the replica to Replicating.

    The caller holds the lock on the row of the version, and has checked that no live process makes the replica.

    Raises:
        WorkHeld: another process has the work.
    """
    slot, version = replica.slot, transaction.versions.by_uid(replica.version_uid)
    rows = transaction.manifests.of_replica(replica.version_uid, slot.uid)
    assert rows, "a replica that was Completed has its manifests"
    segments = transaction.segments.rows(slot.key.pool_uid, named_segments(rows))
    return RestorePlan(
        definition_path=definition_path_of(transaction, version),
        version=version,
        replica=replica,
        lease=begin_copy(installation, transaction, replica, rows),
        rows=rows,
        segments={each.name: each.stored_bytes for each in segments},
    )


def restore(
    installation: Installation,
    plan: RestorePlan,
    counter: ProgressCounter,
    check_cancelled: CheckCancelled,
    pace: Callable[[int], None] = lambda _length: None,
) -> None:
    """Read all objects of a replica, and set the replica to Completed if all are right. The work is held.

    Raises:
        ObjectCorrupt: an object is missing or wrong. Only another replica or the source has the bytes.
        StoreError: the store does not answer or refuses access, so nothing is known about the bytes.
    """
    slot, sizes = plan.replica.slot, plan.segments
    access = installation.access(slot)
    counter.total = sum(sizes.values())
    counter.begin()
    for row in plan.rows:
        check_cancelled()
        try:
            access.get_object(row.body_key, ManifestCheck(row.digest))
        except ObjectNotFound as error:
            raise _damaged_error(slot, "the manifest is missing", 1) from error
    workers = installation.threads(installation.tuning.copy_workers, slot.key.region)

    def on_read(name: Digest) -> None:
        counter.add_bytes(sizes[name])
        pace(sizes[name])

    damaged = access.find_damaged(sizes, workers=workers, check_cancelled=check_cancelled, on_read=on_read)
    if damaged:
        raise _damaged_error(slot, f"the first is {min(damaged).hex()}", len(damaged))
    complete_replica(installation, plan, plan.rows)


def _is_candidate(installation: Installation, transaction: Transaction, replica: Replica) -> bool:
    return is_restorable(replica, find_once_complete(transaction, replica.version_uid, [replica])) and not _is_busy(
        installation, transaction, replica
    )


def _is_busy(installation: Installation, transaction: Transaction, replica: Replica) -> bool:
    holder = transaction.queue.holders_by_replica([replica.version_uid]).get(replica.uid)
    return holder is not None and not installation.keeper.is_dead(holder)


def _name_of(transaction: Transaction, replica: Replica) -> str:
    version = transaction.versions.by_uid(replica.version_uid)
    definition_path = definition_path_of(transaction, version)
    return f"{definition_path.gallery.name}/{definition_path.definition.name}/{version.name}"


def _damaged_objects(transaction: Transaction, replica: Replica, damaged: Collection[str]) -> int:
    """Count the damaged objects that a replica needs."""
    rows = transaction.manifests.of_replica(replica.version_uid, replica.slot.uid)
    own = sum(row.body_key in damaged for row in rows)
    names = [object_keys.segment_name(key) for key in damaged if object_keys.is_segment_key(key)]
    known = transaction.segments.find_ids(replica.slot.key.pool_uid, names)
    ids = np.array(list(known.values()), dtype=np.uint32)
    return own + int(np.isin(ids, unpack_ids(b"".join(row.segment_ids for row in rows))).sum())


def _restore(installation: Installation, replica: Replica, pace: Callable[[int], None]) -> bool:
    """Restore one replica for scrub. Return False if another process restores the replica."""
    with installation.catalog.transaction() as transaction:
        if not transaction.queue.try_lock(replica.version_uid):
            return False
        current = transaction.replicas.by_uid(replica.uid)
        if not _is_candidate(installation, transaction, current):
            return False
        plan = plan_restore(installation, transaction, current)
    key = replica.slot.key
    counter = ProgressCounter(
        installation, f"restore {plan.definition_path.definition.name} {plan.version.name} {key.region}/{key.ordinal}"
    )
    with run_work(
        installation,
        replica.slot,
        plan.lease,
        counter,
        replica=current,
        damaged_rest_seconds=DAMAGED_REST_SECONDS,
    ) as check_cancelled:
        restore(installation, plan, counter, check_cancelled, pace)
    counter.end(RESTORED)
    return True


def _damaged_error(slot: Slot, which: str, count: int) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"{count} objects of a degraded replica in {slot.key} are missing or damaged.",
        found=f"{count} missing or wrong objects; {which}",
        expected="no missing or damaged object",
        hint="run `imgstore scrub`, which repairs from other replicas, or repeat `imgstore sig image-version create` "
        "with the source",
        target=str(slot.key),
    )
