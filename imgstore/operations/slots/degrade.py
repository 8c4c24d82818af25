"""Degrade replicas with missing or damaged objects (invariant W15), and delete damaged segments."""

from collections.abc import Callable, Collection, Iterable

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.errors import ObjectNotFound, ReadBackMismatch, StoreError
from imgstore.domain.identity.access import Action
from imgstore.domain.resources import ManifestRow, Replica, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import update_version_state
from imgstore.operations.slots.key_deletions import record_deletion, send_deletion
from imgstore.transfer.scatter import Damage


def degrade(installation: Installation, slot: Slot, segments: Collection[Digest], why: str) -> None:
    """Set each complete replica of the slot that names one of `segments` to Degraded, and report the incident.

    All replicas change in one transaction. A degraded replica serves no disk, base or copy. A repeated `image-version
    create` repairs the replica.
    """
    incident = f"{len(segments)} segments of {slot.key}: {why}; first {min(segments).hex()}"
    with installation.catalog.transaction() as transaction:
        try:
            ids = transaction.segments.ids(slot.key.pool_uid, sorted(segments))
        except ObjectNotFound:
            return  # The segments were never recorded, so no replica names them.
        transaction.lost_objects.add(slot.uid, map(object_keys.segment_key, segments))

        def is_hit(replica: Replica) -> bool:
            rows = (row for row in transaction.manifests.of_owner(replica.version_uid) if row.slot_uid == slot.uid)
            return any(np.isin(ids, unpack_ids(row.segment_ids)).any() for row in rows)

        _degrade_replicas(transaction, slot, is_hit, incident)
    installation.note(f"{slot.key.region}/{slot.key.ordinal}", incident)


def degrade_owners(installation: Installation, slot: Slot, owners: Collection[str], why: str) -> None:
    """Set the complete replicas of versions with missing or damaged manifests in the slot to Degraded."""
    incident = f"{len(owners)} manifests of {slot.key}: {why}; first of {min(owners)}"
    with installation.catalog.transaction() as transaction:
        _degrade_replicas(transaction, slot, lambda replica: replica.version_uid in owners, incident)
    installation.note(f"{slot.key.region}/{slot.key.ordinal}", incident)


def degrade_manifest(installation: Installation, slot: Slot, row: ManifestRow) -> None:
    """Record a manifest that a reader found missing or damaged in a slot, and degrade the replica of its version.

    Do nothing if no row of the slot names the manifest any more.
    """
    with installation.catalog.transaction() as transaction:
        if transaction.manifests.find_by_body(slot.uid, row.body_key) is None:
            return
        transaction.lost_objects.add(slot.uid, [row.body_key])
    degrade_owners(installation, slot, {object_keys.manifest_owner(row.body_key)}, "missing or damaged when read")


def degrade_slot(transaction: Transaction, slot: Slot, incident: str) -> None:
    """Set each complete replica of the slot to Degraded in the transaction of the caller, and record the reason."""
    _degrade_replicas(transaction, slot, lambda _replica: True, incident)


def _degrade_replicas(transaction: Transaction, slot: Slot, is_hit: Callable[[Replica], bool], incident: str) -> None:
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
    """Degrade the replicas with segments that a reader found to be missing or damaged, in each of the slots."""
    by_label = {str(slot.key): slot for slot in slots}
    for label, slot in by_label.items():
        names = {damage.name for damage in damages if damage.slot.label == label and damage.is_certain}
        if names:
            degrade(installation, slot, names, "missing or damaged when read")


def discard_unreadable(installation: Installation, slot: Slot, names: Collection[Digest]) -> None:
    """Degrade the replicas that name unreadable segments, and delete the segments that no complete manifest names.

    The next run sends a deleted segment again. A damaged segment has the right length, so without the deletion the next
    run would use the damaged segment.
    """
    if not names:
        return
    degrade(installation, slot, names, "missing or damaged when read")
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        ids = transaction.manifests.segment_ids_in_slot(slot.uid)
        named = {row.name for row in transaction.segments.rows(slot.key.pool_uid, ids)}
        unnamed = [object_keys.segment_key(name) for name in sorted(set(names) - named)]
        deletion = record_deletion(installation, transaction, slot, unnamed, recorded_at)
    send_deletion(installation, deletion)


def remove_damaged(installation: Installation, slot: Slot, error: ReadBackMismatch) -> None:
    """Delete a segment that the store accepted but cannot read back intact, before the next run uses the segment."""
    if error.target is not None and object_keys.is_segment_key(error.target):
        try:
            discard_unreadable(installation, slot, [object_keys.segment_name(error.target)])
        except StoreError as another:
            installation.note(str(slot.key), f"a damaged segment could not be deleted: {another.message}")
