"""Serve image definitions."""

from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Response

from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import RESOURCE_BODY, DefinitionContext, GalleryContext, check_conditions
from imgstore.api.http.long_running import CommandCall, Outcome
from imgstore.api.http.paths import DEFINITION, DEFINITIONS
from imgstore.domain.errors import NotFound
from imgstore.domain.identity.access import Action
from imgstore.domain.names import definition_id
from imgstore.domain.requests import DefinitionDetails
from imgstore.domain.resources import ImageDefinition
from imgstore.domain.views import DefinitionPath
from imgstore.operations.gallery import definitions
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_text import Json
from imgstore.wire.requests.fields import complete_definition, read_definition
from imgstore.wire.responses.resources import definition_json

router = APIRouter(tags=["Image definitions"])
_KIND: Final = Kind.DEFINITION
_DETAILS: Final = frozenset(each.name for each in fields_of(DefinitionDetails))


@router.put(
    DEFINITION,
    summary="Create an image definition, or replace the properties that may change",
    status_code=201,
    openapi_extra=RESOURCE_BODY,
)
async def put(context: DefinitionContext) -> Response:
    """Serve Azure's GalleryImages_CreateOrUpdate."""
    return await context.put_response("put-definition", _KIND, **context.place, whole=True)


@router.patch(DEFINITION, summary="Change an image definition", openapi_extra=RESOURCE_BODY)
async def patch(context: DefinitionContext) -> Response:
    """Serve Azure's GalleryImages_Update."""
    return await context.patch_response("put-definition", _KIND, **context.place, whole=False)


@router.get(DEFINITION, summary="Show an image definition")
async def show(context: DefinitionContext) -> Response:
    """Serve Azure's GalleryImages_Get."""
    found = await context.run_operation(definitions.show_definition, **_place(context.place))
    return context.resource_response(_json(found), _KIND)


@router.get(DEFINITIONS, summary="List the image definitions of a gallery")
async def list_of_gallery(context: GalleryContext) -> Response:
    """Serve Azure's GalleryImages_ListByGallery."""
    return await context.list_response(
        _KIND, lambda at, page: at.run(definitions.page_definitions, page, **context.place), _json
    )


@router.delete(DEFINITION, summary="Delete an image definition that has no versions", status_code=202)
async def delete(context: DefinitionContext) -> Response:
    """Serve Azure's GalleryImages_Delete."""
    return await context.delete_response("delete-definition", _KIND, **context.place)


def _json(line: DefinitionPath) -> Json:
    return definition_json(line.definition, line.gallery)


def _place(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"group": request["group"], "gallery": request["gallery"], "name": request["definition"]}


def put_definition(call: CommandCall) -> Outcome:
    """Run the command of PUT and PATCH."""
    session, request = call.session, call.request
    place = _place(request)
    reader = authorize_change(session, definition_id(session.installation.subscription, *place.values()))
    fields = read_definition(request["body"], session.api_version, is_put=request["whole"])
    current: DefinitionPath | None = None
    try:
        current = definitions.show_definition(session.installation, reader, **place)
    except NotFound:
        if not request["whole"]:
            raise
    if current is None:
        check_conditions(request["conditions"], None)
        return True, _json(_create(call, place, complete_definition(fields, session.api_version)))
    change = _change(request, fields)
    return False, _json(session.run(definitions.update_definition, change, **place))


def _create(call: CommandCall, place: dict[str, Any], fields: dict[str, Any]) -> DefinitionPath:
    installation, principal = call.session.installation, call.session.principal
    allow = fields.pop("allow_update_image", False)
    details = DefinitionDetails(**{name: fields.pop(name) for name in list(fields) if name in _DETAILS})
    made = definitions.create_definition(installation, principal, **place, **fields, details=details)
    if not allow:
        return made
    return definitions.update_definition(
        installation, principal, lambda line: replace(line.definition, allow_update_image=True), **place
    )


def _change(request: Mapping[str, Any], fields: Mapping[str, Any]) -> Callable[[DefinitionPath], ImageDefinition]:
    def change(line: DefinitionPath) -> ImageDefinition:
        check_conditions(request["conditions"], _json(line))
        return replace(line.definition, **fields)

    return change


def delete_definition(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    session, request = call.session, call.request
    place = _place(request)
    if request["conditions"]:
        reader = authorize_change(
            session, definition_id(session.installation.subscription, *place.values()), Action.DELETE
        )
        current = definitions.show_definition(session.installation, reader, **place)
        check_conditions(request["conditions"], _json(current))
    session.run(definitions.delete_definition, **place)
    return False, None
