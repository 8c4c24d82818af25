"""Limit failed attempts with client secrets, for each address and for each client id.

The counts are in the memory of the process. The number of counts is bounded.
"""

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
    """The failed attempts of the current minute. Safe for use in several threads.

    An address with too many failures has to wait. Failures with a client id from all addresses together do not block an
    address without failures with this client id. Guesses from other addresses therefore never lock out the owner.
    """

    per_address_max: int
    per_client_max: int
    """The failures with one client id, from all addresses. Above this number, each address has one failure a minute."""
    monotonic: Callable[[], float]
    _failures: "OrderedDict[tuple[str, ...], _Failures]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_seconds(self, address: str, client_id: str) -> float:
        """Return the seconds that an attempt has to wait. 0 permits the attempt."""
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
