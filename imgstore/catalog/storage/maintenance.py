"""Turns of maintenance, each leased by one worker, and what zones are known to have missed."""

import builtins
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.resources import ZoneGap
from imgstore.domain.settings.maintenance import MaintenanceRecord, MaintenanceTask

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

_tasks = schema.maintenance_turns
_gaps = schema.zone_gaps
_slots = schema.slots


class MaintenanceTasks(Repository):
    """One row for each task that was ever seen."""

    __slots__ = ()

    def list(self) -> builtins.list[MaintenanceRecord]:
        """Return every row, by name."""
        return [_turn(row) for row in self._session.all(select(_tasks).order_by(_tasks.c.name))]

    def register(self, tasks: Sequence[MaintenanceTask]) -> None:
        """Make the rows of tasks that have none; drop those of tasks that are no more and that nobody does."""
        now = self._session.now()
        known = {each.name for each in self.list()}
        rows = [
            {
                "name": each.name,
                "done_at": now if each.waits_at_first else now - timedelta(seconds=each.interval_seconds),
            }
            for each in tasks
            if each.name not in known
        ]
        if rows:
            self._session.run(self._session.upsert(_tasks).on_conflict_do_nothing(index_elements=["name"]), rows)
        gone = known - {each.name for each in tasks}
        for name in sorted(gone):
            self._session.run(delete(_tasks).where(_tasks.c.name == name, _tasks.c.holder.is_(None)))

    def lease(self, turn: MaintenanceRecord, *, holder: str, lease_seconds: float) -> str | None:
        """Lease a turn, if its row is still as it was read.

        Returns:
            The token of the lease; None where another process was quicker.
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
        """Let the lease run so long from now; False where another process has the turn."""
        expires_at = self._session.now() + timedelta(seconds=lease_seconds)
        return self._session.change(update(_tasks).where(_mine(name, token)).values(lease_expires_at=expires_at)) > 0

    def complete(self, name: str, token: str, outcome: str) -> None:
        """Give the turn back as done. Does nothing where another process has it."""
        values = {"done_at": self._session.now(), "outcome": outcome, **_FREE}
        self._session.run(update(_tasks).where(_mine(name, token)).values(values))

    def release(self, name: str, token: str) -> None:
        """Give the turn back undone: it stays due. Does nothing where another process has it."""
        self._session.run(update(_tasks).where(_mine(name, token)).values(_FREE))


_FREE = {"holder": None, "token": None, "lease_expires_at": None}


class ZoneGaps(Repository):
    """What zones missed in slots that lie in three of them, as last counted."""

    __slots__ = ()

    def replace(self, slot_uid: str, objects: Mapping[str, int]) -> None:
        """Record how many objects of a slot each zone misses. Zones that miss none have no row."""
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
        """Return the gaps of some slots, by slot and zone."""
        statement = select(_gaps).where(_gaps.c.slot_uid.in_(slot_uids)).order_by(_gaps.c.slot_uid, _gaps.c.zone)
        return [_gap(row) for row in self._session.all(statement)] if slot_uids else []

    def count_by_zone(self) -> dict[tuple[str, str], int]:
        """Return how many objects each zone misses in all, by region and zone."""
        statement = (
            select(_slots.c.region, _gaps.c.zone, func.sum(_gaps.c.objects).label("objects"))
            .join_from(_gaps, _slots, _gaps.c.slot_uid == _slots.c.uid)
            .group_by(_slots.c.region, _gaps.c.zone)
        )
        return {(row.region, row.zone): int(row.objects) for row in self._session.all(statement)}


def _mine(name: str, token: str) -> Any:
    return (_tasks.c.name == name) & (_tasks.c.token == token)


def _turn(row: "Row[Any]") -> MaintenanceRecord:
    return MaintenanceRecord(
        name=row.name,
        done_at=row.done_at,
        holder=row.holder,
        token=row.token,
        lease_expires_at=row.lease_expires_at,
        outcome=row.outcome,
    )


def _gap(row: "Row[Any]") -> ZoneGap:
    return ZoneGap(slot_uid=row.slot_uid, zone=row.zone, objects=row.objects, seen_at=row.seen_at)
