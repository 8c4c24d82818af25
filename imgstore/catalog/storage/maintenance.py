"""Maintenance tasks, each leased by one worker, and the numbers of objects that zones are known to miss."""

import builtins
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value
from imgstore.domain.resources import ZoneGap
from imgstore.domain.settings.maintenance import INTERVAL_SECONDS_MAX, MaintenanceRecord, MaintenanceTask

_tasks = schema.maintenance_turns
_gaps = schema.zone_gaps
_slots = schema.slots


class MaintenanceTasks(Repository):
    """A row for each task that a worker has registered."""

    def list(self) -> builtins.list[MaintenanceRecord]:
        """Return every row, by name."""
        return [to_value(MaintenanceRecord, row) for row in self._session.all(select(_tasks).order_by(_tasks.c.name))]

    def register(self, tasks: Sequence[MaintenanceTask]) -> None:
        """Add the rows of new tasks.

        Remove the rows of tasks that no longer exist, unless a worker has leased the task.
        """
        now = self._session.now()
        known = {record.name for record in self.list()}
        rows = [
            {
                "name": task.name,
                "done_at": now if task.waits_at_first else now - timedelta(seconds=task.interval_seconds),
            }
            for task in tasks
            if task.name not in known
        ]
        if rows:
            self._session.run(self._session.upsert(_tasks).on_conflict_do_nothing(index_elements=["name"]), rows)
        removed = known - {task.name for task in tasks}
        for name in sorted(removed):
            self._session.run(delete(_tasks).where(_tasks.c.name == name, _tasks.c.holder.is_(None)))

    def make_due(self, name: str) -> None:
        """Make a task due at once. A running task counts as not run, and is due again."""
        row = {"name": name, "done_at": self._session.now() - timedelta(seconds=INTERVAL_SECONDS_MAX), **_FREE}
        changes = {column: value for column, value in row.items() if column != "name"}
        self._session.run(
            self._session.upsert(_tasks).values(row).on_conflict_do_update(index_elements=["name"], set_=changes)
        )

    def lease(self, turn: MaintenanceRecord, *, holder: str, lease_seconds: float) -> str | None:
        """Lease a task, unless its row has changed since the caller read the row.

        Returns:
            The token of the lease, or None if another process has changed the row.
        """
        token = self._session.effects.new_uid()
        same_token = _tasks.c.token.is_(None) if turn.token is None else _tasks.c.token == turn.token
        unchanged = (_tasks.c.name == turn.name) & (_tasks.c.done_at == turn.done_at) & same_token
        values = {
            "holder": holder,
            "token": token,
            "lease_expires_at": self._session.now() + timedelta(seconds=lease_seconds),
        }
        return token if self._session.change(update(_tasks).where(unchanged).values(values)) else None

    def renew(self, name: str, token: str, *, lease_seconds: float) -> bool:
        """Let the lease end `lease_seconds` from now. Return False if another process has leased the task."""
        expires_at = self._session.now() + timedelta(seconds=lease_seconds)
        return self._session.change(update(_tasks).where(_mine(name, token)).values(lease_expires_at=expires_at)) > 0

    def complete(self, name: str, token: str, outcome: str) -> None:
        """Record the outcome of a task and release the lease. Do nothing if another process has leased the task."""
        values = {"done_at": self._session.now(), "outcome": outcome, **_FREE}
        self._session.run(update(_tasks).where(_mine(name, token)).values(values))

    def release(self, name: str, token: str) -> None:
        """Release the lease of a task that was not run.

        The task stays due. Do nothing if another process has leased the task.
        """
        self._session.run(update(_tasks).where(_mine(name, token)).values(_FREE))


_FREE = {"holder": None, "token": None, "lease_expires_at": None}


class ZoneGaps(Repository):
    """The numbers of objects that zones miss, by the latest count, in slots with three zones."""

    def replace(self, slot_uid: str, objects: Mapping[str, int]) -> None:
        """Record the number of missing objects of a slot by zone. Zones without missing objects get no row."""
        self._session.run(delete(_gaps).where(_gaps.c.slot_uid == slot_uid))
        now = self._session.now()
        rows = [
            {"slot_uid": slot_uid, "zone": zone, "objects": count, "seen_at": now}
            for zone, count in sorted(objects.items())
            if count
        ]
        if rows:
            self._session.run(_gaps.insert(), rows)

    def of_slots(self, slot_uids: Sequence[str]) -> builtins.list[ZoneGap]:
        """Return the gaps of several slots, by slot and zone."""
        statement = select(_gaps).where(_gaps.c.slot_uid.in_(slot_uids)).order_by(_gaps.c.slot_uid, _gaps.c.zone)
        return [to_value(ZoneGap, row) for row in self._session.all(statement)] if slot_uids else []

    def count_by_zone(self) -> dict[tuple[str, str], int]:
        """Return the number of missing objects by region and zone."""
        statement = (
            select(_slots.c.region, _gaps.c.zone, func.sum(_gaps.c.objects).label("objects"))
            .join_from(_gaps, _slots, _gaps.c.slot_uid == _slots.c.uid)
            .group_by(_slots.c.region, _gaps.c.zone)
        )
        return {(row.region, row.zone): int(row.objects) for row in self._session.all(statement)}


def _mine(name: str, token: str) -> Any:
    return (_tasks.c.name == name) & (_tasks.c.token == token)
