"""Segments that are marked for deletion, or whose deletion is in progress."""

import builtins
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value
from imgstore.catalog.engine.sequence import CatalogSequence
from imgstore.catalog.storage.segments import split_batches
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark, GcState

_condemned = schema.condemned


class DeletionMarks(Repository):
    """The deletion marks of all slots. The caller holds the lock of the slot (`slots.lock`)."""

    def list(self, slot_uid: str) -> builtins.list[DeletionMark]:
        """Return the marks of a slot, oldest first."""
        order = (_condemned.c.since, _condemned.c.name)
        return [_row(row) for row in self._session.all(_select(slot_uid).order_by(*order))]

    def find(self, slot_uid: str, names: Collection[Digest]) -> builtins.list[DeletionMark]:
        """Return the marks of those of `names` that are marked in a slot."""
        found: builtins.list[DeletionMark] = []
        for some in split_batches(sorted(names)):
            found += map(_row, self._session.all(_select(slot_uid).where(_condemned.c.name.in_(some))))
        return found

    def add(self, slot_uid: str, segments: Mapping[Digest, int]) -> None:
        """Mark segments from now on, given with their stored bytes. A mark that exists stays unchanged.

        The caller holds the lock of the slot. Therefore the number of the marks is higher than the numbers of all works
        that checked for marks before.
        """
        if not segments:
            return
        since, sequence = self._session.now(), CatalogSequence(self._session).next().sequence
        rows = [
            {
                "slot_uid": slot_uid,
                "name": name,
                "stored_bytes": stored_bytes,
                "sentence": GcState.MARKED,
                "since": since,
                "since_sequence": sequence,
            }
            for name, stored_bytes in sorted(segments.items())
        ]
        statement = self._session.upsert(_condemned).on_conflict_do_nothing(index_elements=["slot_uid", "name"])
        self._session.run(statement, rows)

    def unmark(self, slot_uid: str, names: Iterable[Digest]) -> None:
        """Remove the marks of segments, except where the deletion is in progress."""
        for some in split_batches(sorted(names)):
            self._session.run(
                delete(_condemned).where(
                    _condemned.c.slot_uid == slot_uid,
                    _condemned.c.name.in_(some),
                    _condemned.c.sentence == GcState.MARKED,
                )
            )

    def remove(self, slot_uid: str, names: Iterable[Digest]) -> None:
        """Remove the marks of segments in any state.

        The caller knows that no delete of the segments can arrive later.
        """
        for some in split_batches(sorted(names)):
            self._session.run(delete(_condemned).where(_in(slot_uid, some)))

    def begin_deleting(self, slot_uid: str, names: Sequence[Digest], *, token: str, lease_expires_at: datetime) -> None:
        """Assign segments to a collector.

        The segments are newly marked, or the lease of another collector has expired.
        """
        for some in split_batches(sorted(names)):
            values = {"sentence": GcState.DELETING, "token": token, "lease_expires_at": lease_expires_at}
            self._session.run(update(_condemned).where(_in(slot_uid, some)).values(values))

    def end_deleting(self, slot_uid: str, token: str) -> int:
        """Remove the marks of a deleted batch. Marks that another collector has taken over stay.

        Returns:
            The number of removed marks.
        """
        mine = (_condemned.c.slot_uid == slot_uid) & (_condemned.c.token == token)
        return self._session.change(delete(_condemned).where(mine))


def _select(slot_uid: str) -> Any:
    return select(_condemned).where(_condemned.c.slot_uid == slot_uid)


def _in(slot_uid: str, names: Sequence[Digest]) -> ColumnElement[bool]:
    return (_condemned.c.slot_uid == slot_uid) & _condemned.c.name.in_(names)


def _row(row: Row[Any]) -> DeletionMark:
    return to_value(DeletionMark, row, name=bytes(row.name), gc_state=row.sentence)
