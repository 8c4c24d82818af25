"""Unknown objects of every slot, with the time at which each was first seen: its grace counts from there."""

import builtins
from collections.abc import Mapping

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.storage.segments import split_batches
from imgstore.domain.storage.unknown_objects import UnknownObject

_unknown = schema.unknown_objects


class UnknownObjects(Repository):
    """Everything here happens under the slot's lock (`slots.lock`)."""

    __slots__ = ()

    def record(self, slot_uid: str, objects: Mapping[str, int]) -> None:
        """Record what was seen in a slot now.

        An object that was recorded before keeps its time. One that is not seen any more is forgotten, so that its grace
        begins anew if it should return.

        Args:
            slot_uid: the slot.
            objects: stored bytes by key below the slot: all unknown objects of the slot.
        """
        known = {each.key for each in self.list(slot_uid)}
        self.remove(slot_uid, sorted(known - objects.keys()))
        now = self._session.now()
        rows = [
            {"slot_uid": slot_uid, "key": key, "stored_bytes": objects[key], "first_seen_at": now}
            for key in sorted(objects.keys() - known)
        ]
        if rows:
            self._session.run(_unknown.insert(), rows)

    def list(self, slot_uid: str) -> builtins.list[UnknownObject]:
        """Return those of a slot, by key."""
        statement = select(_unknown).where(_unknown.c.slot_uid == slot_uid).order_by(_unknown.c.key)
        return [
            UnknownObject(
                slot_uid=row.slot_uid, key=row.key, stored_bytes=row.stored_bytes, first_seen_at=row.first_seen_at
            )
            for row in self._session.all(statement)
        ]

    def remove(self, slot_uid: str, keys: builtins.list[str]) -> None:
        """Remove the rows of some keys. One that is not there is no error."""
        for some in split_batches(keys):
            self._session.run(delete(_unknown).where(_unknown.c.slot_uid == slot_uid, _unknown.c.key.in_(some)))
