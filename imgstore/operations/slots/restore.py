"""Restore replicas that were Completed once: read one from end to end, and complete it again if all of it is right.

A replica counts as once complete while the catalog has its manifests as complete (`Manifests.complete_slots`). Scrub
restores the replicas of a slot. Workers, and a repeated create, restore the replicas of a version that is complete
nowhere. All of them use one work of kind copy, so whoever comes next takes over what another left.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound
from imgstore.domain.resources import ImageVersion, ManifestRow, Replica, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.completion import complete_replica, named_segments, record_failure, update_version_state
from imgstore.operations.slots.removal import abandon_writers
from imgstore.operations.slots.works import acquire_work, hold_work, make_copy_plan
from imgstore.policy.copy_plan import is_restorable
from imgstore.segments.manifest import ManifestCheck
from imgstore.transfer.slot_access import CheckCancelled, never_cancelled

DAMAGED_REST_SECONDS: Final = 86_400.0
"""Workers look at a damaged replica again after a day: each look reads it from end to end. A scrub looks at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """A once complete replica whose work is leased."""

    lease: Lease
    replica: Replica
    rows: Sequence[ManifestRow]
    """The manifests of all disks of the version in the slot."""
    segments: Sequence[tuple[Digest, int]]
    """Names and stored bytes of what they name, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a scrub did for the replicas of one slot."""

    restored: int = 0
    """Replicas that are Completed again."""
    unrestored: tuple[str, ...] = ()
    """Of each replica that is still not Completed: its version, and why."""


def restore_replicas(
    installation: Installation,
    slot: Slot,
    damaged: Collection[str],
    *,
    dry_run: bool = False,
    pace: Callable[[int], None] = lambda _length: None,
) -> Restoration:
    """Complete the once complete replicas of a slot that have nothing wrong any more.

    Args:
        installation: where.
        slot: the slot.
        damaged: keys below the slot of objects that are known to be wrong: replicas that need one of them are left
            alone.
        dry_run: report the replicas and change nothing.
        pace: told the bytes of each segment that was read; it may wait.
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


def find_once_complete(transaction: Transaction, version_uid: str, replicas: Sequence[Replica]) -> frozenset[str]:
    """Return the uids of the replicas of a version that were Completed once, whatever they are now."""
    slots = transaction.manifests.complete_slots(version_uid)
    return frozenset(each.uid for each in replicas if each.slot.uid in slots)


def plan_restore(installation: Installation, transaction: Transaction, replica: Replica) -> RestorePlan:
    """Open or take over the work of a replica; the replica is Replicating from here on.

    The caller holds the version's row and has seen that no living process is at the replica.

    Raises:
        WorkHeld: another process has the work in hand.
    """
    slot = replica.slot
    rows = transaction.manifests.of_replica(replica.version_uid, slot.uid)
    assert rows, "a replica that was Completed has its manifests"
    segments = transaction.segments.rows(slot.key.pool_uid, named_segments(rows))
    plan = make_copy_plan(rows)
    _, lease = acquire_work(
        installation,
        transaction,
        kind=WorkKind.COPY,
        slot=slot,
        owner_uid=replica.version_uid,
        plan=plan,
        pins=tuple(row.uid for row in rows),
        can_resume=lambda old: old == plan,
        wait=False,
    )
    abandon_other_work(installation, transaction, WorkKind.INGEST, replica)
    transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
    update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
    return RestorePlan(
        lease=lease, replica=replica, rows=rows, segments=[(each.name, each.stored_bytes) for each in segments]
    )


def abandon_other_work(installation: Installation, transaction: Transaction, kind: WorkKind, replica: Replica) -> None:
    """Abandon the open work of another kind on a replica. The caller holds the version's row.

    Raises:
        WorkHeld: a living process is at it.
    """
    if transaction.works.find_open(kind, replica.slot.uid, replica.version_uid) is not None:
        abandon_writers(
            installation, transaction, replica.version_uid, str(replica.slot.key), replica.slot, kinds=frozenset({kind})
        )


def restore(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    plan: RestorePlan,
    *,
    counter: ProgressCounter,
    check_cancelled: CheckCancelled = never_cancelled,
    beat: Callable[[], None] = lambda: None,
    pace: Callable[[int], None] = lambda _length: None,
) -> None:
    """Read everything that a replica names, and make it Completed if all of it is right.

    Raises:
        ObjectCorrupt: something is missing or wrong. Only another replica, or the source, has it.
        StoreError: the store does not answer, or refuses; nothing is known of the bytes.
    """
    slot = plan.replica.slot
    sizes = dict(plan.segments)
    with hold_work(installation, slot, plan.lease, beat) as hold:
        access = installation.access(slot)
        counter.total = sum(sizes.values())
        counter.begin()

        def look_on() -> None:
            check_cancelled()
            hold.check_cancelled()

        for row in plan.rows:
            look_on()
            try:
                access.get_object(row.body_key, ManifestCheck(row.digest))
            except ObjectNotFound as error:
                raise _still_damaged(slot, "the manifest is missing", 1) from error
        workers = installation.threads(installation.tuning.copy_workers, slot.key.region)

        def was_read(name: Digest) -> None:
            counter.add_bytes(sizes[name])
            pace(sizes[name])

        damaged = access.find_damaged(sizes, workers=workers, check_cancelled=look_on, on_read=was_read)
        if damaged:
            raise _still_damaged(slot, f"the first is {min(damaged).hex()}", len(damaged))
        complete_replica(
            installation,
            lease=plan.lease,
            definition_path=definition_path,
            version=version,
            replica=plan.replica,
            manifests=plan.rows,
        )
    counter.end("restored: all of it reads right")


def rest_seconds_after(error: BaseException) -> float | None:
    """Return how long a replica rests whose restore failed; None is the usual back-off."""
    return DAMAGED_REST_SECONDS if isinstance(error, ObjectCorrupt) else None


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
    """Count the objects known to be wrong that a replica needs."""
    rows = transaction.manifests.of_replica(replica.version_uid, replica.slot.uid)
    own = sum(row.body_key in damaged for row in rows)
    names = [object_keys.segment_name(key) for key in damaged if object_keys.is_segment_key(key)]
    known = transaction.segments.find_ids(replica.slot.key.pool_uid, names)
    ids = np.array(list(known.values()), dtype=np.uint32)
    return own + int(np.isin(ids, unpack_ids(b"".join(row.segment_ids for row in rows))).sum())


def _restore(installation: Installation, replica: Replica, pace: Callable[[int], None]) -> bool:
    """Restore one replica for scrub; False where another process was quicker."""
    with installation.catalog.transaction() as transaction:
        if not transaction.queue.try_lock(replica.version_uid):
            return False
        standing = transaction.replicas.get(replica.uid)
        if not _is_candidate(installation, transaction, standing):
            return False
        version = transaction.versions.by_uid(replica.version_uid)
        definition_path = definition_path_of(transaction, version)
        plan = plan_restore(installation, transaction, standing)
    key = replica.slot.key
    counter = ProgressCounter(
        installation, f"restore {definition_path.definition.name} {version.name} {key.region}/{key.ordinal}"
    )
    try:
        restore(installation, definition_path, version, plan, counter=counter, pace=pace)
    except ImgstoreError as error:
        counter.fail(error.message)
        record_failure(installation, plan.lease, standing, str(error), rest_seconds=rest_seconds_after(error))
        raise
    return True


def _still_damaged(slot: Slot, which: str, count: int) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"{count} objects of a degraded replica in {slot.key} are missing or damaged.",
        found=f"{count} that are missing or do not match their names; {which}",
        expected="none",
        hint="run `imgstore scrub`, which repairs from other replicas; or repeat `imgstore sig image-version create` "
        "with the source",
        target=str(slot.key),
    )
