"""A segment was found missing or wrong: each replica in that slot that names it is no longer trusted (W15)."""

from collections.abc import Callable, Collection, Iterable

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.errors import ObjectNotFound, ReadBackMismatch, StoreError
from imgstore.domain.identity.access import Action
from imgstore.domain.resources import Replica, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import update_version_state
from imgstore.operations.slots.key_deletions import record_deletion, send_deletion
from imgstore.transfer.scatter import Damage


def degrade(installation: Installation, slot: Slot, segments: Collection[Digest], why: str) -> None:
    """Mark every complete replica of the slot that names one of `segments` Degraded, in one transaction, and say so.

    A degraded replica is not handed out, is no base and no source; repeating `image-version create` repairs it.
    """
    incident = f"{len(segments)} segments of {slot.key}: {why}; first {min(segments).hex()}"
    with installation.catalog.transaction() as transaction:
        try:
            ids = transaction.segments.ids(slot.key.pool_uid, sorted(segments))
        except ObjectNotFound:
            return  # Never recorded: no replica names them.

        def is_hit(replica: Replica) -> bool:
            rows = (row for row in transaction.manifests.of_owner(replica.version_uid) if row.slot_uid == slot.uid)
            return any(np.isin(ids, unpack_ids(row.segment_ids)).any() for row in rows)

        _write_down(transaction, slot, is_hit, incident)
    installation.note(f"{slot.key.region}/{slot.key.ordinal}", incident)


def degrade_owners(installation: Installation, slot: Slot, owners: Collection[str], why: str) -> None:
    """The same for the complete replicas of some versions in the slot, whose manifests are missing or wrong."""
    incident = f"{len(owners)} manifests of {slot.key}: {why}; first of {min(owners)}"
    with installation.catalog.transaction() as transaction:
        _write_down(transaction, slot, lambda replica: replica.version_uid in owners, incident)
    installation.note(f"{slot.key.region}/{slot.key.ordinal}", incident)


def degrade_slot(transaction: Transaction, slot: Slot, incident: str) -> None:
    """Mark every complete replica of the slot Degraded, and record why. The transaction is the caller's."""
    _write_down(transaction, slot, lambda _replica: True, incident)


def _write_down(transaction: Transaction, slot: Slot, is_hit: Callable[[Replica], bool], incident: str) -> None:
    transaction.slots.lock(slot.uid)
    for replica in sorted(transaction.replicas.in_slot(slot.uid), key=lambda each: each.version_uid):
        if replica.state is ReplicaState.COMPLETED and is_hit(replica):
            transaction.versions.lock(replica.version_uid)
            transaction.replicas.move(replica.uid, ReplicaState.DEGRADED, error=incident)
            update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
    now = transaction.now()
    transaction.activity.add(
        principal="imgstore",
        action=f"incident/{Action.READ}",
        scope=str(slot.key),
        outcome="Degraded",
        detail=incident,
        started_at=now,
        finished_at=now,
    )


def degrade_damaged(installation: Installation, slots: Iterable[Slot], damages: Collection[Damage]) -> None:
    """The same for what a reader met."""
    by_label = {str(slot.key): slot for slot in slots}
    for label, slot in by_label.items():
        names = {damage.name for damage in damages if damage.slot.label == label and damage.is_certain}
        if names:
            degrade(installation, slot, names, "missing or damaged when read")


def discard_unreadable(installation: Installation, slot: Slot, names: Collection[Digest]) -> None:
    """Degrade the replicas that name unreadable segments, and delete the segments that no complete manifest names.

    A deleted segment is sent again by the next run. A damaged segment has the right length: without the deletion that
    run would take it for an intact one.
    """
    if not names:
        return
    degrade(installation, slot, names, "missing or damaged when read")
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        ids = transaction.manifests.segment_ids_in_slot(slot.uid)
        named = {row.name for row in transaction.segments.rows(slot.key.pool_uid, ids)}
        doomed = [object_keys.segment_key(name) for name in sorted(set(names) - named)]
        deletion = record_deletion(installation, transaction, slot, doomed, recorded_at)
    send_deletion(installation, deletion)


def remove_damaged(installation: Installation, slot: Slot, error: ReadBackMismatch) -> None:
    """Delete a segment that a store took and cannot give back intact, before the next run takes it for an intact one."""
    if error.target is not None and object_keys.is_segment_key(error.target):
        try:
            discard_unreadable(installation, slot, [object_keys.segment_name(error.target)])
        except StoreError as another:
            installation.note(str(slot.key), f"a damaged segment could not be deleted: {another.message}")
