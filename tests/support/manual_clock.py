"""A clock that a test advances."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Final

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock without own progress. Pass its methods as `now`, `monotonic` and `wait`."""

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._seconds = 0.0
        self._lock = threading.Lock()
        self.waits: list[float] = []
        """The seconds of each call of `wait`."""

    def now(self) -> datetime:
        """Return the present aware time."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        with self._lock:
            self._seconds += seconds

    def wait(self, seconds: float) -> None:
        """Advance the clock as a sleep would, without a delay."""
        self.waits.append(seconds)
        self.advance(seconds)
