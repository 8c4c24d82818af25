"""Delete named instances of a scale set, and lower the capacity of the set.

One transaction marks the instances and lowers the capacity, before the first disk is removed. The next change of the set
removes instances that a killed command has marked (`finish_removals`).
"""

from collections.abc import Collection
from dataclasses import replace

from imgstore.domain import names
from imgstore.domain.identity.access import DISKS, Action, Principal, authorize
from imgstore.domain.machines import SCALE_SET
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.states import ProvisioningState
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import stop_run
from imgstore.operations.scale_sets.leases import check_ready, hold_scale_set, renew
from imgstore.operations.scale_sets.power import select_instances
from imgstore.operations.scale_sets.removal import finish_removals, remove_instances
from imgstore.operations.slots.removal import check_no_signed_url


def delete_instances(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    is_permitted: bool = False,
) -> ScaleSet:
    """Stop and delete instances with their disks, and lower the capacity by their number.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the scale set.
        instance_ids: the instances. None: all.
        is_permitted: whether the right to delete these instances was checked before.

    Raises:
        Conflict: the set is not ready, an instance runs on another host, or a signed URL of a disk is valid.
        NotFound: a named instance does not exist.
        WorkHeld: a live process reads a disk. The same call, or the next change of the set, removes the instances.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with record_activity(installation, principal, Action.DELETE_INSTANCES, scope, is_permitted=is_permitted):
        authorize(principal, Action.DELETE, names.group_id(installation.subscription, group), DISKS)
        with installation.catalog.reading() as transaction:
            standing = lookup.find_scale_set(transaction, installation.subscription, group, name)
        with hold_scale_set(installation, standing) as lease:
            removed = set(finish_removals(installation, lease))
            ids = None if instance_ids is None else set(instance_ids) - removed
            with installation.catalog.transaction() as transaction:
                present = transaction.scale_sets.guard(lease)
                check_ready(present)
                chosen = select_instances(transaction, present, ids)
                mine = {each.resource_id for each in chosen}
                disks = transaction.disks.list_of_scale_set(present.resource_id)
                for disk in disks:
                    if disk.managed_by in mine and disk.grant is not None:
                        check_no_signed_url(transaction, disk)
            for each in chosen:
                stop_run(installation, each)
                renew(installation, lease)
            with installation.catalog.transaction() as transaction:
                present = transaction.scale_sets.guard(lease)
                changed = replace(present, capacity=present.capacity - len(chosen))
                transaction.machines.set_instance_states([each.uid for each in chosen], ProvisioningState.DELETING)
                transaction.scale_sets.update(changed)
            remove_instances(installation, lease, chosen, disks)
            return changed
