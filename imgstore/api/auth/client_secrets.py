"""Secrets of applications: made here, shown once, kept as Argon2id hashes alone."""

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
"""So that no secret begins with a dash, which a command line would take for an option."""
_RANDOM_BYTES: Final = 30

# OWASP's second choice of parameters: 19 MiB, two passes. The secrets are random, so nobody guesses; the hash stands
# against a stolen catalog, and its cost against whoever asks a thousand times a second.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_NOBODYS: Final = "$argon2id$v=19$m=19456,t=2,p=1$S8oz0E+JKQGKJjEmL1tJRg$g0WRwLUL76Qhw8MVB0NvZgtN3UqX9XUIPJc+NQ5ThRI"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A principal and the secret that it was given just now. Nobody can tell it again."""

    known: PrincipalDetails
    secret: str


def generate_secret(effects: Effects) -> str:
    """A secret of 240 random bits, of which the hint tells 36."""
    return _PREFIX + base64.urlsafe_b64encode(effects.random_bytes(_RANDOM_BYTES)).decode()


def hash_secret(secret: str, days: int) -> Proof:
    """What is kept of a secret."""
    return Proof(hint=secret[:HINT_CHARACTERS], hashed=_HASHER.hash(secret), days=days)


def verify_secret(hashed: str | None, secret: str) -> bool:
    """Whether a hash is that of a secret. None, nobody's hash, takes as long as any."""
    try:
        return _HASHER.verify(hashed or _NOBODYS, secret) and hashed is not None
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
    """Make a service principal with its first secret (see `identities.add_service_principal`)."""
    secret = generate_secret(installation.effects)
    known = principals.add_service_principal(
        installation, principal, name=name, tenant=tenant, proof=hash_secret(secret, days)
    )
    return Credential(known=known, secret=secret)


def reset_credential(
    installation: Installation, principal: Principal, *, who: str, days: int = SECRET_DAYS, keep: bool = False
) -> Credential:
    """Give an application a new secret (see `identities.reset_credential`)."""
    secret = generate_secret(installation.effects)
    known = principals.reset_credential(installation, principal, who=who, proof=hash_secret(secret, days), keep=keep)
    return Credential(known=known, secret=secret)


def create_first_administrator(installation: Installation, days: int = SECRET_DAYS) -> Credential | None:
    """Make the first service principal, Owner of the installation; None where anybody is known already."""
    with installation.catalog.reading() as transaction:
        if transaction.principals.list():
            return None
    secret = generate_secret(installation.effects)
    known = principals.found_administrator(installation, hash_secret(secret, days))
    return None if known is None else Credential(known=known, secret=secret)
