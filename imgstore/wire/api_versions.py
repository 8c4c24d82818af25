"""The api-version that introduced each field. A client sees, and may send, only fields of its own api-version.

Sources: the stable specifications of 2018-06-01 to 2023-07-03, and the changelogs of later SDKs. A field without an
entry exists since the first api-version, or belongs to imgstore. Paths leave lists out: ``properties.features.name`` is
a field of each feature.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias

from imgstore.domain.errors import InvalidInput
from imgstore.wire.json_text import Json
from imgstore.wire.provider_types import GALLERIES, versions_of

_FieldTree: TypeAlias = "dict[str, _FieldTree] | None"

KNOWN: Final = GALLERIES[::-1]
"""The api-versions of galleries, oldest first."""
OLDEST: Final = KNOWN[0]
NEWEST: Final = KNOWN[-1]


class Kind(StrEnum):
    """Resource types with fields that depend on the api-version."""

    GALLERY = "galleries"
    DEFINITION = "galleries/images"
    VERSION = "galleries/images/versions"
    SOFT_DELETED = "galleries/softDeletedArtifactTypes/artifacts/versions"
    SHARED = "locations/sharedGalleries"
    DISK = "disks"
    SNAPSHOT = "snapshots"
    IMAGE = "images"
    MACHINE = "virtualMachines"
    SCALE_SET = "virtualMachineScaleSets"
    INSTANCE = "virtualMachineScaleSets/virtualMachines"
    DEPLOYMENT = "deployments"
    GROUP = "resourceGroups"
    USAGE_DETAIL = "usageDetails"
    NETWORK = "Microsoft.Network"
    """All types of Microsoft.Network. Fields of such resources are stored and shown as sent."""


_PUBLISHING: Final = "properties.publishingProfile"
_STORAGE: Final = "properties.storageProfile"
_SAFETY: Final = "properties.safetyProfile"
_SOFT_DELETE: Final = "properties.softDeletePolicy"
_STORED_DISK: Final = {
    "properties.diskIOPSReadWrite": "2018-06-01",
    "properties.diskMBpsReadWrite": "2018-06-01",
    "properties.uniqueId": "2019-03-01",
    "properties.encryption": "2019-07-01",
    "properties.networkAccessPolicy": "2020-05-01",
    "properties.publicNetworkAccess": "2021-04-01",
}

SINCE: Final[Mapping[Kind, Mapping[str, str]]] = {
    Kind.GALLERY: {
        "properties.sharingProfile": "2020-09-30",
        "properties.sharingProfile.communityGalleryInfo": "2021-10-01",
        "properties.sharingStatus": "2021-10-01",
        _SOFT_DELETE: "2021-07-01",
        f"{_SOFT_DELETE}.retentionPeriodInDays": "2026-03-03",
        f"{_SOFT_DELETE}.gracePeriodInDays": "2026-03-03",
        "identity": "2024-03-03",
    },
    Kind.DEFINITION: {
        "properties.hyperVGeneration": "2019-07-01",
        "properties.features": "2020-09-30",
        "properties.features.startsAtVersion": "2024-03-03",
        "properties.architecture": "2021-10-01",
        "properties.allowUpdateImage": "2024-03-03",
    },
    Kind.VERSION: {
        f"{_PUBLISHING}.targetRegions.storageAccountType": "2019-03-01",
        f"{_PUBLISHING}.targetRegions.encryption": "2019-12-01",
        f"{_PUBLISHING}.targetRegions.excludeFromLatest": "2022-03-03",
        f"{_PUBLISHING}.targetRegions.additionalReplicaSets": "2024-03-03",
        f"{_PUBLISHING}.storageAccountType": "2019-03-01",
        f"{_PUBLISHING}.replicationMode": "2021-07-01",
        f"{_PUBLISHING}.targetExtendedLocations": "2021-10-01",
        f"{_PUBLISHING}.storageAccountStrategy": "2025-03-03",
        f"{_STORAGE}.source": "2019-07-01",
        f"{_STORAGE}.source.uri": "2020-09-30",
        f"{_STORAGE}.source.communityGalleryImageId": "2022-03-03",
        f"{_STORAGE}.source.virtualMachineId": "2023-07-03",
        f"{_STORAGE}.osDiskImage.source": "2019-07-01",
        f"{_STORAGE}.osDiskImage.source.uri": "2020-09-30",
        f"{_STORAGE}.osDiskImage.source.storageAccountId": "2022-03-03",
        f"{_STORAGE}.dataDiskImages.source": "2019-07-01",
        f"{_STORAGE}.dataDiskImages.source.uri": "2020-09-30",
        f"{_STORAGE}.dataDiskImages.source.storageAccountId": "2022-03-03",
        _SAFETY: "2022-03-03",
        f"{_SAFETY}.blockDeletionBeforeEndOfLife": "2024-03-03",
        "properties.securityProfile": "2022-08-03",
        "properties.restore": "2024-03-03",
        "properties.validationsProfile": "2024-03-03",
    },
    Kind.SOFT_DELETED: {"properties.hardDeletionTargetTime": "2026-03-03"},
    Kind.SHARED: {},
    Kind.DISK: _STORED_DISK | {"properties.tier": "2020-06-30"},
    Kind.SNAPSHOT: _STORED_DISK,
    Kind.IMAGE: {},
    Kind.MACHINE: {
        "etag": "2023-09-01",
        "properties.osProfile.allowExtensionOperations": "2018-06-01",
        "properties.osProfile.requireGuestProvisionSignal": "2019-03-01",
        "properties.storageProfile.osDisk.deleteOption": "2021-03-01",
        "properties.storageProfile.dataDisks.deleteOption": "2021-03-01",
        "properties.timeCreated": "2021-11-01",
    },
    Kind.SCALE_SET: {
        "properties.orchestrationMode": "2020-12-01",
        "properties.timeCreated": "2021-11-01",
        "properties.virtualMachineProfile.storageProfile.osDisk.deleteOption": "2022-03-01",
        "properties.virtualMachineProfile.storageProfile.dataDisks.deleteOption": "2022-03-01",
    },
    Kind.INSTANCE: {"properties.timeCreated": "2021-11-01"},
    Kind.DEPLOYMENT: {},
    Kind.GROUP: {},
    Kind.USAGE_DETAIL: {},
    Kind.NETWORK: {},
}


def check_api_version(api_version: str | None, kind: str) -> str:
    """Return the date of a request's api-version. A date after `NEWEST` is accepted.

    Args:
        api_version: The api-version in the request.
        kind: The resource type, for the error.

    Raises:
        InvalidInput: The api-version is missing, is not a date, or is older than the first api-version of the type.
    """
    known = versions_of(kind)
    hint = f"ask with api-version={known[0]}"
    if not api_version:
        raise InvalidInput(
            "The api-version query parameter (?api-version=) is required for all requests.",
            hint=hint,
            target="api-version",
            code="MissingApiVersionParameter",
        )
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(-preview)?", api_version):
        raise InvalidInput(
            f"The api-version '{api_version}' is invalid. The expected format is 'yyyy-MM-dd' or 'yyyy-MM-dd-preview'.",
            hint=hint,
            target="api-version",
            code="InvalidApiVersionParameter",
        )
    date = api_version[:10]
    if date < known[-1][:10]:
        raise InvalidInput(
            f"No registered resource provider found for API version '{api_version}' for type '{kind}'. The supported "
            f"api-versions are '{', '.join(known)}'.",
            hint=hint,
            target="api-version",
            code="NoRegisteredProviderFound",
        )
    return date


def has_field(kind: Kind, path: str, api_version: str) -> bool:
    """Return whether an api-version has the field at a path."""
    return all(
        since <= api_version for field, since in SINCE[kind].items() if path == field or path.startswith(f"{field}.")
    )


def remove_newer_fields(value: Json, kind: Kind, api_version: str) -> Json:
    """Return a resource, or a request body, without the fields that the api-version does not have."""
    return _remove_newer(value, _newer_fields(kind, api_version))


@lru_cache(maxsize=256)
def _newer_fields(kind: Kind, api_version: str) -> Mapping[str, _FieldTree]:
    """Return the fields that an api-version does not have, as a tree of names. A missing field has the value None."""
    tree: dict[str, _FieldTree] = {}
    for path in sorted(path for path, since in SINCE[kind].items() if since > api_version):
        *above, name = path.split(".")
        place: _FieldTree = tree
        for each in above:
            place = place if place is None else place.setdefault(each, {})
        if place is not None:
            place[name] = None
    return tree


def _remove_newer(value: Json, newer: Mapping[str, _FieldTree]) -> Json:
    if not newer:
        return value
    if isinstance(value, list):
        return [_remove_newer(each, newer) for each in value]
    if not isinstance(value, Mapping):
        return value
    kept = {name: newer.get(name, {}) for name in value}
    return {name: _remove_newer(value[name], below) for name, below in kept.items() if below is not None}
