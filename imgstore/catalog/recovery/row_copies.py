"""Copies of all rows of a catalog into an empty catalog, also of another engine (invariant K5).

The source is read in one snapshot. The target is filled and compared in one transaction, so a killed copy leaves no row.
Rows are copied as stored: triggers of the target do not run, and values of enumerations are not interpreted. Both sides
are compared by a digest of each table. A digest is the sum of the BLAKE3 of all rows, so the order of rows is free.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from blake3 import blake3
from sqlalchemy import JSON, String, Table, TableClause, column, func, inspect, literal, select
from sqlalchemy import table as table_clause
from sqlalchemy.types import TypeEngine

from imgstore.catalog.engine.columns import DecimalText, EnumText
from imgstore.catalog.engine.database import Database, Session, configure_database
from imgstore.catalog.engine.errors import translate_errors
from imgstore.catalog.engine.upgrade import read_revision, upgrade_catalog
from imgstore.catalog.recovery.catalog_dumps import find_place
from imgstore.catalog.recovery.file_locks import hold_file
from imgstore.catalog.schema import REVISION, metadata
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, InvalidInput, ObjectCorrupt, StoreMismatch
from imgstore.domain.host import file_systems
from imgstore.domain.host.os_errors import translate_host_faults

_ROWS_AT_ONCE: Final = 500
_REPORT_ROWS: Final = 1000
_MODULUS: Final = 1 << 256

Report = Callable[[int, int], None]
"""Called with the processed bytes, and all bytes or 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDigest:
    """The content of a table."""

    rows: int
    row_bytes: int
    """The bytes of all rows in the form that is hashed."""
    digest: str
    """The digest of all rows in hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCopy:
    """The result of a copy. The digests of source and target are equal."""

    place: str
    """The file or the address of the target, without a password."""
    tables: Mapping[str, TableDigest]
    """The content by the name of the table."""
    changed: Sequence[str]
    """The tables of the source that other processes have changed since the snapshot."""


def copy_rows(source: Database, url: str, effects: Effects, report: Report) -> RowCopy:
    """Copy all rows of a catalog into an empty database or a new SQLite file, and compare both.

    Args:
        source: the catalog.
        url: the address of the target.
        effects: the source of time and ids.
        report: called with the progress.

    Raises:
        InvalidInput: the address is invalid, or names the source.
        Conflict: the target is not empty, or another process copies into the same file.
        StoreMismatch: the source or the target has another revision than this code.
        ObjectCorrupt: the rows of the target differ from the source. The target is unchanged.
        StoreError: a database refused.
    """
    with source.reading(effects) as reader, _open_target(source, url) as target:
        if (found := read_revision(reader.connection)) != REVISION:
            raise _revision_error(source.place, found)
        progress = _Progress(report)
        with target.writing(effects) as writer:
            if (found := read_revision(writer.connection)) != REVISION:
                raise _revision_error(target.place, found)
            with _without_triggers(writer):
                _check_empty(writer)
                tables = {table.name: _copy_table(reader, writer, table, progress) for table in metadata.sorted_tables}
                _copy_sequences(reader, writer)
            progress.total = 2 * progress.done
            written = _read_digests(writer, progress)
            if written != tables:
                raise _difference_error(target.place, tables, written)
    with source.reading(effects) as reader:
        later = _read_digests(reader, _Progress(lambda _done, _total: None))
    return RowCopy(
        place=find_place(url), tables=tables, changed=[name for name, each in later.items() if each != tables[name]]
    )


@dataclass(slots=True)
class _Progress:
    report: Report
    total: int = 0
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)


@contextmanager
def _open_target(source: Database, url: str) -> Iterator[Database]:
    """Yield a target with an empty schema. A new SQLite file gets its name at the end of the block."""
    target = configure_database(url)
    try:
        if target.place == source.place:
            raise InvalidInput(
                "A catalog cannot be copied onto itself.",
                found=target.place,
                expected="the address of another database",
                hint="name an empty database with --to",
                target="to",
            )
        if target.file is None:
            _check_tables(target)
            upgrade_catalog(target, lambda _holder: False)
            yield target
            return
    finally:
        target.close()
    with translate_host_faults(), hold_file(target.file):
        _check_file(target.file)
        temporary = target.file.with_name(f".{target.file.name}.copy")
        _remove_sqlite(temporary)
        with closing(configure_database(f"sqlite:///{temporary}")) as copy:
            try:
                upgrade_catalog(copy, lambda _holder: False)
                yield copy
                copy.empty_log()
            except BaseException:
                copy.close()
                _remove_sqlite(temporary)
                raise
        target.file.unlink(missing_ok=True)  # An empty file.
        file_systems.publish(temporary, target.file)
        _remove_sqlite(temporary)
        file_systems.sync_folder(target.file.parent)


def _remove_sqlite(file: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _check_tables(target: Database) -> None:
    """Refuse a database with tables of another program, or with rows, before an upgrade changes the database."""
    with translate_errors(target.place), target.readers.connect() as connection:
        present = set(inspect(connection).get_table_names())
        foreign = sorted(present - metadata.tables.keys() - {"alembic_version"})
        if foreign:
            raise _not_empty_error(target.place, f"the tables {', '.join(foreign[:5])}")
        for name in sorted(present & metadata.tables.keys()):
            if connection.execute(select(literal(1)).select_from(table_clause(name)).limit(1)).first():
                raise _not_empty_error(target.place, f"rows in {name}")


def _check_file(file: Path) -> None:
    for each in (file, file.with_name(f"{file.name}-wal")):
        if each.exists() and each.stat().st_size:
            raise _not_empty_error(str(file), f"{each.name} with {each.stat().st_size} bytes")


def _check_empty(writer: Session) -> None:
    for table in metadata.sorted_tables:
        rows = writer.value(select(func.count()).select_from(table))
        if rows:
            raise _not_empty_error(writer.place, f"{rows} rows in {table.name}")


@contextmanager
def _without_triggers(writer: Session) -> Iterator[None]:
    """Let no trigger run during the block. The transaction restores the triggers also after an error."""
    if writer.is_sqlite:
        found = writer.connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
        for name, _ in found:
            writer.connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
        yield
        for _, sql in found:
            writer.connection.exec_driver_sql(sql)
        return
    # The lock of the statement also keeps other processes away until the end of the transaction.
    for table in metadata.sorted_tables:
        writer.connection.exec_driver_sql(f'ALTER TABLE "{table.name}" DISABLE TRIGGER USER')
    yield
    for table in metadata.sorted_tables:
        writer.connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ENABLE TRIGGER USER')


def _as_stored(table: Table) -> TableClause:
    """Return the table with the stored types of its columns."""
    return table_clause(table.name, *(column(each.name, _stored_type(each.type)) for each in table.columns))


def _stored_type(found: TypeEngine[Any]) -> TypeEngine[Any]:
    if isinstance(found, EnumText | DecimalText):
        return String()
    # SQL's NULL and JSON's null both read as None. No code stores JSON's null as a whole value.
    return JSON(none_as_null=True) if isinstance(found, JSON) else found


def _read_digests(session: Session, progress: _Progress) -> dict[str, TableDigest]:
    return {table.name: _read_digest(session, table, progress) for table in metadata.sorted_tables}


def _read_digest(session: Session, table: Table, progress: _Progress) -> TableDigest:
    hasher = _TableHasher(progress)
    for row in session.stream(select(_as_stored(table)), rows_at_once=_ROWS_AT_ONCE):
        hasher.add(row)
        if not hasher.rows % _REPORT_ROWS:
            hasher.report()
    return hasher.end()


def _copy_table(reader: Session, writer: Session, table: Table, progress: _Progress) -> TableDigest:
    """Copy a table, and return the digest of the source."""
    stored = _as_stored(table)
    names = [each.name for each in table.columns]
    hasher = _TableHasher(progress)
    waiting = list[dict[str, Any]]()

    def write() -> None:
        if waiting:
            writer.run(stored.insert(), waiting)
            hasher.report()
            waiting.clear()

    for row in reader.stream(select(stored), rows_at_once=_ROWS_AT_ONCE):
        waiting.append(dict(zip(names, row, strict=True)))
        hasher.add(row)
        if len(waiting) == _ROWS_AT_ONCE:
            write()
    write()
    return hasher.end()


@dataclass(slots=True)
class _TableHasher:
    """The digest of a table, row by row."""

    progress: _Progress
    rows: int = 0
    row_bytes: int = 0
    sum: int = 0
    reported_bytes: int = 0

    def add(self, row: Sequence[Any]) -> None:
        """Add a row."""
        encoded = _encode_row(row)
        self.rows += 1
        self.row_bytes += len(encoded)
        self.sum = (self.sum + int.from_bytes(blake3(encoded).digest(), "little")) % _MODULUS

    def report(self) -> None:
        """Report the bytes since the last report."""
        self.progress.add(self.row_bytes - self.reported_bytes)
        self.reported_bytes = self.row_bytes

    def end(self) -> TableDigest:
        """Report the last bytes, and return the digest."""
        self.report()
        return TableDigest(rows=self.rows, row_bytes=self.row_bytes, digest=self.sum.to_bytes(32, "little").hex())


def _encode_row(row: Sequence[Any]) -> bytes:
    """Encode the values of a row, each with its type and its length."""
    parts = []
    for value in row:
        kind, data = _encode_value(value)
        parts.append(struct.pack("<cQ", kind, len(data)))
        parts.append(data)
    return b"".join(parts)


def _encode_value(value: Any) -> tuple[bytes, bytes]:
    if value is None:
        return b"n", b""
    if isinstance(value, bool):
        return b"o", bytes([value])
    if isinstance(value, int):
        return b"i", str(value).encode()
    if isinstance(value, float):
        return b"f", struct.pack("<d", value)
    if isinstance(value, str):
        return b"t", value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | memoryview):
        return b"b", bytes(value)
    if isinstance(value, datetime):
        return b"d", value.astimezone(UTC).isoformat().encode()
    return b"j", json.dumps(value, sort_keys=True).encode()


def _copy_sequences(reader: Session, writer: Session) -> None:
    """Let the next automatic key of each table follow the last key of the source, also if its row was deleted."""
    for table in metadata.sorted_tables:
        key = table.autoincrement_column
        if key is None:
            continue
        last = _last_key(reader, table, key.name)
        if not last:
            continue
        if not writer.is_sqlite:
            writer.connection.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence(%(table)s, %(key)s), %(last)s)",
                {"table": f'"{table.name}"', "key": key.name, "last": last},
            )
        elif _keeps_sequence(writer, table):
            connection = writer.connection
            connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
            connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table.name, last))


def _last_key(reader: Session, table: Table, key: str) -> int:
    highest = int(reader.value(select(func.max(table.c[key]))) or 0)
    if reader.is_sqlite:
        if not _keeps_sequence(reader, table):
            return highest
        found = reader.connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,))
        return max(highest, int(found.scalar() or 0))
    sequence = reader.connection.exec_driver_sql(
        "SELECT pg_get_serial_sequence(%(table)s, %(key)s)", {"table": f'"{table.name}"', "key": key}
    ).scalar_one()
    found = reader.connection.exec_driver_sql(f"SELECT last_value FROM {sequence} WHERE is_called")  # noqa: S608 - quoted
    return max(highest, int(found.scalar() or 0))


def _keeps_sequence(session: Session, table: Table) -> bool:
    """Return whether SQLite keeps the last key of a table. Other tables use the highest present key."""
    sql = session.connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).scalar()
    return "AUTOINCREMENT" in str(sql).upper()


def _revision_error(place: str, found: str | None) -> StoreMismatch:
    return StoreMismatch(
        f"The catalog in {place} has another revision than this imgstore, so its rows cannot be copied.",
        found=f"revision {found}",
        expected=f"revision {REVISION}",
        hint="copy with the version of imgstore that upgraded the catalog",
        target=place,
    )


def _not_empty_error(place: str, found: str) -> Conflict:
    return Conflict(
        f"The target {place} of the copy is not empty, and no row was written.",
        found=found,
        expected="a new SQLite file, or a PostgreSQL database without rows",
        hint="name another file, or create an empty database (`createdb`)",
        target=place,
    )


def _difference_error(
    place: str, expected: Mapping[str, TableDigest], found: Mapping[str, TableDigest]
) -> ObjectCorrupt:
    names = [name for name in expected if found[name] != expected[name]]
    return ObjectCorrupt(
        f"The rows in {place} differ from the source, and the copy was undone.",
        found=", ".join(f"{name}: {found[name].rows} of {expected[name].rows} rows" for name in names),
        expected="equal digests of all tables",
        hint="report this fault with the engines and versions of both databases",
        target=place,
    )
