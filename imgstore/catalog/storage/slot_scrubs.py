"""The last finished scrub of each slot, and the objects that are known to be lost."""

import builtins
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.storage.scrub_passes import ALL_PERCENT, SlotScrubRecord

_scrubs = schema.slot_scrubs
_lost = schema.lost_objects

_KEYS_AT_ONCE: Final = 500
"""The number of keys in one statement. SQLite permits 32,766 parameters."""


class SlotScrubs(Repository):
    """A row for each slot that was scrubbed to its end."""

    def list(self) -> builtins.list[SlotScrubRecord]:
        """Return the rows of all slots, by slot."""
        return [
            to_value(SlotScrubRecord, row) for row in self._session.all(select(_scrubs).order_by(_scrubs.c.slot_uid))
        ]

    def record(self, slot_uid: str, *, began_at: datetime, percent: float, objects: int) -> None:
        """Record that a pass has ended now. A pass over a sample keeps the time of the last complete pass."""
        now = self._session.now()
        row = self._session.first(select(_scrubs.c.complete_at).where(_scrubs.c.slot_uid == slot_uid))
        before = None if row is None else row.complete_at
        record = SlotScrubRecord(
            slot_uid=slot_uid,
            began_at=began_at,
            ended_at=now,
            percent=percent,
            objects=objects,
            complete_at=now if percent >= ALL_PERCENT else before,
        )
        values = to_columns(_scrubs, record)
        statement = self._session.upsert(_scrubs).values(values)
        self._session.run(statement.on_conflict_do_update(index_elements=["slot_uid"], set_=values))

    def remove(self, slot_uid: str) -> None:
        """Remove the row of a slot, because the slot has another store now."""
        self._session.run(delete(_scrubs).where(_scrubs.c.slot_uid == slot_uid))


class LostObjects(Repository):
    """Objects of a slot that were missing or wrong when a process read the objects, and that were not repaired since.

    A row is a hint: readers verify bytes in any case. Writers send such a segment again, and scrub reads such an object
    again in each pass.
    """

    def list(self, slot_uid: str) -> frozenset[str]:
        """Return the keys below a slot."""
        return frozenset(row.key for row in self._session.all(select(_lost.c.key).where(_lost.c.slot_uid == slot_uid)))

    def add(self, slot_uid: str, keys: Iterable[str]) -> None:
        """Record keys below a slot. A known key keeps its time."""
        now = self._session.now()
        rows = [{"slot_uid": slot_uid, "key": key, "found_at": now} for key in sorted(set(keys))]
        if rows:
            self._session.run(self._session.upsert(_lost).on_conflict_do_nothing(), rows)

    def remove(self, slot_uid: str, keys: Collection[str]) -> None:
        """Remove keys below a slot: the objects are right, or no row of the catalog names the objects."""
        found = sorted(self.list(slot_uid).intersection(keys))
        for begin in range(0, len(found), _KEYS_AT_ONCE):
            part = found[begin : begin + _KEYS_AT_ONCE]
            self._session.run(delete(_lost).where(_lost.c.slot_uid == slot_uid, _lost.c.key.in_(part)))
