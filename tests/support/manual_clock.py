"""A clock that a test moves by hand."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Final

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Stands still until it is told. Hand in its methods for `now`, `monotonic` and `wait`."""

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._seconds = 0.0
        self._lock = threading.Lock()
        self.waits: list[float] = []
        """What `wait` was asked for, in seconds."""

    def now(self) -> datetime:
        """The present instant, aware."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time go on."""
        with self._lock:
            self._seconds += seconds

    def wait(self, seconds: float) -> None:
        """What a sleep would do, at once."""
        self.waits.append(seconds)
        self.advance(seconds)
