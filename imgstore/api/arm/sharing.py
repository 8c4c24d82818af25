"""Serve the sharing of galleries: changes by owners, and the read access of other subscriptions and tenants."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from imgstore.api.http.context import RESOURCE_BODY, Context, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import GALLERY, SUBSCRIPTION
from imgstore.domain.errors import AccessDenied, InvalidInput, ScopeNotFound
from imgstore.domain.names import SharedReference, VersionName, check_definition_name
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import Gallery
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations.gallery import sharing
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_text import Json
from imgstore.wire.sharing import (
    ShareOperation,
    community_row_json,
    read_community_query,
    read_share,
    shared_definition_json,
    shared_gallery_json,
    shared_version_json,
)

router = APIRouter(tags=["Sharing"])
_KIND: Final = Kind.SHARED
_ABOVE: Final = f"{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{{location}}"
_SHARED: Final = f"{_ABOVE}/sharedGalleries"
_COMMUNITY: Final = f"{_ABOVE}/communityGalleries"


@router.post(f"{GALLERY}/share", summary="Change the sharing of a gallery", status_code=202,
             openapi_extra=RESOURCE_BODY)  # fmt: skip
async def share(context: Context, group: str, gallery: str) -> Response:
    """Serve Azure's GallerySharingProfile_Update."""
    accepted = await context.begin("share-gallery", group=group, gallery=gallery, body=await context.read_json())
    return context.accepted_response(accepted, Kind.GALLERY, 202, location=True)


@router.get(
    _SHARED, summary="List the galleries that are shared with a subscription or with the tenant of the subscription"
)
async def list_shared(
    context: Context,
    location: str,
    shared_to: Annotated[str | None, Query(alias="sharedTo", description="tenant")] = None,
) -> Response:
    """Serve Azure's SharedGalleries_List."""

    def read(at: Session, page: PageRequest) -> Page[Gallery]:
        return at.run(sharing.page_shared, page, location=location, to_tenant=_is_tenant(shared_to))

    return await context.list_response(_KIND, read, shared_gallery_json)


@router.get(f"{_SHARED}/{{gallery}}", summary="Show a shared gallery")
async def show_shared(context: Context, location: str, gallery: str) -> Response:
    """Serve Azure's SharedGalleries_Get."""

    def read(at: Session) -> Json:
        _check_region(at, location)
        return shared_gallery_json(at.run(sharing.show_shared, unique_name=gallery))

    return json_response(200, await context.run(read))


@router.get(f"{_COMMUNITY}/{{gallery}}", summary="Show a community gallery")
async def show_community(context: Context, location: str, gallery: str) -> Response:
    """Serve Azure's CommunityGalleries_Get."""

    def read(at: Session) -> Json:
        _check_region(at, location)
        return shared_gallery_json(at.run(sharing.show_community, public_name=gallery))

    return json_response(200, await context.run(read))


@router.post("/providers/Microsoft.ResourceGraph/resources", summary="List the community galleries",
             openapi_extra=RESOURCE_BODY)  # fmt: skip
async def query(context: Context) -> Response:
    """Serve the part of Azure's Resources that `az sig list-community` needs: community galleries, optionally of a region."""
    body = await context.read_json()

    def read(at: Session) -> list[Json]:
        location = read_community_query(body)
        region = None if location is None else at.installation.regions.get(location, target="location").name
        try:
            rows = at.run(sharing.list_community)
        except (ScopeNotFound, AccessDenied):
            return []  # As in Azure, a query shows only readable resources. A refusal would name a subscription.
        return [community_row_json(each) for each in rows if region in (None, each.location)]

    rows = await context.run(read)
    return json_response(200, {"totalRecords": len(rows), "count": len(rows), "data": rows, "resultTruncated": "false"})


def _add_content_routes(top: str, *, community: bool) -> None:
    """Add the routes of the content of shared galleries or of community galleries."""
    kind = "community" if community else "shared"
    images = f"{top}/{{gallery}}/images"
    versions = f"{images}/{{definition}}/versions"

    @router.get(images, summary=f"List the image definitions of a {kind} gallery", name=f"list_{kind}_images")
    async def list_images(context: Context, location: str, gallery: str) -> Response:
        def read(at: Session, page: PageRequest) -> Page[DefinitionPath]:
            _check_region(at, location)
            reference = SharedReference(gallery=gallery, community=community, definition="any")
            return at.run(sharing.page_definitions_shared, page, reference)

        return await context.list_response(_KIND, read, shared_definition_json)

    @router.get(
        f"{images}/{{definition}}", summary=f"Show an image definition of a {kind} gallery", name=f"show_{kind}_image"
    )
    async def show_image(context: Context, location: str, gallery: str, definition: str) -> Response:
        def read(at: Session) -> Json:
            _check_region(at, location)
            reference = SharedReference(gallery=gallery, community=community, definition=definition)
            lines = at.run(sharing.list_definitions_shared, reference, only=definition)
            return shared_definition_json(lines[0])

        return json_response(200, await context.run(read))

    @router.get(
        versions, summary=f"List the versions of an image definition of a {kind} gallery", name=f"list_{kind}_versions"
    )
    async def list_versions(context: Context, location: str, gallery: str, definition: str) -> Response:
        def read(at: Session, page: PageRequest) -> Page[VersionView]:
            reference = _reference(at, location, gallery, definition, community=community)
            return at.run(sharing.page_versions_shared, page, reference)

        return await context.list_response(_KIND, read, shared_version_json)

    @router.get(f"{versions}/{{version}}", summary=f"Show a version of a {kind} gallery", name=f"show_{kind}_version")
    async def show_version(context: Context, location: str, gallery: str, definition: str, version: str) -> Response:
        def read(at: Session) -> Json:
            reference = _reference(at, location, gallery, definition, version, community=community)
            return shared_version_json(at.run(sharing.list_versions_shared, reference)[0])

        return json_response(200, await context.run(read))


_add_content_routes(_SHARED, community=False)
_add_content_routes(_COMMUNITY, community=True)


def _reference(
    at: Session, location: str, gallery: str, definition: str, version: str | None = None, *, community: bool
) -> SharedReference:
    _check_region(at, location)
    return SharedReference(
        gallery=gallery,
        community=community,
        definition=check_definition_name(definition),
        version=None if version is None else VersionName.parse(version),
    )


def _check_region(session: Session, location: str) -> None:
    session.installation.regions.get(location, target="location")


def _is_tenant(word: str | None) -> bool:
    if word is not None and word.lower() != "tenant":
        raise InvalidInput(
            f"The value '{word[:64]}' of sharedTo is not supported.",
            expected="tenant, or no value for the subscription",
            target="sharedTo",
        )
    return word is not None


def share_gallery(call: CommandCall) -> Outcome:
    """Run the command of POST. The answer contains no resource."""
    session, request = call.session, call.request
    asked = read_share(request["body"])
    place = {"group": request["group"], "name": request["gallery"]}
    if asked.operation is ShareOperation.RESET:
        session.run(sharing.share_reset, **place)
    elif asked.operation is ShareOperation.ENABLE_COMMUNITY:
        session.run(sharing.enable_community, **place)
    else:
        change = sharing.share_add if asked.operation is ShareOperation.ADD else sharing.share_remove
        session.run(change, **place, subscriptions=asked.subscriptions, tenants=asked.tenants)
    return False, None
