"""Serve resource groups, resource providers and the list of regions."""

from dataclasses import replace
from typing import Final

from fastapi import APIRouter, Response

from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, Context, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import GROUP, GROUPS, PROVIDER, SUBSCRIPTION
from imgstore.domain.errors import NotFound, ScopeNotFound
from imgstore.domain.identity.access import as_reader
from imgstore.domain.names import group_id
from imgstore.domain.resources import Group
from imgstore.operations.gallery import groups
from imgstore.wire.api_versions import Kind
from imgstore.wire.cloud import provider_json, providers_json
from imgstore.wire.json_text import Json
from imgstore.wire.requests.fields import read_group
from imgstore.wire.responses.resources import group_json

router = APIRouter(tags=["Resource groups"])
_KIND: Final = Kind.GROUP


@router.put(GROUP, summary="Create a resource group, or change the tags", status_code=201, openapi_extra=RESOURCE_BODY)
async def put(context: Context, group: str) -> Response:
    """Serve Azure's ResourceGroups_CreateOrUpdate. The change is complete with the answer."""
    body = await context.read_json()

    def create(at: Session) -> tuple[bool, Group]:
        location, tags = read_group(body)
        reader = authorize_change(at, group_id(at.installation.subscription, group))
        created = _find_group(replace(at, principal=reader), group) is None
        return created, at.run(groups.create_group, name=group, location=location, tags=tags)

    created, found = await context.run(create)
    return json_response(201 if created else 200, group_json(found))


@router.get(GROUP, summary="Show a resource group")
async def show(context: Context, group: str) -> Response:
    """Serve Azure's ResourceGroups_Get."""
    return context.resource_response(group_json(await context.run(get_group, group)), _KIND)


@router.head(GROUP, summary="Check whether a resource group exists", status_code=204)
async def exists(context: Context, group: str) -> Response:
    """Serve Azure's ResourceGroups_CheckExistence."""
    return Response(status_code=404 if await context.run(_find_group, group) is None else 204)


@router.get(GROUPS, summary="List the resource groups of a subscription")
async def list_of_subscription(context: Context) -> Response:
    """Serve Azure's ResourceGroups_List."""
    return await context.list_response(_KIND, lambda at, page: at.run(groups.page_groups, page), group_json)


@router.delete(GROUP, summary="Delete an empty resource group", status_code=202)
async def delete(context: Context, group: str) -> Response:
    """Serve Azure's ResourceGroups_Delete. Unlike Azure, imgstore refuses a group with resources."""
    return await context.delete_response("delete-group", _KIND, absent=404, group=group)


@router.get("/providers", summary="List the resource providers of the tenant")
async def list_tenant_providers(context: Context) -> Response:
    """Serve Azure's Providers_ListAtTenantScope."""
    return json_response(200, await context.run(lambda at: providers_json(None, _region_names(at))))


@router.get("/providers/{provider}", summary="Show a resource provider of the tenant")
async def show_tenant_provider(context: Context, provider: str) -> Response:
    """Serve Azure's Providers_GetAtTenantScope."""
    return json_response(200, await context.run(lambda at: provider_json(provider, None, _region_names(at))))


@router.get(f"{SUBSCRIPTION}/providers", summary="List the resource providers")
async def list_providers(context: Context) -> Response:
    """Serve Azure's Providers_List."""
    return json_response(
        200, await context.run(lambda at: providers_json(at.installation.subscription, _region_names(at)))
    )


@router.get(PROVIDER, summary="Show a resource provider")
async def show_provider(context: Context, provider: str) -> Response:
    """Serve Azure's Providers_Get. All providers are registered."""
    return json_response(200, await context.run(_provider_json, provider))


@router.post(f"{PROVIDER}/register", summary="Register a resource provider")
async def register(context: Context, provider: str) -> Response:
    """Serve Azure's Providers_Register. The registration has no effect."""
    return json_response(200, await context.run(_provider_json, provider))


@router.get(f"{SUBSCRIPTION}/locations", summary="List the regions")
async def list_locations(context: Context) -> Response:
    """Serve Azure's Subscriptions_ListLocations."""

    def read_page(at: Session) -> Json:
        above = f"/subscriptions/{at.installation.subscription}/locations"
        return [
            {
                "id": f"{above}/{region.name}",
                "name": region.name,
                "displayName": region.display_name,
                "regionalDisplayName": region.display_name,
                "metadata": {"regionType": "Physical"},
            }
            for region in at.installation.regions.regions.values()
        ]

    return json_response(200, {"value": await context.run(read_page)})


def check_group(session: Session, name: str) -> Group:
    """Return a group for a caller with the right to write in the group. The API never creates a group implicitly.

    Raises:
        NotFound: the group does not exist. The message is Azure's.
    """
    reader = as_reader(session.principal, group_id(session.installation.subscription, name))
    return get_group(replace(session, principal=reader), name)


def get_group(session: Session, name: str) -> Group:
    """Return a group.

    Raises:
        AccessDenied: the caller has no right to read the group.
        NotFound: the group does not exist. The message is Azure's.
    """
    found = _find_group(session, name)
    if found is None:
        raise NotFound(
            f"Resource group '{name}' could not be found.",
            hint="create the resource group first with PUT",
            target=group_id(session.installation.subscription, name),
            code="ResourceGroupNotFound",
        )
    return found


def _find_group(session: Session, name: str) -> Group | None:
    try:
        return session.run(groups.show_group, name=name)
    except ScopeNotFound:
        raise
    except NotFound:
        return None


def _provider_json(session: Session, provider: str) -> Json:
    return provider_json(provider, session.installation.subscription, _region_names(session))


def _region_names(session: Session) -> list[str]:
    return [region.display_name for region in session.installation.regions.regions.values()]


def delete_group(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    call.session.run(groups.delete_group, name=call.request["group"])
    return False, None
