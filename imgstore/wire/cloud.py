"""Description of a cloud: endpoints (Azure Resource Manager, 2022-09-01), tenants, subscriptions (2022-12-01)."""

from collections.abc import Mapping, Sequence
from typing import Final

from imgstore.domain.errors import NotFound
from imgstore.wire.api_versions import KNOWN
from imgstore.wire.json_text import Json
from imgstore.wire.network import NETWORK_TYPES

_COMPUTE_TYPES: Final = (
    "galleries", "galleries/images", "galleries/images/versions", "disks", "snapshots", "images", "virtualMachines",
)  # fmt: skip
_NETWORK_VERSIONS: Final = ("2024-07-01", "2022-01-01", "2020-11-01", "2018-11-01", "2015-06-15")
"""Other api-versions are accepted too. Clients without an own api-version take the first."""
_PROVIDERS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "Microsoft.Compute": dict.fromkeys(_COMPUTE_TYPES, KNOWN[::-1]),
    "Microsoft.Resources": dict.fromkeys(("resourceGroups", "deployments"), ("2024-11-01", "2021-04-01")),
    "Microsoft.Network": {
        word: _NETWORK_VERSIONS
        for kind in NETWORK_TYPES
        for word in (kind.word, *([f"{kind.word}/{kind.part}"] if kind.part else []))
    },
}
"""The api-versions of each resource type, newest first, by provider."""


def endpoints_json(base_url: str) -> Json:
    """Return the document that ``az cloud register --endpoint-resource-manager`` and go-azure-sdk read.

    The document also names services that imgstore does not have, such as a graph, batch and a key vault. go-azure-sdk
    refuses a cloud without such names. No client uses these services for a gallery.
    """
    return {
        "name": "imgstore",
        "portal": base_url,
        "authentication": {
            "loginEndpoint": base_url,
            "audiences": [base_url],
            "tenant": "common",
            "identityProvider": "AAD",
        },
        "resourceManager": base_url,
        "gallery": base_url,
        "graph": base_url,
        "graphAudience": base_url,
        "microsoftGraphResourceId": base_url,
        "activeDirectoryDataLake": base_url,
        "batch": base_url,
        "media": base_url,
        "sqlManagement": base_url,
        "vmImageAliasDoc": "",
        "suffixes": {
            name: f"{name.lower()}.imgstore.invalid"
            for name in ("storage", "keyVaultDns", "acrLoginServer", "sqlServerHostname")
        },
    }


def tenant_json(tenant_id: str) -> Json:
    """Return a tenant as JSON."""
    return {
        "id": f"/tenants/{tenant_id}",
        "tenantId": tenant_id,
        "displayName": "imgstore",
        "countryCode": "",
        "domains": [],
        "tenantCategory": "Home",
    }


def subscription_json(subscription: str, tenant_id: str) -> Json:
    """Return a subscription as JSON."""
    return {
        "id": f"/subscriptions/{subscription}",
        "subscriptionId": subscription,
        "tenantId": tenant_id,
        "displayName": f"imgstore {subscription[:8]}",
        "state": "Enabled",
        "subscriptionPolicies": {"locationPlacementId": "", "quotaId": "", "spendingLimit": "Off"},
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def provider_json(provider: str, subscription: str, regions: Sequence[str]) -> Json:
    """Return a resource provider with its resource types.

    Args:
        provider: The namespace, in any case.
        subscription: The subscription of the id.
        regions: The display names of the regions.

    Raises:
        NotFound: The provider does not exist.
    """
    name = next((each for each in _PROVIDERS if each.lower() == provider.lower()), None)
    if name is None:
        raise NotFound(
            f"The resource namespace '{provider}' is invalid.",
            expected=" or ".join(_PROVIDERS),
            target=provider,
            code="InvalidResourceNamespace",
        )
    return {
        "id": f"/subscriptions/{subscription}/providers/{name}",
        "namespace": name,
        "registrationPolicy": "RegistrationFree",
        "registrationState": "Registered",
        "resourceTypes": [
            {"resourceType": word, "locations": list(regions), "apiVersions": list(versions)}
            for word, versions in _PROVIDERS[name].items()
        ],
    }
