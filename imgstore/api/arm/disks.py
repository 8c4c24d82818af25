"""Serve managed disks and snapshots, which share all code. Azure never answers 201 here, and `az` accepts no 201."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Final

from fastapi import APIRouter, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, Context, check_conditions, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import COMPUTE, SUBSCRIPTION
from imgstore.domain.disks.disk_details import NO_DETAILS
from imgstore.domain.errors import InvalidInput, NotFound
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.names import compute_id
from imgstore.domain.requests import DiskOfImageRequest, NewDiskRequest, UploadRequest
from imgstore.domain.resources import DiskKind, ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.ledger.forecast import Forecast
from imgstore.operations.api_operations import operation_preempted
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.disks.signed_urls import grant_access
from imgstore.operations.disks.uploads import create_upload, revoke_access
from imgstore.operations.machines.images import show_image
from imgstore.operations.what_if.disks import forecast_disk_deletion, forecast_image_disk, forecast_source_disk
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_text import Json
from imgstore.wire.requests.disk import check_performance, read_disk, read_disk_patch
from imgstore.wire.requests.fields import read_access
from imgstore.wire.responses.forecast import forecast_json
from imgstore.wire.responses.resources import disk_json, image_json

router = APIRouter()


def _add_routes(kind: DiskKind, tag: str) -> None:
    """Add the routes of disks or of snapshots."""
    all_of_group, of = f"{COMPUTE}/{kind}", Kind(kind)
    one = f"{all_of_group}/{{disk}}"
    noun = f"a {'managed ' * (kind is DiskKind.DISK)}{kind.noun}"
    tags: list[str | Enum] = [tag]

    @router.put(
        one, summary=f"Create {noun}", status_code=202, openapi_extra=RESOURCE_BODY, tags=tags, name=f"put_{kind}"
    )
    async def put(context: Context, group: str, disk: str) -> Response:
        # Without a Location header, because az would parse the answer of that URL as the disk.
        return await context.put_response("put-disk", of, created=202, kind=kind, group=group, disk=disk)

    @router.patch(
        one, summary=f"Change the tags of {noun}", openapi_extra=RESOURCE_BODY, tags=tags, name=f"patch_{kind}"
    )
    async def patch(context: Context, group: str, disk: str) -> Response:
        return await context.patch_response("patch-disk", of, kind=kind, group=group, disk=disk)

    @router.get(one, summary=f"Show {noun}", tags=tags, name=f"show_{kind}")
    async def show(context: Context, group: str, disk: str) -> Response:
        found = await context.run_operation(disks.show_disk, group=group, name=disk, kind=kind)
        return context.resource_response(disk_json(found), of)

    @router.get(all_of_group, summary=f"List the {kind} of a resource group", tags=tags, name=f"list_{kind}_of_group")
    async def list_of_group(context: Context, group: str) -> Response:
        return await context.list_response(
            of, lambda at, page: at.run(disks.page_disks, page, group=group, kind=kind), disk_json
        )

    @router.get(
        f"{SUBSCRIPTION}/providers/Microsoft.Compute/{kind}",
        summary=f"List the {kind} of a subscription",
        tags=tags,
        name=f"list_{kind}",
    )
    async def list_of_subscription(context: Context) -> Response:
        return await context.list_response(of, lambda at, page: at.run(disks.page_disks, page, kind=kind), disk_json)

    @router.delete(one, summary=f"Delete {noun}", status_code=202, tags=tags, name=f"delete_{kind}")
    async def delete(context: Context, group: str, disk: str) -> Response:
        return await context.delete_response("delete-disk", of, kind=kind, group=group, disk=disk)

    @router.post(
        f"{one}/whatIf",
        summary=f"Predict the effects of the creation of {noun} on the bill",
        openapi_extra=RESOURCE_BODY,
        tags=tags,
        name=f"what_if_{kind}",
    )
    async def what_if(context: Context, group: str, disk: str) -> Response:
        body = await context.read_json()
        place = {"group": group, "name": disk, "kind": kind}
        return json_response(200, forecast_json(await context.run(_forecast, body, place)))

    @router.post(
        f"{one}/whatIfDelete",
        summary=f"Predict the effects of the deletion of {noun} on the bill",
        tags=tags,
        name=f"what_if_delete_{kind}",
    )
    async def what_if_delete(context: Context, group: str, disk: str) -> Response:
        found = await context.run_operation(forecast_disk_deletion, group=group, name=disk, kind=kind)
        return json_response(200, forecast_json(found))


def _forecast(session: Session, body: Json, place: Mapping[str, Any]) -> Forecast:
    """Predict the command of PUT (`put_disk`). The bytes of an upload are not known before."""
    wanted = read_disk(body, **place)
    if isinstance(wanted, UploadRequest):
        raise InvalidInput(
            "The effects of an upload cannot be predicted.",
            found="the create option Upload",
            expected="a disk from an image version, a disk, a snapshot or a file",
            hint="imgstore disk create --source FILE --what-if reads a file of the server",
            target="properties.creationData.createOption",
        )
    if isinstance(wanted, DiskOfImageRequest):
        return session.run(forecast_image_disk, wanted)
    return session.run(forecast_source_disk, wanted)


_add_routes(DiskKind.DISK, "Disks")
_add_routes(DiskKind.SNAPSHOT, "Snapshots")


def _authorize(call: CommandCall, action: Action) -> Principal:
    """Check the right to an action on the disk. Return the caller with the right to read the disk."""
    place = _place(call.request)
    scope = compute_id(call.session.installation.subscription, place["group"], place["kind"], place["name"])
    return authorize_change(call.session, scope, action)


def _place(request: Mapping[str, Any]) -> dict[str, Any]:
    kind: Final = request.get("kind", DiskKind.DISK)  # Operations of older versions have no kind and concern disks.
    return {"group": request["group"], "name": request["disk"], "kind": DiskKind(kind)}


@router.post(
    f"{COMPUTE}/disks/{{disk}}/beginGetAccess",
    summary="Get a signed URL of a disk",
    openapi_extra=RESOURCE_BODY,
    tags=["Disks"],
)
async def begin_access(context: Context, group: str, disk: str) -> Response:
    """Serve Azure's Disks_GrantAccess. The answer is 200, because the grant is complete at once."""
    body = read_access(await context.read_json())
    url = await context.run_operation(
        grant_access,
        group=group,
        name=disk,
        level=body.level,
        duration_seconds=body.duration_seconds,
        server_url=context.base_url,
    )
    return json_response(200, {"accessSAS": url})


@router.post(
    f"{COMPUTE}/disks/{{disk}}/endGetAccess",
    summary="Revoke the signed URLs of a disk, and ingest an upload",
    status_code=202,
    tags=["Disks"],
)
async def end_access(context: Context, group: str, disk: str) -> Response:
    """Serve Azure's Disks_RevokeAccess."""
    return context.accepted_response(
        await context.begin("end-disk-access", group=group, disk=disk), Kind.DISK, 202, location=True
    )


def end_disk_access(call: CommandCall) -> Outcome:
    """Run the command of endGetAccess. Accept the request after the revocation. The ingest of an upload continues."""
    session, place = call.session, {"group": call.request["group"], "name": call.request["disk"]}
    disks.show_disk(session.installation, _authorize(call, Action.END_ACCESS), **place)
    session.run(revoke_access, **place, on_url_revoked=lambda: call.accept((False, None)))
    return False, None


def put_disk(call: CommandCall) -> Outcome:
    """Run the command of PUT. Accept the request when the row is stored. The ingest of a file continues afterwards."""
    session, request = call.session, call.request
    place, reader = _place(request), _authorize(call, Action.WRITE)
    wanted = read_disk(request["body"], **place)
    current: ManagedDisk | None = None
    try:
        current = disks.show_disk(session.installation, reader, **place)
    except NotFound:
        if not call.is_preempted:
            check_group(session, request["group"])
    if call.is_preempted:
        wanted = _without_changes(call, wanted, current)
    shown = None if current is None else disk_json(current)
    check_performance(request["body"], shown)
    check_conditions(request["conditions"], shown)
    made = _create(session, wanted, lambda rows: call.accept((current is None, disk_json(rows[0]))))
    return current is None, disk_json(made)


def _without_changes(call: CommandCall, wanted: NewDiskRequest, current: ManagedDisk | None) -> NewDiskRequest:
    """Return the request without the fields that a newer request may have changed.

    Raises:
        OperationPreempted: the operation has nothing to complete. The disk is not in the state Creating, or the request
            creates an empty disk for an upload.
    """
    is_made_here = current is not None and current.provisioning_state is ProvisioningState.CREATING
    if not is_made_here or isinstance(wanted, UploadRequest):
        place = _place(call.request)
        subscription = call.session.installation.subscription
        raise operation_preempted(compute_id(subscription, place["group"], place["kind"], place["name"]))
    return replace(wanted, tags=None, details=NO_DETAILS)


def _create(
    session: Session, wanted: NewDiskRequest, on_recorded: Callable[[Sequence[ManagedDisk]], None]
) -> ManagedDisk:
    if isinstance(wanted, DiskOfImageRequest):
        return session.run(disks.create_disk, wanted, on_recorded=lambda row: on_recorded([row]))
    if isinstance(wanted, UploadRequest):
        return session.run(create_upload, wanted)
    return session.run(create_from_source, wanted, on_recorded=on_recorded)


def patch_disk(call: CommandCall) -> Outcome:
    """Run the command of PATCH of disks, snapshots and managed images."""
    request, reader = call.request, _authorize(call, Action.WRITE)
    place, current = _place(request), _resource_json(call, reader)
    tags, details = read_disk_patch(request["body"], place["kind"], current)
    check_conditions(request["conditions"], current)
    if tags is None and details.extra_properties is None:
        return False, current
    call.session.run(disks.tag_disk, **place, tags=tags, details=details)
    return False, _resource_json(call, reader)


def delete_disk(call: CommandCall) -> Outcome:
    """Run the command of DELETE of disks, snapshots and managed images."""
    if call.request["conditions"]:
        check_conditions(call.request["conditions"], _resource_json(call, _authorize(call, Action.DELETE)))
    call.session.run(disks.delete_disk, **_place(call.request))
    return False, None


def _resource_json(call: CommandCall, reader: Principal) -> Json:
    """Return the current resource."""
    installation, place = call.session.installation, _place(call.request)
    if place["kind"] is DiskKind.IMAGE:
        return image_json(show_image(installation, reader, group=place["group"], name=place["name"]))
    return disk_json(disks.show_disk(installation, reader, **place))
