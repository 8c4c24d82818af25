"""Show, list, generalize and delete machines. Disks of a machine outlive the machine."""

import shutil
from contextlib import suppress
from dataclasses import replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import Action, Principal, authorize, filter_readable, is_allowed
from imgstore.domain.machines import MACHINE, Machine
from imgstore.domain.names import ComputeId
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import MachineView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity, record_resource_deletion
from imgstore.operations.disks.changed_blocks import find_changes
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import check_not_active, machine_folder, stop_run
from imgstore.operations.network_records import delete_interfaces, find_interfaces_to_delete
from imgstore.operations.slots.removal import check_no_signed_url, remove_disks

MACHINES: Final = "Microsoft.Compute/virtualMachines"


def view_of_machine(transaction: Transaction, machine: Machine) -> MachineView:
    """Return a machine with its disks."""
    return MachineView(machine=machine, disks=tuple(transaction.disks.list_attached(machine.resource_id)))


def show_machine(installation: Installation, principal: Principal, *, group: str, name: str) -> MachineView:
    """Return a machine."""
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, MACHINE, name))
    with installation.catalog.reading() as transaction:
        return view_of_machine(transaction, lookup.find_machine(transaction, installation.subscription, group, name))


def list_machines(installation: Installation, principal: Principal, *, group: str | None = None) -> list[MachineView]:
    """List the machines of a group or of the subscription that the principal may see, by name."""
    return list(page_machines(installation, principal, PageRequest(), group=group).items)


def page_machines(
    installation: Installation, principal: Principal, request: PageRequest, *, group: str | None = None
) -> Page[MachineView]:
    """List a page.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    subscription = installation.subscription
    above = names.group_id(subscription, group) if group is not None else f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = is_allowed(principal, Action.READ, above, MACHINES)
    of = f"{above}/{MACHINE}"
    with installation.catalog.reading() as transaction:
        if group is not None:
            lookup.find_group(transaction, subscription, group)
        limit = request.limit if whole else None
        standing = transaction.machines.list(
            subscription, group, after=request.start_key_pair(of), limit=limit, visible=True
        )
        seen = filter_readable(principal, standing, lambda machine: machine.resource_id, whole=whole)
        page = Page.from_rows(seen, request, of=of, key=lambda machine: f"{machine.name}/{machine.uid}")
        views = tuple(view_of_machine(transaction, each) for each in page.items)
        return Page(items=views, next_token=page.next_token)


def generalize_machine(installation: Installation, principal: Principal, *, group: str, name: str) -> MachineView:
    """Mark a machine as generalized: machine-specific data was removed from its disks. The mark is permanent.

    Raises:
        Conflict: the machine is not ready.
    """
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with (
        record_activity(installation, principal, Action.GENERALIZE, scope),
        installation.catalog.transaction() as transaction,
    ):
        held = transaction.machines.get_for_update(
            lookup.find_machine(transaction, installation.subscription, group, name).uid
        )
        check_ready(held)
        check_not_active(transaction, held, "generalize")
        changed = replace(held, generalized=True)
        transaction.machines.update(changed)
        return view_of_machine(transaction, changed)


def check_machine(installation: Installation, principal: Principal, action: Action, *, group: str, name: str) -> None:
    """Check that a machine exists and the principal may act on the machine.

    Args:
        installation: the installation.
        principal: the caller.
        action: the action that needs a right: deallocate, power off, start and others.
        group: name of the resource group.
        name: name of the machine.

    Raises:
        AccessDenied: the principal may not do the action.
        NotFound: the resource does not exist.
    """
    permit(installation, principal, action, names.compute_id(installation.subscription, group, MACHINE, name))
    with installation.catalog.reading() as transaction:
        lookup.find_machine(transaction, installation.subscription, group, name)


def check_ready(machine: Machine) -> None:
    """Refuse a resource whose creation is not finished.

    Raises:
        Conflict: the creation is not finished.
    """
    if machine.provisioning_state is not ProvisioningState.SUCCEEDED:
        raise Conflict(
            f"The virtual machine '{machine.name}' is not ready.",
            found=f"provisioning state {machine.provisioning_state}",
            expected="Succeeded",
            hint="repeat `imgstore vm create`, which resumes",
            target=machine.resource_id,
            code="OperationNotAllowed",
        )


def check_generalized(machine: Machine) -> None:
    """Refuse a managed image of a machine that is not generalized (Azure's rule).

    Raises:
        Conflict: the machine is not generalized.
    """
    check_ready(machine)
    if not machine.generalized:
        raise Conflict(
            f"The virtual machine '{machine.name}' is not generalized: no managed image can be made from the machine.",
            found="a specialized virtual machine",
            expected="a generalized virtual machine",
            hint=f"`imgstore vm generalize -g {machine.group} -n {machine.name}`, or publish the machine without generalization: "
            "`imgstore sig image-version create --virtual-machine` in a specialized image definition",
            target=machine.resource_id,
            code="OperationNotAllowed",
        )


def find_machine(
    installation: Installation, principal: Principal, transaction: Transaction, group: str, word: str
) -> Machine | None:
    """Return the machine that `word` names, by name or id. None if no machine exists or the principal may not read the machine."""
    found = ComputeId.parse(word)
    if found is None and "/" not in word:
        found = ComputeId(subscription=installation.subscription, group=group, kind=MACHINE.lower(), name=word)
    if (
        found is None
        or found.kind != MACHINE.lower()
        or found.subscription.lower() != installation.subscription.lower()
    ):
        return None
    if not is_allowed(principal, Action.READ, found.resource_id):
        return None
    machine = transaction.machines.get(found.subscription, found.group, found.name)
    gone = machine is None or machine.provisioning_state is ProvisioningState.DELETING
    return None if gone else machine


def delete_machine(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Stop and delete a machine, with the blocks that the guest changed. Its disks stay, except disks with the delete option and unfinished disks.

    May be repeated.

    Raises:
        AccessDenied: the principal may not delete a disk or network interface with the delete option.
        Conflict: a signed URL of such a disk is valid.
        WorkHeld: a live process makes a disk of the machine.
    """
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with record_resource_deletion(installation, principal, scope):
        with installation.catalog.reading() as transaction:
            standing = transaction.machines.get(installation.subscription, group, name)
            if standing is None:
                standing = lookup.find_machine(transaction, installation.subscription, group, name)
        stop_run(installation, standing)
        with installation.catalog.transaction() as transaction:
            machine = replace(
                transaction.machines.get_for_update(standing.uid), provisioning_state=ProvisioningState.DELETING
            )
            check_not_active(transaction, machine, "delete")
            going = _disks_to_delete(transaction, principal, machine)
            for each in find_interfaces_to_delete(transaction, machine):
                authorize(principal, Action.DELETE, each.resource_id)
            transaction.machines.update(machine)
        remove_disks(installation, going, attached_to=machine.resource_id)
        with (
            suppress(NotFound),
            installation.catalog.transaction() as transaction,
        ):  # Another process may finish it first.
            for disk in transaction.disks.list_attached(machine.resource_id):
                find_changes(installation.home, disk.uid).unlink(missing_ok=True)
            transaction.disks.detach(machine.resource_id)
            interfaces = find_interfaces_to_delete(transaction, machine)
            transaction.machines.delete(machine.uid)
            delete_interfaces(transaction, interfaces)
        shutil.rmtree(machine_folder(installation, machine.uid), ignore_errors=True)


def _disks_to_delete(transaction: Transaction, principal: Principal, machine: Machine) -> list[ManagedDisk]:
    """Return the disks that are deleted with a machine."""
    there = transaction.disks.list_attached(machine.resource_id)
    for each in there:
        if machine.attachment(each.machine_lun).deleted_with_machine:
            authorize(principal, Action.DELETE, each.resource_id)
            check_no_signed_url(transaction, each)
    return [
        each
        for each in there
        if each.provisioning_state is not ProvisioningState.SUCCEEDED
        or machine.attachment(each.machine_lun).deleted_with_machine
    ]
