"""Times that lie further ahead than anyone sets them: the database's clock has stepped back since they were written.

Without a correction such a time holds back whatever waits for it, until the clock has come so far again: a lease of a
dead process, the rest of a failed replica, the grace of a marked segment. Who orders events uses the catalog's sequence
instead (invariant G3); this is for waiting only.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Column, Table, update

from imgstore.catalog import schema
from imgstore.catalog.repository import Repository

LEASE_SECONDS_MAX: Final = 3_600.0
"""No lease is longer."""

_LEASE: Final = timedelta(seconds=LEASE_SECONDS_MAX)
_REST: Final = timedelta(hours=2)
"""A failed replica rests for an hour and a half at most (invariant R7)."""
_NONE: Final = timedelta(minutes=1)
"""Of times that are never set ahead: less than a minute is no step worth a correction."""
_LONGEST: Final[tuple[tuple[Table, "Column[datetime]", timedelta], ...]] = (
    (schema.works, schema.works.c.lease_expires_at, _LEASE),
    (schema.condemned, schema.condemned.c.lease_expires_at, _LEASE),
    (schema.condemned, schema.condemned.c.since, _NONE),
    (schema.deletions, schema.deletions.c.until, _LEASE),
    (schema.replicas, schema.replicas.c.retry_at, _REST),
    (schema.workers, schema.workers.c.seen_at, _NONE),
)
"""How far ahead each time is ever set."""
_DELETE_BOUND: Final = timedelta(minutes=10)
"""A delete that was recorded under the old time may still be on its way for so long (invariants G7, G14)."""


class ClockSteps(Repository):
    """Corrects what a clock that stepped back has left."""

    __slots__ = ()

    def correct(self) -> int:
        """Bring every time that lies too far ahead to the present; that of a deletion ten minutes further.

        Returns:
            How many rows were corrected.
        """
        now = self._session.now()
        corrected = 0
        for table, column, longest in _LONGEST:
            value = now + _DELETE_BOUND if table is schema.deletions else now
            statement = update(table).where(column > now + longest).values({column: value})
            corrected += self._session.changed(statement)
        return corrected
