"""Dumps of a whole catalog, as one consistent snapshot, and their restore into an empty place."""

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import inspect, text

from imgstore.catalog.engine.compatibility import find_oldest_code
from imgstore.catalog.engine.database import Database, configure_database
from imgstore.catalog.engine.errors import translate_errors
from imgstore.catalog.engine.upgrade import read_revision
from imgstore.catalog.recovery.postgresql_dumps import Program, dump_postgresql, find_program, restore_postgresql
from imgstore.catalog.recovery.sqlite_copies import check_sqlite, copy_sqlite
from imgstore.catalog.schema import REVISION
from imgstore.domain.errors import StoreMismatch


class Engine(StrEnum):
    """The engine of a catalog. A dump can be restored into the same engine only."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpDescription:
    """The engine and the schema of a dump."""

    engine: Engine
    revision: str
    oldest_code: str
    """The oldest revision of code that may use the catalog (`engine/compatibility.py`)."""
    schema: str | None = None
    """The schema of PostgreSQL that contains the tables. None for SQLite."""
    program_major: int | None = None
    """The major version of the `pg_dump` that wrote the dump. None for SQLite."""


def dump_catalog(database: Database, target: Path, report: Callable[[int, int], None]) -> DumpDescription:
    """Write one snapshot of a catalog into a new file with mode 0600, and check the file.

    Args:
        database: the catalog.
        target: the new file.
        report: called with the copied bytes, and all bytes or 0.

    Raises:
        ToolMissing: PostgreSQL's programs are missing or older than the server.
        StoreError: the catalog cannot be read, or the file cannot be written.
        ObjectCorrupt: the copy is damaged.
    """
    while True:
        revisions = _read_revisions(database)
        schema, program = _write_dump(database, target, report)
        if _read_revisions(database) == revisions:
            break
        target.unlink()  # Another process has upgraded the catalog in between.
    revision, oldest = revisions
    return DumpDescription(
        engine=Engine.SQLITE if program is None else Engine.POSTGRESQL,
        revision=revision,
        oldest_code=oldest,
        schema=schema,
        program_major=None if program is None else program.major,
    )


def _read_revisions(database: Database) -> tuple[str, str]:
    """Return the revision of a catalog, and the oldest revision of code that may use the catalog."""
    with translate_errors(database.place), database.readers.connect() as connection:
        return read_revision(connection) or REVISION, find_oldest_code(connection) or REVISION


def _write_dump(
    database: Database, target: Path, report: Callable[[int, int], None]
) -> tuple[str | None, Program | None]:
    """Write and check a dump. Return PostgreSQL's schema and the program that wrote the dump."""
    if database.file is not None:
        copy_sqlite(database.file, target, report)
        check_sqlite(target)
        return None, None
    major, schema, _ = _describe_server(database)
    program = find_program("pg_dump", major)
    dump_postgresql(database.url, schema, program, target, lambda done: report(done, 0))
    return schema, program


def find_content(url: str) -> tuple[str, ...]:
    """Return the names of the tables of a PostgreSQL database, in the schema that imgstore would use.

    Raises:
        StoreError: the database does not answer.
        InvalidInput: the address is invalid.
    """
    with closing(configure_database(url)) as database:
        return _describe_server(database)[2]


def find_place(url: str) -> str:
    """Return the address of a database without a password.

    Raises:
        InvalidInput: the address is invalid.
    """
    with closing(configure_database(url)) as database:
        return database.place


def find_file(url: str) -> Path | None:
    """Return the file of an SQLite catalog, or None for PostgreSQL.

    Raises:
        InvalidInput: the address is invalid.
    """
    with closing(configure_database(url)) as database:
        return database.file


def check_restorable(url: str, description: DumpDescription) -> Program:
    """Check that a dump of PostgreSQL fits the database, and return the program that restores the dump.

    Raises:
        StoreMismatch: the database would use another schema than the dump has.
        ToolMissing: `pg_restore` is missing or older than the dump.
        StoreError: the database does not answer.
    """
    with closing(configure_database(url)) as database:
        _, schema, _ = _describe_server(database)
        if schema != description.schema:
            raise StoreMismatch(
                f"The database {database.place} has its tables in another schema than the backup.",
                found=f"the schema {schema}",
                expected=f"the schema {description.schema}, as in the backup",
                hint=f"set `search_path` of the user or of the address to {description.schema}",
                target=database.place,
            )
    return find_program("pg_restore", description.program_major or 0)


def restore_dump(url: str, description: DumpDescription, program: Program, parts: Iterable[bytes]) -> None:
    """Restore a dump into an empty PostgreSQL database. The restore is one transaction.

    Args:
        url: the address of the database.
        description: the engine and the schema of the dump.
        program: the result of `check_restorable`.
        parts: the bytes of the dump.

    Raises:
        StoreError: the restore failed. The database is unchanged.
    """
    assert description.schema is not None, "a dump of SQLite is a file"
    restore_postgresql(url, description.schema, program, parts)


def read_identity(url: str) -> tuple[str, str] | None:
    """Return the revision and the uid of the installation of a PostgreSQL catalog. Return None for other content.

    Raises:
        StoreError: the database does not answer.
    """
    with (
        closing(configure_database(url)) as database,
        translate_errors(database.place),
        database.readers.connect() as connection,
    ):
        if not {"alembic_version", "installation"} <= set(inspect(connection).get_table_names()):
            return None
        found = connection.execute(
            text("SELECT (SELECT version_num FROM alembic_version), (SELECT uid FROM installation)")
        ).one()
    return (str(found[0]), str(found[1])) if all(found) else None


def _describe_server(database: Database) -> tuple[int, str, tuple[str, ...]]:
    """Return the major version of the server, the schema of new tables, and the tables of this schema."""
    with translate_errors(database.place), database.readers.connect() as connection:
        number = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        if schema is None:
            raise StoreMismatch(
                f"The database {database.place} has no schema for tables.",
                found="a search_path without an existing schema",
                expected="an existing schema, such as public",
                hint="create the schema, or correct `search_path` of the user",
                target=database.place,
            )
        return number // 10_000, str(schema), tuple(sorted(inspect(connection).get_table_names()))
