"""Limits of failed attempts to prove a secret: for each address, and for each client id. Kept in memory, bounded."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 60.0
_KEYS_MAX: Final = 10_000


@dataclass(slots=True)
class _Failures:
    began_at: float
    count: int = 0


@dataclass(slots=True, kw_only=True)
class AttemptLimits:
    """Failures of the present minute. Safe to use from several threads at once.

    An address that has failed too often waits. Failures for one client id, from all addresses together, do not keep out
    an address that has not failed with it: whoever knows the secret gets in, however many others guess.
    """

    per_address_max: int
    per_client_max: int
    """From then on an address has one failure a minute with that client id."""
    monotonic: Callable[[], float]
    _failures: "OrderedDict[tuple[str, ...], _Failures]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_seconds(self, address: str, client_id: str) -> float:
        """Return how long an attempt has to wait; 0 is not at all."""
        with self._lock:
            waits = [self._wait(("address", address), self.per_address_max)]
            if self._wait(("client", client_id), self.per_client_max):
                waits.append(self._wait(("pair", address, client_id), 1))
            return max(waits)

    def note_failure(self, address: str, client_id: str) -> None:
        """Count a failed attempt."""
        now = self.monotonic()
        with self._lock:
            for key in (("address", address), ("client", client_id), ("pair", address, client_id)):
                failures = self._failures.get(key)
                if failures is None or now - failures.began_at >= WINDOW_SECONDS:
                    failures = self._failures[key] = _Failures(began_at=now)
                failures.count += 1
                self._failures.move_to_end(key)
            while len(self._failures) > _KEYS_MAX:
                self._failures.popitem(last=False)

    def _wait(self, key: tuple[str, ...], failures_max: int) -> float:
        failures = self._failures.get(key)
        if failures is None or failures.count < failures_max:
            return 0.0
        return max(0.0, failures.began_at + WINDOW_SECONDS - self.monotonic())
