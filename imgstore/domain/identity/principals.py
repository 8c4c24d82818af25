"""Records of tenants, applications, users, credentials and role assignments."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from imgstore.domain.identity.access import Role

HINT_CHARACTERS: Final = 8
"""The length of a hint: the start of a secret.

The hint finds the row, and shows people which secret the row belongs to.
"""


class PrincipalKind(StrEnum):
    """The kind of a principal."""

    SERVICE_PRINCIPAL = "ServicePrincipal"
    USER = "User"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An organization. The first principal of an installation gets the first tenant, which owns the subscription."""

    uid: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalRecord:
    """A principal in a tenant: the service principal of an application, or a user of an issuer."""

    uid: str
    """The object id. Role assignments and the claim ``oid`` contain the object id."""
    kind: PrincipalKind
    tenant_uid: str
    name: str
    client_id: str | None = None
    """The client id of a service principal. An application can have a service principal in each of several tenants."""
    issuer: str | None = None
    """The issuer of a user."""
    subject: str | None = None
    """The issuer's name of a user: the claim ``sub``."""
    token_generation: int = 0
    """The number of revocations.

    A token from imgstore contains a generation, and is valid only while both numbers are equal.
    """
    tokens_valid_after: datetime | None = None
    """The time of the last revocation, by the clock of the catalog.

    Tokens that the issuer issued earlier are rejected.
    """
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret of an application, as a hash only. An application may have several valid secrets during a rotation."""

    uid: str
    client_id: str
    hint: str
    """The first 8 characters of the secret. The hint is not confidential."""
    hashed: str
    """Argon2id, with parameters and salt, in the PHC string format."""
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleAssignment:
    """A role of a principal on a scope and on all scopes below."""

    uid: str
    principal_uid: str
    role: Role
    scope: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An OIDC issuer. imgstore accepts the tokens of the issuer for users of the tenant."""

    uid: str
    tenant_uid: str
    url: str
    """The claim ``iss``, compared exactly."""
    audience: str
    """The required claim ``aud`` of the tokens."""
    jwks: str
    """The location of the keys: an https URL, or the path of a file."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs tokens, or a retired key that signed tokens."""

    kid: str
    pem: bytes
    """PKCS #8 of a signing key. A retired key is a public key only."""
    created_at: datetime
    retired_at: datetime | None = None
    trusted_until: datetime | None = None
    """The time when the last token of a retired key expires. None for a signing key."""
