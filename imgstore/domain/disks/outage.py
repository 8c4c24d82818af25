"""Waits for stores during an outage, so that a reader without the patience of a person sees a pause and no error (D21)."""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreError, StoreUnreachable

OUTAGE_SECONDS: Final = 60.0
"""The default of the longest wait."""
_PAUSE_SECONDS_MIN: Final = 0.05
_PAUSE_SECONDS_MAX: Final = 0.5

_T = TypeVar("_T")


class Outage:
    """The time without an answer of any store, as all readers of a disk share it. Safe for several threads.

    An outage begins with the first failed attempt, and ends with the next successful attempt. After `seconds`, each
    attempt fails at once until a store answers again. So a queue of readers does not wait one after the other.
    """

    def __init__(self, seconds: float, effects: Effects) -> None:
        self._seconds = seconds
        self._effects = effects
        self._lock = threading.Lock()
        self._began: float | None = None
        self._is_closed = False

    def close(self) -> None:
        """End all waits: each waiting attempt fails."""
        self._is_closed = True

    def wait_out(
        self,
        attempt: Callable[[], _T],
        check_cancelled: Callable[[], None],
        may_pass: Callable[[StoreError], bool] = lambda error: isinstance(error, StoreUnreachable),
    ) -> _T:
        """Repeat an attempt until it succeeds, fails for another reason, or the outage exceeds the limit.

        Args:
            attempt: changes nothing when it fails.
            check_cancelled: called before each repeat; an exception ends the wait.
            may_pass: returns whether a store may serve the attempt later.

        Raises:
            StoreError: the error of the last attempt.
        """
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                found = attempt()
            except StoreError as error:
                if not may_pass(error) or self._is_over():
                    raise
            else:
                self._began = None
                return found
            self._effects.wait(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)
            check_cancelled()

    def _is_over(self) -> bool:
        """Note a failed attempt. Return whether the limit has passed."""
        now = self._effects.monotonic()
        with self._lock:
            if self._began is None:
                self._began = now
            return self._is_closed or now - self._began >= self._seconds
