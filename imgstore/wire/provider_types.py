"""The resource types of each provider with the api-versions that Azure names for the type, newest first.

Sources: the folders of Azure's specifications, the multi-version azure-mgmt-compute, and the default api-versions of az
and of the SDKs. The first api-version of a type is the oldest that a request may have. Newer dates are accepted too,
because a client may be newer than this table.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from imgstore.domain.network_records import NETWORK, NETWORK_TYPES

_MACHINES: Final = (
    "2026-04-01", "2025-04-01", "2024-11-01", "2024-07-01", "2024-03-01", "2023-09-01", "2023-07-01", "2023-03-01",
    "2022-11-01", "2022-08-01", "2022-03-01", "2021-11-01", "2021-07-01", "2021-04-01", "2021-03-01", "2020-12-01",
    "2020-06-01", "2019-12-01", "2019-07-01", "2019-03-01", "2018-10-01", "2018-06-01", "2018-04-01", "2017-12-01",
    "2017-03-30", "2016-08-30", "2016-04-30-preview", "2016-03-30", "2015-06-15",
)  # fmt: skip
_IMAGES: Final = tuple(each for each in _MACHINES if each >= "2016-04-30")
_SCALE_SETS: Final = tuple(each for each in _MACHINES if each >= "2018-04-01")
_DISKS: Final = (
    "2026-03-02", "2025-01-02", "2024-03-02", "2023-10-02", "2023-04-02", "2023-01-02", "2022-07-02", "2022-03-02",
    "2021-12-01", "2021-08-01", "2021-04-01", "2020-12-01", "2020-09-30", "2020-06-30", "2020-05-01", "2019-11-01",
    "2019-07-01", "2019-03-01", "2018-09-30", "2018-06-01", "2018-04-01", "2017-03-30", "2016-04-30-preview",
)  # fmt: skip
GALLERIES: Final = (
    "2026-03-03", "2025-03-03", "2024-03-03", "2023-07-03", "2022-08-03", "2022-03-03", "2022-01-03", "2021-11-01",
    "2021-10-01", "2021-07-01", "2021-03-01", "2020-09-30", "2019-12-01", "2019-07-01", "2019-03-01", "2018-06-01",
)  # fmt: skip
_SHARED: Final = tuple(each for each in GALLERIES if each >= "2020-09-30")
_COMMUNITY: Final = tuple(each for each in GALLERIES if each >= "2021-07-01")
"""Community galleries and soft deletion have the same first api-version."""
_RESOURCES: Final = (
    "2025-11-01", "2025-04-01", "2024-11-01", "2024-07-01", "2024-03-01", "2023-07-01", "2022-12-01", "2022-09-01",
    "2021-04-01", "2021-01-01", "2020-10-01", "2020-08-01", "2020-06-01", "2020-01-01", "2019-10-01", "2019-08-01",
    "2019-07-01", "2019-06-01", "2019-05-10", "2019-05-01", "2019-03-01", "2018-06-01", "2018-05-01", "2018-02-01",
    "2017-05-10", "2016-09-01", "2016-07-01", "2016-06-01", "2016-02-01", "2015-11-01", "2015-01-01", "2014-04-01",
)  # fmt: skip
_NETWORK: Final = (
    "2026-03-01", "2025-07-01", "2025-05-01", "2024-07-01", "2023-11-01", "2023-09-01", "2022-01-01", "2020-11-01",
    "2019-08-01", "2018-11-01", "2016-03-30", "2015-06-15", "2015-05-01-preview",
)  # fmt: skip
_POLLED: Final = tuple(sorted({*_MACHINES, *_DISKS, *GALLERIES, *_RESOURCES}, reverse=True))
"""The api-versions of the status of an operation: the URL has the api-version of the request."""
_USAGE: Final = ("2024-08-01", "2023-05-01", "2021-10-01", "2019-10-01", "2018-06-30", "2018-06-01")

_GALLERY_TYPES: Final = ("galleries", "galleries/images", "galleries/images/versions")
_NETWORK_PARTS: Final = (
    "virtualNetworks/subnets", "networkSecurityGroups/securityRules", "networkInterfaces/ipConfigurations",
    "loadBalancers/inboundNatRules",
)  # fmt: skip
_RESOURCE_TYPES: Final = (
    "deployments", "deployments/operations", "locations", "providers", "resourceGroups", "subscriptions",
    "subscriptions/locations", "subscriptions/providers", "subscriptions/resourceGroups", "tenants",
)  # fmt: skip
PROVIDERS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "Microsoft.Compute": {
        **dict.fromkeys(_GALLERY_TYPES, GALLERIES),
        "galleries/softDeletedArtifactTypes": _COMMUNITY,
        "locations/sharedGalleries": _SHARED,
        "locations/communityGalleries": _COMMUNITY,
        "disks": _DISKS,
        "snapshots": _DISKS,
        "images": _IMAGES,
        "virtualMachines": _MACHINES,
        "virtualMachineScaleSets": _SCALE_SETS,
        "virtualMachineScaleSets/virtualMachines": _SCALE_SETS,
        "locations/capsOperations": _POLLED,
    },
    "Microsoft.Resources": dict.fromkeys(_RESOURCE_TYPES, _RESOURCES),
    NETWORK: dict.fromkeys((*(each.partition("/")[2] for each in NETWORK_TYPES), *_NETWORK_PARTS), _NETWORK),
    "Microsoft.Consumption": {"usageDetails": _USAGE},
    "Microsoft.ResourceGraph": {
        "resources": ("2024-04-01", "2022-10-01", "2021-03-01", "2019-04-01", "2018-09-01-preview")
    },
}
"""The api-versions of each resource type, newest first, by provider."""

_OF_TYPES: Final[Mapping[str, Sequence[str]]] = {
    word.lower(): versions for types in PROVIDERS.values() for word, versions in types.items()
}
_OTHER: Final = "subscriptions"
"""The type with the api-versions of all types without an entry."""


def versions_of(kind: str) -> Sequence[str]:
    """Return the api-versions of a resource type, newest first.

    A nested type or an action without an entry has the api-versions of its parent.

    Args:
        kind: The type, with or without the provider.
    """
    provider, _, below = kind.lower().partition("/")
    word = below if provider.startswith("microsoft.") else kind.lower()
    while word:
        if word in _OF_TYPES:
            return _OF_TYPES[word]
        word = word.rpartition("/")[0]
    return _OF_TYPES[_OTHER]
