"""The uid of the resource with a resource id. A new resource with the same id has another uid."""

import re
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import DEFINITIONS, GALLERIES, GROUPS, INSTANCES, SCALE_SETS, VERSIONS
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import VersionName
from imgstore.domain.resources import DiskKind

_ID: Final = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)(?:/providers/([^/]+)((?:/[^/]+/[^/]+)+))?", re.IGNORECASE
)
_MACHINES: Final = f"Microsoft.Compute/{MACHINE}".lower()
_DEPLOYMENTS: Final = "microsoft.resources/deployments"
_DISKS: Final = {f"Microsoft.Compute/{kind}".lower(): kind for kind in DiskKind}


def find_resource_uid(transaction: Transaction, resource_id: str) -> str | None:
    """Find the uid of a resource in any state. Return None for a missing resource, and for a type without uids."""
    match = _ID.fullmatch(resource_id)
    if match is None:
        return None
    subscription, group, provider, below = match.groups()
    parts = (below or "").split("/")[1:]
    kind, names = "/".join((provider or GROUPS, *parts[::2])).lower(), parts[1::2]
    if kind == GROUPS.lower() or kind == _DEPLOYMENTS:
        above = transaction.groups.get(subscription, group)
        found = above if above is None or not names else transaction.deployments.get(above.uid, names[0])
        return found.uid if found is not None else None
    if kind in _DISKS:
        # A managed image has a row for each disk. During the deletion of the image, the number of rows decreases.
        disks = transaction.disks.list(subscription, group, _DISKS[kind], names[0])
        return min((each.uid for each in disks), default=None)
    if kind == _MACHINES:
        machine = transaction.machines.get(subscription, group, names[0])
        return machine.uid if machine is not None else None
    if kind in {SCALE_SETS.lower(), INSTANCES.lower()}:
        return _uid_in_scale_set(transaction, subscription, group, names)
    if kind in {GALLERIES.lower(), DEFINITIONS.lower(), VERSIONS.lower()}:
        return _uid_in_gallery(transaction, subscription, group, names)
    return None


def _uid_in_scale_set(transaction: Transaction, subscription: str, group: str, names: list[str]) -> str | None:
    """Find the uid of a scale set, or of an instance of the set."""
    scale_set = transaction.scale_sets.get(subscription, group, names[0])
    if scale_set is None or len(names) == 1:
        return scale_set.uid if scale_set is not None else None
    instance = transaction.machines.get_instance(scale_set.uid, int(names[1])) if names[1].isdecimal() else None
    return instance.uid if instance is not None else None


def _uid_in_gallery(transaction: Transaction, subscription: str, group: str, names: list[str]) -> str | None:
    """Find the uid of a gallery, a definition or a version, given up to three names."""
    gallery = transaction.galleries.get(subscription, group, names[0])
    if gallery is None or len(names) == 1:
        return gallery.uid if gallery is not None else None
    definition = transaction.definitions.get(gallery.uid, names[1])
    if definition is None or len(names) == 2:
        return definition.uid if definition is not None else None
    try:
        version = transaction.versions.get(definition.uid, VersionName.parse(names[2]))
    except InvalidInput:
        return None
    return version.uid if version is not None else None
