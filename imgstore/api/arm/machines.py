"""Serve virtual machines, which are records with disks. No machine runs, so all machines are in the state stopped."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, Context, check_conditions, compute_etag, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import COMPUTE, SUBSCRIPTION
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import Action, as_reader
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import compute_id
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import MachineView
from imgstore.operations.api_operations import OperationPreempted, operation_preempted
from imgstore.operations.machines import machines
from imgstore.operations.machines.create import create_machine
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import flag_of, invalid_value
from imgstore.wire.json_text import Json
from imgstore.wire.requests.body_fields import read_known_fields
from imgstore.wire.requests.machine import read_machine, remove_secrets, source_count_error
from imgstore.wire.responses.machines import instance_view_json, machine_json

router = APIRouter(tags=["Virtual machines"])
_KIND: Final = Kind.MACHINE
_MACHINES: Final = f"{COMPUTE}/virtualMachines"
_MACHINE: Final = f"{_MACHINES}/{{machine}}"
_INSTANCE_VIEW: Final = "instanceview"


@router.put(
    _MACHINE, summary="Create a virtual machine's record and disks", status_code=201, openapi_extra=RESOURCE_BODY
)
async def put(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_CreateOrUpdate. Passwords and custom data are removed before anything is stored."""
    body = remove_secrets(await context.read_json())
    return await context.put_response("put-machine", _KIND, group=group, machine=machine, body=body, whole=True)


@router.patch(_MACHINE, summary="Change a virtual machine's record", openapi_extra=RESOURCE_BODY)
async def patch(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_Update: tags, size, settings of disks, and fields without an effect."""
    body = remove_secrets(await context.read_json())
    return await context.patch_response("put-machine", _KIND, group=group, machine=machine, body=body, whole=False)


@router.get(_MACHINE, summary="Show a virtual machine")
async def show(
    context: Context,
    group: str,
    machine: str,
    expand: Annotated[str | None, Query(alias="$expand", description="instanceView")] = None,
) -> Response:
    """Serve Azure's VirtualMachines_Get."""
    found = await context.run(_show, group, machine)
    body = machine_json(found)
    tag = compute_etag(body)
    if (expand or "").lower() == _INSTANCE_VIEW:
        body["properties"]["instanceView"] = instance_view_json(found)
    return context.resource_response(body, _KIND, tag)


@router.get(f"{_MACHINE}/instanceView", summary="Show the instance view of a virtual machine")
async def instance_view(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_InstanceView."""

    def read(at: Session) -> MachineView:
        scope = compute_id(at.installation.subscription, group, MACHINE, machine)
        return _show(replace(at, principal=as_reader(at.principal, scope)), group, machine)

    return json_response(200, instance_view_json(await context.run(read)))


@router.get(_MACHINES, summary="List the virtual machines of a resource group")
async def list_of_group(context: Context, group: str) -> Response:
    """Serve Azure's VirtualMachines_List."""
    return await context.list_response(
        _KIND, lambda at, page: at.run(machines.page_machines, page, group=group), machine_json
    )


@router.get(
    f"{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachines",
    summary="List the virtual machines of a subscription",
)
async def list_of_subscription(context: Context) -> Response:
    """Serve Azure's VirtualMachines_ListAll."""
    return await context.list_response(_KIND, lambda at, page: at.run(machines.page_machines, page), machine_json)


@router.delete(
    _MACHINE, summary="Delete a virtual machine; disks with deleteOption Delete are deleted", status_code=202
)
async def delete(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_Delete. `forceDeletion` has no effect, because no machine runs."""
    return await context.delete_response("delete-machine", _KIND, group=group, machine=machine)


@router.post(f"{_MACHINE}/generalize", summary="Mark a virtual machine as generalized")
async def generalize(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_Generalize. The change is complete with the answer."""
    await context.run_operation(machines.generalize_machine, group=group, name=machine)
    return Response(status_code=200)


def _add_stopped_route(right: Action) -> None:
    """Add the route of an action that stops a machine, which clients call before generalize. Answer 200, as Azure does."""
    action = _action_name(right)

    @router.post(f"{_MACHINE}/{action}", summary=f"{action}: no effect, because no machine runs", name=action)
    async def stop(context: Context, group: str, machine: str, hibernate: str | None = None) -> Response:
        def check(at: Session) -> None:
            at.run(machines.check_stopped, right, group=group, name=machine)
            if flag_of(hibernate, "hibernate"):
                raise invalid_value("hibernate", hibernate, "false, because no machine runs")

        await context.run(check)
        return Response(status_code=200)


def _add_refused_route(right: Action) -> None:
    """Add the route of an action that needs a running machine. Refuse the action by name."""
    action = _action_name(right)

    @router.post(
        f"{_MACHINE}/{action}", summary=f"{action}: refused, because no machine runs", status_code=409, name=action
    )
    async def run(context: Context, group: str, machine: str) -> Response:
        def refuse(at: Session) -> Response:
            at.run(machines.check_stopped, right, group=group, name=machine)
            raise Conflict(
                f"The operation '{action}' is not allowed on VM '{machine}': virtual machines don't run here.",
                found="a record of a virtual machine, with disks",
                expected="PUT, GET, PATCH, DELETE, generalize, deallocate or powerOff",
                hint="export the disks (beginGetAccess, or `imgstore disk export`) and boot the disks with a hypervisor",
                target=machine,
                code="OperationNotAllowed",
            )

        return await context.run(refuse)


def _action_name(right: Action) -> str:
    """Return the last word of the route, such as ``powerOff``."""
    return right.removesuffix("/action")


for _right in (Action.DEALLOCATE, Action.POWER_OFF):
    _add_stopped_route(_right)
for _right in (Action.START, Action.RESTART, Action.REDEPLOY, Action.REIMAGE, Action.REAPPLY):
    _add_refused_route(_right)


def _show(session: Session, group: str, name: str) -> MachineView:
    return session.run(machines.show_machine, group=group, name=name)


def _authorize_change(session: Session, request: Mapping[str, Any], action: Action = Action.WRITE) -> Session:
    """Check the right to an action on the machine. Return a session that may also read the machine."""
    scope = compute_id(session.installation.subscription, request["group"], MACHINE, request["machine"])
    return replace(session, principal=authorize_change(session, scope, action))


def put_machine(call: CommandCall) -> Outcome:
    """Run the command of PUT and PATCH."""
    session, request = call.session, call.request
    changing = _authorize_change(session, request)
    body = read_known_fields(request["body"], _KIND, session.api_version)
    asked = read_machine(body, request["group"], request["machine"], is_put=request["whole"])
    current: Json = None
    try:
        found = _show(changing, request["group"], request["machine"])
        current = machine_json(found)
        if call.is_preempted:
            if found.machine.provisioning_state is not ProvisioningState.CREATING:
                raise _preemption_error(call)
            asked = asked.without_changes()
    except NotFound:
        if call.is_preempted:
            raise _preemption_error(call) from None
        if not request["whole"]:
            raise
        check_group(session, request["group"])
        if not asked.may_create:
            raise source_count_error("neither") from None
    check_conditions(request["conditions"], current)
    return current is None, machine_json(session.run(create_machine, asked))


def _preemption_error(call: CommandCall) -> OperationPreempted:
    request = call.request
    return operation_preempted(
        compute_id(call.session.installation.subscription, request["group"], MACHINE, request["machine"])
    )


def delete_machine(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    session, request = call.session, call.request
    if request["conditions"]:
        changing = _authorize_change(session, request, Action.DELETE)
        check_conditions(request["conditions"], machine_json(_show(changing, request["group"], request["machine"])))
    session.run(machines.delete_machine, group=request["group"], name=request["machine"])
    return False, None
