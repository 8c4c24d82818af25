"""The replicas of a version become what its target regions ask for: rows first, objects later (DESIGN.md, "Order of writes").

`retarget` writes down what is desired and what is not; `converge` makes the one and takes the other away. Whatever is
interrupted is found again in the rows, by the same command, by the version's create, or by `remove_all_surplus_replicas`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, ImgstoreError, LeaseLost, NotFound, WorkHeld
from imgstore.domain.resources import ImageVersion, Replica, Slot, SlotKey
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.progress import task_name
from imgstore.operations.slots.completion import write_version_state
from imgstore.operations.slots.removal import Freed, forget_replica, lives
from imgstore.operations.stores.catalog_checks import refuse_if_outdated
from imgstore.policy.replica_diff import diff_replicas, find_removed_regions


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What became of a replica that was taken away."""

    replica: Replica
    freed: Freed
    waits_for: ImgstoreError | None = None
    """Why its bytes could not go yet; the replica is invisible all the same."""


def retarget(
    installation: Installation, transaction: Transaction, definition_path: DefinitionPath, version: ImageVersion
) -> None:
    """Write down which replicas `version` is to have and which are to go. The caller holds its row.

    Raises:
        Conflict: a region is to go that the version's safety profile keeps.
        WorkHeld: a live process takes the source in at a replica that is to go.
        CatalogOutdated: one is to go, and the catalog is older than its buckets.
    """
    replicas = transaction.replicas.list(version.uid)
    plan = diff_replicas(replicas, version.target_regions)
    _check_allowed(definition_path, version, replicas)
    if plan.surplus:
        refuse_if_outdated(transaction)
    for replica in plan.surplus:
        _check_not_taken_in(installation, transaction, replica)
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
    """Write a replica down that is to be made. One that was there before is another: it is charged for anew."""
    zone, bucket = installation.locator.choose_zone(key)
    add_replica(installation, transaction, version, transaction.slots.get_or_add(key, zone=zone, bucket=bucket))


def add_replica(installation: Installation, transaction: Transaction, version: ImageVersion, slot: Slot) -> None:
    """The same, in a slot that is there."""
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


def _check_not_taken_in(installation: Installation, transaction: Transaction, replica: Replica) -> None:
    """The source is in no other slot yet: whoever takes it in there would have nowhere to go on."""
    work = transaction.works.find_open(WorkKind.INGEST, replica.slot.uid, replica.version_uid)
    if work is not None and lives(installation, transaction, work):
        raise WorkHeld(
            f"The source is being taken in at {replica.slot.key}.",
            found=f"a work of kind {work.kind}, open since {work.opened_at.isoformat()}, held by {work.holder}",
            expected="a source that has been taken in",
            hint="wait until the version is complete in its source region, then repeat this",
            target=work.uid,
        )


def remove_surplus_replicas(installation: Installation, version_uid: str) -> list[Removal]:
    """Take away what a version no longer needs: replicas that others stand in for by now, and all that is Deleting.

    Nothing is raised for what can't go yet: it is invisible, and the next call goes on. So a region whose store does not
    answer, or that regions.yaml no longer has, holds up no other.
    """
    with installation.catalog.transaction() as transaction:
        try:
            transaction.versions.lock(version_uid)
        except NotFound:
            return []
        version = transaction.versions.by_uid(version_uid)
        if version.is_visible:
            surplus = diff_replicas(transaction.replicas.list(version_uid), version.target_regions).surplus
            for replica in surplus:
                transaction.replicas.move(replica.uid, ReplicaState.DELETING)
            if surplus:
                write_version_state(transaction, version)
        replicas = transaction.replicas.list(version_uid)
    deleting = version.provisioning_state is ProvisioningState.DELETING  # That command, repeated, does it all.
    leaving = [each for each in replicas if each.state is ReplicaState.DELETING and not deleting]
    return [_removed(installation, replica) for replica in leaving]


def remove_all_surplus_replicas(installation: Installation) -> list[Removal]:
    """Tidy every version, of whatever subscription, that has something to take away."""
    with installation.catalog.reading() as transaction:
        versions = transaction.versions.list_all()
        replicas = transaction.replicas.list_by_version([version.uid for version in versions])
    untidy = [version.uid for version in versions if _is_untidy(version, replicas[version.uid])]
    return [removal for uid in untidy for removal in remove_surplus_replicas(installation, uid)]


def _is_untidy(version: ImageVersion, replicas: Sequence[Replica]) -> bool:
    leaving = any(replica.state is ReplicaState.DELETING for replica in replicas)
    return leaving or bool(diff_replicas(replicas, version.target_regions).surplus)


def _removed(installation: Installation, replica: Replica) -> Removal:
    where = task_name(replica)
    try:
        freed = forget_replica(installation, replica)
    except ImgstoreError as error:
        if not isinstance(error, NotFound):  # Another process took it away meanwhile.
            installation.note(where, f"{where} removed; its bytes stay for now: {error.message} {error.hint or ''}")
        return Removal(replica=replica, freed=Freed(), waits_for=error)
    installation.note(where, f"{where} {_told(freed)}")
    return Removal(replica=replica, freed=freed)


def _told(freed: Freed) -> str:
    parts = [f"removed: {freed.freed_bytes} bytes freed"]
    if freed.shared_bytes:
        parts.append(f"{freed.shared_bytes} bytes stay: other versions name them")
    if freed.disk_bytes:
        parts.append(f"{freed.disk_bytes} bytes stay for the disks {', '.join(freed.disks)}")
    return "; ".join(parts)


def is_wanted(installation: Installation, replica: Replica) -> bool:
    """Whether the replica is still to be made."""
    with installation.catalog.reading() as transaction:
        try:
            return transaction.replicas.get(replica.uid).state is not ReplicaState.DELETING
        except NotFound:
            return False


def check_slot_is_free(transaction: Transaction, replica: Replica) -> None:
    """See that the replica that was in this one's slot before is gone, with its manifest.

    Raises:
        WorkHeld: it is not.
    """
    others = transaction.replicas.list(replica.version_uid)
    if any(each.slot.uid == replica.slot.uid and each.state is ReplicaState.DELETING for each in others):
        raise WorkHeld(
            f"The version is still leaving {replica.slot.key}.",
            found="a replica that was removed before, and whose manifest is there yet",
            expected="an empty place",
            hint="repeat the command: it goes on where it stands",
            target=replica.uid,
        )


def unwanted_replica_error(replica: Replica) -> Conflict:
    """What stops the process that makes a replica which is not to be any more."""
    return Conflict(
        f"The replica {replica.slot.key} is no longer wanted.",
        found="its region is no target any more, or has fewer replicas",
        expected="a replica that the target regions ask for",
        hint="nothing: what was sent is found again if the region is added again",
        target=replica.uid,
    )


def abandon_if_unwanted(installation: Installation, lease: Lease, replica: Replica) -> bool:
    """Give up the work on a replica that is no longer wanted, and take away what came of it.

    Returns:
        Whether it was so: nothing has failed then.
    """
    if is_wanted(installation, replica):
        return False
    with installation.catalog.transaction() as transaction:
        try:
            transaction.works.guard(lease)
        except LeaseLost:
            return True  # Whoever ended the work sees to the rest.
        transaction.works.abandon(lease.work_uid)
    _removed(installation, replica)
    return True
