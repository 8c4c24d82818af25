"""Progress, told to subscribers: the engine never hears of a terminal."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Stage(StrEnum):
    """What kind of news an event is."""

    STARTED = "started"
    """The task is known; `bytes_total` may grow later."""
    MOVED = "moved"
    """Bytes were dealt with since the last event."""
    COMPLETED = "completed"
    FAILED = "failed"
    NOTE = "note"
    """Something a person should read: `detail` holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """One piece of news about one task."""

    task: str
    """Whose news it is: a region and replica ("westus2/0"), "ingest" or "export"."""
    stage: Stage
    bytes_done: int = 0
    """Bytes dealt with so far, from the task's beginning. Nothing to send is 100%."""
    bytes_total: int = 0
    """Bytes in all, as far as known."""
    detail: str = ""


Subscriber: TypeAlias = Callable[[ProgressEvent], None]
"""Called from worker threads, at least once a second while bytes move; must be quick and must not raise."""


def ignore_event(_event: ProgressEvent) -> None:
    """The subscriber that nobody asked for."""


def suppress_errors(subscriber: Subscriber) -> Subscriber:
    """Return a subscriber that drops the errors of `subscriber`: a failure to report is no failure of the work."""

    def report(event: ProgressEvent) -> None:
        with suppress(Exception):
            subscriber(event)

    return ignore_event if subscriber is ignore_event else report
