"""Progress events of tasks. Subscribers receive the events, and the engine knows no terminal."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Stage(StrEnum):
    """The kind of an event."""

    STARTED = "started"
    """The task is known. `bytes_total` may grow later."""
    MOVED = "moved"
    """The task processed bytes since the last event."""
    COMPLETED = "completed"
    FAILED = "failed"
    NOTE = "note"
    """A note for a person, in `detail`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """An event of a task."""

    task: str
    """The name of the task: a region and replica ("westus2/0"), "ingest" or "export"."""
    stage: Stage
    bytes_done: int = 0
    """Bytes processed since the start of the task. A task without bytes is 100% complete."""
    bytes_total: int = 0
    """All bytes of the task, as far as known."""
    detail: str = ""


Subscriber: TypeAlias = Callable[[ProgressEvent], None]
"""Called from worker threads, at least once per second during a transfer.

A subscriber returns quickly and raises no error.
"""


def ignore_event(_event: ProgressEvent) -> None:
    """Drop the event: the default subscriber."""


def suppress_errors(subscriber: Subscriber) -> Subscriber:
    """Return a subscriber that drops the errors of `subscriber`, because a failed report must not stop a work."""

    def report(event: ProgressEvent) -> None:
        with suppress(Exception):
            subscriber(event)

    return ignore_event if subscriber is ignore_event else report
