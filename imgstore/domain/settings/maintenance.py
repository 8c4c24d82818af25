"""Maintenance: what workers do unasked, how often, and how fast. Read from a team's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from imgstore.domain.settings.tables import SettingsTable

_DAY_SECONDS: Final = 86_400
_INTERVAL_SECONDS_MAX: Final = 36_500 * _DAY_SECONDS
"""A hundred years: dates end soon behind more."""
_NUMBER_MAX: Final = 2**53
_FAILED: Final = "failed: "
_RETRY_SECONDS_MIN: Final = 300.0
_RETRY_SHARE: Final = 1 / 8
_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "scrub_percent": (0, 100),
    "activity_days": (1, 36_500),
    "activity_rows_max": (1, _NUMBER_MAX),
}
"""The least and the most value of settings that are neither intervals nor unbounded."""


class MaintenanceKind(StrEnum):
    """What a turn of maintenance does."""

    DELETIONS = "deletions"
    """Ends what is to go: softly deleted versions whose retention has passed, removals and deletions of dead processes."""
    ACTIVITY = "activity"
    """Deletes rows of the activity log that are too old, or too many."""
    REPAIRS = "repairs"
    """Gives the zones of a region what they missed, as their repair notes say."""
    SCRUB = "scrub"
    """Reads a slot, repairs it and restores its replicas."""
    GC = "gc"
    """Collects what no version, disk or open work needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """Intervals and bounds. An interval of 0 turns the kind off."""

    deletions_interval_seconds: int = 300
    activity_interval_seconds: int = 600
    activity_days: int = 90
    """Rows of the activity log are kept for so long, as Azure keeps them."""
    activity_rows_max: int = 1_000_000
    """So many rows of the activity log are kept, the latest ones."""
    repairs_interval_seconds: int = 300
    """Of each region with three zones."""
    scrub_interval_seconds: int = 7 * _DAY_SECONDS
    """Of each slot."""
    degraded_scrub_interval_seconds: int = _DAY_SECONDS
    """Of a slot with a Degraded replica, where that is sooner."""
    scrub_percent: int = 100
    """Share of the segments that a scrub reads, another one each day; manifests are all read."""
    gc_interval_seconds: int = _DAY_SECONDS
    bytes_per_second_max: int = 64_000_000
    """Bound of what one worker reads and repairs in maintenance; 0 is no bound."""

    def interval_seconds(self, kind: MaintenanceKind) -> int:
        """Return the time between two turns of a kind, in seconds; 0 where it is turned off."""
        found: int = getattr(self, f"{kind}_interval_seconds")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceTask:
    """One thing that is done again and again, by one worker at a time."""

    kind: MaintenanceKind
    subject: str = ""
    """The uid of a slot (scrub) or the name of a region (repairs); empty where the kind has one task."""
    interval_seconds: int

    @property
    def name(self) -> str:
        """The key of its row: "scrub/<slot uid>"."""
        return f"{self.kind}/{self.subject}" if self.subject else self.kind.value

    @property
    def waits_at_first(self) -> bool:
        """Whether a task that was never done is due an interval after it was first seen, and not at once."""
        return self.kind in (MaintenanceKind.SCRUB, MaintenanceKind.GC)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceRecord:
    """The row of a task, as the catalog keeps it. All times are of the database's clock."""

    name: str
    done_at: datetime
    """When its last turn ended, or, before the first one, when the task was first seen."""
    holder: str | None = None
    """The process that has the turn now: as `Work.holder`."""
    token: str | None = None
    lease_expires_at: datetime | None = None
    outcome: str | None = None
    """How the last turn ended, for people."""

    def due_at(self, task: MaintenanceTask) -> datetime:
        """Return when the task is to be done again: sooner, after an eighth of the interval, where it failed."""
        seconds = float(task.interval_seconds)
        if self.has_failed:
            seconds = min(seconds, max(_RETRY_SECONDS_MIN, seconds * _RETRY_SHARE))
        return self.done_at + timedelta(seconds=seconds)

    @property
    def has_failed(self) -> bool:
        """Whether the last turn did not do all of it."""
        return self.outcome is not None and self.outcome.startswith(_FAILED)


def failure_outcome(message: str) -> str:
    """Return the outcome of a turn that failed."""
    return f"{_FAILED}{message}"


_NAMES: Final = tuple(each.name for each in fields(MaintenanceSettings))
_EXAMPLE: Final = "[maintenance] and below it scrub_interval_seconds = 604800; 0 turns a kind off"


def read_maintenance(settings: Mapping[str, Any], file: str) -> MaintenanceSettings:
    """Read the table ``[maintenance]`` of a settings document.

    Args:
        settings: the document, as TOML reads it.
        file: its path, for errors.

    Raises:
        InvalidInput: a key that nobody knows, or a value of the wrong kind; its target is the key.
    """
    table = SettingsTable(name="maintenance", file=file, example=_EXAMPLE)
    values = table.read(settings, _NAMES)
    return MaintenanceSettings(**{key: table.check_number(key, value, *_bounds(key)) for key, value in values.items()})


def _bounds(key: str) -> tuple[int, int]:
    return _BOUNDS.get(key, (0, _INTERVAL_SECONDS_MAX if key.endswith("_interval_seconds") else _NUMBER_MAX))
