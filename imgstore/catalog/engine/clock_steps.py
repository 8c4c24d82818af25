"""Correction of times that are too far in the future because the database's clock has stepped back.

Without a correction, such a time delays a process until the clock reaches the time again. Examples are the lease of a
dead process, the retry time of a failed replica, and the grace period of a marked segment. The order of events depends
on the catalog's sequence instead (invariant G3).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Column, Table, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain import async_operations

LEASE_SECONDS_MAX: Final = 3_600.0
"""The longest lease."""

_LEASE: Final = timedelta(seconds=LEASE_SECONDS_MAX)
_OPERATION_LEASE: Final = timedelta(seconds=async_operations.LEASE_SECONDS)
_REST: Final = timedelta(hours=2)
"""The longest wait of a failed replica is 90 minutes (invariant R7)."""
_PROBE: Final = timedelta(minutes=10)
"""The longest wait between probes of a zone that does not answer is 30 seconds."""
_NONE: Final = timedelta(minutes=1)
"""The limit of times that are never set to the future. A step of less than a minute needs no correction."""
_NOW: Final = timedelta(0)
_DELETE_BOUND: Final = timedelta(minutes=10)
"""The time for which a store may still carry out a delete that was recorded earlier (invariants G6, G7, G14)."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """The greatest distance of a column's times from the present, and the distance after a correction."""

    column: "Column[datetime]"
    ahead: timedelta
    corrected: timedelta = _NOW

    @property
    def table(self) -> Table:
        """The table of the column."""
        return self.column.table


_LIMITS: Final = (
    _Limit(schema.works.c.lease_expires_at, _LEASE),
    _Limit(schema.works.c.opened_at, _NONE),
    _Limit(schema.operations.c.lease_expires_at, _LEASE, _OPERATION_LEASE),
    _Limit(schema.condemned.c.lease_expires_at, _LEASE, _DELETE_BOUND),
    _Limit(schema.condemned.c.since, _NONE),
    _Limit(schema.deletions.c.until, _LEASE, _DELETE_BOUND),
    _Limit(schema.replicas.c.retry_at, _REST),
    _Limit(schema.versions.c.served_at, _NONE),
    _Limit(schema.workers.c.seen_at, _NONE),
    _Limit(schema.maintenance_turns.c.done_at, _NONE),
    _Limit(schema.maintenance_turns.c.lease_expires_at, _LEASE),
    _Limit(schema.unknown_objects.c.first_seen_at, _NONE),
    _Limit(schema.scrub_passes.c.saved_at, _NONE),
    _Limit(schema.zone_health.c.since, _NONE),
    _Limit(schema.zone_health.c.probe_at, _PROBE),
)


class ClockSteps(Repository):
    """Corrections of times after a step of the clock."""

    def correct(self) -> int:
        """Set each time that is too far in the future to the present.

        A lease that a running delete may need ends ten minutes after the present. A version that was soft-deleted in
        the future keeps the whole retention.

        Returns:
            The number of corrected times.
        """
        now = self._session.now()
        corrected = self._correct_retentions(now)
        for limit in _LIMITS:
            statement = update(limit.table).where(limit.column > now + limit.ahead)
            corrected += self._session.change(statement.values({limit.column: now + limit.corrected}))
        return corrected

    def _correct_retentions(self, now: datetime) -> int:
        versions = schema.versions
        deleted_at, ends_at = versions.c.soft_deleted_at, versions.c.hard_deletion_at
        rows = self._session.all(select(versions.c.uid, deleted_at, ends_at).where(deleted_at > now + _NONE))
        for row in rows:
            values = {deleted_at: now, ends_at: row.hard_deletion_at - (row.soft_deleted_at - now)}
            self._session.run(update(versions).where(versions.c.uid == row.uid).values(values))
        return len(rows)
