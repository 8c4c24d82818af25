"""Settings of maintenance, and the choice of the next task."""

from datetime import UTC, datetime, timedelta

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.settings.limits import read_limits
from imgstore.domain.settings.maintenance import (
    MaintenanceKind,
    MaintenanceRecord,
    MaintenanceSettings,
    MaintenanceTask,
    failure_outcome,
    read_maintenance,
)
from imgstore.policy.maintenance_schedule import maintenance_tasks, next_due


def test_missing_settings_have_defaults() -> None:
    document = {"maintenance": {"scrub_interval_seconds": 0, "bytes_per_second_max": 7}, "limits": {}}
    read_limits(document, "settings.toml")
    found = read_maintenance(document, "settings.toml")
    assert found == MaintenanceSettings(scrub_interval_seconds=0, bytes_per_second_max=7)
    assert read_maintenance({}, "x") == MaintenanceSettings()


@pytest.mark.parametrize(
    ("table", "target"),
    [
        (3, "maintenance"),
        ({"scrub": 3}, "maintenance.scrub"),
        ({"scrub_percent": 101}, "maintenance.scrub_percent"),
        ({"gc_interval_seconds": -1}, "maintenance.gc_interval_seconds"),
        ({"activity_days": 0}, "maintenance.activity_days"),
        ({"activity_days": 2**53}, "maintenance.activity_days"),
        ({"activity_rows_max": 0}, "maintenance.activity_rows_max"),
        ({"gc_interval_seconds": True}, "maintenance.gc_interval_seconds"),
        ({"gc_interval_seconds": "1d"}, "maintenance.gc_interval_seconds"),
        ({"gc_interval_seconds": 36_500 * 86_400 + 1}, "maintenance.gc_interval_seconds"),
    ],
)
def test_invalid_setting_is_refused_by_key(table: object, target: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_maintenance({"maintenance": table}, "settings.toml")
    assert caught.value.target == target


NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_next_task_is_the_first_kind_that_is_due_and_free() -> None:
    tasks = maintenance_tasks(MaintenanceSettings(), [], zoned_regions=["b", "a"], degraded=())
    assert [task.name for task in tasks] == [
        "deletions",
        "revisions",
        "ledger",
        "activity",
        "repairs/a",
        "repairs/b",
        "gc",
    ]

    def turn(name: str, hours_ago: float, holder: str | None = None, lease: float = 0) -> MaintenanceRecord:
        expires = None if holder is None else NOON + timedelta(hours=lease)
        return MaintenanceRecord(
            name=name, done_at=NOON - timedelta(hours=hours_ago), holder=holder, lease_expires_at=expires
        )

    def chosen(*turns: MaintenanceRecord, dead: tuple[str, ...] = ()) -> str | None:
        found = next_due(tasks, turns, now=NOON, dead=dead)
        return None if found is None else found[0].name

    assert chosen(turn("gc", 30), turn("deletions", 1), turn("repairs/a", 1), turn("repairs/b", 2)) == "deletions"
    assert chosen(turn("gc", 30), turn("deletions", 0), turn("repairs/a", 1), turn("repairs/b", 2)) == "repairs/b"
    assert chosen(turn("gc", 30), turn("deletions", 1, "x", 1)) == "gc"
    assert chosen(turn("gc", 23), turn("deletions", 1, "x", 1)) is None
    assert chosen(turn("deletions", 1, "x", 1), dead=("x",)) == "deletions"
    assert chosen(turn("deletions", 1, "x", -1)) == "deletions"
    assert {task.kind for task in tasks} == set(MaintenanceKind) - {MaintenanceKind.SCRUB}


@pytest.mark.parametrize(("interval_seconds", "expected"), [(60, 60), (300, 300), (800, 300), (86_400, 10_800)])
def test_failed_task_is_due_sooner(interval_seconds: int, expected: int) -> None:
    task = MaintenanceTask(kind=MaintenanceKind.GC, interval_seconds=interval_seconds)
    failed = MaintenanceRecord(name="gc", done_at=NOON, outcome=failure_outcome("no answer"))
    assert failed.due_at(task) - NOON == timedelta(seconds=expected)
    done = MaintenanceRecord(name="gc", done_at=NOON, outcome="7 bytes collected")
    assert done.due_at(task) - NOON == timedelta(seconds=interval_seconds)
