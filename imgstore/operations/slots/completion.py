"""What is written down when bytes have arrived, or when an owner goes: states, charges and intervals in one transaction.

Promises 1, 2 and 3 (DESIGN.md) are kept here: nobody else writes Completed, charges, or opens an interval.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk
from imgstore.domain.errors import Conflict, LeaseLost
from imgstore.domain.resources import ImageVersion, ManagedDisk, ManifestRow, Replica, SegmentRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState, derive_provisioning_state
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease
from imgstore.domain.views import DefinitionPath
from imgstore.ledger.egress import charge_arrival
from imgstore.ledger.entries import Party, StorageInterval
from imgstore.ledger.storage_intervals import attribute_bytes, plan_interval_changes
from imgstore.operations.installation import Installation
from imgstore.operations.slots.gc_guard import check_unmarked, unmark_named_segments
from imgstore.operations.slots.key_deletions import check_no_deletion
from imgstore.policy.worker_queue import backoff_seconds
from imgstore.segments.fingerprint_index import Locations


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingManifest:
    """A manifest whose segments are confirmed in a slot; the manifest itself may still be on its way."""

    owner_uid: str
    slot: Slot
    disk: str = OS_DISK
    """Which of the owner's disks."""
    digest: Digest
    body_key: str
    object_bytes: int
    virtual_bytes: int
    disk_digest: Digest


def version_party(definition_path: DefinitionPath, version: ImageVersion) -> Party:
    """Whose bytes a version's are."""
    return Party(
        subscription=definition_path.gallery.subscription,
        group=definition_path.gallery.group,
        gallery=definition_path.gallery.name,
        definition=definition_path.definition.name,
        version=str(version.name),
    )


def record_manifest(
    installation: Installation,
    transaction: Transaction,
    listed: PendingManifest,
    segments: Sequence[SegmentRow] | Locations,
) -> ManifestRow:
    """Write down which segments a manifest names, before it is put: nothing counts them until it is complete.

    Args:
        installation: for a new uid.
        transaction: the open transaction.
        listed: the manifest.
        segments: rows of the pool's segments, or the ids that they have already.

    Raises:
        WorkHeld: a collector deletes one of the segments, or an earlier deletion of the manifest may still be carried out.
    """
    transaction.slots.lock(listed.slot.uid)
    standing = transaction.manifests.find(listed.owner_uid, listed.slot.uid, listed.disk)
    if standing is not None and transaction.manifests.is_complete(standing.uid):
        if standing.digest == listed.digest:
            return standing  # A degraded replica under repair: the same content, named and metered all the while.
        raise _not_the_same(listed)
    ids = segments if isinstance(segments, np.ndarray) else transaction.segments.put(listed.slot.key.pool_uid, segments)
    unmark_named_segments(installation, transaction, listed.slot, ids)
    check_no_deletion(transaction, listed.slot, listed.body_key)
    if standing is not None:
        transaction.manifests.remove(standing.uid)  # An earlier try that never completed.
    row = ManifestRow(
        uid=installation.effects.new_uid(),
        slot_uid=listed.slot.uid,
        owner_uid=listed.owner_uid,
        disk=listed.disk,
        digest=listed.digest,
        body_key=listed.body_key,
        virtual_bytes=listed.virtual_bytes,
        object_bytes=listed.object_bytes,
        disk_digest=listed.disk_digest,
        segment_ids=np.unique(ids).astype("<u4").tobytes(),
    )
    transaction.manifests.add(row)
    return row


def complete_replica(
    installation: Installation,
    *,
    lease: Lease,
    definition_path: DefinitionPath,
    version: ImageVersion,
    replica: Replica,
    manifests: Sequence[ManifestRow],
) -> None:
    """The transaction that makes a replica Completed and charges for it.

    Delivered bytes are reckoned under the lock of (pool, region): the first replica of the version in a region pays for
    the segments that no complete manifest of that region names (invariant M2); every other one is a free copy.
    What several of its disks name counts once.

    Args:
        installation: where.
        lease: of the work that made it.
        definition_path: the definition and the gallery of the version.
        version: the replica's.
        replica: the replica.
        manifests: of all its disks (invariant S9).

    Raises:
        LeaseLost: the work is another's by now; nothing was written.
        WorkHeld: a segment of it is being collected; nothing was written.
    """
    slot = replica.slot
    by_disk = {manifest.disk: manifest for manifest in manifests}
    assert by_disk.keys() == set(version.disk_keys), "a replica is complete when all of its disks are"
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        transaction.slots.lock_region(slot.key.pool_uid, slot.key.region)
        transaction.slots.lock(slot.uid)
        ids = named_segments(manifests)
        check_unmarked(installation, transaction, slot, ids)
        now = transaction.now()
        # Its own manifests are not complete yet; or else it is a repair, and these are not asked for.
        new_here = np.setdiff1d(ids, transaction.manifests.segment_ids_in_slot(slot.uid))
        new_in_region = np.setdiff1d(
            ids, transaction.manifests.segment_ids_in_region(slot.key.pool_uid, slot.key.region)
        )
        transaction.versions.lock(
            version.uid
        )  # Before its replicas: who changes its targets takes them in this order too.
        siblings = transaction.replicas.list(version.uid)
        first_here = not any(
            other.slot.key.region == slot.key.region and other.state is ReplicaState.COMPLETED for other in siblings
        )
        pool_uid = slot.key.pool_uid
        own = transaction.segments.stored_bytes(pool_uid, new_here) + sum(each.object_bytes for each in manifests)
        # A repair: its arrival is in the ledger already.
        was_complete = all(transaction.manifests.is_complete(each.uid) for each in manifests)
        if not was_complete and not (slot.key.region == version.location and first_here):
            crossing = first_here
            transaction.ledger.add(
                charge_arrival(
                    key=replica.uid,
                    party=version_party(definition_path, version),
                    source=version.location,
                    target=slot.key.region,
                    replica=slot.key.ordinal,
                    delivered_bytes=transaction.segments.stored_bytes(
                        pool_uid, new_in_region if crossing else new_here
                    ),
                    crossing=crossing,
                    prices=installation.regions.prices,
                    time=now,
                )
            )
        if not was_complete:
            for each in manifests:
                transaction.manifests.complete(each.uid)
            open_interval(
                installation,
                transaction,
                owner_uid=version.uid,
                slot=slot,
                party=version_party(definition_path, version),
                own=own,
            )
        transaction.replicas.move(replica.uid, ReplicaState.COMPLETED, completed_at=now)
        transaction.works.complete(lease)
        update_version_state(
            transaction, replace(version, disks=tuple(_known(disk, by_disk) for disk in version.disks))
        )


def _known(disk: VersionDisk, by_disk: Mapping[str, ManifestRow]) -> VersionDisk:
    manifest = by_disk[disk.key]
    return replace(disk, virtual_bytes=manifest.virtual_bytes, disk_digest=manifest.disk_digest)


def complete_disk(
    installation: Installation, *, lease: Lease, disk: ManagedDisk, party: Party, manifest: ManifestRow
) -> None:
    """The transaction that makes a disk that was taken in from a file Succeeded. Taking in costs nothing; lying there does.

    Args:
        installation: where.
        lease: on the work that took it in.
        disk: as it is from now on.
        party: whose bytes they are.
        manifest: its own.

    Raises:
        LeaseLost: the work is another's by now; nothing was written.
        WorkHeld: a segment of it is being collected; nothing was written.
    """
    slot = disk.slot
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        transaction.slots.lock(slot.uid)
        ids = named_segments([manifest])
        check_unmarked(installation, transaction, slot, ids)
        new_here = np.setdiff1d(ids, transaction.manifests.segment_ids_in_slot(slot.uid))
        own = transaction.segments.stored_bytes(slot.key.pool_uid, new_here) + manifest.object_bytes
        transaction.manifests.complete(manifest.uid)
        open_interval(installation, transaction, owner_uid=disk.uid, slot=slot, party=party, own=own)
        transaction.disks.update(disk)
        transaction.works.complete(lease)


def record_failure(
    installation: Installation, lease: Lease, replica: Replica, error: str, *, rest_seconds: float | None = None
) -> None:
    """Make the replica Failed, to rest a while before workers try it again, and give the lease back.

    A replica that was Completed before becomes Degraded again: its bytes may still be right, so it can be restored
    without a source. This process may live on, and so would the lease. Does nothing where the work belongs to another
    process by now: then that process writes the outcome.

    Args:
        installation: where.
        lease: on the work that failed.
        replica: the replica of the work.
        error: the text for people.
        rest_seconds: the time until workers try again; None is the back-off of `policy/backoff.py`.
    """
    with installation.catalog.transaction() as transaction:
        try:
            transaction.works.guard(lease)
        except LeaseLost:
            return
        transaction.versions.lock(replica.version_uid)
        standing = transaction.replicas.get(replica.uid)
        if standing.state is ReplicaState.REPLICATING:
            attempts = standing.attempts + 1
            if rest_seconds is None:
                rest_seconds = backoff_seconds(attempts, _chance(installation))
            transaction.replicas.record_failure(
                standing.uid,
                error=error,
                attempts=attempts,
                retry_at=transaction.now() + timedelta(seconds=rest_seconds),
                state=state_after_failure(transaction, standing),
            )
            update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
        transaction.works.release(lease)


def state_after_failure(transaction: Transaction, replica: Replica) -> ReplicaState:
    """Return Degraded for a replica whose manifests are complete in the catalog, Failed for any other."""
    was_complete = replica.slot.uid in transaction.manifests.complete_slots(replica.version_uid)
    return ReplicaState.DEGRADED if was_complete else ReplicaState.FAILED


def _chance(installation: Installation) -> float:
    """From 0 to below 1, evenly spread."""
    return int.from_bytes(installation.effects.random_bytes(4), "big") / 2**32


def update_version_state(transaction: Transaction, version: ImageVersion) -> ImageVersion:
    """Write the version down with the provisioning state that its replicas give it, and what `version` knows of its disks.

    All else stays as it stands now: `version` may have been read before an update.
    """
    transaction.versions.lock(version.uid)  # Two replicas that complete at once: the later one must see both.
    standing = transaction.versions.by_uid(version.uid)
    if standing.provisioning_state is ProvisioningState.DELETING:
        return standing
    states = [replica.state for replica in transaction.replicas.list(version.uid)]
    creating = standing.provisioning_state is ProvisioningState.CREATING
    known = {disk.key: disk for disk in version.disks if disk.disk_digest is not None}
    changed = replace(
        standing,
        provisioning_state=derive_provisioning_state(states, creating=creating),
        disks=tuple(_taught(disk, known.get(disk.key, disk)) for disk in standing.disks),
    )
    if changed != standing:
        transaction.versions.update(changed)
    return changed


def _taught(disk: VersionDisk, known: VersionDisk) -> VersionDisk:
    return replace(disk, virtual_bytes=known.virtual_bytes, disk_digest=known.disk_digest)


def open_interval(
    installation: Installation, transaction: Transaction, *, owner_uid: str, slot: Slot, party: Party, own: int
) -> None:
    """From now on these bytes lie in the slot for this owner."""
    transaction.ledger.open_interval(
        StorageInterval(
            uid=installation.effects.new_uid(),
            party=party,
            owner_uid=owner_uid,
            slot_uid=slot.uid,
            region=slot.key.region,
            replica=slot.key.ordinal,
            storage_account_type=slot.key.storage_account_type,
            stored_bytes=own,
            opened_at=transaction.now(),
        )
    )


def remove_manifests(
    installation: Installation, transaction: Transaction, slot: Slot, manifests: Sequence[ManifestRow]
) -> int:
    """Take the rows of an owner's manifests away and give the bytes that others still name to the next of the slot.

    Returns:
        The stored bytes that nothing in the slot names any more.
    """
    transaction.slots.lock(slot.uid)
    was_complete = [transaction.manifests.is_complete(manifest.uid) for manifest in manifests]
    for manifest in manifests:
        transaction.manifests.remove(manifest.uid)
    if not any(was_complete):
        return 0
    standing = transaction.ledger.open_intervals(slot.uid)
    now = transaction.now()
    arrived = {replica.version_uid: replica.completed_at or now for replica in transaction.replicas.in_slot(slot.uid)}
    owned = defaultdict[str, list[ManifestRow]](list)
    for row in sorted(
        transaction.manifests.in_slot(slot.uid), key=lambda row: (arrived.get(row.owner_uid, now), row.uid)
    ):
        owned[row.owner_uid].append(row)
    pool_uid = slot.key.pool_uid

    def stored_bytes(ids: Locations) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([row.stored_bytes for row in transaction.segments.rows(pool_uid, ids)], dtype=np.int64)

    owners = [(uid, named_segments(rows), sum(row.object_bytes for row in rows)) for uid, rows in owned.items()]
    wanted = attribute_bytes(owners, stored_bytes)
    parties = {interval.owner_uid: interval.party for interval in standing}
    to_close, to_open = plan_interval_changes(standing, wanted)
    for interval in to_close:
        transaction.ledger.close_interval(interval.uid, now)
    for owner_uid, own in to_open.items():
        open_interval(installation, transaction, owner_uid=owner_uid, slot=slot, party=parties[owner_uid], own=own)
    before = sum(interval.stored_bytes for interval in standing)
    return before - sum(wanted.values())


def named_segments(manifests: Iterable[ManifestRow]) -> Locations:
    """The catalog's ids of the segments that some manifests name, sorted, each once."""
    return np.unique(unpack_ids(b"".join(manifest.segment_ids for manifest in manifests)))


def _not_the_same(listed: PendingManifest) -> Conflict:
    return Conflict(
        "The only complete replica is damaged in segments that it shares with other versions.",
        found=f"a manifest {listed.digest.hex()} that names other segments than before",
        expected="the same segments: disks may stand on them",
        hint="publish the same source as a new version, then delete this one",
        target=str(listed.slot.key),
    )
