"""Creation and upgrade of a catalog's schema to the revision of this code.

A catalog at this revision opens after three small queries (2 ms on SQLite). Alembic is not imported then, because the
import takes 0.1 s. All other cases run under a lock and in one transaction. A second process therefore finds the
upgrade complete, and a process that dies leaves the catalog unchanged.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect

from imgstore.catalog.engine.compatibility import admits_this_code
from imgstore.catalog.engine.database import Database
from imgstore.catalog.engine.errors import translate_errors
from imgstore.catalog.schema import REVISION, metadata
from imgstore.domain.errors import StoreDenied, StoreFull, StoreMismatch
from imgstore.domain.host.file_systems import AbilityMissing, check_locks, lock
from imgstore.domain.host.os_errors import advise, describe, is_full
from imgstore.domain.host.private_files import make_private_folder

_SCRIPTS: Final = "imgstore.catalog:migrations"
_LOCK_NUMBER: Final = 0x696D6773746F7265
"""The number of PostgreSQL's advisory lock for an upgrade: "imgstore" in ASCII."""


def upgrade_catalog(database: Database) -> None:
    """Bring the catalog to the revision of this code.

    Raises:
        StoreMismatch: the database belongs to a newer imgstore or to another program.
        StoreError: the database does not answer, is damaged or full, or is not writable.
    """
    if database.file is None:
        _upgrade_postgresql(database)
    else:
        _upgrade_sqlite(database, database.file)


def _upgrade_sqlite(database: Database, file: Path) -> None:
    with _folder_lock(file, fcntl.LOCK_SH):
        if file.exists() and _is_current(database):
            return
    with _folder_lock(file, fcntl.LOCK_EX), translate_errors(database.place), database.engine.connect() as connection:
        # The file keeps this mode. A change is not possible inside a transaction or by two processes at once. Without
        # the lock, three of four processes failed immediately in 1 of 75 attempts, even with a busy timeout.
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.rollback()
        with connection.begin():
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _run_migrations(connection, database.place)


def _is_current(database: Database) -> bool:
    with translate_errors(database.place), database.engine.connect() as connection:
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return journal == "wal" and admits_this_code(connection, _revision(connection))


def _upgrade_postgresql(database: Database) -> None:
    with translate_errors(database.place), database.engine.connect() as connection, connection.begin():
        if admits_this_code(connection, _revision(connection)):
            return
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(number)s)", {"number": _LOCK_NUMBER})
        _run_migrations(connection, database.place)


def _run_migrations(connection: Connection, place: str) -> None:
    """Upgrade in the caller's transaction, which locks the catalog. Do nothing if another process has upgraded."""
    stored = _revision(connection)
    if admits_this_code(connection, stored):
        return
    from alembic import command  # noqa: PLC0415 - needed at an upgrade only
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", _SCRIPTS)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if stored is not None and stored not in known:
        raise _mismatch_error(place, f"revision {stored}, which this imgstore does not know")
    taken = set(inspect(connection).get_table_names()) & metadata.tables.keys() if stored is None else set()
    if taken:
        raise _mismatch_error(place, f"tables without a revision: {', '.join(sorted(taken))}")
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    """Return the revision of the catalog, or None if there is no catalog yet.

    A restored backup may contain two revisions. Their names together form an unknown revision.
    """
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version ORDER BY version_num").scalars().all()
    return " and ".join(found) or None


@contextmanager
def _folder_lock(file: Path, mode: int) -> Iterator[None]:
    """Hold `<file>.lock`. An exclusive lock also creates the catalog file, with mode 0600."""
    try:
        make_private_folder(file.parent)
        descriptor = os.open(f"{file}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable_file_error(file, error) from error
    try:
        check_locks(descriptor, file)
        lock(descriptor, mode, file)
        if mode == fcntl.LOCK_EX:
            # SQLite gives its other files the mode of this file. Otherwise the umask would decide.
            os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        yield
    except OSError as error:
        raise _unusable_file_error(file, error) from error
    finally:
        os.close(descriptor)


def _unusable_file_error(file: Path, error: OSError) -> StoreDenied | StoreFull:
    if isinstance(error, AbilityMissing):
        return StoreDenied(
            f"The catalog {file} cannot be opened, because processes cannot lock files there.",
            found=error.strerror,
            expected="a file system with file locks, which SQLite needs",
            hint="choose a folder of a local file system, such as ext4 or XFS, or a PostgreSQL database, with --database",
            target=str(file),
        )
    kind = StoreFull if is_full(error) else StoreDenied
    return kind(
        f"The catalog {file} cannot be opened.",
        found=describe(error, file),
        expected="a folder with free space that this user may write",
        hint=f"{advise(error, error.filename or file)}, or choose another catalog with --home or --database",
        target=str(file),
    )


def _mismatch_error(place: str, found: str) -> StoreMismatch:
    return StoreMismatch(
        f"The catalog in {place} does not belong to this version of imgstore.",
        found=found,
        expected=f"revision {REVISION} or an older one, or an empty database",
        hint="run the version of imgstore that made the catalog, or a newer version, or name another database with --database",
        target=place,
    )
