"""Commands for groups, galleries and definitions through a server, with the options and output of a home."""

from collections.abc import Mapping
from typing import Any

from imgstore.cli.framework.server_dispatch import ServerCommand, print_next_token
from imgstore.domain.names import region_key
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DefinitionDetails
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import definition_body, gallery_body, without_none


def create_group(asking: ServerCommand, *, name: str, location: str, tags: Mapping[str, str] | None) -> Json:
    """`imgstore group create`."""
    return asking.server.put(asking.server.group(name), without_none(location=region_key(location), tags=tags))


def show_group(asking: ServerCommand, *, name: str) -> Json:
    """`imgstore group show`."""
    return asking.server.show(asking.server.group(name))


def list_groups(asking: ServerCommand, *, tag: tuple[str, str | None] | None, page: PageRequest) -> Json:
    """`imgstore group list`. The tag filter runs here, so a page may be shorter than the requested page."""
    groups = fetch_page(asking, f"/subscriptions/{asking.server.subscription}/resourceGroups", page)
    return groups if tag is None else [each for each in groups if _has(each, *tag)]


def _has(group: Json, key: str, value: str | None) -> bool:
    found = {name.lower(): each for name, each in group.get("tags", {}).items()}.get(key.lower())
    return found is not None and value in (None, found)


def delete_group(asking: ServerCommand, *, name: str) -> None:
    """`imgstore group delete`."""
    asking.server.delete(asking.server.group(name))


def create_gallery(
    asking: ServerCommand, *, group: str, gallery: str, location: str | None, properties: dict[str, Any]
) -> Json:
    """`imgstore sig create`."""
    server, gallery_id = asking.server, asking.server.gallery(group, gallery)
    asked = gallery_body(location=location, **properties)
    if server.find(gallery_id) is not None:
        return server.patch(gallery_id, asked)
    where = server.location(server.group(group), location)
    return server.create_in_group(group, where, lambda: server.put(gallery_id, asked | {"location": where}))


def show_gallery(asking: ServerCommand, *, group: str, gallery: str, select: str | None, sharing_groups: bool) -> Json:
    """`imgstore sig show`."""
    query = {"$select": "Permissions"} if sharing_groups or select is not None else {}
    return asking.server.show(asking.server.gallery(group, gallery), **query)


def list_galleries(asking: ServerCommand, *, group: str | None, page: PageRequest) -> Json:
    """`imgstore sig list`."""
    return fetch_page(asking, f"{above(asking, group)}/galleries", page)


def delete_gallery(asking: ServerCommand, *, group: str, gallery: str) -> None:
    """`imgstore sig delete`."""
    asking.server.delete(asking.server.gallery(group, gallery))


def create_definition(
    asking: ServerCommand,
    *,
    group: str,
    gallery: str,
    definition: str,
    location: str | None,
    details: DefinitionDetails,
    fixed: dict[str, Any],
) -> Json:
    """`imgstore sig image-definition create`."""
    server = asking.server
    above_it = server.gallery(group, gallery)
    found = f"{above_it}/images/{definition}"
    standing = server.find(found)
    body = definition_body(
        location=location if standing is not None else server.location(above_it, location),
        details=details,
        features=standing is None,
        publisher=fixed["publisher"],
        offer=fixed["offer"],
        sku=fixed["sku"],
        osType=fixed["os_type"],
        osState=fixed["os_state"],
        hyperVGeneration=fixed["hyper_v_generation"],
        architecture=fixed["architecture"],
    )
    return server.put(found, body) if standing is None else server.patch(found, body)


def show_definition(asking: ServerCommand, *, group: str, gallery: str, definition: str) -> Json:
    """`imgstore sig image-definition show`."""
    return asking.server.show(f"{asking.server.gallery(group, gallery)}/images/{definition}")


def list_definitions(asking: ServerCommand, *, group: str, gallery: str, page: PageRequest) -> Json:
    """`imgstore sig image-definition list`."""
    return fetch_page(asking, f"{asking.server.gallery(group, gallery)}/images", page)


def delete_definition(asking: ServerCommand, *, group: str, gallery: str, definition: str) -> None:
    """`imgstore sig image-definition delete`."""
    asking.server.delete(f"{asking.server.gallery(group, gallery)}/images/{definition}")


def fetch_page(asking: ServerCommand, path: str, page: PageRequest) -> Json:
    """Return a list, and print the token of the next page."""
    items, token = asking.server.page(path, page)
    print_next_token(token)
    return items


def above(asking: ServerCommand, group: str | None) -> str:
    """Return the path of a provider's resources, of one group or of the subscription."""
    server = asking.server
    where = f"/subscriptions/{server.subscription}" if group is None else server.group(group)
    return f"{where}/providers/Microsoft.Compute"
