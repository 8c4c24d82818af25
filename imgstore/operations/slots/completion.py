"""Record manifests, completions, failures and removals. States, charges and intervals share a transaction.

Invariants P1, P2 and P3 hold here: no other module writes Completed, charges, or opens an interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.errors import Conflict, LeaseLost
from imgstore.domain.resources import ImageVersion, ManagedDisk, ManifestRow, Replica, SegmentRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState, derive_provisioning_state
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease
from imgstore.domain.views import DefinitionPath
from imgstore.ledger.egress import ArrivalPath, Transfer, charge_arrival, split_arrival
from imgstore.ledger.entries import LedgerRow, Party
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.installation import Installation
from imgstore.operations.slot_owners import body_bytes, reference_bytes
from imgstore.operations.slots.attribution import (
    account_for_manifests,
    open_interval,
    update_intervals,
)
from imgstore.operations.slots.gc_guard import check_unmarked, unmark_named_segments
from imgstore.operations.slots.held_segments import read_held
from imgstore.operations.slots.key_deletions import check_no_deletion
from imgstore.operations.slots.references import disk_party, write_content
from imgstore.policy.worker_queue import backoff_seconds
from imgstore.segments.fingerprint_index import Locations

NOTHING_HELD: Final = np.zeros(0, dtype=np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedReplica:
    """A replica, with the lease of the work that makes the replica."""

    definition_path: DefinitionPath
    version: ImageVersion
    replica: Replica
    lease: Lease


def version_party(definition_path: DefinitionPath, version: ImageVersion) -> Party:
    """Return the party that is billed for the bytes of a version."""
    return Party(
        subscription=definition_path.gallery.subscription,
        group=definition_path.gallery.group,
        gallery=definition_path.gallery.name,
        definition=definition_path.definition.name,
        version=str(version.name),
        tags=version.tags,
    )


def record_manifest(
    installation: Installation,
    transaction: Transaction,
    slot: Slot,
    manifest: ManifestRow,
    segments: Sequence[SegmentRow] = (),
) -> ManifestRow:
    """Record a manifest with its segment ids before the manifest is put.

    The row counts for nothing until it is complete.

    Args:
        installation: the installation.
        transaction: the open transaction.
        slot: the slot with all segments of the manifest.
        manifest: the row to record, with the ids of its segments unless `segments` are given.
        segments: the segments of an ingest, to record in the pool.

    Returns:
        The recorded row. If the same manifest is complete already, its row.

    Raises:
        WorkHeld: a collector deletes one of the segments, or an earlier deletion of the manifest may still be carried
            out.
    """
    transaction.slots.lock(slot.uid)
    row = add_manifest(transaction, slot, manifest, segments)
    if row.uid == manifest.uid:
        unmark_named_segments(installation, transaction, slot, named_segments([row]))
        check_no_deletion(transaction, slot, row.body_key)
    return row


def add_manifest(
    transaction: Transaction, slot: Slot, manifest: ManifestRow, segments: Sequence[SegmentRow] = ()
) -> ManifestRow:
    """Add the row of a manifest, without the checks of garbage collection. See `record_manifest`.

    The caller holds the slot lock.
    """
    existing = transaction.manifests.find(manifest.owner_uid, slot.uid, manifest.disk)
    if existing is not None and transaction.manifests.is_complete(existing.uid):
        if existing.digest == manifest.digest:
            return existing  # A repair of a degraded replica: the row was never removed, and its bytes are metered.
        raise _different_content(slot, manifest)
    ids = transaction.segments.put(slot.key.pool_uid, segments) if segments else named_segments([manifest])
    if existing is not None:
        transaction.manifests.delete(existing.uid)  # The row of an earlier try that was never completed.
    row = replace(manifest, segment_ids=np.unique(ids).astype("<u4").tobytes())
    transaction.manifests.add(row)
    return row


def complete_replica(
    installation: Installation,
    leased: LeasedReplica,
    manifests: Sequence[ManifestRow],
    path: ArrivalPath | None = None,
) -> None:
    """Set a replica to Completed and charge for the replica, in one transaction.

    Delivered bytes are computed under the lock of (pool, region).

    Args:
        installation: the installation.
        leased: the replica.
        manifests: the manifests of all disks of the version (invariant S9).
        path: the regions that supplied the bytes, on the cheapest route. None charges from the source region of the
            version (invariant M5).

    Raises:
        LeaseLost: another process has taken over the work. Nothing was written.
        WorkHeld: one of the segments is marked for deletion or is being deleted. Nothing was written.
    """
    slot, lease = leased.replica.slot, leased.lease
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        transaction.slots.lock_region(slot.key.pool_uid, slot.key.region)
        transaction.slots.lock(slot.uid)
        ids = named_segments(manifests)
        check_unmarked(installation, transaction, slot, ids)
        record_completion(
            installation,
            transaction,
            leased.definition_path,
            leased.version,
            leased.replica,
            manifests,
            path,
            held=read_held(transaction, lease, ids),
        )
        _remove_lost_objects(transaction, slot, manifests, ids)
        transaction.works.complete(lease)


def record_completion(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    version: ImageVersion,
    replica: Replica,
    manifests: Sequence[ManifestRow],
    path: ArrivalPath | None = None,
    *,
    held: Locations = NOTHING_HELD,
) -> list[LedgerRow]:
    """Write Completed, the charge and the storage interval of a replica. A prediction also runs this (invariant M16).

    The first replica of the version in a region pays for the segments that the slot did not hold before the work and that
    no complete manifest of the region names (invariant M2). Other replicas of the region are free copies. A segment that
    several disks of the version name counts once.

    Args:
        installation: the installation.
        transaction: the open transaction, with the locks of `complete_replica`.
        definition_path: the definition and the gallery of the version.
        version: the version, with the sources of ingested disks.
        replica: the replica.
        manifests: the manifests of all disks of the version (invariant S9).
        path: see `complete_replica`.
        held: the ids of the segments that the slot held before the work.

    Returns:
        The added charges.
    """
    slot, charges = replica.slot, list[LedgerRow]()
    by_disk = {manifest.disk: manifest for manifest in manifests}
    assert by_disk.keys() == set(version.disk_keys), "a complete replica has all disks of the version"
    ids = named_segments(manifests)
    now = transaction.now()
    # The manifests of the replica are not complete yet, so they do not count. A repair charges nothing.
    new_here = np.setdiff1d(ids, transaction.manifests.segment_ids_in_slot(slot.uid))
    new_in_region = np.setdiff1d(ids, transaction.manifests.segment_ids_in_region(slot.key.pool_uid, slot.key.region))
    transaction.versions.lock(version.uid)  # Before the replica rows (invariant L3).
    # The tags may have changed since the work was planned.
    party = version_party(definition_path, transaction.versions.by_uid(version.uid))
    replicas = transaction.replicas.list(version.uid)
    first_here = not any(
        other.slot.key.region == slot.key.region and other.state is ReplicaState.COMPLETED for other in replicas
    )
    pool_uid = slot.key.pool_uid
    own = transaction.segments.stored_bytes(pool_uid, new_here) + _new_object_bytes(transaction, slot, manifests)
    # The ledger contains the arrival of a repaired replica already.
    was_complete = all(transaction.manifests.is_complete(each.uid) for each in manifests)
    if not was_complete and not (slot.key.region == version.location and first_here):
        arrived = np.setdiff1d(new_in_region if first_here else new_here, held)
        arrival = Transfer(
            key=replica.uid,
            party=party,
            source=version.location,
            target=slot.key.region,
            replica=slot.key.ordinal,
            moved_bytes=transaction.segments.stored_bytes(pool_uid, arrived),
            time=now,
        )
        for part in split_arrival(arrival, path) if path is not None and first_here else [arrival]:
            charges += add_arrival(installation, transaction, part, crossing=first_here)
    if not was_complete:
        for each in manifests:
            transaction.manifests.complete(each.uid)
        open_interval(installation.effects, transaction, owner_uid=version.uid, slot=slot, party=party, own=own)
    transaction.replicas.move(replica.uid, ReplicaState.COMPLETED, completed_at=now)
    update_version_state(
        transaction, replace(version, disks=tuple(_with_manifest(disk, by_disk) for disk in version.disks))
    )
    return charges


def add_arrival(
    installation: Installation, transaction: Transaction, arrival: Transfer, *, crossing: bool
) -> list[LedgerRow]:
    """Charge for bytes that arrived, and return the rows. An arrival with a known key is not charged again."""
    row = charge_arrival(arrival, current_prices(installation, transaction), crossing=crossing)
    return [row] if transaction.ledger.add(row) else []


def _new_object_bytes(transaction: Transaction, slot: Slot, manifests: Sequence[ManifestRow]) -> int:
    """Return the bytes of the references, and of the manifests that no complete row of the slot names.

    Disks may name a manifest already.
    """
    return sum(
        reference_bytes(row)
        + (body_bytes(row) if transaction.manifests.find_by_body(slot.uid, row.body_key) is None else 0)
        for row in manifests
    )


def _remove_lost_objects(
    transaction: Transaction, slot: Slot, manifests: Sequence[ManifestRow], ids: Locations
) -> None:
    """Remove the objects of a replica from the lost objects, because all objects of the replica were confirmed."""
    if transaction.lost_objects.list(slot.uid):
        segments = transaction.segments.rows(slot.key.pool_uid, ids)
        keys = {*(object_keys.segment_key(each.name) for each in segments), *(each.body_key for each in manifests)}
        transaction.lost_objects.remove(slot.uid, keys)


def _with_manifest(disk: VersionDisk, by_disk: Mapping[str, ManifestRow]) -> VersionDisk:
    manifest = by_disk[disk.key]
    return replace(disk, virtual_bytes=manifest.virtual_bytes, disk_digest=manifest.disk_digest)


def complete_disk(installation: Installation, *, lease: Lease, disk: ManagedDisk, manifest: ManifestRow) -> ManagedDisk:
    """Set a disk that was ingested from a file to Succeeded, in one transaction, and return the row.

    Ingest is free, and storage is metered.

    Args:
        installation: the installation.
        lease: the lease of the ingest work.
        disk: the disk with its content.
        manifest: the manifest of the disk.

    Raises:
        LeaseLost: another process has taken over the work. Nothing was written.
        WorkHeld: one of the segments is marked for deletion or is being deleted. Nothing was written.
    """
    slot = disk.slot
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        transaction.slots.lock(slot.uid)
        check_unmarked(installation, transaction, slot, named_segments([manifest]))
        made = write_content(transaction, disk)
        record_disk_completion(installation, transaction, disk_party(made), manifest)
        transaction.works.complete(lease)
        return made


def complete_copied_disk(
    installation: Installation,
    *,
    lease: Lease,
    disk: ManagedDisk,
    manifest: ManifestRow,
    path: ArrivalPath,
) -> ManagedDisk:
    """Set a disk with copied segments to Succeeded and charge for the bytes, in one transaction. Return the row.

    Args:
        installation: the installation.
        lease: the lease of the copy work.
        disk: the disk with its content.
        manifest: the manifest of the disk.
        path: the regions that supplied the bytes.

    Raises:
        LeaseLost: another process has taken over the work. Nothing was written.
        WorkHeld: one of the segments is marked for deletion or is being deleted. Nothing was written.
    """
    slot = disk.slot
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        transaction.slots.lock_region(slot.key.pool_uid, slot.key.region)
        transaction.slots.lock(slot.uid)
        ids = named_segments([manifest])
        check_unmarked(installation, transaction, slot, ids)
        made = write_content(transaction, disk)
        held = read_held(transaction, lease, ids)
        record_copied_disk(installation, transaction, disk_party(made), manifest, path, held=held)
        _remove_lost_objects(transaction, slot, [manifest], ids)
        transaction.works.complete(lease)
        return made


def record_copied_disk(
    installation: Installation,
    transaction: Transaction,
    party: Party,
    manifest: ManifestRow,
    path: ArrivalPath,
    *,
    held: Locations,
) -> list[LedgerRow]:
    """Charge for the segments of a copied disk, and complete its manifest. A prediction also runs this (M16).

    The disk pays for the segments that its work stored and that no complete manifest of the region names (M2). The key
    of the charge is the uid of the disk (M4). The caller holds the locks of the region and of the slot.

    Returns:
        The added charges.
    """
    slot = transaction.slots.get(manifest.slot_uid)
    pool_uid, region = slot.key.pool_uid, slot.key.region
    new_in_region = np.setdiff1d(
        named_segments([manifest]), transaction.manifests.segment_ids_in_region(pool_uid, region)
    )
    arrival = Transfer(
        key=manifest.owner_uid,
        party=party,
        source=path.parent,
        target=region,
        replica=slot.key.ordinal,
        moved_bytes=transaction.segments.stored_bytes(pool_uid, np.setdiff1d(new_in_region, held)),
        time=transaction.now(),
    )
    charges = []
    for part in split_arrival(arrival, path):
        charges += add_arrival(installation, transaction, part, crossing=True)
    if transaction.manifests.find_by_body(slot.uid, manifest.body_key) is not None:
        # A replica or another disk brought the manifest into the slot in the meantime.
        transaction.manifests.set_object_bytes(manifest.uid, reference_bytes(manifest))
        manifest = replace(manifest, object_bytes=reference_bytes(manifest))
    record_disk_completion(installation, transaction, party, manifest)
    return charges


def record_disk_completion(
    installation: Installation, transaction: Transaction, party: Party, manifest: ManifestRow
) -> None:
    """Complete the manifest of a stored disk, and open the storage interval. A prediction also runs this (M16).

    The first owner of a segment pays for the segment (invariant M10). The caller holds the slot lock.
    """
    slot = transaction.slots.get(manifest.slot_uid)
    new_here = np.setdiff1d(named_segments([manifest]), transaction.manifests.segment_ids_in_slot(slot.uid))
    own = transaction.segments.stored_bytes(slot.key.pool_uid, new_here)
    own += _new_object_bytes(transaction, slot, [manifest])
    transaction.manifests.complete(manifest.uid)
    open_interval(installation.effects, transaction, owner_uid=manifest.owner_uid, slot=slot, party=party, own=own)


def record_failure(
    installation: Installation, lease: Lease, replica: Replica, error: str, *, rest_seconds: float | None = None
) -> None:
    """Set a replica to Failed with a time for the next try of workers, and release the lease.

    A replica that was complete once becomes Degraded: its bytes may be right, so a restore without a source is possible
    (invariant R15). The lease is released because this process may live on and hold the lease. If another process has
    taken over the work, do nothing: that process records the outcome.

    Args:
        installation: the installation.
        lease: the lease of the failed work.
        replica: the replica of the work.
        error: the text for people.
        rest_seconds: the time until workers try again. None means the back-off of `policy/worker_queue.py`.
    """
    with installation.catalog.transaction() as transaction:
        try:
            transaction.works.guard(lease)
        except LeaseLost:
            return
        transaction.versions.lock(replica.version_uid)
        existing = transaction.replicas.by_uid(replica.uid)
        if existing.state is ReplicaState.REPLICATING:
            attempts = existing.attempts + 1
            if rest_seconds is None:
                rest_seconds = backoff_seconds(attempts, _random_fraction(installation))
            transaction.replicas.record_failure(
                existing.uid,
                error=error,
                attempts=attempts,
                retry_at=transaction.now() + timedelta(seconds=rest_seconds),
                state=state_after_failure(transaction, existing),
            )
            update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
        transaction.works.release(lease)


def state_after_failure(transaction: Transaction, replica: Replica) -> ReplicaState:
    """Return Degraded for a replica with complete manifests in the catalog, and Failed for any other replica."""
    was_complete = replica.slot.uid in transaction.manifests.complete_slots(replica.version_uid)
    return ReplicaState.DEGRADED if was_complete else ReplicaState.FAILED


def _random_fraction(installation: Installation) -> float:
    """Return a random number in [0, 1)."""
    return int.from_bytes(installation.effects.random_bytes(4), "big") / 2**32


def update_version_state(transaction: Transaction, version: ImageVersion) -> ImageVersion:
    """Update the provisioning state of a version from the replicas, and the ingested disks from `version`.

    The source of an ingested disk is the source with the digest: an equal command with a renewed file may have recorded
    another source during the work. Other properties stay unchanged, because `version` may have been read before an update.
    Returns the written version.
    """
    # If two replicas complete at once, the later transaction must see both.
    existing = transaction.versions.get_for_update(version.uid)
    if existing.provisioning_state is ProvisioningState.DELETING:
        return existing
    states = [replica.state for replica in transaction.replicas.list(version.uid)]
    creating = existing.provisioning_state is ProvisioningState.CREATING
    known = {disk.key: disk for disk in version.disks if disk.disk_digest is not None}
    changed = replace(
        existing,
        provisioning_state=derive_provisioning_state(states, creating=creating),
        disks=tuple(_with_known_digest(disk, known.get(disk.key, disk)) for disk in existing.disks),
    )
    if changed != existing:
        transaction.versions.update(changed)
    return changed


def _with_known_digest(disk: VersionDisk, known: VersionDisk) -> VersionDisk:
    return replace(
        disk,
        source=known.source,
        source_sha256=known.source_sha256,
        virtual_bytes=known.virtual_bytes,
        disk_digest=known.disk_digest,
    )


def remove_manifests(
    installation: Installation, transaction: Transaction, slot: Slot, manifests: Sequence[ManifestRow]
) -> None:
    """Remove the manifest rows of an owner, and bill the next owners of the slot for shared bytes (invariant M10).

    A manifest stays in the slot if disks refer to the manifest. Then the row of a disk accounts for the manifest.
    """
    transaction.slots.lock(slot.uid)
    complete = [manifest for manifest in manifests if transaction.manifests.is_complete(manifest.uid)]
    for manifest in manifests:
        transaction.manifests.delete(manifest.uid)
    if complete:
        account_for_manifests(transaction, slot, {row.body_key: body_bytes(row) for row in complete})
        update_intervals(installation.effects, transaction, slot)


def _different_content(slot: Slot, manifest: ManifestRow) -> Conflict:
    return Conflict(
        "The only complete replica has damaged segments that other versions share.",
        found=f"a manifest {manifest.digest.hex()} that names other segments than before",
        expected="the same segments, because disks may use the segments",
        hint="publish the same source as a new version, then delete this version",
        target=str(slot.key),
    )
