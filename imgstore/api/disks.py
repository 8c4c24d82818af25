"""Managed disks over HTTP. Azure never answers 201 here, and `az disk create` takes no 201."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Response

from imgstore.api.door import RESOURCE, Asked, check_conditions, reply
from imgstore.api.groups import check_group
from imgstore.api.longrunning import Outcome, Session, Task
from imgstore.api.paths import DISK, DISKS, SUBSCRIPTION
from imgstore.domain.errors import NotFound
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import ManagedDisk
from imgstore.operations import disks
from imgstore.operations.granting import grant_access
from imgstore.operations.uploading import UploadRequest, create_upload, revoke_access
from imgstore.wire.api_versions import Kind
from imgstore.wire.bodies import DiskBody, read_access, read_disk
from imgstore.wire.resources import disk_json

router = APIRouter(tags=["Disks"])
_KIND: Final = Kind.DISK


@router.put(
    DISK, summary="Make a managed disk from an image version, or for an upload", status_code=202, openapi_extra=RESOURCE
)
async def put(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_CreateOrUpdate, FromImage and Upload."""
    accepted = await ask.begin("put-disk", group=group, disk=disk, body=await ask.json())
    return ask.accepted(accepted, _KIND, 202 if accepted.created else 200, location=accepted.created)


@router.get(DISK, summary="Show a managed disk")
async def show(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_Get."""
    found = await ask.run(lambda at: disks.show_disk(at.installation, at.principal, group=group, name=disk))
    return ask.shown(disk_json(found), _KIND)


@router.get(DISKS, summary="List the managed disks of a resource group")
async def list_of_group(ask: Asked, group: str) -> Response:
    """Azure's Disks_ListByResourceGroup."""
    return await ask.listed(_KIND, lambda at, page: _all(at, page, group), disk_json)


@router.get(f"{SUBSCRIPTION}/providers/Microsoft.Compute/disks", summary="List the managed disks of a subscription")
async def list_of_subscription(ask: Asked) -> Response:
    """Azure's Disks_List."""
    return await ask.listed(_KIND, lambda at, page: _all(at, page, None), disk_json)


@router.delete(DISK, summary="Delete a managed disk", status_code=202)
async def delete(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_Delete."""
    return await ask.gone("delete-disk", _KIND, group=group, disk=disk)


def _all(at: Session, _page: PageRequest, group: str | None) -> Page[ManagedDisk]:
    return Page(items=tuple(disks.list_disks(at.installation, at.principal, group=group)))


@router.post(f"{DISK}/beginGetAccess", summary="Get a signed URL to a disk's bytes", openapi_extra=RESOURCE)
async def begin_access(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_GrantAccess. It is done at once: 200."""
    body = read_access(await ask.json())
    url = await ask.run(
        lambda at: grant_access(
            at.installation,
            at.principal,
            group=group,
            name=disk,
            level=body.level,
            duration_seconds=body.duration_seconds,
            server_url=ask.base_url,
        )
    )
    return reply(200, {"accessSAS": url})


@router.post(f"{DISK}/endGetAccess", summary="Revoke it, and take in what was uploaded", status_code=202)
async def end_access(ask: Asked, group: str, disk: str) -> Response:
    """Azure's Disks_RevokeAccess."""
    return ask.accepted(await ask.begin("end-disk-access", group=group, disk=disk), _KIND, 202, location=True)


def end_disk_access(task: Task) -> Outcome:
    """The command of endGetAccess. Accepted once the disk is known; taking in what was uploaded goes on."""
    session, place = task.session, {"group": task.request["group"], "name": task.request["disk"]}
    disks.show_disk(session.installation, session.principal, **place)
    revoke_access(session.installation, session.principal, **place, began=lambda: task.accept((False, None)))
    return False, None


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
    return standing is None, disk_json(_made(session, place, body))


def _made(session: Session, place: Mapping[str, str], body: DiskBody) -> ManagedDisk:
    if body.upload_bytes is not None:
        request = UploadRequest(
            group=place["group"],
            name=place["name"],
            location=body.location,
            upload_bytes=body.upload_bytes,
            storage_account_type=body.storage_account_type,
            tags=body.tags,
        )
        return create_upload(session.installation, session.principal, request)
    assert body.reference is not None, "a disk of an image has a reference"
    return disks.create_disk(
        session.installation,
        session.principal,
        group=place["group"],
        name=place["name"],
        location=body.location,
        gallery_image_reference=body.reference,
        tags=body.tags,
    )


def delete_disk(task: Task) -> Outcome:
    """The command of DELETE."""
    session, request = task.session, task.request
    place = {"group": request["group"], "name": request["disk"]}
    if request["conditions"]:
        standing = disks.show_disk(session.installation, session.principal, **place)
        check_conditions(request["conditions"], disk_json(standing))
    disks.delete_disk(session.installation, session.principal, **place)
    return False, None
