"""Whose a token is, as the catalog says now or said a moment ago: with which roles, and whether it was taken back."""

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
"""How long a role or a token that was taken back may still serve."""
CACHED_MAX: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """Whose a token is, for as long as it is good."""

    identity_uid: str
    issuer: str | None
    """None is ourselves."""
    expires_at: float
    generation: int | None = None
    """Of ours: which of its owner's generations of tokens it is of."""
    issued_at: float = -math.inf
    """Of others: by the issuer's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """Whose tokens those are, as the catalog said a moment ago."""

    principal: Principal
    generation: int
    valid_after: float
    read_at: float

    def accepts(self, token: VerifiedToken) -> bool:
        """Whether a token was not taken back."""
        if token.generation is None:
            return token.issued_at >= self.valid_after
        return token.generation == self.generation


@dataclass(slots=True)
class TokenOwners:
    """The owners of tokens, each read again every few seconds. Safe to use from several threads at once."""

    installation: Installation
    _known: dict[tuple[str, str | None], _Owner] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def principal(self, token: VerifiedToken) -> Principal:
        """Who a token makes its bearer.

        Raises:
            Unauthenticated: somebody who was deleted, whose issuer is trusted no more, or whose tokens were taken back.
        """
        key, now = (token.identity_uid, token.issuer), self.installation.effects.monotonic()
        owner = self._known.get(key)
        # A token of a generation that is not known yet was given since: it must not wait for the next look.
        if owner is None or now - owner.read_at >= _ROLES_SECONDS or owner.generation < (token.generation or 0):
            owner = self._read(token, now)
            with self._lock:
                if len(self._known) >= CACHED_MAX:
                    evict(self._known, lambda each: now - each.read_at < _ROLES_SECONDS)
                self._known[key] = owner
        if not owner.accepts(token):
            raise token_error("The access token has been revoked.", "a token from before its owner's were taken back")
        return owner.principal

    def _read(self, token: VerifiedToken, now: float) -> _Owner:
        with self.installation.catalog.reading() as transaction:
            identity = transaction.principals.get(token.identity_uid)
            trusted = token.issuer is None or transaction.issuers.get(token.issuer) is not None
            principal = principal_of(transaction, identity) if identity is not None and trusted else None
        if identity is None or principal is None:
            with self._lock:
                self._known.pop((token.identity_uid, token.issuer), None)
            raise token_error("The access token is of somebody who is not known any more.", token.identity_uid)
        after = identity.tokens_valid_after
        return _Owner(
            principal=principal,
            generation=identity.token_generation,
            valid_after=-math.inf if after is None else after.timestamp(),
            read_at=now,
        )


def evict(cache: dict[Any, Any], keep: Callable[[Any], bool]) -> None:
    """Make room: what is stale goes, and where nothing is, the older half."""
    for key in [key for key, value in cache.items() if not keep(value)] or list(cache)[: len(cache) // 2]:
        cache.pop(key, None)


def token_error(
    message: str,
    found: str,
    *,
    expected: str = "a token that this installation or an issuer that it trusts has signed, and that is still good",
    hint: str = "log in again",
    code: str | None = None,
) -> Unauthenticated:
    """What is raised where a token is not believed."""
    return Unauthenticated(message, found=found, expected=expected, hint=hint, target="Authorization", code=code)
