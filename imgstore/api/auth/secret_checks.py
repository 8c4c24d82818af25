"""The checking of secrets: in threads of its own, a few at once, and with limits for whoever fails.

Argon2 takes tens of milliseconds of a processor on purpose. In the threads of requests, callers that guess would keep out
all others.
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
    """An address, or a client id, has failed to prove a secret too often."""

    code = "temporarily_unavailable"
    status = 429
    retry_after_seconds = 60


@dataclass(slots=True)
class VerifiedSecrets:
    """Secrets that were right a short while ago, so that they need not be hashed again. Safe in several threads.

    Neither a secret nor a plain hash of it is kept: a name is an HMAC under a key of this process alone.
    """

    effects: Effects
    _verified: "OrderedDict[bytes, tuple[str, float]]" = field(default_factory=OrderedDict)
    """By name: the stored hash that the secret was compared with, and until when that holds."""
    _key: bytes = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._key = self.effects.random_bytes(_KEY_BYTES)

    def has(self, client_id: str, secret: str) -> bool:
        """Tell whether the secret was right within the last five minutes. It may have been taken back since."""
        return self._find(client_id, secret) is not None

    def matches(self, client_id: str, secret: str, hashed: str) -> bool:
        """Tell whether the secret was compared with that stored hash, and right, within the last five minutes."""
        return self._find(client_id, secret) == hashed

    def add(self, client_id: str, secret: str, hashed: str) -> None:
        """Remember that a secret is right."""
        with self._lock:
            expires_at = self.effects.monotonic() + _VERIFIED_SECONDS
            self._verified[self._name(client_id, secret)] = (hashed, expires_at)
            while len(self._verified) > _VERIFIED_MAX:
                self._verified.popitem(last=False)

    def discard(self, client_id: str, secret: str) -> None:
        """Forget a secret that is wrong."""
        with self._lock:
            self._verified.pop(self._name(client_id, secret), None)

    def _find(self, client_id: str, secret: str) -> str | None:
        hashed, expires_at = self._verified.get(self._name(client_id, secret), (None, 0.0))
        return hashed if self.effects.monotonic() < expires_at else None

    def _name(self, client_id: str, secret: str) -> bytes:
        return hmac.digest(self._key, json.dumps([client_id, secret]).encode(), hashlib.sha256)


class SecretChecker:
    """The threads in which secrets are checked, and the limits of failed attempts."""

    def __init__(self, monotonic: Callable[[], float], failures_per_address_max: int) -> None:
        self._pool = FairPool(_POOL, "secret")
        self._limits = AttemptLimits(
            per_address_max=failures_per_address_max, per_client_max=_FAILURES_PER_CLIENT_MAX, monotonic=monotonic
        )

    async def run(self, address: str, client_id: str, work: Callable[[], _T], *, is_verified: bool) -> _T:
        """Check a secret.

        Args:
            address: the client's.
            client_id: whose secret it is said to be.
            work: checks it; raises ClientRefused if it is wrong.
            is_verified: the secret was right a short while ago: no limit holds for it.

        Raises:
            TooManyAttempts: the address has to wait first.
            CallerQueueFull, PoolQueueFull: too many attempts wait for a thread.
        """
        group = address_group(address)
        if not is_verified and (seconds := self._limits.wait_seconds(group, client_id)):
            raise _too_many(seconds)
        caller = f"proven {client_id}" if is_verified else f"address {group}"
        try:
            return await asyncio.wrap_future(self._pool.submit(caller, work))
        except ClientRefused:
            self._limits.note_failure(group, client_id)
            raise

    def close(self) -> None:
        """End the threads. What runs takes some milliseconds."""
        self._pool.close(1.0)


def _too_many(seconds: float) -> TooManyAttempts:
    error = TooManyAttempts(
        "Too many attempts with a wrong secret.",
        found="more failed attempts within a minute than an address or an application may have",
        expected=f"another attempt in {math.ceil(seconds)} s",
        hint="wait as long as Retry-After says; an attempt with the right secret from another address is not held back",
        target="client_secret",
    )
    error.retry_after_seconds = math.ceil(seconds)
    return error
