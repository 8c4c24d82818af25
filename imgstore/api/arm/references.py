"""Read existing resources by id for references in templates. The result equals the resource's GET."""

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
from imgstore.operations.network_records import NetworkScope, show_network_record
from imgstore.operations.scale_sets.scale_sets import show_scale_set
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
from imgstore.wire.responses.scale_sets import scale_set_json

_ID: Final = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)(?:/providers/([^/]+)((?:/[^/]+/[^/]+)+))?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResourceReader:
    """The function that reads resources of a type."""

    kind: Kind
    read: Callable[..., Json]
    """Called with a session, the name of the group and the names of the resource."""


def read_resource(session: Session, resource_id: str, api_version: str | None) -> Json:
    """Read a resource of the session's subscription with the rights of the caller.

    Args:
        session: the session of the caller.
        resource_id: the id of a resource or of a group.
        api_version: the api-version of the result. None is an error, as for a GET.

    Raises:
        InvalidInput: the text is no id, the id is of another subscription, templates can't refer to this resource type,
            or the api-version is not supported.
        NotFound: the resource does not exist.
        AccessDenied: the caller has no right to read the resource.
    """
    match = _ID.fullmatch(resource_id)
    if match is None or match[1].lower() != session.installation.subscription.lower():
        raise _reference_error(resource_id, f"/subscriptions/{session.installation.subscription}/resourceGroups/...")
    parts = (match[4] or "").split("/")[1:]
    kind = "/".join((match[3] or "Microsoft.Resources/resourceGroups", *parts[::2]))
    shown = _READERS.get(kind.lower())
    if shown is None:
        raise _reference_error(kind, ", ".join(sorted(_READERS)))
    version = check_api_version(api_version, kind)
    return remove_newer_fields(shown.read(session, match[2], *parts[1::2]), shown.kind, version)


def _reference_error(found: str, expected: str) -> InvalidInput:
    return InvalidInput(
        f"The resource '{found}' can't be referred to.",
        found=found,
        expected=expected,
        hint="pass the values of the resource as parameters",
        target=found,
        code="InvalidResourceReference",
    )


def _group(session: Session, group: str) -> Json:
    return group_json(get_group(session, group))


def _gallery(session: Session, group: str, gallery: str) -> Json:
    return gallery_json(session.run(galleries.show_gallery, group=group, name=gallery))


def _definition(session: Session, group: str, gallery: str, definition: str) -> Json:
    place = {"group": group, "gallery": gallery, "name": definition}
    line = session.run(definitions.show_definition, **place)
    return definition_json(line.definition, line.gallery)


def _version(session: Session, group: str, gallery: str, definition: str, version: str) -> Json:
    found = session.run(
        gallery_versions.show_version,
        group=group,
        gallery=gallery,
        definition=definition,
        version=VersionName.parse(version),
        replicas=False,
    )
    regions = session.installation.regions.regions.items()
    return version_json(found, {name: region.display_name for name, region in regions})


def _disk(kind: DiskKind) -> Callable[[Session, str, str], Json]:
    def read(session: Session, group: str, name: str) -> Json:
        return disk_json(session.run(disks.show_disk, group=group, name=name, kind=kind))

    return read


def _image(session: Session, group: str, name: str) -> Json:
    return image_json(session.run(images.show_image, group=group, name=name))


def _deployment(session: Session, group: str, name: str) -> Json:
    found = session.run(deployments.show_deployment, group=group, name=name)
    return deployment_json(found, deployments.deployment_id(session.installation, group, found.name))


def _machine(session: Session, group: str, name: str) -> Json:
    return machine_json(session.run(machines.show_machine, group=group, name=name))


def _scale_set(session: Session, group: str, name: str) -> Json:
    return scale_set_json(session.run(show_scale_set, group=group, name=name))


def _network(kind: str) -> Callable[[Session, str, str], Json]:
    def read(session: Session, group: str, name: str) -> Json:
        return network_json(session.run(show_network_record, NetworkScope(group=group, type=kind, name=name)))

    return read


_READERS: Final[Mapping[str, _ResourceReader]] = {
    "microsoft.resources/resourcegroups": _ResourceReader(kind=Kind.GROUP, read=_group),
    "microsoft.resources/deployments": _ResourceReader(kind=Kind.DEPLOYMENT, read=_deployment),
    "microsoft.compute/galleries": _ResourceReader(kind=Kind.GALLERY, read=_gallery),
    "microsoft.compute/galleries/images": _ResourceReader(kind=Kind.DEFINITION, read=_definition),
    "microsoft.compute/galleries/images/versions": _ResourceReader(kind=Kind.VERSION, read=_version),
    "microsoft.compute/disks": _ResourceReader(kind=Kind.DISK, read=_disk(DiskKind.DISK)),
    "microsoft.compute/snapshots": _ResourceReader(kind=Kind.SNAPSHOT, read=_disk(DiskKind.SNAPSHOT)),
    "microsoft.compute/images": _ResourceReader(kind=Kind.IMAGE, read=_image),
    "microsoft.compute/virtualmachines": _ResourceReader(kind=Kind.MACHINE, read=_machine),
    "microsoft.compute/virtualmachinescalesets": _ResourceReader(kind=Kind.SCALE_SET, read=_scale_set),
    **{each.type.lower(): _ResourceReader(kind=Kind.NETWORK, read=_network(each.type)) for each in NETWORK_TYPES},
}
