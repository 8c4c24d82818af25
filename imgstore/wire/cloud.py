"""Description of a cloud: endpoints (Azure Resource Manager, 2022-09-01), tenants, subscriptions (2022-12-01)."""

from collections.abc import Sequence

from imgstore.domain.errors import NotFound
from imgstore.wire.json_text import Json
from imgstore.wire.provider_types import PROVIDERS


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


def providers_json(subscription: str | None, regions: Sequence[str]) -> Json:
    """Return all resource providers. The arguments are as in `provider_json`."""
    return {"value": [_provider_json(name, subscription, regions) for name in PROVIDERS]}


def provider_json(provider: str, subscription: str | None, regions: Sequence[str]) -> Json:
    """Return a resource provider with its resource types.

    Args:
        provider: The namespace, in any case.
        subscription: The subscription of the id. None for the provider of the tenant, which has no registration.
        regions: The display names of the regions.

    Raises:
        NotFound: The provider does not exist.
    """
    name = next((each for each in PROVIDERS if each.lower() == provider.lower()), None)
    if name is None:
        raise NotFound(
            f"The resource namespace '{provider}' is invalid.",
            expected=" or ".join(PROVIDERS),
            target=provider,
            code="InvalidResourceNamespace",
        )
    return _provider_json(name, subscription, regions)


def _provider_json(name: str, subscription: str | None, regions: Sequence[str]) -> Json:
    above = "" if subscription is None else f"/subscriptions/{subscription}"
    registration = {} if subscription is None else {"registrationState": "Registered"}
    return {
        "id": f"{above}/providers/{name}",
        "namespace": name,
        "registrationPolicy": "RegistrationFree",
        **registration,
        "resourceTypes": [
            {"resourceType": word, "locations": list(regions), "apiVersions": list(versions)}
            for word, versions in PROVIDERS[name].items()
        ],
    }
