"""Segments that are being collected. Everything here happens under the slot's lock (`slots.lock`)."""

import builtins
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.sequence import CatalogSequence
from imgstore.catalog.storage.segments import split_batches
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark, GcState

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

_condemned = schema.condemned


class DeletionMarks(Repository):
    """What is condemned in every slot."""

    __slots__ = ()

    def list(self, slot_uid: str) -> builtins.list[DeletionMark]:
        """Those of a slot, the longest condemned first."""
        order = (_condemned.c.since, _condemned.c.name)
        return [_row(each) for each in self._session.all(_select(slot_uid).order_by(*order))]

    def find(self, slot_uid: str, names: Collection[Digest]) -> builtins.list[DeletionMark]:
        """Those of `names` that are condemned in a slot."""
        found: builtins.list[DeletionMark] = []
        for some in split_batches(sorted(names)):
            found += map(_row, self._session.all(_select(slot_uid).where(_condemned.c.name.in_(some))))
        return found

    def add(self, slot_uid: str, segments: Mapping[Digest, int]) -> None:
        """Condemn segments, given with their stored bytes, from now on. One that is condemned already stays as it is.

        The caller holds the slot's lock, so that the number is higher than that of each work that asked before.
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
        """Let segments live. Those whose delete may be under way stay as they are."""
        for some in split_batches(sorted(names)):
            self._session.run(
                delete(_condemned).where(
                    _condemned.c.slot_uid == slot_uid,
                    _condemned.c.name.in_(some),
                    _condemned.c.sentence == GcState.MARKED,
                )
            )

    def remove(self, slot_uid: str, names: Iterable[Digest]) -> None:
        """Forget segments in whatever state. The caller knows that no delete of them can arrive any more."""
        for some in split_batches(sorted(names)):
            self._session.run(delete(_condemned).where(_in(slot_uid, some)))

    def begin_deleting(self, slot_uid: str, names: Sequence[Digest], *, token: str, lease_expires_at: datetime) -> None:
        """Give a batch to a collector: new ones, or those of a collector whose time is over."""
        for some in split_batches(sorted(names)):
            values = {"sentence": GcState.DELETING, "token": token, "lease_expires_at": lease_expires_at}
            self._session.run(update(_condemned).where(_in(slot_uid, some)).values(values))

    def end_deleting(self, slot_uid: str, token: str) -> int:
        """Remove the rows of a batch that was deleted; those that another collector took over meanwhile stay.

        Returns:
            How many there were.
        """
        mine = (_condemned.c.slot_uid == slot_uid) & (_condemned.c.token == token)
        return self._session.change(delete(_condemned).where(mine))


def _select(slot_uid: str) -> Any:
    return select(_condemned).where(_condemned.c.slot_uid == slot_uid)


def _in(slot_uid: str, names: Sequence[Digest]) -> ColumnElement[bool]:
    return (_condemned.c.slot_uid == slot_uid) & _condemned.c.name.in_(names)


def _row(row: "Row[Any]") -> DeletionMark:
    return DeletionMark(
        slot_uid=row.slot_uid,
        name=bytes(row.name),
        stored_bytes=row.stored_bytes,
        gc_state=row.sentence,
        since=row.since,
        since_sequence=row.since_sequence,
        token=row.token,
        lease_expires_at=row.lease_expires_at,
    )
