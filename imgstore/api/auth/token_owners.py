"""Cache the owners of tokens: the principals with roles, and the data for the check of revoked tokens."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from imgstore.domain.errors import Unauthenticated
from imgstore.domain.identity.access import Principal
from imgstore.operations.identity.principals import principal_of
from imgstore.operations.installation import Installation

_ROLES_SECONDS: Final = 5.0
"""The maximum time that a revoked role or token stays usable."""
CACHED_MAX: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """A token with a verified signature."""

    identity_uid: str
    issuer: str | None
    """The URL of an OIDC issuer. None for tokens of this installation."""
    expires_at: float
    generation: int | None = None
    """The token generation of the owner. None for tokens of an OIDC issuer."""
    issued_at: float = -math.inf
    """The time of issue by the clock of an OIDC issuer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """The owner of tokens, as read from the catalog at `read_at`."""

    principal: Principal
    generation: int
    valid_after: float
    read_at: float

    def accepts(self, token: VerifiedToken) -> bool:
        """Return whether a token is not revoked."""
        if token.generation is None:
            return token.issued_at >= self.valid_after
        return token.generation == self.generation


@dataclass(slots=True)
class TokenOwners:
    """A cache of token owners. An entry is valid for a few seconds. Safe for use in several threads."""

    installation: Installation
    _known: dict[tuple[str, str | None], _Owner] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def principal(self, token: VerifiedToken) -> Principal:
        """Return the principal of a token.

        Raises:
            Unauthenticated: the owner was deleted, the issuer is no longer trusted, or the token is revoked.
        """
        key, now = (token.identity_uid, token.issuer), self.installation.effects.monotonic()
        owner = self._known.get(key)
        # A token of a newer generation was issued after the last read, and must work at once.
        if owner is None or now - owner.read_at >= _ROLES_SECONDS or owner.generation < (token.generation or 0):
            owner = self._read(token, now)
            with self._lock:
                if len(self._known) >= CACHED_MAX:
                    evict(self._known, lambda each: now - each.read_at < _ROLES_SECONDS)
                self._known[key] = owner
        if not owner.accepts(token):
            raise token_error("The access token has been revoked.", "a token from before the revocation")
        return owner.principal

    def _read(self, token: VerifiedToken, now: float) -> _Owner:
        with self.installation.catalog.reading() as transaction:
            identity = transaction.principals.get(token.identity_uid)
            trusted = token.issuer is None or transaction.issuers.get(token.issuer) is not None
            principal = principal_of(transaction, identity) if identity is not None and trusted else None
        if identity is None or principal is None:
            with self._lock:
                self._known.pop((token.identity_uid, token.issuer), None)
            raise token_error("The owner of the access token does not exist any more.", token.identity_uid)
        after = identity.tokens_valid_after
        return _Owner(
            principal=principal,
            generation=identity.token_generation,
            valid_after=-math.inf if after is None else after.timestamp(),
            read_at=now,
        )


def evict(cache: dict[Any, Any], keep: Callable[[Any], bool]) -> None:
    """Remove the stale entries of a full cache. If no entry is stale, remove the older half."""
    for key in [key for key, value in cache.items() if not keep(value)] or list(cache)[: len(cache) // 2]:
        cache.pop(key, None)


def token_error(
    message: str,
    found: str,
    *,
    expected: str = "a valid token, signed by this installation or by a trusted issuer",
    hint: str = "log in again",
    code: str | None = None,
) -> Unauthenticated:
    """Return the error for a token that is not valid."""
    return Unauthenticated(message, found=found, expected=expected, hint=hint, target="Authorization", code=code)
