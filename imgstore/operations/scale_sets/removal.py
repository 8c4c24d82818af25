"""Remove instances with their disks (invariant D23).

The rows go in the transaction that opens removals of the objects. So a removal needs no store, and a set can be rolled back
while a store is lost. The next work, collection or worker in each slot deletes the objects (`slots/leftovers.py`).
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence

from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.machines import Machine
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.scale_sets import ScaleSetLease
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import check_not_active, machine_folder, stop_run
from imgstore.operations.scale_sets.leases import renew
from imgstore.operations.slots.completion import remove_manifests
from imgstore.operations.slots.held_segments import record_paid
from imgstore.operations.slots.leftovers import open_removal
from imgstore.operations.slots.removal import check_no_signed_url, check_unpinned
from imgstore.operations.stores.catalog_checks import find_referenced_bodies, refuse_if_outdated


def finish_removals(installation: Installation, lease: ScaleSetLease) -> list[int]:
    """Remove the instances that a killed command has marked. Return their ids."""
    with installation.catalog.reading() as transaction:
        instances = [
            each
            for each in transaction.machines.list_instances(lease.uid)
            if each.provisioning_state is ProvisioningState.DELETING
        ]
    if not instances:
        return []
    with installation.catalog.transaction() as transaction:
        scale_set = transaction.scale_sets.guard(lease)
        disks = transaction.disks.list_of_scale_set(scale_set.resource_id)
    remove_instances(installation, lease, instances, disks)
    return [each.instance_id for each in instances if each.instance_id is not None]


def remove_instances(
    installation: Installation, lease: ScaleSetLease, instances: Sequence[Machine], disks: Sequence[ManagedDisk]
) -> None:
    """Stop and remove instances with all their disks. May be repeated after an interruption.

    Args:
        installation: the installation.
        lease: the lease of the set.
        instances: the instances.
        disks: the disks of the set. Disks of other instances are ignored.

    Raises:
        Conflict: an instance runs on another host, or a signed URL of a disk is valid. Nothing was removed.
        WorkHeld: a live process reads a disk. Nothing of the slot was removed.
        LeaseLost: another process changes the set.
    """
    if not instances:
        return
    uids = [each.uid for each in instances]
    mine = {each.resource_id for each in instances}
    going = [disk for disk in disks if disk.managed_by in mine]
    with installation.catalog.transaction() as transaction:
        refuse_if_outdated(transaction)
        transaction.scale_sets.guard(lease)
        for disk in going:
            if disk.grant is not None:
                check_no_signed_url(transaction, disk)
        active = [each for each in instances if transaction.machine_runs.find(each.uid) is not None]
        transaction.machines.set_instance_states(uids, ProvisioningState.DELETING)
    for each in active:
        stop_run(installation, each)
        renew(installation, lease)
        with installation.catalog.reading() as transaction:
            check_not_active(transaction, each, "delete")
    by_slot = defaultdict[str, list[ManagedDisk]](list)
    for disk in going:
        by_slot[disk.slot.uid].append(disk)
    for _, some in sorted(by_slot.items()):
        renew(installation, lease)
        _remove_disks_of_slot(installation, lease, some)
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.guard(lease)
        transaction.machines.delete_instances(uids)
    for each in active:
        shutil.rmtree(machine_folder(installation, each.uid), ignore_errors=True)


def _remove_disks_of_slot(installation: Installation, lease: ScaleSetLease, disks: Sequence[ManagedDisk]) -> None:
    """Remove the rows of disks of one slot, and open the removal of their objects, in one transaction."""
    slot = disks[0].slot
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.guard(lease)
        copies = transaction.works.lock_open(WorkKind.COPY, slot.uid)  # Before the slot (invariant L3).
        for work in transaction.works.list_open(slot.uid):
            if work.owner_uid == lease.uid:
                transaction.works.abandon(work.uid)
        transaction.slots.lock(slot.uid)
        rows = [row for disk in disks for row in transaction.manifests.of_replica(disk.uid, slot.uid)]
        check_unpinned(transaction, rows)
        record_paid(transaction, copies, rows)
        remove_manifests(installation, transaction, slot, rows)
        doomed = [object_keys.manifest_key(disk.uid, OS_DISK) for disk in disks]
        bodies = {disk.body_key for disk in disks}
        unused = {key for key in bodies if transaction.manifests.count_body_users(slot.uid, key) == 0}
        if unused:  # The version was deleted, and these disks were the last users of its content.
            unused -= find_referenced_bodies(installation, slot)
        open_removal(transaction, slot, disks[0].uid, sorted({*doomed, *unused}))
        transaction.disks.delete_all([disk.uid for disk in disks])
