"""Serve virtual machines. A server with `--machines` also runs the machines on its host."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, Context, Server, check_conditions, compute_etag, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import COMPUTE, SUBSCRIPTION
from imgstore.domain.errors import Conflict, NotFound, ToolMissing
from imgstore.domain.identity.access import Action, as_reader
from imgstore.domain.machine_runs import MachineRun
from imgstore.domain.machines import MACHINE, MachineSecrets
from imgstore.domain.names import compute_id
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import MachineView
from imgstore.operations.api_operations import OperationPreempted, operation_preempted
from imgstore.operations.machines import machines, running
from imgstore.operations.machines.console_urls import CONSOLE_ROOT, read_signed_console, sign_console_url
from imgstore.operations.machines.create import create_machine
from imgstore.operations.machines.seeds import make_secrets
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import flag_of, invalid_value
from imgstore.wire.json_text import Json
from imgstore.wire.requests.body_fields import read_known_fields
from imgstore.wire.requests.machine import read_machine, read_secrets, remove_secrets, source_count_error
from imgstore.wire.responses.machines import instance_view_json, machine_json

_log = logging.getLogger("imgstore.api")
router = APIRouter(tags=["Virtual machines"])
_KIND: Final = Kind.MACHINE
_MACHINES: Final = f"{COMPUTE}/virtualMachines"
_MACHINE: Final = f"{_MACHINES}/{{machine}}"
_INSTANCE_VIEW: Final = "instanceview"
_SkipShutdown = Annotated[str | None, Query(alias="skipShutdown", description="true switches the machine off")]


@router.put(
    _MACHINE, summary="Create a virtual machine's record and disks", status_code=201, openapi_extra=RESOURCE_BODY
)
async def put(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_CreateOrUpdate. The plain password is removed before anything is stored."""
    sent = await context.read_json()
    secrets = asdict(await context.run(lambda _: read_secret_values(sent)))
    return await context.put_response(
        "put-machine",
        _KIND,
        group=group,
        machine=machine,
        body=remove_secrets(sent),
        secrets=secrets,
        whole=True,
    )


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
    found, run = await context.run_operation(running.show_power, group=group, name=machine)
    body = machine_json(found)
    tag = compute_etag(body)
    if (expand or "").lower() == _INSTANCE_VIEW:
        body["properties"]["instanceView"] = instance_view_json(found, run)
    return context.resource_response(body, _KIND, tag)


@router.get(f"{_MACHINE}/instanceView", summary="Show the instance view of a virtual machine")
async def instance_view(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_InstanceView."""

    def read(at: Session) -> tuple[MachineView, MachineRun | None]:
        scope = compute_id(at.installation.subscription, group, MACHINE, machine)
        return running.show_power(at.installation, as_reader(at.principal, scope), group=group, name=machine)

    return json_response(200, instance_view_json(*await context.run(read)))


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
    """Serve Azure's VirtualMachines_Delete. A running machine is switched off, so `forceDeletion` has no effect."""
    return await context.delete_response("delete-machine", _KIND, group=group, machine=machine)


@router.post(f"{_MACHINE}/generalize", summary="Mark a virtual machine as generalized")
async def generalize(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_Generalize. The change is complete with the answer."""
    await context.run_operation(machines.generalize_machine, group=group, name=machine)
    return Response(status_code=200)


def _add_stop_route(right: Action) -> None:
    """Add the route of an action that stops a machine, which clients also call before generalize. Answer 200, as Azure does."""
    action = _action_name(right)

    @router.post(f"{_MACHINE}/{action}", summary=f"{action}: stop a virtual machine", name=action)
    async def stop(
        context: Context, group: str, machine: str, hibernate: str | None = None, skip: _SkipShutdown = None
    ) -> Response:
        def run(at: Session) -> None:
            seconds = 0.0 if flag_of(skip, "skipShutdown") else running.STOP_SECONDS
            is_deallocation = right is Action.DEALLOCATE
            at.run(machines.check_machine, right, group=group, name=machine)
            if flag_of(hibernate, "hibernate"):
                raise invalid_value("hibernate", hibernate, "false, because imgstore does not support hibernation")
            if at.installation.machine_host is not None:
                at.run(
                    running.stop_machine,
                    group=group,
                    name=machine,
                    shutdown_seconds=seconds,
                    deallocate=is_deallocation,
                )

        await context.run(run)
        return Response(status_code=200)


@router.post(f"{_MACHINE}/start", summary="start: start a virtual machine on the host of the server", name="start")
async def start(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_Start."""

    def run(at: Session) -> None:
        if at.installation.machine_host is None:
            raise _refuse(at, Action.START, group, machine)
        request = running.StartRequest(runs_as=at.installation.machine_host.runs_as)
        at.run(running.start_machine, group=group, name=machine, request=request)

    await context.run(run)
    return Response(status_code=200)


@router.post(f"{_MACHINE}/restart", summary="restart: stop and start a virtual machine", name="restart")
async def restart(context: Context, group: str, machine: str) -> Response:
    """Serve Azure's VirtualMachines_Restart."""

    def run(at: Session) -> None:
        if at.installation.machine_host is None:
            raise _refuse(at, Action.RESTART, group, machine)
        at.run(running.restart_machine, group=group, name=machine)

    await context.run(run)
    return Response(status_code=200)


@router.post(
    f"{_MACHINE}/retrieveBootDiagnosticsData",
    summary="Return a URL of the serial console log",
    name="retrieveBootDiagnosticsData",
)
async def retrieve_boot_diagnostics_data(
    context: Context,
    group: str,
    machine: str,
    minutes: Annotated[
        int, Query(alias="sasUriExpirationTimeInMinutes", description="Validity of the URL. Default: 120.")
    ] = 120,
) -> Response:
    """Serve Azure's VirtualMachines_RetrieveBootDiagnosticsData. There is no screenshot, because machines have no display."""
    url = await context.run_operation(
        sign_console_url, group=group, name=machine, minutes=minutes, server_url=context.base_url
    )
    return json_response(200, {"serialConsoleLogBlobUri": url})


@router.get(f"{CONSOLE_ROOT}/{{machine_uid}}/{{name}}", summary="Read a serial console log by a signed URL")
async def read_console_log(request: Request, machine_uid: str, name: str) -> Response:  # noqa: ARG001 - as for blobs
    """Send the last MiB of the serial console since the last start."""
    server: Server = request.app.state.server
    ends, signature = (request.query_params.get(key, "") for key in ("se", "sig"))
    work = server.pools.blobs.submit(
        machine_uid, lambda: read_signed_console(server.installation, machine_uid, ends, signature)
    )
    return Response(await asyncio.wrap_future(work), media_type="text/plain; charset=utf-8")


def _add_refused_route(right: Action) -> None:
    """Add the route of an action that imgstore does not support. Refuse the action by name."""
    action = _action_name(right)

    @router.post(f"{_MACHINE}/{action}", summary=f"{action}: refused", status_code=409, name=action)
    async def refuse(context: Context, group: str, machine: str) -> Response:
        def run(at: Session) -> Response:
            raise _refuse(at, right, group, machine)

        return await context.run(run)


def _refuse(at: Session, right: Action, group: str, machine: str) -> Conflict:
    """Return the error of an action on a machine that does not run here, after a check of the right.

    Raises:
        NotFound: the machine does not exist, or the caller may not do the action.
    """
    at.run(machines.check_machine, right, group=group, name=machine)
    action = _action_name(right)
    is_unsupported = right not in (Action.START, Action.RESTART)
    return Conflict(
        f"The operation '{action}' is not allowed on VM '{machine}'"
        + (": imgstore does not support the operation." if is_unsupported else ": virtual machines don't run here."),
        found="a virtual machine with disks" if is_unsupported else "a server without --machines",
        expected="PUT, GET, PATCH, DELETE, generalize, deallocate, powerOff, start or restart",
        hint="export the disks (beginGetAccess, or `imgstore disk export`), or start the server with --machines",
        target=machine,
        code="OperationNotAllowed",
    )


def _action_name(right: Action) -> str:
    """Return the last word of the route, such as ``powerOff``."""
    return right.removesuffix("/action")


for _right in (Action.DEALLOCATE, Action.POWER_OFF):
    _add_stop_route(_right)
for _right in (Action.REDEPLOY, Action.REIMAGE, Action.REAPPLY):
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
    # A template's machine comes here without a route.
    kept = request.get("secrets") or asdict(read_secret_values(request["body"]))
    asked = replace(asked, secrets=MachineSecrets(**kept))
    current: Json = None
    is_unfinished = True
    try:
        found = _show(changing, request["group"], request["machine"])
        current = machine_json(found)
        is_unfinished = found.machine.provisioning_state is ProvisioningState.CREATING
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
    made = machine_json(session.run(create_machine, asked))
    host = session.installation.machine_host
    if host is not None and is_unfinished:  # Azure starts a new machine.
        running.start_machine(
            session.installation,
            session.principal,
            group=request["group"],
            name=request["machine"],
            request=running.StartRequest(runs_as=host.runs_as),
            is_permitted=True,
        )
    return current is None, made


def read_secret_values(body: Json, above: str = "properties") -> MachineSecrets:
    """Return the hash of the password and the custom data of an OS profile.

    Args:
        body: the JSON of the request.
        above: the path of the object with the OS profile.

    Raises:
        InvalidInput: the custom data are not base64, or too large.
    """
    password, custom_data = read_secrets(body, above)
    try:
        return make_secrets(password, custom_data)
    except ToolMissing as error:
        _log.warning("the password of a virtual machine is not kept: %s", error)
        return make_secrets(None, custom_data)


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
