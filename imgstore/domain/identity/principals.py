"""Who is known: tenants, applications and users, what they prove themselves with, and the roles they were given."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from imgstore.domain.identity.access import Role

HINT_CHARACTERS: Final = 8
"""How a secret begins: what finds its row, and tells a person which one it is."""


class PrincipalKind(StrEnum):
    """What a principal is."""

    SERVICE_PRINCIPAL = "ServicePrincipal"
    USER = "User"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An organisation. The first one is made with the installation's first principal and owns its subscription."""

    uid: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalRecord:
    """One principal in one tenant: an application's service principal there, or a user of an issuer."""

    uid: str
    """Its object id: what role assignments name, the claim ``oid``."""
    kind: PrincipalKind
    tenant_uid: str
    name: str
    client_id: str | None = None
    """Of a service principal. The application of one client id may have a principal in several tenants."""
    issuer: str | None = None
    """Of a user: who vouches for it."""
    subject: str | None = None
    """Of a user: the issuer's own name for it, the claim ``sub``."""
    token_generation: int = 0
    """How often its tokens were taken back. Ours say of which generation they are, and are good while it is this one."""
    tokens_valid_after: datetime | None = None
    """When they were taken back last, by the catalog's clock: tokens of its issuer from before are good no more."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One secret of an application: its hash alone. Several may stand at once, so that one can be changed for the next."""

    uid: str
    client_id: str
    hint: str
    """The secret's first 8 characters, which are no part of what is kept from anybody."""
    hashed: str
    """Argon2id, with its parameters and salt, in the PHC string format."""
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleAssignment:
    """A role that a principal has on a scope and on all below it."""

    uid: str
    principal_uid: str
    role: Role
    scope: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An OIDC issuer whose tokens are taken for its tenant's users."""

    uid: str
    tenant_uid: str
    url: str
    """The claim ``iss``, to the letter."""
    audience: str
    """The claim ``aud`` that its tokens must carry."""
    jwks: str
    """Where its keys are: an https URL, or the path of a file."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that tokens are signed with, or, once retired, were."""

    kid: str
    pem: bytes
    """PKCS #8 while it signs; from its retirement on the public key alone."""
    created_at: datetime
    retired_at: datetime | None = None
    trusted_until: datetime | None = None
    """When its last token has expired. None while it signs."""
