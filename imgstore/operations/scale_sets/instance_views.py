"""Show and list the instances of a scale set with their disks and observed power states."""

from collections.abc import Collection
from dataclasses import dataclass

from imgstore.domain import names
from imgstore.domain.identity.access import INSTANCES, Action, Principal
from imgstore.domain.machine_runs import MachineRun
from imgstore.domain.machines import MACHINE, SCALE_SET
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import MachineView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.operations.machines.machines import view_of_machine
from imgstore.operations.machines.runs import find_run
from imgstore.operations.scale_sets.power import select_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """An instance with its set, its disks and its observed last start."""

    scale_set: ScaleSet
    view: MachineView
    run: MachineRun | None


def show_instance(
    installation: Installation, principal: Principal, *, group: str, name: str, instance_id: int
) -> InstanceView:
    """Return an instance of a scale set."""
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    permit(installation, principal, Action.READ, f"{scope}/{MACHINE}/{instance_id}")
    with installation.catalog.reading() as transaction:
        scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
        instance = lookup.find_instance(transaction, scale_set, instance_id)
        return InstanceView(
            scale_set=scale_set,
            view=view_of_machine(transaction, instance),
            run=find_run(transaction, instance),
        )


def check_instances(
    installation: Installation, principal: Principal, *, group: str, name: str, instance_ids: Collection[int]
) -> None:
    """Check that a scale set and its named instances exist, in one transaction.

    Raises:
        NotFound: the set or a named instance does not exist.
    """
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, SCALE_SET, name))
    with installation.catalog.reading() as transaction:
        scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
        select_instances(transaction, scale_set, instance_ids)


def page_instances(
    installation: Installation, principal: Principal, request: PageRequest, *, group: str, name: str
) -> Page[InstanceView]:
    """List a page of the instances, by id.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    permit(installation, principal, Action.READ, scope, INSTANCES)
    of = f"{scope}/{MACHINE}"
    key = request.start_key(of)
    with installation.catalog.reading() as transaction:
        scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
        found = transaction.machines.list_instances(
            scale_set.uid, after=None if key is None else int(key), limit=request.limit
        )
        page = Page.from_rows(found, request, of=of, key=lambda each: str(each.instance_id))
        items = tuple(
            InstanceView(scale_set=scale_set, view=view_of_machine(transaction, each), run=find_run(transaction, each))
            for each in page.items
        )
        return Page(items=items, next_token=page.next_token)


def list_states(
    installation: Installation, principal: Principal, *, group: str, name: str
) -> tuple[ScaleSet, list[tuple[ProvisioningState, MachineRun | None]]]:
    """Return a scale set, and the provisioning state and the observed last start of each instance."""
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, SCALE_SET, name))
    with installation.catalog.reading() as transaction:
        scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
        instances = transaction.machines.list_instances(scale_set.uid)
        return scale_set, [(each.provisioning_state, find_run(transaction, each)) for each in instances]
