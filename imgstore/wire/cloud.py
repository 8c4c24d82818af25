"""What a cloud tells of itself: its endpoints (Azure Resource Manager, 2022-09-01), tenants and subscriptions (2022-12-01)."""

from imgstore.wire.text import Json


def endpoints_json(base_url: str) -> Json:
    """The document that ``az cloud register --endpoint-resource-manager`` and go-azure-sdk read.

    What imgstore does not have (a graph, batch, a key vault) is named all the same: go-azure-sdk refuses a cloud without,
    and no client asks there for what a gallery needs.
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
    """A tenant."""
    return {
        "id": f"/tenants/{tenant_id}",
        "tenantId": tenant_id,
        "displayName": "imgstore",
        "countryCode": "",
        "domains": [],
        "tenantCategory": "Home",
    }


def subscription_json(subscription: str, tenant_id: str) -> Json:
    """A subscription."""
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
