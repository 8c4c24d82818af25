"""Times that lie further ahead than anyone sets them: the database's clock has stepped back since they were written.

Without a correction such a time holds back whatever waits for it, until the clock has come so far again: a lease of a
dead process, the rest of a failed replica, the grace of a marked segment. Who orders events uses the catalog's sequence
instead (invariant G3); this is for waiting only.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Column, Table, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain import async_operations

LEASE_SECONDS_MAX: Final = 3_600.0
"""No lease is longer."""

_LEASE: Final = timedelta(seconds=LEASE_SECONDS_MAX)
_OPERATION_LEASE: Final = timedelta(seconds=async_operations.LEASE_SECONDS)
_REST: Final = timedelta(hours=2)
"""A failed replica rests for an hour and a half at most (invariant R7)."""
_PROBE: Final = timedelta(minutes=10)
"""A zone that does not answer is asked again after 30 seconds at most."""
_NONE: Final = timedelta(minutes=1)
"""Of times that are never set ahead: less than a minute is no step worth a correction."""
_NOW: Final = timedelta(0)
_DELETE_BOUND: Final = timedelta(minutes=10)
"""A delete that was recorded under the old time may still be on its way for so long (invariants G6, G7, G14)."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """How far ahead a time is ever set, and what one that lies further ahead becomes, both from the present on."""

    column: "Column[datetime]"
    ahead: timedelta
    corrected: timedelta = _NOW

    @property
    def table(self) -> Table:
        """The column's table."""
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
    """Corrects what a clock that stepped back has left."""

    __slots__ = ()

    def correct(self) -> int:
        """Bring every time that lies too far ahead to the present; the end of a deletion ten minutes further.

        A version that was soft-deleted in the future is kept for its whole retention from the present on.

        Returns:
            How many times were corrected.
        """
        now = self._session.now()
        corrected = self._correct_retentions(now)
        for each in _LIMITS:
            statement = update(each.table).where(each.column > now + each.ahead)
            corrected += self._session.change(statement.values({each.column: now + each.corrected}))
        return corrected

    def _correct_retentions(self, now: datetime) -> int:
        versions = schema.versions
        deleted_at, ends_at = versions.c.soft_deleted_at, versions.c.hard_deletion_at
        rows = self._session.all(select(versions.c.uid, deleted_at, ends_at).where(deleted_at > now + _NONE))
        for row in rows:
            values = {deleted_at: now, ends_at: row.hard_deletion_at - (row.soft_deleted_at - now)}
            self._session.run(update(versions).where(versions.c.uid == row.uid).values(values))
        return len(rows)
