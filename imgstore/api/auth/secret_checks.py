"""Check client secrets in a small thread pool, with limits for failed attempts.

Argon2 needs tens of milliseconds of processor time by design. In the threads for requests, callers with wrong secrets
would block all other callers.
"""

import asyncio
import hashlib
import hmac
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from imgstore.api.http.attempt_limits import AttemptLimits
from imgstore.api.http.client_addresses import address_group
from imgstore.api.http.fair_pool import FairPool, PoolLimits
from imgstore.domain.effects import Effects
from imgstore.domain.errors import ClientRefused, ImgstoreError

FAILURES_PER_ADDRESS_MAX: Final = 30
_FAILURES_PER_CLIENT_MAX: Final = 60
_POOL: Final = PoolLimits(threads=2, queued_per_caller_max=16, queued_max=128)
_VERIFIED_SECONDS: Final = 300.0
_VERIFIED_MAX: Final = 1_024
_KEY_BYTES: Final = 32
_T = TypeVar("_T")


class TooManyAttempts(ImgstoreError):
    """An address or a client id has too many failed attempts."""

    code = "temporarily_unavailable"
    status = 429
    retry_after_seconds = 60


@dataclass(slots=True)
class VerifiedSecrets:
    """A cache of recently verified secrets, which need no new hash. Safe for use in several threads.

    The cache contains neither secrets nor plain hashes of secrets. The key of an entry is an HMAC with a key of this
    process.
    """

    effects: Effects
    _verified: "OrderedDict[bytes, tuple[str, float]]" = field(default_factory=OrderedDict)
    """By HMAC: the stored hash that the secret was compared with, and the end of the entry's validity."""
    _key: bytes = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._key = self.effects.random_bytes(_KEY_BYTES)

    def has(self, client_id: str, secret: str) -> bool:
        """Return whether the secret was correct within the last five minutes. The secret may have been revoked since then."""
        return self._find(client_id, secret) is not None

    def matches(self, client_id: str, secret: str, hashed: str) -> bool:
        """Return whether the secret matched this stored hash within the last five minutes."""
        return self._find(client_id, secret) == hashed

    def add(self, client_id: str, secret: str, hashed: str) -> None:
        """Add a correct secret."""
        with self._lock:
            expires_at = self.effects.monotonic() + _VERIFIED_SECONDS
            self._verified[self._name(client_id, secret)] = (hashed, expires_at)
            while len(self._verified) > _VERIFIED_MAX:
                self._verified.popitem(last=False)

    def discard(self, client_id: str, secret: str) -> None:
        """Remove a wrong secret."""
        with self._lock:
            self._verified.pop(self._name(client_id, secret), None)

    def _find(self, client_id: str, secret: str) -> str | None:
        hashed, expires_at = self._verified.get(self._name(client_id, secret), (None, 0.0))
        return hashed if self.effects.monotonic() < expires_at else None

    def _name(self, client_id: str, secret: str) -> bytes:
        return hmac.digest(self._key, json.dumps([client_id, secret]).encode(), hashlib.sha256)


class SecretChecker:
    """The threads for checks of secrets, and the limits of failed attempts."""

    def __init__(self, monotonic: Callable[[], float], failures_per_address_max: int) -> None:
        self._pool = FairPool(_POOL, "secret")
        self._limits = AttemptLimits(
            per_address_max=failures_per_address_max, per_client_max=_FAILURES_PER_CLIENT_MAX, monotonic=monotonic
        )

    async def run(self, address: str, client_id: str, work: Callable[[], _T], *, is_verified: bool) -> _T:
        """Check a secret.

        Args:
            address: the address of the client.
            client_id: the client id in the request.
            work: checks the secret, and raises ClientRefused if the secret is wrong.
            is_verified: whether the secret was correct a short time ago. No limit applies to such a secret.

        Raises:
            TooManyAttempts: the address or the client id has too many failed attempts.
            CallerQueueFull, PoolQueueFull: too many attempts wait for a thread.
        """
        group = address_group(address)
        if not is_verified and (seconds := self._limits.wait_seconds(group, client_id)):
            raise _too_many_attempts_error(seconds)
        caller = f"verified {client_id}" if is_verified else f"address {group}"
        try:
            return await asyncio.wrap_future(self._pool.submit(caller, work))
        except ClientRefused:
            self._limits.note_failure(group, client_id)
            raise

    def close(self) -> None:
        """Stop the threads. A running check takes a few milliseconds."""
        self._pool.close(1.0)


def _too_many_attempts_error(seconds: float) -> TooManyAttempts:
    error = TooManyAttempts(
        "Too many attempts with a wrong secret.",
        found="more failed attempts in a minute than the limit of an address or an application",
        expected=f"another attempt after {math.ceil(seconds)} s",
        hint="wait for the time in Retry-After; attempts with the correct secret from other addresses need no wait",
        target="client_secret",
    )
    error.retry_after_seconds = math.ceil(seconds)
    return error
