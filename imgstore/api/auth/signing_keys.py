"""Manage the keys that sign tokens: create the first key, rotate keys by command and by age, and trust retired keys."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from joserfc.jwk import RSAKey

from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.identity.principals import SigningKey
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation

TOKEN_SECONDS_MAX: Final = 86_400
"""The maximum lifetime of a token."""
LOOK_SECONDS: Final = 60.0
"""The maximum age of cached keys. Another process may rotate the keys."""
_UNKNOWN_SECONDS: Final = 0.1
"""The minimum interval of reads after an unknown key id. The id may be invented."""
KEY_DAYS: Final = 90
_KEY_BITS: Final = 2_048
_TRUST: Final = timedelta(seconds=TOKEN_SECONDS_MAX + 2 * LOOK_SECONDS)
"""The time that a retired key stays trusted. Other processes may sign with a retired key for `LOOK_SECONDS`, and tokens
with such a signature must stay valid until their end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _CachedKeys:
    keys: tuple[SigningKey, ...]
    by_kid: Mapping[str, RSAKey]
    read_at: float
    """The time of the read, by the monotonic clock of the process."""
    database_time: datetime
    """The time of the read, by the clock of the database."""


@dataclass(slots=True)
class KeyRing:
    """The signing keys of an installation, with a cache. Safe for use in several threads."""

    installation: Installation
    key_days: int = KEY_DAYS
    """The age in days at which the signing key is rotated."""
    _cached: _CachedKeys | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get_signing_key(self) -> tuple[str, RSAKey]:
        """Return the id and the key for new signatures. Create a key if there is none or if the key is too old."""
        cached = self._read_keys()
        key = _current(cached.keys)
        if key is None or self.now() - key.created_at > timedelta(days=self.key_days):
            self._rotate(key, "imgstore", "by age" if key else "the first")
            cached = self._read_keys(refresh=True)
            key = _current(cached.keys)
        assert key is not None, "a key was created just now"
        return key.kid, cached.by_kid[key.kid]

    def now(self) -> datetime:
        """Return the time of the database's clock, which all servers share.

        The result is the time of the last read of the keys plus the seconds since then.
        """
        cached = self._read_keys()
        return cached.database_time + timedelta(seconds=self.installation.effects.monotonic() - cached.read_at)

    def find_trusted_key(self, kid: str) -> RSAKey | None:
        """Return the key with this id. Return None if the key is unknown or no longer trusted."""
        cached = self._read_keys()
        if kid not in cached.by_kid and self.installation.effects.monotonic() - cached.read_at > _UNKNOWN_SECONDS:
            cached = self._read_keys(refresh=True)
        now = self.now()
        is_trusted = any(each.kid == kid and _is_trusted(each, now) for each in cached.keys)
        return cached.by_kid[kid] if is_trusted else None

    def jwks(self) -> dict[str, Any]:
        """Return the trusted public keys as a JWK Set (RFC 7517). Create a signing key if there is none."""
        self.get_signing_key()
        cached, now = self._read_keys(refresh=True), self.now()
        return {
            "keys": [_public_jwk(each.kid, cached.by_kid[each.kid]) for each in cached.keys if _is_trusted(each, now)]
        }

    def rotate(self, principal: Principal) -> SigningKey:
        """Replace the signing key by a new key. Tokens of the old key stay valid until their end.

        Raises:
            AccessDenied: the principal does not administer the installation.
        """
        permit(self.installation, principal, Action.ADMINISTER, INSTALLATION)
        self._rotate(_current(self._read_keys(refresh=True).keys), principal.name, "by command")
        key = _current(self._read_keys(refresh=True).keys)
        assert key is not None, "a key was created just now"
        return key

    def list(self, principal: Principal) -> tuple[SigningKey, ...]:
        """Return all stored keys, the newest first.

        Raises:
            AccessDenied: the principal does not administer the installation.
        """
        authorize(principal, Action.ADMINISTER, INSTALLATION)
        return self._read_keys(refresh=True).keys

    def _read_keys(self, *, refresh: bool = False) -> _CachedKeys:
        now = self.installation.effects.monotonic()
        cached = self._cached
        if cached is None or refresh or now - cached.read_at > LOOK_SECONDS:
            with self.installation.catalog.reading() as transaction:
                keys, database_time = tuple(transaction.signing_keys.list()), transaction.now()
            old = {} if cached is None else {each.kid: each for each in cached.keys}
            by_kid = {
                each.kid: cached.by_kid[each.kid]
                if cached is not None and old.get(each.kid) == each
                else RSAKey.import_key(each.pem)
                for each in keys
            }
            with self._lock:
                self._cached = cached = _CachedKeys(keys=keys, by_kid=by_kid, read_at=now, database_time=database_time)
        return cached

    def _rotate(self, expected: SigningKey | None, who: str, why: str) -> None:
        """Replace the key `expected` by a new key. Do nothing if another process has already replaced the key."""
        new_key = RSAKey.generate_key(_KEY_BITS)
        kid = self.installation.effects.new_uid()
        with self.installation.catalog.transaction() as transaction:
            transaction.tenants.lock_creation()
            now = transaction.now()
            current = _current(tuple(transaction.signing_keys.list()))
            if (current and current.kid) != (expected and expected.kid):
                return
            if current is not None:
                public = RSAKey.import_key(current.pem).as_pem(private=False)
                transaction.signing_keys.retire(current.kid, public, retired_at=now, trusted_until=now + _TRUST)
            transaction.signing_keys.remove_expired(now)
            transaction.signing_keys.add(SigningKey(kid=kid, pem=new_key.as_pem(private=True), created_at=now))
            transaction.activity.add(
                principal=who,
                action="imgstore/keys/rotate/action",
                scope=INSTALLATION,
                outcome="Succeeded",
                detail=f"{why}: {kid}",
                started_at=now,
                finished_at=transaction.now(),
            )


def _current(keys: tuple[SigningKey, ...]) -> SigningKey | None:
    return next((each for each in keys if each.retired_at is None), None)


def _is_trusted(key: SigningKey, now: datetime) -> bool:
    return key.trusted_until is None or now < key.trusted_until


def _public_jwk(kid: str, key: RSAKey) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": "RS256"}
