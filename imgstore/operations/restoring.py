"""A Degraded replica that reads right from end to end is Completed again, through Replicating (the table of states)."""

from collections.abc import Sequence

from imgstore.domain.errors import ImgstoreError, ObjectCorrupt
from imgstore.domain.resources import ManifestRow, Replica, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.works import WorkKind
from imgstore.operations.finding import lineage_of
from imgstore.operations.installation import Installation
from imgstore.operations.settling import complete_replica, named_by, write_failure, write_version_state
from imgstore.operations.working import at_work, copy_plan, take_up
from imgstore.segments.manifest import intact


def restore_replicas(installation: Installation, slot: Slot) -> int:
    """Complete the Degraded replicas of a slot that have nothing wrong any more.

    Returns:
        How many there were.
    """
    with installation.catalog.reading() as facts:
        degraded = [each for each in facts.replicas.in_slot(slot.uid) if each.state is ReplicaState.DEGRADED]
    return sum(_restore(installation, replica) for replica in degraded)


def _restore(installation: Installation, replica: Replica) -> bool:
    """One of them; False where another process is at it, or it turns out to be damaged still."""
    with installation.catalog.reading() as facts:
        rows = facts.manifests.of_replica(replica.version_uid, replica.slot.uid)
    if not rows:
        return False
    try:
        _recomplete(installation, replica, rows)
    except ImgstoreError as error:
        installation.note(f"{replica.slot.key.region}/{replica.slot.key.ordinal}", f"not restored: {error.message}")
        return False
    return True


def _recomplete(installation: Installation, replica: Replica, rows: Sequence[ManifestRow]) -> None:
    slot = replica.slot
    with installation.catalog.transaction() as facts:
        version = facts.versions.by_uid(replica.version_uid)
        line = lineage_of(facts, version)
        names = [each.name for each in facts.segments.rows(slot.key.pool_uid, named_by(rows))]
        plan = copy_plan(rows)
        _, lease = take_up(
            installation,
            facts,
            kind=WorkKind.COPY,
            slot=slot,
            owner_uid=version.uid,
            plan=plan,
            pins=tuple(row.uid for row in rows),
            still_fits=lambda old: old == plan,
        )
        facts.versions.lock(version.uid)
        facts.replicas.move(replica.uid, ReplicaState.REPLICATING)
        write_version_state(facts, version)
    try:
        with at_work(installation, slot, lease) as hold:
            access = installation.access(slot)
            for row in rows:
                access.object(row.body_key, intact(row.digest))
            workers = installation.threads(installation.tuning.copy_workers, slot.key.region)
            damaged = access.damaged(names, workers=workers, go_on=hold.go_on)
            if damaged:
                raise _still_damaged(slot, len(damaged))
            complete_replica(installation, lease=lease, line=line, version=version, replica=replica, manifests=rows)
    except ImgstoreError as error:
        write_failure(installation, lease, replica, str(error))
        raise


def _still_damaged(slot: Slot, count: int) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"{count} segments of a degraded replica in {slot.key} are damaged still.",
        found=f"{count} that are missing or do not match their names",
        expected="none",
        hint="repeat `imgstore sig image-version create`, or scrub without --sample",
        target=str(slot.key),
    )
