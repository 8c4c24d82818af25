"""Check and insert the rows of revisions into a catalog that is rebuilt from its buckets (invariant K6).

The checks come before the first INSERT, because a failed INSERT would end the transaction of a whole batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import Column, Table, UniqueConstraint, and_, delete, func, select, text, tuple_, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.storage.revisions import KINDS, Member, decode_row
from imgstore.domain.errors import StoreMismatch
from imgstore.domain.states import WorkState
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.revisions import Revision

Rows: TypeAlias = dict[str, list[dict[str, Any]]]
"""Values for INSERT by table name."""

_ROWS_AT_ONCE: Final = 500
_KEYS_AT_ONCE: Final = 200
"""Unique keys in a condition. Each key has up to four values, and SQLite accepts at least 999 values."""


class RowChecker:
    """Decodes the rows of revisions, and finds rows that the database would refuse. Needs no database.

    Pass the revisions in the order of `KINDS`. Of two resources with the same unique name, the first resource stays.
    """

    def __init__(self) -> None:
        self._keys: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], str]] = {}
        """By table and columns of a key, the resource with each value."""

    def decode(self, revision: Revision) -> Rows:
        """Decode the rows of a resource.

        Raises:
            StoreMismatch: the resource cannot be inserted. Nothing of the resource counts for later resources.
        """
        kind = KINDS.get(revision.kind)
        if kind is None:
            raise self._refuse(revision, f"a resource of the unknown kind '{revision.kind}'")
        members = {member.table.name: member for member in kind.members}
        unknown = sorted(revision.rows.keys() - members.keys())
        if unknown:
            raise self._refuse(revision, f"rows of the unknown table {unknown[0]}")
        rows: Rows = {}
        for name, member in members.items():
            try:
                rows[name] = [decode_row(member, row) for row in revision.rows.get(name, ())]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise self._refuse(revision, f"a value of {name} that cannot be read: {error}") from error
        added: list[tuple[tuple[str, tuple[str, ...]], tuple[Any, ...]]] = []
        try:
            for name, member in members.items():
                for row in rows[name]:
                    self._check_columns(revision, member, row)
                    self._check_references(revision, member.table, row)
                    added += self._claim(revision, member.table, row)
        except StoreMismatch:
            for place, value in added:
                del self._keys[place][value]
            raise
        return rows

    def _check_columns(self, revision: Revision, member: Member, row: Mapping[str, Any]) -> None:
        for column in member.columns:
            missing = column.name not in row and column.server_default is None
            if (missing or row.get(column.name, "") is None) and not column.nullable:
                raise self._refuse(revision, f"no value of {member.table.name}.{column.name}")

    def _check_references(self, revision: Revision, table: Table, row: Mapping[str, Any]) -> None:
        for column in table.c:
            value = row.get(column.name)
            for reference in column.foreign_keys if value is not None else ():
                target = reference.column
                if (value,) not in self._keys.get((target.table.name, (target.name,)), {}):
                    raise self._refuse(revision, f"{table.name}.{column.name} {value}, which was not found")

    def _claim(
        self, revision: Revision, table: Table, row: Mapping[str, Any]
    ) -> Iterable[tuple[tuple[str, tuple[str, ...]], tuple[Any, ...]]]:
        for columns in _unique_keys(table):
            value = tuple(row.get(name) for name in columns)
            if None in value:
                continue
            place = table.name, columns
            owner = self._keys.setdefault(place, {}).setdefault(value, f"{revision.kind} {revision.uid}")
            if owner != f"{revision.kind} {revision.uid}":
                raise self._refuse(revision, f"the same {', '.join(columns)} as the newer {owner}")
            yield place, value

    @staticmethod
    def _refuse(revision: Revision, found: str) -> StoreMismatch:
        return StoreMismatch(
            f"The revision {revision.object_key} cannot be used.",
            found=found,
            expected="rows that fit to the other resources",
            target=revision.object_key,
        )


class RebuiltRows(Repository):
    """The rows of a catalog that is being rebuilt. The row of the installation is inserted last."""

    __slots__ = ()

    def has_rows(self) -> bool:
        """Return whether the catalog has any resource. Without an installation, a rebuild was interrupted."""
        tables = (schema.zones, schema.settings, schema.groups, schema.pools, schema.signing_keys)
        return any(self._session.first(select(text("1")).select_from(table).limit(1)) is not None for table in tables)

    def list_present(self, kind: str, uids: Sequence[str]) -> frozenset[str]:
        """Return the uids of resources that have a row."""
        table = KINDS[kind].root.table
        return frozenset(
            row.uid
            for at in range(0, len(uids), _ROWS_AT_ONCE)
            for row in self._session.all(select(table.c.uid).where(table.c.uid.in_(uids[at : at + _ROWS_AT_ONCE])))
        )

    def find_taken(self, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Find the rows whose unique key, such as a name, belongs to a row with another uid.

        Args:
            name: the name of a table with the primary key `uid`.
            rows: the values of the rows.

        Returns:
            The uid of the present row by the uid of the row in `rows`.
        """
        table = schema.metadata.tables[name]
        found: dict[str, str] = {}
        for columns in _unique_keys(table):
            by_value = {tuple(row.get(each) for each in columns): row["uid"] for row in rows}
            values = [value for value in by_value if None not in value]
            for at in range(0, len(values) if columns != primary_key(name) else 0, _KEYS_AT_ONCE):
                key = tuple_(*(table.c[each] for each in columns))
                statement = select(table).where(key.in_(values[at : at + _KEYS_AT_ONCE]))
                for row in self._session.all(statement):
                    own = by_value[tuple(row._mapping[each] for each in columns)]
                    if own != row.uid:
                        found[own] = row.uid
        return found

    def insert(self, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, keeps_marks: bool = False) -> None:
        """Insert rows in the order of the tables, and skip rows with an existing key.

        Args:
            rows: the values by table name.
            keeps_marks: keep the marks of the triggers, because the rows differ from the revisions in the buckets.
        """
        marks = schema.revision_marks
        before = self._session.value(select(func.max(marks.c.number))) or 0
        for name, values in rows.items():
            table = schema.metadata.tables[name]
            by_columns: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
            for row in values:
                by_columns.setdefault(tuple(sorted(row)), []).append(row)
            for group in by_columns.values():
                for at in range(0, len(group), _ROWS_AT_ONCE):
                    statement = self._session.upsert(table).on_conflict_do_nothing()
                    self._session.run(statement, group[at : at + _ROWS_AT_ONCE])
        if not keeps_marks:
            self._session.run(marks.delete().where(marks.c.number > before))

    def write(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Insert or replace rows in the order of the tables. Columns without a value stay unchanged."""
        for name, values in rows.items():
            table = schema.metadata.tables[name]
            key = primary_key(name)
            for row in values:
                statement = self._session.upsert(table).values(row)
                changed = {column: statement.excluded[column] for column in row if column not in key}
                self._session.run(
                    statement.on_conflict_do_update(index_elements=key, set_=changed)
                    if changed
                    else statement.on_conflict_do_nothing()
                )

    def delete(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Delete rows by their primary keys, in the reverse order of the tables."""
        for name in reversed(list(rows)):
            table = schema.metadata.tables[name]
            for row in rows[name]:
                condition = and_(*(column == row[column.name] for column in table.primary_key.columns))
                self._session.run(delete(table).where(condition))

    def forget_works(self) -> None:
        """Abandon all open works with their pins, and drop the marks for deletion.

        The catalog is older than its buckets, so the works ended long ago, and newer versions may name marked segments.
        """
        works = schema.works
        self._session.run(delete(schema.work_pins))
        open_works = works.c.state == WorkState.OPEN
        self._session.run(update(works).where(open_works).values(state=WorkState.ABANDONED, holder=None))
        self._session.run(delete(schema.condemned))

    def remove_marks(self, resources: Iterable[tuple[str, str]]) -> None:
        """Remove the marks of resources whose newest revision is in the buckets."""
        marks = schema.revision_marks
        for kind, uid in resources:
            self._session.run(delete(marks).where(marks.c.kind == kind, marks.c.uid == uid))

    def replace_ledger(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Insert or replace rows of the ledger. A later checkpoint has the newer state of a row.

        The marks of these rows are removed, because the rows are in the buckets. Marks of other rows stay.
        """
        marks = schema.revision_marks
        for name, values in rows.items():
            table = schema.metadata.tables[name]
            key = primary_key(name)
            (identity,) = next(each.identity for each in KINDS["ledger"].members if each.table is table)
            for at in range(0, len(values), _ROWS_AT_ONCE):
                for column in _unique_columns(table):  # Another entry may have the position in the log.
                    taken = [row[column.name] for row in values[at : at + _ROWS_AT_ONCE]]
                    self._session.run(delete(table).where(column.in_(taken)))
                statement = self._session.upsert(table)
                changed = {column.name: statement.excluded[column.name] for column in table.c if column.name not in key}
                statement = statement.on_conflict_do_update(index_elements=key, set_=changed)
                some = values[at : at + _ROWS_AT_ONCE]
                self._session.run(statement, list(some))
                uids = [str(row[identity]) for row in some]
                self._session.run(marks.delete().where(marks.c.kind == name, marks.c.uid.in_(uids)))

    def insert_checkpoints(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Record the checkpoints of the zones. Later checkpoints get higher numbers."""
        table = schema.checkpoints
        found = sorted(set(checkpoints))
        if not found:
            return
        values = [{"sequence": each.sequence, "uid": each.uid} for each in found]
        self._session.run(self._session.upsert(table).on_conflict_do_nothing(), values)
        if not self._session.is_sqlite:
            statement = text("SELECT setval(pg_get_serial_sequence('checkpoints', 'sequence'), :number)")
            self._session.value(statement, {"number": found[-1].sequence})

    def insert_ledger_checkpoints(self, checkpoints: Sequence[tuple[int, str]]) -> None:
        """Record the number and the HMAC of each checkpoint of the ledger."""
        values = [{"number": number, "mac": mac} for number, mac in checkpoints]
        if values:
            self._session.run(self._session.upsert(schema.ledger_checkpoints).on_conflict_do_nothing(), values)


def primary_key(table: str) -> tuple[str, ...]:
    """Return the names of the columns of a primary key."""
    return tuple(column.name for column in schema.metadata.tables[table].primary_key.columns)


def _unique_columns(table: Table) -> "list[Column[Any]]":
    """Return each column whose values are unique, without the primary key."""
    constraints = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    return [column for each in constraints if len(each.columns) == 1 for column in each.columns]


def _unique_keys(table: Table) -> list[tuple[str, ...]]:
    """Return the columns of each unique key, in the order of the columns in the table.

    The partial index of replicas is part of one resource.
    """
    found: list[Iterable[Column[Any]]] = [table.primary_key.columns]
    found += [each.columns for each in table.constraints if isinstance(each, UniqueConstraint)]
    found += [index.columns for index in table.indexes if index.unique and index.name != "uq_replicas_living"]
    keys = {tuple(column.name for column in columns) for columns in found}
    return sorted(keys, key=lambda key: [table.columns.keys().index(name) for name in key])
