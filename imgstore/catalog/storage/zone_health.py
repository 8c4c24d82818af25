"""The circuits of zones: a row for each zone and observer, written only when the state of a circuit changes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.storage.circuits import ZoneHealth

_health = schema.zone_health
_KEPT: Final = timedelta(days=1)
"""An observer without a probe for this time has stopped, because a host has another name after a restart."""


class ZoneHealths(Repository):
    """The circuits of all observers."""

    def list(self, observer: str | None = None) -> "Sequence[ZoneHealth]":
        """Return the circuits of an observer, or of all observers, by region, zone and observer."""
        order = (_health.c.region, _health.c.zone, _health.c.observer)
        statement = select(_health).order_by(*order)
        if observer is not None:
            statement = statement.where(_health.c.observer == observer)
        now = self._session.now()

        def read(row: Row[Any]) -> ZoneHealth:
            return ZoneHealth(
                region=row.region,
                zone=row.zone,
                observer=row.observer,
                state=row.state,
                since_seconds=(now - row.since).total_seconds(),
                failures=row.failures,
                probe_seconds=(row.probe_at - now).total_seconds(),
                open_seconds=row.open_seconds,
                error=row.error,
            )

        return [read(row) for row in self._session.all(statement)]

    def write(self, health: ZoneHealth) -> None:
        """Replace the row of a zone and observer. Remove the rows of observers that have stopped."""
        now = self._session.now()
        key = {"region": health.region, "zone": health.zone, "observer": health.observer}
        values = {
            "state": health.state,
            "since": now - timedelta(seconds=health.since_seconds),
            "failures": health.failures,
            "probe_at": now + timedelta(seconds=health.probe_seconds),
            "open_seconds": health.open_seconds,
            "error": health.error,
        }
        statement = self._session.upsert(_health).values(key | values)
        self._session.run(statement.on_conflict_do_update(index_elements=list(key), set_=values))
        stopped = (_health.c.observer != health.observer) & (_health.c.probe_at < now - _KEPT)
        self._session.run(delete(_health).where(stopped))
