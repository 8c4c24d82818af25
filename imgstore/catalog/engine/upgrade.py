"""Creation and upgrade of a catalog's schema to the revision of this code.

A catalog at this revision opens after three small queries (2 ms on SQLite), and a new catalog is created without the
migrations (`new_schema.py`). Alembic is not imported then, because the import takes 0.1 s. The creation and an upgrade
run under a lock and in one transaction. A second process therefore finds the
upgrade complete, and a process that dies leaves the catalog unchanged.

Each migration names the oldest code that may use the catalog afterwards (`oldest_code`, see `compatibility.py`). An
upgrade beyond the code of a live process is refused. A catalog of a newer revision opens if it admits this code.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import Connection, inspect, null, select, text

from imgstore.catalog.engine.clock_steps import LEASE_SECONDS_MAX
from imgstore.catalog.engine.compatibility import admits_this_code, find_oldest_code
from imgstore.catalog.engine.database import Database, Session
from imgstore.catalog.engine.errors import translate_errors
from imgstore.catalog.engine.new_schema import create_schema
from imgstore.catalog.schema import REVISION, metadata, workers
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, StoreDenied, StoreFull, StoreMismatch
from imgstore.domain.host.file_systems import AbilityMissing, check_locks, lock
from imgstore.domain.host.os_errors import advise, describe, is_full
from imgstore.domain.host.private_files import make_private_folder
from imgstore.domain.storage.works import WORKER_ALIVE_SECONDS

_SCRIPTS: Final = "imgstore.catalog:migrations"
_LOCK_NUMBER: Final = 0x696D6773746F7265
"""The number of PostgreSQL's advisory lock for an upgrade: "imgstore" in ASCII."""


HolderCheck: TypeAlias = Callable[[str], bool]
"""Tells whether the process with this name (`Work.holder`) is certainly dead."""


def upgrade_catalog(database: Database, is_dead: HolderCheck) -> None:
    """Bring the catalog to the revision of this code, unless the catalog is newer and admits this code.

    Args:
        database: the catalog.
        is_dead: whether a process with a recent sign of life has ended.

    Raises:
        StoreMismatch: the database needs newer code, or belongs to another program.
        Conflict: a live process has code that could not use the upgraded catalog.
        StoreError: the database does not answer, is damaged or full, or is not writable.
    """
    if database.file is None:
        _upgrade_postgresql(database, is_dead)
    else:
        _upgrade_sqlite(database, database.file, is_dead)


def _upgrade_sqlite(database: Database, file: Path, is_dead: HolderCheck) -> None:
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
            _run_migrations(Session(connection, Effects(), database.place), is_dead)


def _is_current(database: Database) -> bool:
    with translate_errors(database.place), database.engine.connect() as connection:
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return journal == "wal" and admits_this_code(connection, read_revision(connection))


def _upgrade_postgresql(database: Database, is_dead: HolderCheck) -> None:
    with translate_errors(database.place), database.engine.connect() as connection:
        with connection.begin():
            if admits_this_code(connection, read_revision(connection)):
                return
        # In a transaction of its own: the query above holds a lock on Alembic's table, which a migration may alter.
        with connection.begin():
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(number)s)", {"number": _LOCK_NUMBER})
            _run_migrations(Session(connection, Effects(), database.place), is_dead)


def _run_migrations(session: Session, is_dead: HolderCheck) -> None:
    """Upgrade in the caller's transaction, which locks the catalog. Do nothing if another process has upgraded."""
    connection = session.connection
    stored = read_revision(connection)
    if admits_this_code(connection, stored):
        return
    if stored is None:
        _create_schema(session)
        return
    from alembic import command  # noqa: PLC0415 - needed at an upgrade only
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", _SCRIPTS)
    scripts = {script.revision: script for script in ScriptDirectory.from_config(config).walk_revisions()}
    oldest = find_oldest_code(connection)
    if stored not in scripts:
        needed = "" if oldest is None else f" and which needs code of revision {oldest} or newer"
        raise _mismatch_error(session.place, f"revision {stored}, which this imgstore does not know{needed}")
    admitted = max(getattr(script.module, "oldest_code", "") for script in scripts.values())
    if (oldest or stored) < admitted:
        _exclude_older_code(session, admitted, is_dead, has_fence=oldest is not None)
    command.upgrade(config, "head")
    session.run(text("UPDATE alembic_version SET oldest_code = :oldest"), {"oldest": admitted})


def _create_schema(session: Session) -> None:
    inspector = inspect(session.connection)
    taken = set(inspector.get_table_names()) & metadata.tables.keys()
    if taken:
        raise _mismatch_error(session.place, f"tables without a revision: {', '.join(sorted(taken))}")
    create_schema(session.connection)


def _exclude_older_code(session: Session, admitted: str, is_dead: HolderCheck, *, has_fence: bool) -> None:
    """Wait for all transactions, and refuse to exclude the code of a live process (invariant L8).

    A short command has no row in `workers`, but a lease. Its code is unknown, so the upgrade waits for its end.

    Args:
        session: the transaction of the upgrade.
        admitted: the oldest code that may use the catalog afterwards.
        is_dead: see `upgrade_catalog`.
        has_fence: whether transactions lock the table of the revision, as since revision 0033.
    """
    if has_fence and not session.is_sqlite:
        session.connection.exec_driver_sql("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
    if older := [each for each in _find_processes(session, admitted) if not is_dead(each)]:
        raise Conflict(
            f"The upgrade of the catalog in {session.place} would exclude processes of older code that still run.",
            found=", ".join(older),
            expected=f"only processes with code of revision {admitted} or newer",
            hint=f"stop these processes or wait for their end, then run the same command again. A process that was "
            f"killed on another machine counts as running for {WORKER_ALIVE_SECONDS:g} seconds",
            target=session.place,
        )


def _find_processes(session: Session, admitted: str) -> Sequence[str]:
    """Return the names of processes with a recent sign of life, except for workers of the admitted code.

    A time that is too far in the future comes from a clock that has stepped back, and proves nothing.
    """
    inspector, now = inspect(session.connection), session.now()
    columns = {
        name: {column["name"] for column in inspector.get_columns(name)}
        for name in metadata.tables.keys() & set(inspector.get_table_names())
    }
    found, known = set[str](), set[str]()
    if workers.name in columns:
        code = workers.c.code_revision if "code_revision" in columns[workers.name] else null()
        recent = timedelta(seconds=WORKER_ALIVE_SECONDS)
        alive = workers.c.seen_at.between(now - recent, now + recent)
        for row in session.all(select(workers.c.holder, code.label("code")).where(alive)):
            (known if row.code is not None and row.code >= admitted else found).add(row.holder)
    for table in (metadata.tables[name] for name, own in columns.items() if {"holder", "lease_expires_at"} <= own):
        valid = table.c.lease_expires_at.between(now, now + timedelta(seconds=LEASE_SECONDS_MAX))
        leased = select(table.c.holder).where(table.c.holder.is_not(None), valid)
        found.update(row.holder for row in session.all(leased))
    return sorted(found - known)


def read_revision(connection: Connection) -> str | None:
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
        expected=f"revision {REVISION} or an older one, a newer one that admits code of revision {REVISION}, or an empty "
        "database",
        hint="run the version of imgstore that made the catalog, or a newer version, or name another database with --database",
        target=place,
    )
