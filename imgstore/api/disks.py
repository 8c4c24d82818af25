"""Managed disks over HTTP. Azure never answers 201 here, and `az disk create` takes no 201."""

from typing import Final

from fastapi import APIRouter, Response

from imgstore.api.door import RESOURCE, Asked, check_conditions
from imgstore.api.groups import check_group
from imgstore.api.longrunning import Outcome, Task
from imgstore.api.paths import DISK, DISKS, SUBSCRIPTION
from imgstore.domain.errors import NotFound
from imgstore.domain.resources import ManagedDisk
from imgstore.operations import disks
from imgstore.wire.api_versions import Kind
from imgstore.wire.bodies import read_disk, read_disk_change
from imgstore.wire.resources import disk_json

router = APIRouter(tags=["Disks"])
_KIND: Final = Kind.DISK


@router.put(DISK, summary="Make a managed disk from an image version", status_code=202, openapi_extra=RESOURCE)
async def put(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_CreateOrUpdate, FromImage."""
    accepted = await ask.begin("put-disk", group=group, disk=disk, body=await ask.json())
    # Without a Location: az would take what stands there for the disk.
    return ask.accepted(accepted, _KIND, 202 if accepted.created else 200)


@router.patch(DISK, summary="Change a managed disk's tags", openapi_extra=RESOURCE)
async def patch(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_Update."""
    return ask.accepted(await ask.begin("patch-disk", group=group, disk=disk, body=await ask.json()), _KIND, 200)


@router.get(DISK, summary="Show a managed disk")
async def show(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_Get."""
    found = await ask.run(lambda at: disks.show_disk(at.installation, at.principal, group=group, name=disk))
    return ask.shown(disk_json(found), _KIND)


@router.get(DISKS, summary="List the managed disks of a resource group")
async def list_of_group(ask: Asked, group: str) -> Response:
    """Azure's Disks_ListByResourceGroup."""
    return await ask.listed(
        _KIND, lambda at, page: disks.page_disks(at.installation, at.principal, page, group=group), disk_json
    )


@router.get(f"{SUBSCRIPTION}/providers/Microsoft.Compute/disks", summary="List the managed disks of a subscription")
async def list_of_subscription(ask: Asked) -> Response:
    """Azure's Disks_List."""
    return await ask.listed(_KIND, lambda at, page: disks.page_disks(at.installation, at.principal, page), disk_json)


@router.delete(DISK, summary="Delete a managed disk", status_code=202)
async def delete(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_Delete."""
    return await ask.gone("delete-disk", _KIND, group=group, disk=disk)


def put_disk(task: Task) -> Outcome:
    """The command of PUT."""
    session, request = task.session, task.request
    body = read_disk(request["body"])
    place = {"group": request["group"], "name": request["disk"]}
    standing: ManagedDisk | None = None
    try:
        standing = disks.show_disk(session.installation, session.principal, **place)
    except NotFound:
        check_group(session, request["group"])
    check_conditions(request["conditions"], None if standing is None else disk_json(standing))
    made = disks.create_disk(
        session.installation,
        session.principal,
        **place,
        location=body.location,
        gallery_image_reference=body.reference,
        gallery_image_reference_lun=body.lun,
        tags=body.tags,
    )
    return standing is None, disk_json(made)


def patch_disk(task: Task) -> Outcome:
    """The command of PATCH."""
    session, request = task.session, task.request
    place = {"group": request["group"], "name": request["disk"]}
    body = request["body"]
    tags = read_disk_change(body)
    standing = disks.show_disk(session.installation, session.principal, **place)
    check_conditions(request["conditions"], disk_json(standing))
    if "tags" not in body:
        return False, disk_json(standing)
    return False, disk_json(disks.tag_disk(session.installation, session.principal, **place, tags=tags))


def delete_disk(task: Task) -> Outcome:
    """The command of DELETE."""
    session, request = task.session, task.request
    place = {"group": request["group"], "name": request["disk"]}
    if request["conditions"]:
        standing = disks.show_disk(session.installation, session.principal, **place)
        check_conditions(request["conditions"], disk_json(standing))
    disks.delete_disk(session.installation, session.principal, **place)
    return False, None
