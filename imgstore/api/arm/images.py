"""Serve managed images: an OS disk and data disks, each from a disk, a snapshot or a file."""

from dataclasses import replace
from typing import Final

from fastapi import APIRouter, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, Context, check_conditions, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import COMPUTE, SUBSCRIPTION
from imgstore.domain.errors import NotFound
from imgstore.domain.names import compute_id
from imgstore.domain.resources import DiskKind
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import ManagedImage
from imgstore.operations.api_operations import operation_preempted
from imgstore.operations.machines import images
from imgstore.operations.what_if.disks import forecast_disk_deletion
from imgstore.wire.api_versions import Kind
from imgstore.wire.requests.disk import read_image
from imgstore.wire.responses.forecast import forecast_json
from imgstore.wire.responses.resources import image_json

router = APIRouter(tags=["Managed images"])
_KIND: Final = Kind.IMAGE
_IMAGES: Final = f"{COMPUTE}/images"
_IMAGE: Final = f"{_IMAGES}/{{image}}"


@router.put(_IMAGE, summary="Create a managed image", status_code=201, openapi_extra=RESOURCE_BODY)
async def put(context: Context, group: str, image: str) -> Response:
    """Serve Azure's Images_CreateOrUpdate."""
    return await context.put_response("put-image", _KIND, group=group, disk=image)


@router.patch(_IMAGE, summary="Change a managed image's tags", openapi_extra=RESOURCE_BODY)
async def patch(context: Context, group: str, image: str) -> Response:
    """Serve Azure's Images_Update."""
    return await context.patch_response("patch-disk", _KIND, kind=DiskKind.IMAGE, group=group, disk=image)


@router.get(_IMAGE, summary="Show a managed image")
async def show(context: Context, group: str, image: str) -> Response:
    """Serve Azure's Images_Get."""
    return context.resource_response(image_json(await context.run(_show, group, image)), _KIND)


@router.get(_IMAGES, summary="List the managed images of a resource group")
async def list_of_group(context: Context, group: str) -> Response:
    """Serve Azure's Images_ListByResourceGroup."""
    return await context.list_response(
        _KIND, lambda at, page: at.run(images.page_images, page, group=group), image_json
    )


@router.get(f"{SUBSCRIPTION}/providers/Microsoft.Compute/images", summary="List the managed images of a subscription")
async def list_of_subscription(context: Context) -> Response:
    """Serve Azure's Images_List."""
    return await context.list_response(_KIND, lambda at, page: at.run(images.page_images, page), image_json)


@router.post(f"{_IMAGE}/whatIfDelete", summary="Predict the effects of the deletion of a managed image on the bill")
async def what_if_delete(context: Context, group: str, image: str) -> Response:
    """Serve imgstore's prediction of Images_Delete. Azure has no such action."""
    found = await context.run_operation(forecast_disk_deletion, group=group, name=image, kind=DiskKind.IMAGE)
    return json_response(200, forecast_json(found))


@router.delete(_IMAGE, summary="Delete a managed image", status_code=202)
async def delete(context: Context, group: str, image: str) -> Response:
    """Serve Azure's Images_Delete."""
    return await context.delete_response("delete-disk", _KIND, kind=DiskKind.IMAGE, group=group, disk=image)


def _show(session: Session, group: str, name: str) -> ManagedImage:
    return session.run(images.show_image, group=group, name=name)


def put_image(call: CommandCall) -> Outcome:
    """Run the command of PUT. Accept the request when the rows are stored. The ingest of files continues afterwards."""
    session, request = call.session, call.request
    scope = compute_id(session.installation.subscription, request["group"], DiskKind.IMAGE, request["disk"])
    reader = authorize_change(session, scope)
    body = read_image(request["body"], request["group"], request["disk"])
    current: ManagedImage | None = None
    try:
        current = _show(replace(session, principal=reader), request["group"], request["disk"])
    except NotFound:
        if not call.is_preempted:
            check_group(session, request["group"])
    if call.is_preempted:
        if current is None or all(
            each.provisioning_state is not ProvisioningState.CREATING for each in current.by_key.values()
        ):
            raise operation_preempted(scope)
        body = replace(body, tags=None, details={})
    check_conditions(request["conditions"], None if current is None else image_json(current))
    made = session.run(
        images.create_image, body, on_recorded=lambda image: call.accept((current is None, image_json(image)))
    )
    return current is None, image_json(made)
