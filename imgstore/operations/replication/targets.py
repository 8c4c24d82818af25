"""Adapt the replicas of a version to its target regions: rows first, objects later (docs/internals/order-of-writes.md).

`retarget` records the desired replicas and marks surplus replicas for deletion. `replication.copy.converge` then makes
and removes replicas. An interrupted change is visible in the rows. The same command, a repeated create of the version,
or `remove_all_surplus_replicas` resumes the change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, ImgstoreError, LeaseLost, NotFound, WorkHeld
from imgstore.domain.resources import ImageVersion, Replica, Slot, SlotKey, TargetRegion
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.billing.budgets import check_budget
from imgstore.operations.installation import Installation
from imgstore.operations.progress import task_name
from imgstore.operations.slots.completion import update_version_state
from imgstore.operations.slots.removal import FreedBytes, is_work_alive, remove_replica
from imgstore.operations.stores.catalog_checks import refuse_if_outdated
from imgstore.policy.replica_diff import diff_replicas, find_removed_regions, starts_replication


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The result of the removal of a replica."""

    replica: Replica
    freed: FreedBytes
    waits_for: ImgstoreError | None = None
    """The reason why the bytes still exist. The replica is invisible in any case."""


def check_replication(
    installation: Installation, replicas: Sequence[Replica], targets: Sequence[TargetRegion], location: str
) -> None:
    """Check the budget of the month if the target regions of a version need new replicas, before `retarget`.

    Raises:
        InvalidInput: no prices are valid now.
        Conflict: the budget is reached, and refuses new replications.
    """
    if starts_replication(replicas, targets, location):
        check_budget(installation)


def retarget(
    installation: Installation, transaction: Transaction, definition_path: DefinitionPath, version: ImageVersion
) -> None:
    """Record the missing replicas of a version as Pending, and its surplus replicas as Deleting.

    The caller holds the lock on the row of the version.

    Raises:
        Conflict: the safety profile of the version keeps a region that would be removed.
        WorkHeld: a live process ingests the source at a replica that would be removed.
        CatalogOutdated: a replica would be removed, and the catalog is older than its buckets.
    """
    replicas = transaction.replicas.list(version.uid)
    plan = diff_replicas(replicas, version.target_regions)
    _check_allowed(definition_path, version, replicas)
    if plan.surplus:
        refuse_if_outdated(transaction)
    for replica in plan.surplus:
        _check_no_ingest(transaction, replica)
        transaction.replicas.move(replica.uid, ReplicaState.DELETING)
    for target, ordinal in plan.missing:
        key = SlotKey(
            pool_uid=definition_path.gallery.pool_uid,
            region=target.name,
            storage_account_type=target.storage_account_type,
            ordinal=ordinal,
        )
        _add(installation, transaction, version, key)


def _add(installation: Installation, transaction: Transaction, version: ImageVersion, key: SlotKey) -> None:
    """Record a replica that is to be made. A region that is added again pays only for bytes that cross again."""
    zone, bucket = installation.locator.choose_zone(key)
    add_replica(installation, transaction, version, transaction.slots.get_or_add(key, zone=zone, bucket=bucket))


def add_replica(installation: Installation, transaction: Transaction, version: ImageVersion, slot: Slot) -> None:
    """Record a Pending replica of a version in an existing slot."""
    uid = installation.effects.new_uid()
    transaction.replicas.add(Replica(uid=uid, version_uid=version.uid, slot=slot, state=ReplicaState.PENDING))


def _check_allowed(definition_path: DefinitionPath, version: ImageVersion, replicas: Sequence[Replica]) -> None:
    lost = find_removed_regions(replicas, version.target_regions)
    if lost and version.allow_deletion_of_replicated_locations is False:
        raise Conflict(
            f"Removing replicated locations of image version {version.name} is not allowed because its "
            "allowDeletionOfReplicatedLocations is false.",
            found=f"{', '.join(lost)}: complete, and no target region any more",
            expected="every region where the version is complete among the target regions",
            hint="keep the region, or `imgstore sig image-version update ... --allow-replicated-location-deletion true`",
            target=f"{definition_path.version_id(version.name)}/safetyProfile.allowDeletionOfReplicatedLocations",
        )


def _check_no_ingest(transaction: Transaction, replica: Replica) -> None:
    """Refuse to remove a replica while a live process ingests the source there: no other slot has the source yet."""
    work = transaction.works.find_open(WorkKind.INGEST, replica.slot.uid, replica.version_uid)
    if work is not None and is_work_alive(transaction, work):
        raise WorkHeld(
            f"The ingest of the source into {replica.slot.key} is in progress.",
            found=f"a work of kind {work.kind}, open since {work.opened_at.isoformat()}, held by {work.holder}",
            expected="a complete ingest",
            hint="wait until the version is complete in its source region, then repeat the command",
            target=work.uid,
        )


def remove_surplus_replicas(installation: Installation, version_uid: str) -> list[Removal]:
    """Remove the replicas of a version that are Deleting, and the replicas that complete replicas have replaced.

    A replica that cannot be removed yet raises no error: it is invisible, and the next call resumes its removal. A
    region that does not answer, or that regions.yaml does not contain any more, therefore delays no other region.
    """
    with installation.catalog.transaction() as transaction:
        try:
            transaction.versions.lock(version_uid)
        except NotFound:
            return []
        surplus = mark_surplus_replicas(transaction, transaction.versions.by_uid(version_uid))
    return [_remove_replica(installation, replica) for replica in surplus]


def mark_surplus_replicas(transaction: Transaction, version: ImageVersion) -> list[Replica]:
    """Set the surplus replicas of a version to Deleting, and return all replicas to remove.

    A deleted version has none: a repeated deletion of the version removes all its replicas. The caller holds the lock on
    the row of the version.
    """
    if version.provisioning_state is ProvisioningState.DELETING:
        return []
    if version.is_visible:
        surplus = diff_replicas(transaction.replicas.list(version.uid), version.target_regions).surplus
        for replica in surplus:
            transaction.replicas.move(replica.uid, ReplicaState.DELETING)
        if surplus:
            update_version_state(transaction, version)
    return [each for each in transaction.replicas.list(version.uid) if each.state is ReplicaState.DELETING]


def remove_all_surplus_replicas(installation: Installation) -> list[Removal]:
    """Remove the surplus replicas of the versions of all subscriptions."""
    with installation.catalog.reading() as transaction:
        versions = transaction.versions.list_all()
        replicas = transaction.replicas.list_by_version([version.uid for version in versions])
    chosen = [version.uid for version in versions if _has_surplus(version, replicas[version.uid])]
    return [removal for uid in chosen for removal in remove_surplus_replicas(installation, uid)]


def _has_surplus(version: ImageVersion, replicas: Sequence[Replica]) -> bool:
    is_deleting = any(replica.state is ReplicaState.DELETING for replica in replicas)
    return is_deleting or bool(diff_replicas(replicas, version.target_regions).surplus)


def _remove_replica(installation: Installation, replica: Replica) -> Removal:
    where = task_name(replica)
    try:
        freed = remove_replica(installation, replica)
    except ImgstoreError as error:
        if not isinstance(error, NotFound):  # Otherwise another process has removed the replica.
            installation.note(where, f"{where} removed; its bytes stay for now: {error.message} {error.hint or ''}")
        return Removal(replica=replica, freed=FreedBytes(), waits_for=error)
    installation.note(where, f"{where} {_format_freed(freed)}")
    return Removal(replica=replica, freed=freed)


def _format_freed(freed: FreedBytes) -> str:
    parts = [f"removed: {freed.freed_bytes} bytes freed"]
    if freed.shared_bytes:
        parts.append(f"{freed.shared_bytes} bytes stay: other versions name them")
    if freed.disk_bytes:
        parts.append(f"{freed.disk_bytes} bytes stay for the disks {', '.join(freed.disks)}")
    return "; ".join(parts)


def is_wanted(installation: Installation, replica: Replica) -> bool:
    """Return whether the replica exists and is not Deleting."""
    with installation.catalog.reading() as transaction:
        try:
            return transaction.replicas.by_uid(replica.uid).state is not ReplicaState.DELETING
        except NotFound:
            return False


def check_slot_is_free(transaction: Transaction, replica: Replica) -> None:
    """Check that an earlier replica of the same version in the same slot is removed, with its manifests (invariant S8).

    Raises:
        WorkHeld: the earlier replica is still Deleting.
    """
    others = transaction.replicas.list(replica.version_uid)
    if any(each.slot.uid == replica.slot.uid and each.state is ReplicaState.DELETING for each in others):
        raise WorkHeld(
            f"An earlier replica of the version in {replica.slot.key} is not removed yet.",
            found="a replica in state Deleting, with its manifest",
            expected="no earlier replica in the slot",
            hint="repeat the command: the removal resumes",
            target=replica.uid,
        )


def unwanted_replica_error(replica: Replica) -> Conflict:
    """Make the error that stops the copy of a replica that was removed from the target regions."""
    return Conflict(
        f"The replica {replica.slot.key} is no longer wanted.",
        found="its region is no target region any more, or has fewer replicas",
        expected="a replica of a target region",
        hint="no action is needed: if the region is added again, stored segments are reused",
        target=replica.uid,
    )


def abandon_if_unwanted(installation: Installation, lease: Lease, replica: Replica) -> bool:
    """Abandon the work on a replica that is no longer wanted, and remove the replica.

    Returns:
        Whether the replica is no longer wanted. The work has not failed in this case.
    """
    if is_wanted(installation, replica):
        return False
    with installation.catalog.transaction() as transaction:
        try:
            transaction.works.guard(lease)
        except LeaseLost:
            return True  # The process that ended the work removes the replica.
        transaction.works.abandon(lease.work_uid)
    _remove_replica(installation, replica)
    return True
