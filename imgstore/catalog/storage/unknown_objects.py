"""Unknown objects of all slots. The grace period of an object begins when the object is first seen."""

import builtins
from collections.abc import Mapping

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value
from imgstore.catalog.storage.segments import split_batches
from imgstore.domain.storage.unknown_objects import UnknownObject

_unknown = schema.unknown_objects


class UnknownObjects(Repository):
    """The unknown objects of all slots. The caller holds the lock of the slot (`slots.lock`)."""

    def record(self, slot_uid: str, objects: Mapping[str, int]) -> None:
        """Record the unknown objects that a slot contains now.

        The row of a known object keeps the first time. The rows of other objects are removed, so that the grace period
        begins again if an object returns.

        Args:
            slot_uid: the slot.
            objects: the stored bytes of all unknown objects of the slot, by key below the slot.
        """
        known = {unknown.key for unknown in self.list(slot_uid)}
        self.remove(slot_uid, sorted(known - objects.keys()))
        now = self._session.now()
        rows = [
            {"slot_uid": slot_uid, "key": key, "stored_bytes": objects[key], "first_seen_at": now}
            for key in sorted(objects.keys() - known)
        ]
        if rows:
            self._session.run(_unknown.insert(), rows)

    def list(self, slot_uid: str) -> builtins.list[UnknownObject]:
        """Return the unknown objects of a slot, by key."""
        statement = select(_unknown).where(_unknown.c.slot_uid == slot_uid).order_by(_unknown.c.key)
        return [to_value(UnknownObject, row) for row in self._session.all(statement)]

    def remove(self, slot_uid: str, keys: builtins.list[str]) -> None:
        """Remove the rows of some keys. Keys without a row are ignored."""
        for some in split_batches(keys):
            self._session.run(delete(_unknown).where(_unknown.c.slot_uid == slot_uid, _unknown.c.key.in_(some)))
