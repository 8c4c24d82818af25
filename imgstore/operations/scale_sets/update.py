"""Update scale sets: change the model, and move instances to the model."""

from collections.abc import Callable, Collection, Sequence

from imgstore.domain import names
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.machines import SCALE_SET
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.scale_sets import ScaleSet, UpgradeMode
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.scale_sets.leases import hold_ready_scale_set
from imgstore.operations.scale_sets.model import ModelChange, change_model
from imgstore.operations.scale_sets.power import select_instances
from imgstore.operations.scale_sets.rolling_update import RolloutRequest, list_outdated, roll_out


def update_scale_set(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    change: ModelChange,
    rollout: RolloutRequest,
    on_changed: Callable[[ScaleSet], None] = lambda _scale_set: None,
) -> ScaleSet:
    """Change the model of a scale set, and move the instances to the model.

    With the upgrade mode Manual, the instances stay, until `update_instances` names them. Otherwise all instances without
    the model are updated in batches. The same call resumes an interrupted or failed update.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the scale set.
        change: the new values of the model.
        rollout: the batches and the probe.
        on_changed: receives the set with the new model, before instances change.

    Raises:
        InvalidInput: the image does not fit the instances. The error has a detail for each difference.
        ImageNotAvailable: the version does not exist, or is not complete in the region.
        Conflict: an instance failed. The error has a detail for each failed instance.
        WorkLeased: another process changes the set.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with record_activity(installation, principal, Action.WRITE, scope):
        installation.locator.health.refresh()
        with hold_ready_scale_set(installation, group, name) as lease:
            changed = change_model(installation, lease, change, principal)
            on_changed(changed)
            if changed.upgrade_mode is UpgradeMode.MANUAL:
                _note_outdated(installation, changed)
                return changed
            return roll_out(installation, lease, rollout, principal)


def update_instances(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    rollout: RolloutRequest,
) -> ScaleSet:
    """Move the named instances to the model of their set, in any upgrade mode. None: all instances without the model.

    Raises:
        Conflict: an instance failed. The error has a detail for each failed instance.
        NotFound: a named instance does not exist.
        WorkLeased: another process changes the set.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with record_activity(installation, principal, Action.MANUAL_UPGRADE, scope):
        installation.locator.health.refresh()
        with hold_ready_scale_set(installation, group, name) as lease:
            return roll_out(installation, lease, rollout, principal, instance_ids=instance_ids)


def reimage_scale_set(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    rollout: RolloutRequest,
    includes_data_disks: bool = False,
    is_permitted: bool = False,
) -> ScaleSet:
    """Give instances a new OS disk of the image in the model. The changes of the guests are lost.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the scale set.
        instance_ids: the instances. None: all.
        rollout: the batches and the probe.
        includes_data_disks: whether the caller also expects new data disks, as Azure's `reimageall` makes.
        is_permitted: whether the right to the action on these instances was checked before.

    Raises:
        Conflict: the instances have data disks, and the caller expects new data disks. Nothing was changed.
        Conflict: an instance failed. The error has a detail for each failed instance.
        NotFound: a named instance does not exist.
        WorkLeased: another process changes the set.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    action = Action.REIMAGE_ALL if includes_data_disks else Action.REIMAGE
    with record_activity(installation, principal, action, scope, is_permitted=is_permitted):
        installation.locator.health.refresh()
        with hold_ready_scale_set(installation, group, name) as lease:
            with installation.catalog.reading() as transaction:
                scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
                instances = select_instances(transaction, scale_set, instance_ids)
                if includes_data_disks:
                    _check_no_data_disks(scale_set, transaction.disks.list_of_scale_set(scale_set.resource_id))
            ids = [each.instance_id for each in instances if each.instance_id is not None]
            return roll_out(
                installation,
                lease,
                rollout,
                principal,
                instance_ids=ids,
                replaces_equal=True,
            )


def _check_no_data_disks(scale_set: ScaleSet, disks: Sequence[ManagedDisk]) -> None:
    luns = sorted({disk.machine_lun for disk in disks if disk.machine_lun is not None})
    if luns:
        raise Conflict(
            f"The instances of the scale set '{scale_set.name}' have data disks, which stay as they are.",
            found=f"data disks with LUN {', '.join(map(str, luns))}",
            expected="instances without data disks",
            hint="reimage only the OS disks, with the action `reimage`",
            target=scale_set.resource_id,
            code="OperationNotAllowed",
        )


def _note_outdated(installation: Installation, scale_set: ScaleSet) -> None:
    with installation.catalog.reading() as transaction:
        outdated = list_outdated(scale_set, transaction.machines.list_instances(scale_set.uid))
    if outdated:
        task = f"scale set {scale_set.name}"
        installation.note(
            task,
            f"{task}: the upgrade mode is Manual, so {len(outdated)} instances stay without the model: "
            f"`imgstore vmss update-instances -g {scale_set.group} -n {scale_set.name} --instance-ids '*'` updates them",
        )
