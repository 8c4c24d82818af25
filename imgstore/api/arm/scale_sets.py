"""Serve virtual machine scale sets of the mode Uniform. A server with `--machines` also runs the instances on its host."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.arm.machines import read_secret_values
from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import (
    RESOURCE_BODY,
    Context,
    RequestContext,
    check_conditions,
    compute_etag,
    json_response,
)
from imgstore.api.http.long_running import Command, CommandCall, Outcome, Session
from imgstore.api.http.paths import COMPUTE, SUBSCRIPTION
from imgstore.domain.errors import Conflict, NotFound, PropertyChangeNotAllowed
from imgstore.domain.identity.access import Action, as_reader
from imgstore.domain.machines import MACHINE, SCALE_SET, MachineSecrets
from imgstore.domain.names import compute_id
from imgstore.domain.requests import ScaleSetRequest
from imgstore.domain.scale_sets import RollingPolicy, ScaleSet, UpgradeMode
from imgstore.domain.states import ProvisioningState
from imgstore.operations.api_operations import operation_preempted
from imgstore.operations.machines.running import STOP_SECONDS
from imgstore.operations.scale_sets import instance_removal, instance_views, power, rolling_update, scale_sets
from imgstore.operations.scale_sets.instance_views import InstanceView
from imgstore.operations.scale_sets.model import ModelChange, check_model_change
from imgstore.operations.scale_sets.rolling_update import RolloutRequest
from imgstore.operations.scale_sets.scale_sets import create_scale_set
from imgstore.operations.scale_sets.update import reimage_scale_set, update_instances, update_scale_set
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import flag_of
from imgstore.wire.json_text import Json
from imgstore.wire.requests.body_fields import read_known_fields
from imgstore.wire.requests.machine import remove_secrets, source_count_error
from imgstore.wire.requests.scale_set import (
    PROFILE,
    ScaleSetBody,
    parse_instance_id,
    read_instance_ids,
    read_scale_set,
)
from imgstore.wire.responses.machines import instance_view_json
from imgstore.wire.responses.scale_sets import (
    instance_json,
    rolling_update_json,
    scale_set_json,
    set_instance_view_json,
)

router = APIRouter(tags=["Virtual machine scale sets"])
_KIND: Final = Kind.SCALE_SET
_SETS: Final = f"{COMPUTE}/virtualMachineScaleSets"
_SET: Final = f"{_SETS}/{{scale_set}}"
_INSTANCES: Final = f"{_SET}/virtualMachines"
_INSTANCE: Final = f"{_INSTANCES}/{{instance}}"
_INSTANCE_VIEW: Final = "instanceview"
_ALL_DISKS: Final = "reimageall"
_SkipShutdown = Annotated[str | None, Query(alias="skipShutdown", description="true switches the instances off")]


@router.put(_SET, summary="Create or update a scale set", status_code=201, openapi_extra=RESOURCE_BODY)
async def put(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSets_CreateOrUpdate. The plain password is removed before anything is stored."""
    sent = await context.read_json()
    secrets = asdict(await context.run(lambda _: read_secret_values(sent, PROFILE)))
    return await context.put_response(
        "put-scale-set",
        _KIND,
        group=group,
        scale_set=scale_set,
        body=remove_secrets(sent),
        secrets=secrets,
        whole=True,
    )


@router.patch(_SET, summary="Change a scale set", openapi_extra=RESOURCE_BODY)
async def patch(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSets_Update: capacity, tags, image, size, upgrade policy and stored fields."""
    body = remove_secrets(await context.read_json())
    return await context.patch_response(
        "put-scale-set", _KIND, group=group, scale_set=scale_set, body=body, whole=False
    )


@router.get(_SET, summary="Show a scale set")
async def show(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSets_Get."""
    found = await context.run(_show, group, scale_set)
    return context.resource_response(scale_set_json(found), _KIND)


@router.get(_SETS, summary="List the scale sets of a resource group")
async def list_of_group(context: Context, group: str) -> Response:
    """Serve Azure's VirtualMachineScaleSets_List."""
    return await context.list_response(
        _KIND, lambda at, page: at.run(scale_sets.page_scale_sets, page, group=group), scale_set_json
    )


@router.get(
    f"{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachineScaleSets",
    summary="List the scale sets of a subscription",
)
async def list_of_subscription(context: Context) -> Response:
    """Serve Azure's VirtualMachineScaleSets_ListAll."""
    return await context.list_response(_KIND, lambda at, page: at.run(scale_sets.page_scale_sets, page), scale_set_json)


@router.delete(_SET, summary="Delete a scale set with its instances and their disks", status_code=202)
async def delete(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSets_Delete. Instances are switched off, so `forceDeletion` has no effect."""
    return await context.delete_response("delete-scale-set", _KIND, group=group, scale_set=scale_set)


@router.get(f"{_SET}/instanceView", summary="Show the numbers of instances by status")
async def instance_view(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSets_GetInstanceView."""
    found, states = await context.run(
        lambda at: _as_reader(at, group, scale_set).run(instance_views.list_states, group=group, name=scale_set)
    )
    return json_response(200, set_instance_view_json(found, states))


@router.get(f"{_SET}/rollingUpgrades/latest", summary="Show the last rolling update of a scale set")
async def show_rolling_update(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSetRollingUpgrades_GetLatest."""
    found, update = await context.run(
        lambda at: _as_reader(at, group, scale_set).run(rolling_update.show_rolling_update, group=group, name=scale_set)
    )
    return json_response(200, rolling_update_json(found, update))


@router.post(f"{_SET}/rollingUpgrades/cancel", summary="cancel: begin no further batch of a rolling update")
async def cancel_rolling_update(context: Context, group: str, scale_set: str) -> Response:
    """Serve Azure's VirtualMachineScaleSetRollingUpgrades_Cancel. The request is complete with the answer."""
    await context.run_operation(rolling_update.cancel_rolling_update, group=group, name=scale_set)
    return Response(status_code=200)


@router.get(_INSTANCES, summary="List the instances of a scale set")
async def list_instances(
    context: Context,
    group: str,
    scale_set: str,
    expand: Annotated[str | None, Query(alias="$expand", description="instanceView")] = None,
) -> Response:
    """Serve Azure's VirtualMachineScaleSetVMs_List."""
    has_view = (expand or "").lower() == _INSTANCE_VIEW

    def to_json(found: InstanceView) -> Json:
        return _instance_json(found, has_view=has_view)

    return await context.list_response(
        Kind.INSTANCE,
        lambda at, page: at.run(instance_views.page_instances, page, group=group, name=scale_set),
        to_json,
    )


@router.get(_INSTANCE, summary="Show an instance of a scale set")
async def show_instance(
    context: Context,
    group: str,
    scale_set: str,
    instance: str,
    expand: Annotated[str | None, Query(alias="$expand", description="instanceView")] = None,
) -> Response:
    """Serve Azure's VirtualMachineScaleSetVMs_Get."""

    def read(at: Session) -> InstanceView:
        return at.run(
            instance_views.show_instance, group=group, name=scale_set, instance_id=parse_instance_id(instance)
        )

    found = await context.run(read)
    tag = compute_etag(_instance_json(found, has_view=False))
    body = _instance_json(found, has_view=(expand or "").lower() == _INSTANCE_VIEW)
    return context.resource_response(body, Kind.INSTANCE, tag)


@router.get(f"{_INSTANCE}/instanceView", summary="Show the instance view of an instance")
async def show_instance_view(context: Context, group: str, scale_set: str, instance: str) -> Response:
    """Serve Azure's VirtualMachineScaleSetVMs_GetInstanceView."""

    def read(at: Session) -> InstanceView:
        number = parse_instance_id(instance)
        scope = f"{compute_id(at.installation.subscription, group, SCALE_SET, scale_set)}/virtualMachines/{number}"
        return instance_views.show_instance(
            at.installation, as_reader(at.principal, scope), group=group, name=scale_set, instance_id=number
        )

    found = await context.run(read)
    return json_response(200, instance_view_json(found.view, found.run))


@router.delete(_INSTANCE, summary="Delete an instance of a scale set, and decrement the capacity", status_code=202)
async def delete_instance(context: Context, group: str, scale_set: str, instance: str) -> Response:
    """Serve Azure's VirtualMachineScaleSetVMs_Delete."""
    return await context.delete_response("delete-instances", _KIND, group=group, scale_set=scale_set, instance=instance)


def _add_action_routes(right: Action) -> None:
    """Add the routes of an action on several instances, and on one instance."""
    action = right.removesuffix("/action")
    needs_ids = right in (Action.MANUAL_UPGRADE, Action.DELETE_INSTANCES)

    async def begin(
        context: RequestContext, group: str, scale_set: str, skip: str | None, **instances: Any
    ) -> Response:
        accepted = await context.begin(
            f"{action.lower()}-instances",
            group=group,
            scale_set=scale_set,
            **instances,
            is_hard=flag_of(skip, "skipShutdown"),
        )
        return context.accepted_response(accepted, _KIND, 202, location=True)

    @router.post(f"{_SET}/{action}", summary=f"{action}: instances of a scale set", status_code=202, name=action)
    async def act(context: Context, group: str, scale_set: str, skip: _SkipShutdown = None) -> Response:
        ids = read_instance_ids(await context.read_optional_json(), needed=needs_ids)
        return await begin(context, group, scale_set, skip, instance_ids=ids)

    if right in (Action.MANUAL_UPGRADE, Action.DELETE_INSTANCES):
        return

    @router.post(
        f"{_INSTANCE}/{action}", summary=f"{action}: an instance of a scale set", status_code=202, name=f"{action}-one"
    )
    async def act_on_one(
        context: Context, group: str, scale_set: str, instance: str, skip: _SkipShutdown = None
    ) -> Response:
        return await begin(context, group, scale_set, skip, instance=instance)


for _right in (
    Action.START,
    Action.POWER_OFF,
    Action.RESTART,
    Action.DEALLOCATE,
    Action.REIMAGE,
    Action.REIMAGE_ALL,
    Action.MANUAL_UPGRADE,
    Action.DELETE_INSTANCES,
):
    _add_action_routes(_right)


def _instance_json(found: InstanceView, *, has_view: bool) -> Json:
    body = instance_json(found.view, found.scale_set)
    if has_view:
        body["properties"]["instanceView"] = instance_view_json(found.view, found.run)
    return body


def _as_reader(session: Session, group: str, name: str) -> Session:
    """Return a session that may read a scale set, after a check of another right to the set."""
    scope = compute_id(session.installation.subscription, group, SCALE_SET, name)
    return replace(session, principal=as_reader(session.principal, scope))


def _show(session: Session, group: str, name: str) -> ScaleSet:
    return session.run(scale_sets.show_scale_set, group=group, name=name)


def _scope(call: CommandCall) -> str:
    subscription = call.session.installation.subscription
    return compute_id(subscription, call.request["group"], SCALE_SET, call.request["scale_set"])


def _host_user(session: Session) -> str | None:
    host = session.installation.machine_host
    return None if host is None else host.runs_as


def put_scale_set(call: CommandCall) -> Outcome:
    """Run the command of PUT and PATCH. A new image or capacity changes the set while the operation continues."""
    session, request = call.session, call.request
    group, name = request["group"], request["scale_set"]
    reader = replace(session, principal=authorize_change(session, _scope(call)))
    body = read_known_fields(request["body"], _KIND, session.api_version)
    asked = read_scale_set(body, is_put=request["whole"])
    secrets = MachineSecrets(**(request.get("secrets") or asdict(read_secret_values(request["body"], PROFILE))))
    try:
        current: ScaleSet | None = _show(reader, group, name)
    except NotFound:
        if call.is_preempted:
            raise operation_preempted(_scope(call)) from None
        if not request["whole"]:
            raise
        current = None
        check_group(session, group)
    check_conditions(request["conditions"], None if current is None else scale_set_json(current))
    if current is None or current.provisioning_state is ProvisioningState.CREATING:
        made = session.run(create_scale_set, _creation(asked, secrets, group, name))
        return current is None, scale_set_json(made)
    if call.is_preempted:
        raise operation_preempted(_scope(call))
    _check_fixed(session, asked, current)
    change = _change_of(asked, current)
    if asked.capacity not in (None, current.capacity):
        session.run(check_model_change, group=group, name=name, change=change)
        session.run(scale_sets.scale_scale_set, group=group, name=name, capacity=asked.capacity)
    changed = session.run(
        update_scale_set,
        group=group,
        name=name,
        change=change,
        rollout=RolloutRequest(runs_as=_host_user(session)),
        on_changed=lambda present: call.accept((False, scale_set_json(present))),
    )
    return False, scale_set_json(changed)


def _creation(asked: ScaleSetBody, secrets: MachineSecrets, group: str, name: str) -> ScaleSetRequest:
    if asked.image is None:
        raise source_count_error("neither")
    return ScaleSetRequest(
        group=group,
        name=name,
        location=asked.location,
        image=asked.image,
        capacity=asked.capacity or 0,
        size=asked.size,
        profile=asked.profile,
        tags=asked.tags,
        upgrade_mode=asked.upgrade_mode or UpgradeMode.MANUAL,
        rolling=asked.rolling_policy(RollingPolicy()),
        attachments=asked.attachments,
        extra_properties=asked.extra_properties,
        secrets=secrets,
    )


def _change_of(asked: ScaleSetBody, current: ScaleSet) -> ModelChange:
    return ModelChange(
        image=asked.image,
        size=asked.size,
        tags=asked.tags,
        upgrade_mode=asked.upgrade_mode,
        rolling=asked.rolling_policy(current.rolling) if asked.rolling else None,
        attachments=asked.attachments,
        extra_properties=asked.extra_properties,
    )


def _check_fixed(session: Session, asked: ScaleSetBody, current: ScaleSet) -> None:
    """Refuse a change of a property that is fixed after the creation.

    Raises:
        PropertyChangeNotAllowed: the region, the user or the prefix of the computer names differs.
    """
    if asked.location is not None:
        region = session.installation.regions.get(asked.location, target="location").name
        if region != current.location:
            raise PropertyChangeNotAllowed("location", found=region, expected=current.location)
    for field, said, known in (
        ("adminUsername", asked.profile.admin_username, current.admin_username),
        ("computerNamePrefix", asked.profile.computer_name, current.computer_name_prefix),
    ):
        if said not in (None, known):
            raise PropertyChangeNotAllowed(f"{PROFILE}.osProfile.{field}", found=str(said), expected=known or "none")


def delete_scale_set(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    session, request = call.session, call.request
    reader = replace(session, principal=authorize_change(session, _scope(call), Action.DELETE))
    try:
        current = _show(reader, request["group"], request["scale_set"])
    except NotFound:  # Or an interrupted deletion, which this command finishes before the answer.
        check_conditions(request["conditions"], None)
    else:
        check_conditions(request["conditions"], scale_set_json(current))
        call.accept((False, None))
    session.run(scale_sets.delete_scale_set, group=request["group"], name=request["scale_set"])
    return False, None


def delete_instances(call: CommandCall) -> Outcome:
    """Run the command that deletes instances."""
    action = Action.DELETE if "instance" in call.request else Action.DELETE_INSTANCES
    call.session.run(instance_removal.delete_instances, **_accept_instances(call, action))
    return False, None


def start_instances(call: CommandCall) -> Outcome:
    """Run the command that starts instances on the host of the server."""
    _check_machines(call, "start")
    named = _accept_instances(call, Action.START)
    call.session.run(power.start_instances, **named, runs_as=_host_user(call.session))
    return False, None


def restart_instances(call: CommandCall) -> Outcome:
    """Run the command that restarts instances."""
    _check_machines(call, "restart")
    call.session.run(power.restart_instances, **_accept_instances(call, Action.RESTART))
    return False, None


def _stop_instances(call: CommandCall, *, deallocate: bool) -> Outcome:
    named = _accept_instances(call, Action.DEALLOCATE if deallocate else Action.POWER_OFF)
    seconds = 0.0 if call.request.get("is_hard") else STOP_SECONDS
    call.session.run(power.stop_instances, **named, deallocate=deallocate, shutdown_seconds=seconds)
    return False, None


def power_off_instances(call: CommandCall) -> Outcome:
    """Run the command that stops instances."""
    return _stop_instances(call, deallocate=False)


def deallocate_instances(call: CommandCall) -> Outcome:
    """Run the command that deallocates instances."""
    return _stop_instances(call, deallocate=True)


def reimage_instances(call: CommandCall) -> Outcome:
    """Run the command that gives instances a new OS disk of the present image."""
    return _reimage(call, Action.REIMAGE)


def reimage_all_disks(call: CommandCall) -> Outcome:
    """Run the command that also promises new data disks. The command refuses instances with data disks."""
    return _reimage(call, Action.REIMAGE_ALL)


def _reimage(call: CommandCall, action: Action) -> Outcome:
    named = _accept_instances(call, action)
    rollout = RolloutRequest(runs_as=_host_user(call.session))
    call.session.run(reimage_scale_set, **named, rollout=rollout, includes_data_disks=action is Action.REIMAGE_ALL)
    return False, None


def upgrade_instances(call: CommandCall) -> Outcome:
    """Run the command that gives instances the model of their set."""
    named = _accept_instances(call, Action.MANUAL_UPGRADE)
    del named["is_permitted"]  # No route upgrades a single instance.
    rollout = RolloutRequest(runs_as=_host_user(call.session))
    call.session.run(update_instances, **named, rollout=rollout)
    return False, None


def _accept_instances(call: CommandCall, action: Action) -> dict[str, Any]:
    """Answer a request for an action on instances. Return the arguments of the operation.

    A request for one instance needs the right at the instance, not at the set.

    Raises:
        ScopeNotFound, AccessDenied: the caller has no right to the action.
        NotFound: the set or a named instance does not exist.
        InvalidInput: the id of the instance is no number.
    """
    session, request = call.session, call.request
    group, name, one = request["group"], request["scale_set"], request.get("instance")
    scope = _scope(call) if one is None else f"{_scope(call)}/{MACHINE}/{one}"
    authorize_change(session, scope, action)
    ids = request.get("instance_ids") if one is None else [parse_instance_id(one)]
    _as_reader(session, group, name).run(instance_views.check_instances, group=group, name=name, instance_ids=ids or ())
    call.accept((False, None))
    return {"group": group, "name": name, "instance_ids": ids, "is_permitted": one is not None}


def _check_machines(call: CommandCall, action: str) -> None:
    """Refuse to start instances on a server without `--machines`.

    Raises:
        Conflict: the server runs no machines.
    """
    if call.session.installation.machine_host is None:
        raise Conflict(
            f"The operation '{action}' is not allowed on the scale set '{call.request['scale_set']}': virtual machines "
            "don't run here.",
            found="a server without --machines",
            expected="a server with --machines",
            hint="start the server with --machines",
            target=call.request["scale_set"],
            code="OperationNotAllowed",
        )


COMMANDS: Final[Mapping[str, Command]] = {
    "put-scale-set": put_scale_set,
    "delete-scale-set": delete_scale_set,
    "delete-instances": delete_instances,
    "start-instances": start_instances,
    "restart-instances": restart_instances,
    "poweroff-instances": power_off_instances,
    "deallocate-instances": deallocate_instances,
    "reimage-instances": reimage_instances,
    "reimageall-instances": reimage_all_disks,
    "manualupgrade-instances": upgrade_instances,
}
