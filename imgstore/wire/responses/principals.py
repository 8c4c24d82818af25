"""Tenants, principals, roles, issuers and keys as JSON, in the format of ``az ad sp``, ``az role``, ``az account``."""

from imgstore.domain.identity.access import ROLE_ASSIGNMENTS
from imgstore.domain.identity.principals import (
    Issuer,
    PrincipalKind,
    PrincipalRecord,
    RoleAssignment,
    Secret,
    SigningKey,
    Tenant,
)
from imgstore.domain.reports import PrincipalDetails
from imgstore.wire.json_text import Json, instant


def tenant_json(tenant: Tenant) -> Json:
    """Return a tenant as JSON."""
    return {
        "id": f"/tenants/{tenant.uid}",
        "tenantId": tenant.uid,
        "displayName": tenant.name,
        "createdDateTime": instant(tenant.created_at),
    }


def principal_json(known: PrincipalDetails) -> Json:
    """Return a service principal or a user. Secrets are shown by id and hint only."""
    identity = known.identity
    head: dict[str, Json] = {"id": identity.uid, "displayName": identity.name, "tenant": identity.tenant_uid}
    if identity.kind is PrincipalKind.SERVICE_PRINCIPAL:
        own: dict[str, Json] = {
            "appId": identity.client_id,
            "passwordCredentials": [_secret_json(each) for each in known.secrets],
        }
    else:
        own = {"issuer": identity.issuer, "subject": identity.subject}
    taken_back = identity.tokens_valid_after
    tail: dict[str, Json] = {
        "type": identity.kind.value,
        "createdDateTime": instant(identity.created_at),
        "tokensValidFromDateTime": None if taken_back is None else instant(taken_back),
    }
    return head | own | tail


def credential_json(known: PrincipalDetails, secret: str) -> Json:
    """Return a principal with its new secret. The secret is shown only once."""
    newest = known.secrets[-1]
    return {
        "appId": known.identity.client_id,
        "displayName": known.identity.name,
        "id": known.identity.uid,
        "password": secret,
        "passwordEndDateTime": instant(newest.expires_at),
        "tenant": known.identity.tenant_uid,
    }


def assignment_json(assignment: RoleAssignment, identity: PrincipalRecord) -> Json:
    """Return a role assignment as JSON."""
    top = "" if assignment.scope == "/" else assignment.scope
    return {
        "id": f"{top}/providers/{ROLE_ASSIGNMENTS}/{assignment.uid}",
        "name": assignment.uid,
        "type": ROLE_ASSIGNMENTS,
        "principalId": assignment.principal_uid,
        "principalName": identity.name,
        "principalType": identity.kind.value,
        "roleDefinitionName": assignment.role.value,
        "scope": assignment.scope,
        "createdOn": instant(assignment.created_at),
    }


def issuer_json(issuer: Issuer) -> Json:
    """Return a trusted OIDC issuer as JSON."""
    return {
        "id": issuer.uid,
        "issuer": issuer.url,
        "audience": issuer.audience,
        "jwks": issuer.jwks,
        "tenant": issuer.tenant_uid,
        "createdDateTime": instant(issuer.created_at),
    }


def key_json(key: SigningKey) -> Json:
    """Return the metadata of a signing key."""
    return {
        "kid": key.kid,
        "state": "Signing" if key.retired_at is None else "Retired",
        "createdDateTime": instant(key.created_at),
        "retiredDateTime": None if key.retired_at is None else instant(key.retired_at),
        "trustedUntil": None if key.trusted_until is None else instant(key.trusted_until),
    }


def _secret_json(secret: Secret) -> Json:
    return {
        "keyId": secret.uid,
        "hint": secret.hint,
        "startDateTime": instant(secret.created_at),
        "endDateTime": instant(secret.expires_at),
    }
