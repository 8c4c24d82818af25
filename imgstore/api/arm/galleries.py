"""Serve galleries."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, Context, GalleryContext, check_conditions, compute_etag
from imgstore.api.http.long_running import CommandCall, Outcome
from imgstore.api.http.paths import GALLERIES, GALLERY, SUBSCRIPTION
from imgstore.domain.errors import NotFound
from imgstore.domain.identity.access import Action
from imgstore.domain.identity.sharing import change_profile
from imgstore.domain.names import gallery_id
from imgstore.domain.resources import Gallery
from imgstore.operations.gallery import galleries
from imgstore.wire.api_versions import Kind
from imgstore.wire.requests.fields import read_gallery, read_sharing
from imgstore.wire.responses.resources import gallery_json

router = APIRouter(tags=["Galleries"])
_KIND = Kind.GALLERY


@router.put(
    GALLERY,
    summary="Create a gallery, or replace the properties that may change",
    status_code=201,
    openapi_extra=RESOURCE_BODY,
)
async def put(context: GalleryContext) -> Response:
    """Serve Azure's Galleries_CreateOrUpdate."""
    return await context.put_response("put-gallery", _KIND, **context.place, whole=True)


@router.patch(GALLERY, summary="Change a gallery", openapi_extra=RESOURCE_BODY)
async def patch(context: GalleryContext) -> Response:
    """Serve Azure's Galleries_Update."""
    return await context.patch_response("put-gallery", _KIND, **context.place, whole=False)


@router.get(GALLERY, summary="Show a gallery")
async def show(
    context: Context,
    group: str,
    gallery: str,
    select: Annotated[str | None, Query(alias="$select", description="Permissions")] = None,
    expand: Annotated[str | None, Query(alias="$expand", description="SharingProfile/Groups")] = None,
) -> Response:
    """Serve Azure's Galleries_Get."""
    found = await context.run_operation(galleries.show_gallery, group=group, name=gallery)
    groups = (select or "").lower() == "permissions" or (expand or "").lower() == "sharingprofile/groups"
    return context.resource_response(gallery_json(found, groups=groups), _KIND, compute_etag(gallery_json(found)))


@router.get(GALLERIES, summary="List the galleries of a resource group")
async def list_of_group(context: Context, group: str) -> Response:
    """Serve Azure's Galleries_ListByResourceGroup."""
    return await context.list_response(
        _KIND, lambda at, page: at.run(galleries.page_galleries, page, group=group), gallery_json
    )


@router.get(f"{SUBSCRIPTION}/providers/Microsoft.Compute/galleries", summary="List the galleries of a subscription")
async def list_of_subscription(context: Context) -> Response:
    """Serve Azure's Galleries_List."""
    return await context.list_response(_KIND, lambda at, page: at.run(galleries.page_galleries, page), gallery_json)


@router.delete(GALLERY, summary="Delete a gallery that has no images", status_code=202)
async def delete(context: GalleryContext) -> Response:
    """Serve Azure's Galleries_Delete."""
    return await context.delete_response("delete-gallery", _KIND, **context.place)


def put_gallery(call: CommandCall) -> Outcome:
    """Run the command of PUT and PATCH."""
    session, request = call.session, call.request
    place = {"group": request["group"], "name": request["gallery"]}
    reader = authorize_change(
        session, gallery_id(session.installation.subscription, request["group"], request["gallery"])
    )
    fields = read_gallery(request["body"], session.api_version, is_put=request["whole"])
    current: Gallery | None = None
    try:
        current = galleries.show_gallery(session.installation, reader, **place)
    except NotFound:
        if not request["whole"]:
            raise
    if current is None:
        check_group(session, request["group"])
        check_conditions(request["conditions"], None)
        permission, community = read_sharing(request["body"], session.api_version, None) or (None, None)
        made = session.run(galleries.create_gallery, **place, **fields, permission=permission, community=community)
        return True, gallery_json(made)
    changed = session.run(galleries.update_gallery, _change(call, fields), **place)
    return False, gallery_json(changed)


def _change(call: CommandCall, fields: Mapping[str, Any]) -> Callable[[Gallery], Gallery]:
    def change(gallery: Gallery) -> Gallery:
        check_conditions(call.request["conditions"], gallery_json(gallery))
        asked = read_sharing(call.request["body"], call.session.api_version, gallery.sharing)
        sharing = gallery.sharing if asked is None else change_profile(gallery.sharing, *asked)
        return replace(gallery, **fields, sharing=sharing)

    return change


def delete_gallery(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    session, request = call.session, call.request
    place = {"group": request["group"], "name": request["gallery"]}
    if request["conditions"]:
        reader = authorize_change(
            session, gallery_id(session.installation.subscription, request["group"], request["gallery"]), Action.DELETE
        )
        current = galleries.show_gallery(session.installation, reader, **place)
        check_conditions(request["conditions"], gallery_json(current))
    session.run(galleries.delete_gallery, **place)
    return False, None
