"""Resources that stand, by their ids, as their own GET shows them: what templates refer to and do not make."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from imgstore.api.arm.groups import get_group
from imgstore.api.http.long_running import Session
from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import VersionName
from imgstore.domain.resources import DiskKind
from imgstore.operations import deployments
from imgstore.operations.disks import disks
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.machines import images, machines
from imgstore.operations.network_records import NetworkScope, show_inert
from imgstore.wire.api_versions import Kind, check_api_version, remove_newer_fields
from imgstore.wire.json_text import Json
from imgstore.wire.network import NETWORK_TYPES, network_json
from imgstore.wire.responses.deployments import deployment_json
from imgstore.wire.responses.machines import machine_json
from imgstore.wire.responses.resources import (
    definition_json,
    disk_json,
    gallery_json,
    group_json,
    image_json,
    version_json,
)

_ID: Final = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)(?:/providers/([^/]+)((?:/[^/]+/[^/]+)+))?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """How a resource of a type is shown."""

    kind: Kind
    tell: Callable[..., Json]
    """Of a session, the group's name and the resource's names."""


def standing(session: Session, resource_id: str, api_version: str | None) -> Json:
    """A resource of the session's subscription, as an api-version has it; with the rights of who asks.

    Args:
        session: who asks.
        resource_id: of a resource, or of a group.
        api_version: None is an error, as for a GET.

    Raises:
        InvalidInput: it is no id; or of another subscription, or of a type that is not read here, by its name; or there
            is no such api-version.
        NotFound: it is not there.
        AccessDenied: they may not read it.
    """
    match = _ID.fullmatch(resource_id)
    if match is None or match[1].lower() != session.installation.subscription.lower():
        raise _unread(resource_id, f"/subscriptions/{session.installation.subscription}/resourceGroups/...")
    parts = (match[4] or "").split("/")[1:]
    kind = "/".join((match[3] or "Microsoft.Resources/resourceGroups", *parts[::2]))
    shown = _SHOWN.get(kind.lower())
    if shown is None:
        raise _unread(kind, ", ".join(sorted(_SHOWN)))
    version = check_api_version(api_version, kind)
    return remove_newer_fields(shown.tell(session, match[2], *parts[1::2]), shown.kind, version)


def _unread(found: str, expected: str) -> InvalidInput:
    return InvalidInput(
        f"The resource '{found}' can't be referred to.",
        found=found,
        expected=expected,
        hint="hand what is needed of it over as a parameter",
        target=found,
        code="InvalidResourceReference",
    )


def _group(session: Session, group: str) -> Json:
    return group_json(get_group(session, group))


def _gallery(session: Session, group: str, gallery: str) -> Json:
    return gallery_json(galleries.show_gallery(session.installation, session.principal, group=group, name=gallery))


def _definition(session: Session, group: str, gallery: str, definition: str) -> Json:
    place = {"group": group, "gallery": gallery, "name": definition}
    line = definitions.show_definition(session.installation, session.principal, **place)
    return definition_json(line.definition, line.gallery)


def _version(session: Session, group: str, gallery: str, definition: str, version: str) -> Json:
    found = gallery_versions.show_version(
        session.installation,
        session.principal,
        group=group,
        gallery=gallery,
        definition=definition,
        version=VersionName.parse(version),
        replicas=False,
    )
    regions = session.installation.regions.regions.items()
    return version_json(found, {name: region.display_name for name, region in regions})


def _disk(kind: DiskKind) -> Callable[[Session, str, str], Json]:
    def tell(session: Session, group: str, name: str) -> Json:
        return disk_json(disks.show_disk(session.installation, session.principal, group=group, name=name, kind=kind))

    return tell


def _image(session: Session, group: str, name: str) -> Json:
    return image_json(images.show_image(session.installation, session.principal, group=group, name=name))


def _deployment(session: Session, group: str, name: str) -> Json:
    found = deployments.show_deployment(session.installation, session.principal, group=group, name=name)
    return deployment_json(found, deployments.deployment_id(session.installation, group, found.name))


def _machine(session: Session, group: str, name: str) -> Json:
    return machine_json(machines.show_machine(session.installation, session.principal, group=group, name=name))


def _network(kind: str) -> Callable[[Session, str, str], Json]:
    def tell(session: Session, group: str, name: str) -> Json:
        place = NetworkScope(group=group, type=kind, name=name)
        return network_json(show_inert(session.installation, session.principal, place))

    return tell


_SHOWN: Final[Mapping[str, _Shown]] = {
    "microsoft.resources/resourcegroups": _Shown(kind=Kind.GROUP, tell=_group),
    "microsoft.resources/deployments": _Shown(kind=Kind.DEPLOYMENT, tell=_deployment),
    "microsoft.compute/galleries": _Shown(kind=Kind.GALLERY, tell=_gallery),
    "microsoft.compute/galleries/images": _Shown(kind=Kind.DEFINITION, tell=_definition),
    "microsoft.compute/galleries/images/versions": _Shown(kind=Kind.VERSION, tell=_version),
    "microsoft.compute/disks": _Shown(kind=Kind.DISK, tell=_disk(DiskKind.DISK)),
    "microsoft.compute/snapshots": _Shown(kind=Kind.SNAPSHOT, tell=_disk(DiskKind.SNAPSHOT)),
    "microsoft.compute/images": _Shown(kind=Kind.IMAGE, tell=_image),
    "microsoft.compute/virtualmachines": _Shown(kind=Kind.MACHINE, tell=_machine),
    **{each.type.lower(): _Shown(kind=Kind.NETWORK, tell=_network(each.type)) for each in NETWORK_TYPES},
}
