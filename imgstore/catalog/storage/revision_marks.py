"""Marks of resources whose newest revision is not in each bucket, and the rows for the revisions (invariant B18).

A flush reads marks, draws a number for each marked resource, and reads the rows of the resource, in this order. So a
revision contains each change that was committed before the number was drawn. A change that was committed later has a
mark that the flush has not read, and gets a revision with a higher number. The flush removes the marks that it has read.
"""

import builtins
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, func, or_, select, text, true, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.storage.revisions import KINDS, Member, encode_row
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.revisions import JsonRow

_table = schema.revision_marks
_LEDGER_TABLES: Final = tuple(member.table.name for member in KINDS["ledger"].members)
_KINDS: Final = tuple(kind.name for kind in KINDS.values() if not kind.is_ledger)
"""A newer process may mark resources of other kinds, which only newer processes can write."""
_UIDS_AT_ONCE: Final = 500
"""The number of values in a condition. SQLite accepts at least 999."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionMark:
    """A change of a resource without a revision in each bucket."""

    number: int
    kind: str
    uid: str
    region: str | None = None
    """The only region in which the revision is missing. None means every region, or the slot of the resource."""
    is_urgent: bool = True
    """False if the background pass writes the revision."""


class RevisionMarks(Repository):
    """The marks, the numbers and the rows of revisions."""

    __slots__ = ()

    def has_urgent(self, *, until: int | None = None, also_kinds: Collection[str] = ()) -> bool:
        """Return whether a command must write a revision before the answer. See `list` for the arguments."""
        statement = select(_table.c.number).where(_table.c.is_urgent, _is_until(until, also_kinds)).limit(1)
        return self._session.first(statement) is not None

    def list(
        self,
        *,
        urgent_only: bool,
        regions: Collection[str],
        after: int,
        until: int | None,
        limit: int,
        also_kinds: Collection[str] = (),
    ) -> builtins.list[RevisionMark]:
        """Return the first marks by number, of kinds that this code knows, without the rows of the ledger.

        Args:
            urgent_only: leave out the marks that the background pass may serve.
            regions: the regions of regions.yaml. Marks for other regions wait until the region is there again.
            after: leave out marks up to this number.
            until: the highest number. None is no limit.
            limit: the maximum number of marks.
            also_kinds: the kinds of marks without a highest number.
        """
        statement = (
            select(_table)
            .where(
                _table.c.number > after,
                _is_until(until, also_kinds),
                _table.c.kind.in_(_KINDS),
                or_(_table.c.region.is_(None), _table.c.region.in_(regions)),
            )
            .order_by(_table.c.number)
            .limit(limit)
        )
        return self._marks(statement.where(_table.c.is_urgent) if urgent_only else statement)

    def list_for_ledger(self, limit: int) -> builtins.list[RevisionMark]:
        """Return the first marks of rows of the ledger by number. The kind is the name of the table."""
        statement = select(_table).where(_table.c.kind.in_(_LEDGER_TABLES)).order_by(_table.c.number).limit(limit)
        return self._marks(statement)

    def list_marked(self, kind: str, uids: Collection[str]) -> frozenset[str]:
        """Return the uids with a mark."""
        return frozenset(
            row.uid
            for some in _split(uids)
            for row in self._session.all(
                select(_table.c.uid).where(_table.c.kind == kind, _table.c.uid.in_(some)).distinct()
            )
        )

    def list_resources(self) -> frozenset[tuple[str, str]]:
        """Return the kind and uid of each marked resource."""
        return frozenset(
            (row.kind, row.uid) for row in self._session.all(select(_table.c.kind, _table.c.uid).distinct())
        )

    def count(self) -> int:
        """Return the number of marks, without the rows of the ledger."""
        return int(self._session.value(select(func.count()).where(_table.c.kind.in_(_KINDS))))

    def add(self, kind: str, uid: str, *, region: str | None = None, is_urgent: bool = False) -> int:
        """Mark a resource, and return the number of the mark, which is the highest so far.

        The number may be the number of a revision: draw it before the rows are read.
        """
        values = {"kind": kind, "uid": uid, "region": region, "is_urgent": is_urgent}
        key = self._session.run(_table.insert().values(values)).inserted_primary_key
        assert key is not None, "an INSERT of one row gives its key"
        return int(key[0])

    def remove(self, numbers: Collection[int]) -> None:
        """Remove marks."""
        for some in _split(numbers):
            self._session.run(delete(_table).where(_table.c.number.in_(some)))

    def defer(self, numbers: Collection[int]) -> None:
        """Leave marks to the background pass."""
        for some in _split(numbers):
            self._session.run(update(_table).where(_table.c.number.in_(some)).values(is_urgent=False))

    def last_number(self) -> int:
        """Return the highest number that this catalog may have used, or 0.

        A revision with a higher number in a bucket proves that the catalog is older than the bucket.
        """
        if self._session.is_sqlite:
            found = self._session.value(text("SELECT seq FROM sqlite_sequence WHERE name = 'revision_marks'"))
        else:
            found = self._session.value(
                text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM revision_marks_number_seq")
            )
        return int(found or 0)

    def raise_to(self, number: int) -> None:
        """Use only numbers above `number` from now on, for a catalog that was rebuilt or is older than its buckets."""
        if number <= self.last_number():
            return
        if self._session.is_sqlite:
            self._session.run(_table.insert().values(number=number, kind="", uid="", is_urgent=False))
            self.remove([number])
        else:
            self._session.value(text("SELECT setval('revision_marks_number_seq', :number)"), {"number": number})

    def read(self, kind: str, uids: Collection[str]) -> dict[str, dict[str, builtins.list[JsonRow]]]:
        """Read the rows of resources as plain JSON values, by uid and table. Deleted resources are missing."""
        found: dict[str, dict[str, builtins.list[JsonRow]]] = {}
        of = KINDS[kind]
        for member in of.members:
            identity = _identity(member)
            order = list(member.table.primary_key.columns)
            for some in _split(uids):
                statement = select(*member.columns, identity.label("revision_uid"))
                statement = statement.where(identity.in_(some), _is_of_kind(member))
                for row in self._session.all(statement.order_by(*order)):
                    uid = row.revision_uid
                    if member is of.root:
                        found.setdefault(uid, {each.table.name: [] for each in of.members})
                    if uid in found:
                        found[uid][member.table.name].append(encode_row(member, row._asdict()))
        return found

    def list_uids(self, kind: str) -> builtins.list[str]:
        """Return the uids of all resources of a kind."""
        root = KINDS[kind].root
        identity = _identity(root)
        statement = select(identity).where(_is_of_kind(root)).distinct().order_by(identity)
        return [str(row[0]) for row in self._session.all(statement)]

    def find_slots(self, kind: str, uids: Collection[str]) -> dict[str, str]:
        """Return the uid of the slot that has the revisions of each version or stored disk.

        Versions are in the slot of the first complete replica. Before a replica is complete, the first replica of the
        source region counts. A version without a replica is missing.
        """
        if kind == "disks":
            disks = schema.disks
            rows = [
                row
                for some in _split(uids)
                for row in self._session.all(select(disks.c.uid, disks.c.slot_uid).where(disks.c.uid.in_(some)))
            ]
            return {row.uid: row.slot_uid for row in rows}
        replicas, versions, slots = schema.replicas, schema.versions, schema.slots
        states = {ReplicaState.COMPLETED: 0, ReplicaState.DEGRADED: 1, ReplicaState.DELETING: 3}
        rank = case(*((replicas.c.state == state, number) for state, number in states.items()), else_=2)
        is_elsewhere = case((slots.c.region == versions.c.location, 0), else_=1)
        found: dict[str, str] = {}
        for some in _split(uids):
            statement = (
                select(replicas.c.version_uid, replicas.c.slot_uid)
                .join(versions, versions.c.uid == replicas.c.version_uid)
                .join(slots, slots.c.uid == replicas.c.slot_uid)
                .where(replicas.c.version_uid.in_(some))
                .order_by(rank, replicas.c.completed_at, is_elsewhere, slots.c.ordinal, replicas.c.uid)
            )
            for row in self._session.all(statement):
                found.setdefault(row.version_uid, row.slot_uid)
        return found

    def last_checkpoint_mac(self) -> str | None:
        """Return the HMAC of the newest ledger checkpoint, or None before the first checkpoint."""
        table = schema.ledger_checkpoints
        found: str | None = self._session.value(select(table.c.mac).order_by(table.c.number.desc()).limit(1))
        return found

    def list_checkpoints(self) -> Mapping[int, str]:
        """Return the HMAC of each ledger checkpoint by number."""
        return {row.number: row.mac for row in self._session.all(select(schema.ledger_checkpoints))}

    def add_checkpoint(self, number: int, mac: str) -> None:
        """Record a ledger checkpoint that is in a bucket."""
        self._session.run(schema.ledger_checkpoints.insert().values(number=number, mac=mac))

    def read_ledger_rows(self, marks: Iterable[RevisionMark]) -> dict[str, builtins.list[JsonRow]]:
        """Read the marked rows of the ledger as plain JSON values, by table."""
        found: dict[str, builtins.list[JsonRow]] = {}
        for member in KINDS["ledger"].members:
            name, identity = member.table.name, _identity(member)
            wanted = sorted({mark.uid for mark in marks if mark.kind == name})
            found[name] = [
                encode_row(member, row._asdict())
                for some in _split(wanted)
                for row in self._session.all(select(*member.columns).where(identity.in_(some)).order_by(identity))
            ]
        return found

    def _marks(self, statement: Any) -> builtins.list[RevisionMark]:
        return [
            RevisionMark(number=row.number, kind=row.kind, uid=row.uid, region=row.region, is_urgent=row.is_urgent)
            for row in self._session.all(statement)
        ]


def _identity(member: Member) -> "ColumnElement[str]":
    columns: list[Any] = [member.table.c[name] for name in member.identity]
    joined: ColumnElement[str] = reduce(lambda left, right: left + "/" + right, columns)
    return joined


def _is_of_kind(member: Member) -> ColumnElement[bool]:
    if member.null_column is not None:
        return member.table.c[member.null_column].is_(None)
    return true() if member.value_column is None else member.table.c[member.value_column].is_not(None)


def _is_until(until: int | None, also_kinds: Collection[str]) -> ColumnElement[bool]:
    return true() if until is None else or_(_table.c.number <= until, _table.c.kind.in_(also_kinds))


def _split(values: "Collection[Any]") -> Iterable[builtins.list[Any]]:
    ordered = sorted(values)
    return [ordered[at : at + _UIDS_AT_ONCE] for at in range(0, len(ordered), _UIDS_AT_ONCE)]
