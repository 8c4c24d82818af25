"""Deletion: tombstone, manifests, rows, in this order (rules.md, rules 3 and 6).

Segments that nothing names any more stay in their slots until a collection (``collecting.py``).
"""

from collections.abc import Sequence
from dataclasses import replace

from imgstore.catalog import Facts
from imgstore.domain import keys
from imgstore.domain.errors import WorkHeld
from imgstore.domain.resources import OS_DISK, ImageVersion, ManagedDisk, ManifestRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.works import Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.settling import forget_manifest


def forget_version(installation: Installation, version: ImageVersion) -> None:
    """Make the version invisible, take its manifests out of every slot, then its rows. May be repeated.

    Raises:
        WorkHeld: a live process writes or reads it.
    """
    with installation.catalog.transaction() as facts:
        facts.versions.lock(version.uid)  # No worker begins one of its replicas from here on.
        _end_works(installation, facts, version.uid, str(version.name))
        for replica in facts.replicas.list(version.uid):
            if replica.state is not ReplicaState.DELETING:
                facts.replicas.move(replica.uid, ReplicaState.DELETING)
        facts.versions.update(
            replace(facts.versions.by_uid(version.uid), provisioning_state=ProvisioningState.DELETING)
        )
    with installation.catalog.reading() as facts:
        replicas = facts.replicas.list(version.uid)
    for replica in replicas:
        _forget_owner(installation, replica.slot, version.uid, (keys.manifest_key(version.uid, OS_DISK),))
        with installation.catalog.transaction() as facts:
            facts.replicas.remove(replica.uid)
    with installation.catalog.transaction() as facts:
        facts.versions.delete(version.uid)


def forget_disk(installation: Installation, disk: ManagedDisk) -> None:
    """Make the disk invisible, take its manifest out of its slot, then its row. May be repeated.

    Raises:
        WorkHeld: a live process reads it.
    """
    with installation.catalog.transaction() as facts:
        _end_works(installation, facts, disk.uid, disk.name)
        facts.disks.update(replace(disk, provisioning_state=ProvisioningState.DELETING))
    objects = (keys.manifest_key(disk.uid, OS_DISK), keys.manifest_key(disk.source_version_uid, OS_DISK))
    _forget_owner(installation, disk.slot, disk.uid, objects)
    with installation.catalog.transaction() as facts:
        facts.disks.delete(disk.uid)


def _forget_owner(installation: Installation, slot: Slot, owner_uid: str, objects: Sequence[str]) -> None:
    """Rows first, then those of the owner's objects that no row needs any more.

    The tombstone outlives both, so that after a crash between them the same command takes the objects.
    """
    with installation.catalog.transaction() as facts:
        rows = [row for row in facts.manifests.of_owner(owner_uid) if row.slot_uid == slot.uid]
        for row in rows:
            _check_unpinned(installation, facts, row)
            forget_manifest(installation, facts, slot, row)
        unused = [key for key in objects if facts.manifests.body_users(slot.uid, key) == 0]
    if unused:
        installation.access(slot).remove(unused)


def _check_unpinned(installation: Installation, facts: Facts, row: ManifestRow) -> None:
    """Refuse while an open work pins the manifest; reads whose process is gone pin nothing."""
    for work in facts.works.list_open(row.slot_uid):
        if row.uid in work.pins and not _ended(installation, facts, work):
            raise _held(work, "a manifest of it")


def _end_works(installation: Installation, facts: Facts, owner_uid: str, name: str) -> None:
    mine = {row.uid for row in facts.manifests.of_owner(owner_uid)}
    for work in facts.works.list_open():
        if work.owner_uid == owner_uid or (work.kind is WorkKind.EXPORT and mine.intersection(work.pins)):
            if _lives(installation, facts, work):
                raise _held(work, f"'{name}'")
            facts.works.abandon(work.uid)


def _ended(installation: Installation, facts: Facts, work: Work) -> bool:
    if work.kind is WorkKind.EXPORT and not _lives(installation, facts, work):
        facts.works.abandon(work.uid)
        return True
    return False


def _lives(installation: Installation, facts: Facts, work: Work) -> bool:
    """Whether some process may still be at it: leased, in time, and not known to be dead."""
    if work.holder is None or work.lease_expires_at is None or installation.keeper.may_steal(work):
        return False
    return work.lease_expires_at > facts.now()


def _held(work: Work, what: str) -> WorkHeld:
    return WorkHeld(
        f"{what} is in use.",
        found=f"a work of kind {work.kind}, open since {work.opened_at.isoformat()}, held by {work.holder or 'nobody'}",
        expected="no open work that needs it",
        hint="let that command end (repeat it if it was killed), then delete again",
        target=work.uid,
    )
