"""Generate and verify the secrets of applications. The catalog contains only Argon2id hashes of secrets."""

import base64
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from imgstore.domain.effects import Effects
from imgstore.domain.identity.access import Principal
from imgstore.domain.identity.principals import HINT_CHARACTERS
from imgstore.domain.reports import PrincipalDetails
from imgstore.operations.identity import principals
from imgstore.operations.identity.principals import Proof
from imgstore.operations.installation import Installation

SECRET_DAYS: Final = 365
_PREFIX: Final = "im"
"""A prefix of letters. A secret with a dash at the start would be an option on a command line."""
_RANDOM_BYTES: Final = 30

# OWASP's second choice of parameters: 19 MiB, two passes. Secrets are random and can't be guessed. The hash protects
# the secrets of a stolen catalog, and the cost limits the rate of attempts.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_DUMMY_HASH: Final = "$argon2id$v=19$m=19456,t=2,p=1$S8oz0E+JKQGKJjEmL1tJRg$g0WRwLUL76Qhw8MVB0NvZgtN3UqX9XUIPJc+NQ5ThRI"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A principal with a new secret. The secret can't be shown again later."""

    known: PrincipalDetails
    secret: str


def generate_secret(effects: Effects) -> str:
    """Return a new secret of 240 random bits. The hint, which is stored as text, contains 36 of the bits."""
    return _PREFIX + base64.urlsafe_b64encode(effects.random_bytes(_RANDOM_BYTES)).decode()


def hash_secret(secret: str, days: int) -> Proof:
    """Return the stored form of a secret: a hint and a hash."""
    return Proof(hint=secret[:HINT_CHARACTERS], hashed=_HASHER.hash(secret), days=days)


def verify_secret(hashed: str | None, secret: str) -> bool:
    """Return whether a hash belongs to a secret. A missing hash takes the same time as a wrong hash."""
    try:
        return _HASHER.verify(hashed or _DUMMY_HASH, secret) and hashed is not None
    except (Argon2Error, InvalidHashError):
        return False


def create_service_principal(
    installation: Installation,
    principal: Principal,
    *,
    name: str,
    tenant: str | None = None,
    days: int = SECRET_DAYS,
) -> Credential:
    """Create a service principal with a first secret (see `principals.add_service_principal`)."""
    secret = generate_secret(installation.effects)
    known = principals.add_service_principal(
        installation, principal, name=name, tenant=tenant, proof=hash_secret(secret, days)
    )
    return Credential(known=known, secret=secret)


def reset_credential(
    installation: Installation, principal: Principal, *, who: str, days: int = SECRET_DAYS, keep: bool = False
) -> Credential:
    """Create a new secret for an application (see `principals.reset_credential`)."""
    secret = generate_secret(installation.effects)
    known = principals.reset_credential(installation, principal, who=who, proof=hash_secret(secret, days), keep=keep)
    return Credential(known=known, secret=secret)


def create_first_administrator(installation: Installation, days: int = SECRET_DAYS) -> Credential | None:
    """Create the first service principal as Owner of the installation. Return None if a principal exists already."""
    with installation.catalog.reading() as transaction:
        if transaction.principals.list():
            return None
    secret = generate_secret(installation.effects)
    known = principals.create_administrator(installation, hash_secret(secret, days))
    return None if known is None else Credential(known=known, secret=secret)
