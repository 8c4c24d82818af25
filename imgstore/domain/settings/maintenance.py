"""Maintenance tasks of workers, with intervals and rates from the settings of a team."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from imgstore.domain.settings.tables import SettingsTable

_DAY_SECONDS: Final = 86_400
INTERVAL_SECONDS_MAX: Final = 36_500 * _DAY_SECONDS
"""A hundred years. Larger intervals would exceed the range of dates."""
_NUMBER_MAX: Final = 2**53
_FAILED: Final = "failed: "
_RETRY_SECONDS_MIN: Final = 300.0
_RETRY_SHARE: Final = 1 / 8
_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "scrub_percent": (0, 100),
    "activity_days": (1, 36_500),
    "activity_rows_max": (1, _NUMBER_MAX),
}
"""The lowest and highest values of other settings with limits."""


class MaintenanceKind(StrEnum):
    """The kind of a maintenance task."""

    DELETIONS = "deletions"
    """Finish deletions: soft-deleted versions after the retention, and removals and deletions of dead processes."""
    ACTIVITY = "activity"
    """Delete old and surplus rows of the activity log."""
    REVISIONS = "revisions"
    """Write revisions that a region missed, and the revisions of an installation from before revisions."""
    LEDGER = "ledger"
    """Write the new rows of the ledger into a checkpoint."""
    REPAIRS = "repairs"
    """Write missed objects to the zones of a region, according to the repair notes."""
    SCRUB = "scrub"
    """Read a slot, repair the slot and restore the replicas."""
    GC = "gc"
    """Collect objects that no version, disk or open work needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """Intervals and limits of maintenance. An interval of 0 disables the kind."""

    deletions_interval_seconds: int = 300
    activity_interval_seconds: int = 600
    activity_days: int = 90
    """The retention of rows in the activity log, as in Azure."""
    activity_rows_max: int = 1_000_000
    """The number of rows in the activity log. The latest rows are kept."""
    revisions_interval_seconds: int = 300
    ledger_interval_seconds: int = 3_600
    repairs_interval_seconds: int = 300
    """For each region with three zones."""
    scrub_interval_seconds: int = 7 * _DAY_SECONDS
    """For each slot."""
    degraded_scrub_interval_seconds: int = _DAY_SECONDS
    """For a slot with a Degraded replica, if shorter than `scrub_interval_seconds`."""
    scrub_percent: int = 100
    """The share of the segments that a scrub reads, a different share each day. A scrub reads all manifests."""
    gc_interval_seconds: int = _DAY_SECONDS
    bytes_per_second_max: int = 64_000_000
    """The limit for reads and repairs of one worker in maintenance. 0 is no limit."""

    def interval_seconds(self, kind: MaintenanceKind) -> int:
        """Return the seconds between two runs of a kind. 0 is disabled."""
        found: int = getattr(self, f"{kind}_interval_seconds")
        return found


def task_name(kind: MaintenanceKind, subject: str = "") -> str:
    """Return the key of the row of a task: "scrub/<slot uid>"."""
    return f"{kind}/{subject}" if subject else kind.value


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceTask:
    """A recurring task that one worker at a time performs."""

    kind: MaintenanceKind
    subject: str = ""
    """The uid of a slot (scrub) or the name of a region (repairs). Empty if the kind has a single task."""
    interval_seconds: int

    @property
    def name(self) -> str:
        """The key of the row: see `task_name`."""
        return task_name(self.kind, self.subject)

    @property
    def waits_at_first(self) -> bool:
        """Whether a new task is due after the first interval, and not at once."""
        return self.kind in (MaintenanceKind.SCRUB, MaintenanceKind.GC)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceRecord:
    """The catalog's row of a maintenance task. All times are by the clock of the database."""

    name: str
    done_at: datetime
    """The end of the last run. Before the first run: the time when the task was first seen."""
    holder: str | None = None
    """The process that performs the task now, in the notation of `Work.holder`."""
    token: str | None = None
    lease_expires_at: datetime | None = None
    outcome: str | None = None
    """The result of the last run, for people."""

    def due_at(self, task: MaintenanceTask) -> datetime:
        """Return the time of the next run.

        A failed task is due after an eighth of the interval. The delay is at least 300 s, and at most the interval.
        """
        seconds = float(task.interval_seconds)
        if self.has_failed:
            seconds = min(seconds, max(_RETRY_SECONDS_MIN, seconds * _RETRY_SHARE))
        return self.done_at + timedelta(seconds=seconds)

    @property
    def has_failed(self) -> bool:
        """Whether the last run was not complete."""
        return self.outcome is not None and self.outcome.startswith(_FAILED)


def failure_outcome(message: str) -> str:
    """Return the outcome of a failed run."""
    return f"{_FAILED}{message}"


_NAMES: Final = tuple(each.name for each in fields(MaintenanceSettings))
_EXAMPLE: Final = "[maintenance] and below it scrub_interval_seconds = 604800; 0 disables a kind"


def read_maintenance(settings: Mapping[str, Any], file: str) -> MaintenanceSettings:
    """Read the table ``[maintenance]`` of a settings document.

    Args:
        settings: the document, as TOML reads the file.
        file: the path of the document, for errors.

    Raises:
        InvalidInput: an unknown key, or a value of the wrong kind. The target is the key.
    """
    table = SettingsTable(name="maintenance", file=file, example=_EXAMPLE)
    values = table.read(settings, _NAMES)
    return MaintenanceSettings(**{key: table.check_number(key, value, *_bounds(key)) for key, value in values.items()})


def _bounds(key: str) -> tuple[int, int]:
    return _BOUNDS.get(key, (0, INTERVAL_SECONDS_MAX if key.endswith("_interval_seconds") else _NUMBER_MAX))
