"""Plan maintenance: list the tasks of an installation, and select the next task."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from imgstore.domain.resources import Slot
from imgstore.domain.settings.maintenance import (
    MaintenanceKind,
    MaintenanceRecord,
    MaintenanceSettings,
    MaintenanceTask,
)

_ORDER: Final = (
    MaintenanceKind.DELETIONS,
    MaintenanceKind.REVISIONS,
    MaintenanceKind.LEDGER,
    MaintenanceKind.ACTIVITY,
    MaintenanceKind.REPAIRS,
    MaintenanceKind.GC,
    MaintenanceKind.SCRUB,
)
"""Cheap tasks, and tasks that reduce the bill, come first."""


def maintenance_tasks(
    settings: MaintenanceSettings, slots: Sequence[Slot], *, zoned_regions: Iterable[str], degraded: Collection[str]
) -> list[MaintenanceTask]:
    """Return all tasks of an installation, in the order of execution when several are due.

    Args:
        settings: The intervals.
        slots: All slots.
        zoned_regions: The regions with slots in three zones.
        degraded: The uids of slots with a `Degraded` replica. Such slots are scrubbed sooner.
    """
    subjects: Mapping[MaintenanceKind, Sequence[str]] = {
        MaintenanceKind.DELETIONS: [""],
        MaintenanceKind.REVISIONS: [""],
        MaintenanceKind.LEDGER: [""],
        MaintenanceKind.ACTIVITY: [""],
        MaintenanceKind.REPAIRS: sorted(set(zoned_regions)),
        MaintenanceKind.GC: [""],
        MaintenanceKind.SCRUB: [slot.uid for slot in slots],
    }
    tasks: list[MaintenanceTask] = []
    for kind in _ORDER:
        interval = settings.interval_seconds(kind)
        for subject in subjects[kind] if interval else ():
            sooner = settings.degraded_scrub_interval_seconds if subject in degraded else 0
            seconds = min(interval, sooner) if sooner else interval
            tasks.append(MaintenanceTask(kind=kind, subject=subject, interval_seconds=seconds))
    return tasks


def next_due(
    tasks: Sequence[MaintenanceTask],
    turns: Sequence[MaintenanceRecord],
    *,
    now: datetime,
    dead: Collection[str],
) -> tuple[MaintenanceTask, MaintenanceRecord] | None:
    """Return the first due task that no process is running, with its row.

    Within a kind, the task that is due longest comes first.

    Args:
        tasks: The tasks in order.
        turns: The rows of the catalog.
        now: The time of the database's clock.
        dead: Lease holders that are known to be dead.
    """
    by_name = {turn.name: turn for turn in turns}
    due = [
        (task, turn)
        for task in tasks
        if (turn := by_name.get(task.name)) is not None and turn.due_at(task) <= now and _is_free(turn, now, dead)
    ]
    return min(due, key=lambda each: (_ORDER.index(each[0].kind), each[1].due_at(each[0])), default=None)


def _is_free(turn: MaintenanceRecord, now: datetime, dead: Collection[str]) -> bool:
    held = turn.holder is not None and turn.lease_expires_at is not None and turn.lease_expires_at > now
    return not held or turn.holder in dead
