"""Serve Microsoft.Network: networks and nested resources as records without an effect. Changes complete with the answer."""

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Final

from fastapi import APIRouter, Response

from imgstore.api.arm.groups import check_group
from imgstore.api.http.context import (
    RESOURCE_BODY,
    Context,
    RequestContext,
    check_conditions,
    compute_etag,
    json_response,
)
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import NETWORK, SUBSCRIPTION
from imgstore.domain.errors import NotFound, ParentNotFound, ScopeNotFound
from imgstore.domain.identity.access import Action, as_reader
from imgstore.domain.network_records import NetworkContent
from imgstore.domain.views import NetworkRecordView
from imgstore.operations.activity_log import permit
from imgstore.operations.network_records import (
    Change,
    NetworkScope,
    delete_network_record,
    network_record_not_found,
    page_network_records,
    put_network_record,
    show_network_record,
)
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_text import Json
from imgstore.wire.network import (
    NETWORK_TYPES,
    NetworkType,
    add_etag,
    network_json,
    part_json,
    read_network,
    read_network_tags,
    with_part,
    without_part,
)

router = APIRouter()
_KIND: Final = Kind.NETWORK
_BY_WORD: Final = {each.word: each for each in NETWORK_TYPES}
_TAGS: Final[list[str | Enum]] = ["Networks, as records"]


def _add_routes(kind: NetworkType) -> None:
    """Add the routes of a resource type."""
    all_of_group, word = f"{NETWORK}/{kind.word}", kind.word
    one, noun = f"{all_of_group}/{{name}}", f"a {kind.display_name}"

    @router.put(
        one,
        summary=f"Create or update {noun}",
        status_code=201,
        openapi_extra=RESOURCE_BODY,
        tags=_TAGS,
        name=f"put_{word}",
    )
    async def put(context: Context, group: str, name: str) -> Response:
        body = await context.read_json()
        return await _put_response(context, lambda at: _put(at, kind, group, name, body, _conditions(context)))

    @router.patch(
        one, summary=f"Change the tags of {noun}", openapi_extra=RESOURCE_BODY, tags=_TAGS, name=f"patch_{word}"
    )
    async def patch(context: Context, group: str, name: str) -> Response:
        body = await context.read_json()
        return await _put_response(context, lambda at: _patch(at, kind, group, name, body, _conditions(context)))

    @router.get(one, summary=f"Show {noun}", tags=_TAGS, name=f"show_{word}")
    async def show(context: Context, group: str, name: str) -> Response:
        found = await context.run(lambda at: _show(at, NetworkScope(group=group, type=kind.type, name=name)))
        return context.resource_response(_with_etag(found), _KIND, compute_etag(found))

    @router.get(all_of_group, summary=f"List the {word} of a resource group", tags=_TAGS, name=f"list_{word}_of_group")
    async def list_of_group(context: Context, group: str) -> Response:
        return await context.list_response(
            _KIND, lambda at, page: at.run(page_network_records, page, kind.type, group), _view_json
        )

    @router.get(
        f"{SUBSCRIPTION}/providers/Microsoft.Network/{word}",
        summary=f"List the {word} of a subscription",
        tags=_TAGS,
        name=f"list_{word}",
    )
    async def list_of_subscription(context: Context) -> Response:
        return await context.list_response(
            _KIND, lambda at, page: at.run(page_network_records, page, kind.type), _view_json
        )

    @router.delete(one, summary=f"Delete {noun}", tags=_TAGS, name=f"delete_{word}")
    async def delete(context: Context, group: str, name: str) -> Response:
        place = NetworkScope(group=group, type=kind.type, name=name)
        return await _delete_response(context, lambda at: at.run(delete_network_record, place))


def _add_part_routes(kind: NetworkType, part: str) -> None:
    """Add the routes of a nested type."""
    all_of_one = f"{NETWORK}/{kind.word}/{{name}}/{part}"
    one, noun = f"{all_of_one}/{{part}}", f"one of a {kind.display_name}'s {part}"

    @router.get(one, summary=f"Show {noun}", tags=_TAGS, name=f"show_{part}")
    async def show(context: Context, group: str, name: str, part: str) -> Response:
        place = _place(kind, group, name, part)
        return context.resource_response(
            await context.run(lambda at: _part(at, kind, place, _with_etag(_show(at, place)), part)), _KIND
        )

    @router.get(all_of_one, summary=f"List a {kind.display_name}'s {part}", tags=_TAGS, name=f"list_{part}")
    async def list_all(context: Context, group: str, name: str) -> Response:
        # The check of the route covers the right to read the parts, which are read with the whole resource.
        place = NetworkScope(group=group, type=kind.type, name=name)
        whole = await context.run(lambda at: _with_etag(_show(_as_reader(at, place), place)))
        return json_response(200, {"value": whole["properties"][kind.part]})

    if not kind.has_writable_parts:
        return

    @router.put(
        one,
        summary=f"Create or update {noun}",
        status_code=201,
        openapi_extra=RESOURCE_BODY,
        tags=_TAGS,
        name=f"put_{part}",
    )
    async def put(context: Context, group: str, name: str, part: str) -> Response:
        body = await context.read_json()
        return await _put_response(context, lambda at: _put_part(at, kind, group, name, part, body))

    @router.delete(one, summary=f"Delete {noun}", tags=_TAGS, name=f"delete_{part}")
    async def delete(context: Context, group: str, name: str, part: str) -> Response:
        return await _delete_response(context, lambda at: _delete_part(at, kind, group, name, part))


for _type in NETWORK_TYPES:
    _add_routes(_type)
    if _type.part is not None:
        _add_part_routes(_type, _type.part)


def put_network(call: CommandCall) -> Outcome:
    """Run the command of PUT for a deployment."""
    request = call.request
    created, body = _put(
        call.session, _BY_WORD[request["kind"]], request["group"], request["name"], request["body"], {}
    )
    return created, body


def put_part(call: CommandCall) -> Outcome:
    """Run the command of PUT for a nested resource of a deployment."""
    request = call.request
    kind = _BY_WORD[request["kind"]]
    return _put_part(call.session, kind, request["group"], request["name"], request["part"], request["body"])


def _put(session: Session, kind: NetworkType, group: str, name: str, body: Json, conditions: dict[str, str]) -> Outcome:
    place = NetworkScope(group=group, type=kind.type, name=name)

    def change(current: NetworkRecordView | None) -> NetworkContent:
        check_conditions(conditions, None if current is None else network_json(current))
        return read_network(body, kind, place.scope(session.installation))

    return _apply(session, place, change)


def _patch(
    session: Session, kind: NetworkType, group: str, name: str, body: Json, conditions: dict[str, str]
) -> Outcome:
    place = NetworkScope(group=group, type=kind.type, name=name)

    def change(current: NetworkRecordView | None) -> NetworkContent:
        if current is None:
            raise network_record_not_found(session.installation, place)
        check_conditions(conditions, network_json(current))
        return read_network_tags(body, current.resource.content)

    return _apply(session, place, change)


def _put_part(session: Session, kind: NetworkType, group: str, name: str, part: str, body: Json) -> Outcome:
    place, created = _place(kind, group, name, part), False

    def change(current: NetworkRecordView | None) -> NetworkContent:
        nonlocal created
        if current is None:
            raise ParentNotFound(
                f"Can not perform requested operation on nested resource. Parent resource '{name}' not found.",
                hint=f"create the {kind.display_name} first",
                target=place.scope(session.installation),
                code="ParentResourceNotFound",
            )
        created = place.part.lower() not in current.resource.content.parts
        return with_part(current.resource, part, body)

    _, whole = _apply(session, place, change)
    return created, _part(session, kind, place, whole, part)


def _delete_part(session: Session, kind: NetworkType, group: str, name: str, part: str) -> None:
    place = _place(kind, group, name, part)

    def change(current: NetworkRecordView | None) -> NetworkContent:
        if current is None or place.part.lower() not in current.resource.content.parts:
            raise network_record_not_found(session.installation, place)
        return without_part(current.resource, part)

    session.run(put_network_record, place, change, action=Action.DELETE)


def _as_reader(session: Session, place: NetworkScope) -> Session:
    return replace(session, principal=as_reader(session.principal, place.scope(session.installation)))


def _apply(session: Session, place: NetworkScope, change: Change) -> Outcome:
    permit(session.installation, session.principal, Action.WRITE, place.scope(session.installation))
    check_group(session, place.group)
    created, made = session.run(put_network_record, place, change)
    return created, _view_json(made)


async def _put_response(context: RequestContext, work: Callable[[Session], Outcome]) -> Response:
    created, body = await context.run(work)
    return json_response(201 if created else 200, body, {"ETag": body["etag"].removeprefix("W/")})


async def _delete_response(context: RequestContext, work: Callable[[Session], None]) -> Response:
    """Answer a DELETE: 200, or 204 if the resource does not exist, as Azure does."""
    try:
        await context.run(work)
    except (ParentNotFound, ScopeNotFound):
        raise
    except NotFound as error:
        if error.error_code not in ("ResourceNotFound", "ResourceGroupNotFound"):
            raise
        return Response(status_code=204)
    return Response(status_code=200)


def _show(session: Session, place: NetworkScope) -> Json:
    return network_json(session.run(show_network_record, place))


def _part(session: Session, kind: NetworkType, place: NetworkScope, whole: Json, part: str) -> Json:
    found = part_json(whole, str(kind.part), part)
    if found is None:
        raise network_record_not_found(session.installation, place)
    return found


def _place(kind: NetworkType, group: str, name: str, part: str) -> NetworkScope:
    return NetworkScope(group=group, type=kind.type, name=name, part=f"{kind.part}/{part}")


def _view_json(view: NetworkRecordView) -> Json:
    return _with_etag(network_json(view))


def _with_etag(body: Json) -> Json:
    return add_etag(body, compute_etag(body))


def _conditions(context: RequestContext) -> dict[str, str]:
    return {name: value for name in ("if-match", "if-none-match") if (value := context.request.headers.get(name))}
