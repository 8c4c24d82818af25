"""Triggers that mark a resource for a new revision in the transaction of the change (invariant B18).

A trigger covers each statement of each process, also of an older worker during an upgrade. Migrations install triggers
by `install_triggers` and describe the tables themselves, because the schema of a migration never changes. A test
compares the installed triggers with the kinds in `catalog/storage/revisions.py`.

A mark is a new row for each changed row. A flush removes exactly the marks that it has read before the resource. An
updated row per resource would be simpler, but concurrent transactions would wait for each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

_PREFIX: Final = "revision_mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedTable:
    """A table whose changes mark a resource."""

    table: str
    kind: str
    """The kind of the mark."""
    identity: tuple[str, ...]
    """The columns with the uid of the resource, joined by "/"."""
    loud: tuple[str, ...]
    """The columns whose change marks the resource."""
    is_urgent: bool = True
    """Whether a command writes the revision before it answers, and not the background pass."""
    root: str | None = None
    """The table with the row of the resource, for a table whose rows may belong to several kinds."""
    null_column: str | None = None
    """A column that is null in the marked rows."""
    value_column: str | None = None
    """A column that is not null in the marked rows."""

    def name(self, event: str) -> str:
        """Return the name of the trigger for an event: "insert", "update" or "delete"."""
        return f"{_PREFIX}_{self.table}_{self.kind.replace('-', '_')}_{event}"

    def condition(self, prefix: str) -> str | None:
        """Return the condition for a marked row in SQL. None is no condition.

        Args:
            prefix: the prefix of columns: "NEW.", "OLD." or nothing.
        """
        if self.null_column is not None:
            return f"{prefix}{self.null_column} IS NULL"
        return None if self.value_column is None else f"{prefix}{self.value_column} IS NOT NULL"


def install_triggers(connection: Connection, tables: Sequence[MarkedTable]) -> None:
    """Create the triggers of tables."""
    for each in tables:
        for statement in _statements(each, is_sqlite=connection.dialect.name == "sqlite"):
            connection.exec_driver_sql(statement)


def replace_triggers(connection: Connection, tables: Sequence[MarkedTable]) -> None:
    """Create the triggers of tables again, for tables whose columns a migration has changed."""
    is_sqlite = connection.dialect.name == "sqlite"
    for each in tables:
        for event in ("insert", "update", "delete"):
            name = each.name(event)
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}{'' if is_sqlite else f' ON {each.table}'}")
            if not is_sqlite:
                connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}()")
    install_triggers(connection, tables)


def mark_all_rows(connection: Connection, tables: Sequence[MarkedTable]) -> None:
    """Mark all present rows for the background pass. A migration calls this for an existing installation."""
    flag = _flag(value=False, is_sqlite=connection.dialect.name == "sqlite")
    for each in tables:
        uid = _join(each, "")
        source = f"SELECT DISTINCT '{each.kind}', {uid}, {flag} FROM {each.table}"
        if each.root is not None:
            source += f" WHERE {uid} IN (SELECT uid FROM {each.root})"
        elif (condition := each.condition("")) is not None:
            source += f" WHERE {condition}"
        connection.exec_driver_sql(f"INSERT INTO revision_marks (kind, uid, is_urgent) {source}")


def install_region_trigger(connection: Connection, tables: Sequence[MarkedTable]) -> None:
    """Create the trigger that marks all resources for a region when the first zone of the region is recorded.

    Args:
        connection: the connection.
        tables: the tables with the rows of resources whose revisions are in each region.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    name = f"{_PREFIX}_region"
    flag = _flag(value=False, is_sqlite=is_sqlite)
    marks = " ".join(
        f"INSERT INTO revision_marks (kind, uid, is_urgent, region)"
        f" SELECT DISTINCT '{each.kind}', {_join(each, '')}, {flag}, NEW.region FROM {each.table}"
        f"{_where(each.condition(''))};"
        for each in tables
    )
    known = "EXISTS (SELECT 1 FROM zones WHERE region = NEW.region AND zone <> NEW.zone)"
    if is_sqlite:
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name} AFTER INSERT ON zones FOR EACH ROW WHEN NOT {known} BEGIN {marks} END"
        )
        return
    connection.exec_driver_sql(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NOT {known} THEN {marks} END IF; RETURN NULL; END $$"
    )
    connection.exec_driver_sql(f"CREATE TRIGGER {name} AFTER INSERT ON zones FOR EACH ROW EXECUTE FUNCTION {name}()")


def replace_region_trigger(connection: Connection, tables: Sequence[MarkedTable]) -> None:
    """Create the trigger of `install_region_trigger` again, for a migration that adds a kind of resource."""
    name = f"{_PREFIX}_region"
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    else:
        connection.exec_driver_sql(f"DROP TRIGGER {name} ON zones")
        connection.exec_driver_sql(f"DROP FUNCTION {name}()")
    install_region_trigger(connection, tables)


def _statements(each: MarkedTable, *, is_sqlite: bool) -> Iterator[str]:
    changed = " OR ".join(_differs(column, is_sqlite=is_sqlite) for column in each.loud)
    for event, row in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")):
        if event == "update" and not each.loud:
            continue
        needed = [each.condition(f"{row}."), changed if event == "update" else None]
        parts = [f"({part})" for part in needed if part is not None]
        condition = f"WHEN {parts[0] if len(parts) == 1 else '(' + ' AND '.join(parts) + ')'}" if parts else ""
        name = each.name(event)
        mark = _mark(each, row, is_sqlite=is_sqlite)
        head = f"CREATE TRIGGER {name} AFTER {event.upper()} ON {each.table} FOR EACH ROW {condition}"
        if is_sqlite:
            yield f"{head} BEGIN {mark}; END"
        else:
            yield (f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {mark}; RETURN NULL; END $$")
            yield f"{head} EXECUTE FUNCTION {name}()"


def _mark(each: MarkedTable, row: str, *, is_sqlite: bool) -> str:
    uid = _join(each, f"{row}.")
    flag = _flag(value=each.is_urgent, is_sqlite=is_sqlite)
    values = f"SELECT '{each.kind}', {uid}, {flag}"
    if each.root is not None:
        values += f" WHERE EXISTS (SELECT 1 FROM {each.root} WHERE uid = {uid})"
    return f"INSERT INTO revision_marks (kind, uid, is_urgent) {values}"


def _where(condition: str | None) -> str:
    return "" if condition is None else f" WHERE {condition}"


def _join(each: MarkedTable, prefix: str) -> str:
    return " || '/' || ".join(f"{prefix}{column}" for column in each.identity)


def _differs(column: str, *, is_sqlite: bool) -> str:
    # PostgreSQL compares no JSON. The text of an unchanged column is unchanged.
    return (
        f"OLD.{column} IS NOT NEW.{column}"
        if is_sqlite
        else f"CAST(OLD.{column} AS text) IS DISTINCT FROM CAST(NEW.{column} AS text)"
    )


def _flag(*, value: bool, is_sqlite: bool) -> str:
    return str(int(value)) if is_sqlite else str(value).lower()
