"""Sharing of galleries as JSON: the sharing profile, and the view of shared resources.

Source: the examples of 2023-07-03. A shared resource has a location and a unique id, but no id, group or subscription.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.identity.sharing import CommunityInfo, SharingPermission, SharingProfile
from imgstore.domain.resources import Gallery
from imgstore.domain.storage.sizes import GIB
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.wire.json_fields import invalid_value, value_at
from imgstore.wire.json_text import Json, instant
from imgstore.wire.requests.body_fields import Request, read_known_fields


class ShareOperation(StrEnum):
    """The operations of a SharingUpdate."""

    ADD = "Add"
    REMOVE = "Remove"
    RESET = "Reset"
    ENABLE_COMMUNITY = "EnableCommunity"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBody:
    """The body of a SharingUpdate."""

    operation: ShareOperation
    subscriptions: tuple[str, ...]
    tenants: tuple[str, ...]


_OPERATIONS: Final = {each.lower(): each for each in ShareOperation}
_MEMBERS: Final = ("subscriptions", "aadtenants")
_COMMUNITY_QUERY: Final = re.compile(
    r"communitygalleryresources\s*\|\s*where\s+type\s*==\s*'microsoft\.compute/locations/communitygalleries'"
    r"(?:\s*\|\s*where\s+location\s*==\s*'([a-z0-9 ]{1,64})')?",
    re.IGNORECASE,
)


def read_share(body: Json) -> ShareBody:
    """Read the body of ``/share``.

    Raises:
        InvalidInput: The body is not a SharingUpdate, or a field is not supported.
    """
    body = read_known_fields(body, Request.SHARE)
    name, groups = value_at(body, "operationType"), value_at(body, "groups") or []
    if not isinstance(name, str) or name.lower() not in _OPERATIONS:
        raise invalid_value("operationType", name, ", ".join(ShareOperation))
    if not isinstance(groups, list):
        raise invalid_value("groups", groups, "a list of groups with a type and ids")
    ids: dict[str, list[str]] = {member: [] for member in _MEMBERS}
    for group in groups:
        kind, named = str(value_at(group, "type")).lower(), value_at(group, "ids")
        if kind not in ids or not isinstance(named, list) or not all(isinstance(each, str) for each in named):
            raise invalid_value("groups", group, "an object of type (Subscriptions or AADTenants) and ids")
        ids[kind] += named
    operation = _OPERATIONS[name.lower()]
    if groups and operation not in (ShareOperation.ADD, ShareOperation.REMOVE):
        raise invalid_value("groups", groups, f"nothing with operationType {operation}")
    subscriptions, tenants = (tuple(ids[member]) for member in _MEMBERS)
    return ShareBody(operation=operation, subscriptions=subscriptions, tenants=tenants)


def read_community_query(body: Json) -> str | None:
    """Return the region in a Resource Graph query for community galleries. None means all regions.

    Raises:
        InvalidInput: The query is another one. Resource Graph has no other resources here.
    """
    text = value_at(read_known_fields(body, Request.QUERY), "query")
    match = _COMMUNITY_QUERY.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise invalid_value("query", text, "the query of `az sig list-community`; other resources are not supported")
    return match[1]


def community_row_json(gallery: Gallery) -> Json:
    """Return a community gallery as a row of Resource Graph."""
    body = shared_gallery_json(gallery)
    assert isinstance(body, Mapping), "a resource is an object"
    unique = body["identifier"]["uniqueId"]
    return {
        "id": unique,
        "name": body["name"],
        "type": "microsoft.compute/locations/communitygalleries",
        "location": body["location"],
        "properties": {"identifier": {"uniqueId": unique}, **body["properties"]},
    }


def sharing_profile_json(profile: SharingProfile | None, *, groups: bool = False) -> dict[str, Json]:
    """Return the field ``sharingProfile``, with the members if `groups` is true.

    Azure shows no field without a profile.
    """
    if profile is None:
        return {}
    fields: dict[str, Json] = {"permissions": profile.permission.value}
    if groups and profile.permission is SharingPermission.GROUPS:
        members = (("Subscriptions", profile.subscriptions), ("AADTenants", profile.tenants))
        fields["groups"] = [{"type": kind, "ids": list(ids)} for kind, ids in members if ids]
    if profile.community is not None:
        fields["communityGalleryInfo"] = _community_json(profile.community)
    return {"sharingProfile": fields}


def shared_gallery_json(gallery: Gallery) -> Json:
    """Return the view of a shared gallery."""
    top, name, more = _public_identity(gallery)
    info = gallery.sharing.community if gallery.sharing else None
    publisher = {} if info is None or info.public_name is None else {"communityMetadata": _metadata_json(info)}
    return {
        "location": gallery.location,
        "name": name,
        "identifier": {"uniqueId": top},
        "properties": more | publisher,
    }


def shared_definition_json(line: DefinitionPath) -> Json:
    """Return the view of an image definition in a shared gallery."""
    top, _, more = _public_identity(line.gallery)
    definition = line.definition
    return {
        "location": line.gallery.location,
        "name": definition.name,
        "identifier": {"uniqueId": f"{top}/Images/{definition.name}"},
        "properties": {
            "osType": definition.os_type.value,
            "osState": definition.os_state.value,
            "hyperVGeneration": definition.hyper_v_generation.value,
            "architecture": definition.architecture.value,
            "identifier": {
                "publisher": definition.publisher,
                "offer": definition.offer,
                "sku": definition.sku,
            },
            **more,
        },
    }


def shared_version_json(view: VersionView) -> Json:
    """Return the view of an image version in a shared gallery."""
    top, _, more = _public_identity(view.definition_path.gallery)
    version = view.version
    data_disks = [{"lun": disk.lun} | _shared_disk_json(disk) for disk in version.data_disks]
    return {
        "location": view.definition_path.gallery.location,
        "name": str(version.name),
        "identifier": {"uniqueId": f"{top}/Images/{view.definition_path.definition.name}/Versions/{version.name}"},
        "properties": {
            "publishedDate": instant(version.published_at),
            "excludeFromLatest": version.exclude_from_latest,
            "storageProfile": {
                "osDiskImage": _shared_disk_json(version.os_disk),
                **({"dataDiskImages": data_disks} if data_disks else {}),
            },
            **more,
        },
    }


def _public_identity(gallery: Gallery) -> tuple[str, str, dict[str, Json]]:
    """Return the unique id and the name of a shared gallery, and the terms of a community gallery."""
    info = gallery.sharing.community if gallery.sharing else None
    if info is not None and info.public_name is not None:
        return f"/CommunityGalleries/{info.public_name}", info.public_name, {"disclaimer": info.eula}
    unique = f"{gallery.subscription}-{gallery.name.upper()}"
    return f"/SharedGalleries/{unique}", unique, {}


def _metadata_json(info: CommunityInfo) -> dict[str, Json]:
    """Return the public data of a community gallery's publisher."""
    return {
        "publisherUri": info.publisher_uri,
        "publisherContact": info.publisher_contact,
        "eula": info.eula,
        "publicNames": [info.public_name],
    }


def _community_json(info: CommunityInfo) -> Json:
    fields: dict[str, Json] = {
        "communityGalleryEnabled": info.public_name is not None,
        "publisherUri": info.publisher_uri,
        "publisherContact": info.publisher_contact,
        "eula": info.eula,
        "publicNamePrefix": info.public_name_prefix,
    }
    return fields if info.public_name is None else {**fields, "publicNames": [info.public_name]}


def _shared_disk_json(disk: VersionDisk) -> dict[str, Json]:
    """Return the view of a disk. The source of the disk is not public."""
    size: dict[str, Json] = {} if disk.virtual_bytes is None else {"diskSizeGB": -(-disk.virtual_bytes // GIB)}
    return size | {"hostCaching": disk.host_caching.value}
