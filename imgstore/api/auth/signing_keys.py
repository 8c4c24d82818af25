"""The keys that tokens are signed with: made at first need, changed by command and by age, trusted a while longer."""

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
"""No token is good for longer."""
LOOK_SECONDS: Final = 60.0
"""How long a process goes on with the keys that it saw: another one may have changed them."""
_UNKNOWN_SECONDS: Final = 0.1
"""A key that is not among those seen makes the process look again, no more often than this: its id may be invented."""
KEY_DAYS: Final = 90
_KEY_BITS: Final = 2_048
_TRUST: Final = timedelta(seconds=TOKEN_SECONDS_MAX + 2 * LOOK_SECONDS)
"""A key signs for up to a look after its retirement, and the token of that moment must outlive it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    keys: tuple[SigningKey, ...]
    by_kid: Mapping[str, RSAKey]
    at: float
    """By the monotonic clock of the process."""
    database_time: datetime
    """The time of the database at that moment."""


@dataclass(slots=True)
class KeyRing:
    """The signing keys of an installation. Safe to use from several threads at once."""

    installation: Installation
    key_days: int = KEY_DAYS
    """A key that signed for so long is changed for another."""
    _seen: _Seen | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get_signing_key(self) -> tuple[str, RSAKey]:
        """The key that signs now, with its id; made where there is none, or where it has become too old."""
        seen = self._read_keys()
        key = _current(seen.keys)
        if key is None or self.now() - key.created_at > timedelta(days=self.key_days):
            self._rotate(key, "imgstore", "by age" if key else "the first")
            seen = self._read_keys(refresh=True)
            key = _current(seen.keys)
        assert key is not None, "a key was made just now"
        return key.kid, seen.by_kid[key.kid]

    def now(self) -> datetime:
        """Return the time by the database's clock, which all servers share, as of the last look and what passed since."""
        seen = self._read_keys()
        return seen.database_time + timedelta(seconds=self.installation.effects.monotonic() - seen.at)

    def find_trusted_key(self, kid: str) -> RSAKey | None:
        """The key of that id, while its tokens are believed."""
        seen = self._read_keys()
        if kid not in seen.by_kid and self.installation.effects.monotonic() - seen.at > _UNKNOWN_SECONDS:
            seen = self._read_keys(refresh=True)
        now = self.now()
        is_trusted = any(each.kid == kid and _is_trusted(each, now) for each in seen.keys)
        return seen.by_kid[kid] if is_trusted else None

    def jwks(self) -> dict[str, Any]:
        """The public keys of every token that may still be believed, as a JWK Set (RFC 7517)."""
        self.get_signing_key()
        seen, now = self._read_keys(refresh=True), self.now()
        return {"keys": [_public_jwk(each.kid, seen.by_kid[each.kid]) for each in seen.keys if _is_trusted(each, now)]}

    def rotate(self, principal: Principal) -> SigningKey:
        """Change the key for a new one; tokens of the old one are believed until they expire.

        Raises:
            AccessDenied: the principal does not administer the installation.
        """
        permit(self.installation, principal, Action.ADMINISTER, INSTALLATION)
        self._rotate(_current(self._read_keys(refresh=True).keys), principal.name, "by command")
        key = _current(self._read_keys(refresh=True).keys)
        assert key is not None, "a key was made just now"
        return key

    def list(self, principal: Principal) -> tuple[SigningKey, ...]:
        """Every key that is kept, the newest first.

        Raises:
            AccessDenied: the principal does not administer the installation.
        """
        authorize(principal, Action.ADMINISTER, INSTALLATION)
        return self._read_keys(refresh=True).keys

    def _read_keys(self, *, refresh: bool = False) -> _Seen:
        now = self.installation.effects.monotonic()
        seen = self._seen
        if seen is None or refresh or now - seen.at > LOOK_SECONDS:
            with self.installation.catalog.reading() as transaction:
                keys, database_time = tuple(transaction.signing_keys.list()), transaction.now()
            old = {} if seen is None else {each.kid: each for each in seen.keys}
            by_kid = {
                each.kid: seen.by_kid[each.kid]
                if seen is not None and old.get(each.kid) == each
                else RSAKey.import_key(each.pem)
                for each in keys
            }
            with self._lock:
                self._seen = seen = _Seen(keys=keys, by_kid=by_kid, at=now, database_time=database_time)
        return seen

    def _rotate(self, expected: SigningKey | None, who: str, why: str) -> None:
        """Retire `expected` for a new key, unless another process has done so meanwhile."""
        new_key = RSAKey.generate_key(_KEY_BITS)
        kid = self.installation.effects.new_uid()
        with self.installation.catalog.transaction() as transaction:
            transaction.tenants.lock()
            now = transaction.now()
            current = _current(tuple(transaction.signing_keys.list()))
            if (current and current.kid) != (expected and expected.kid):
                return
            if current is not None:
                public = RSAKey.import_key(current.pem).as_pem(private=False)
                transaction.signing_keys.retire(current.kid, public, retired_at=now, trusted_until=now + _TRUST)
            transaction.signing_keys.forget(now)
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
