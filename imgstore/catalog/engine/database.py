"""The two engines behind one face: how each is reached, begins a transaction, tells the time and locks.

SQLite is one file with one writer at a time: a writing transaction begins IMMEDIATE, so it has the whole database from
its first statement and needs no further lock. PostgreSQL runs READ COMMITTED and locks rows, and keys that have none
by advisory locks. What is read in one transaction is one snapshot in both.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import URL, Connection, Engine, Executable, Select, Table, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from imgstore.catalog.engine.errors import translate_errors
from imgstore.catalog.engine.write_ahead_log import count_changes, count_transaction
from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput, StoreUnreachable, ToolMissing
from imgstore.domain.extras import install_hint

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import CursorResult, Row
    from sqlalchemy.engine.interfaces import DBAPIConnection

    Upsert: TypeAlias = "postgresql.Insert | sqlite.Insert"

LOCK_SECONDS_MAX: Final = 30
"""How long a transaction waits for another's locks. A transaction holds no bytes and lasts milliseconds; the longest,
the first upgrade of a catalog, about two seconds."""

LOG_SECONDS_MAX: Final = 2.0
"""How long SQLite's log waits for those that read it, before it is left as it is. Writers wait meanwhile."""

CONNECT_SECONDS_MAX: Final = 10

IDLE_SECONDS_MAX: Final = 1.0
"""PostgreSQL: a connection that lay idle for longer is asked first whether it still lives."""

# Operations take one connection each and a heartbeat one more, in 16 to 32 threads.
_POOL: Final[Mapping[str, Any]] = {"pool_size": 8, "max_overflow": 56, "pool_timeout": LOCK_SECONDS_MAX}

_SQLITE: Final = "sqlite:///"
_POSTGRESQL: Final = ("postgresql", "postgresql+psycopg")


def upsert(table: Table, *, is_sqlite: bool) -> "Upsert":
    """An INSERT of one engine's dialect, which knows ON CONFLICT."""
    if is_sqlite:
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415 - either dialect costs 30 ms to import

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415

    return postgresql.insert(table)


@dataclass(frozen=True, slots=True)
class Session:
    """One transaction on one connection. What it raises is the house's own."""

    connection: Connection
    effects: Effects
    place: str
    """The database, as people know it."""

    @property
    def is_sqlite(self) -> bool:
        """Whether the transaction, if it writes, has the whole database to itself."""
        return self.connection.dialect.name == "sqlite"

    def run(
        self, statement: Executable, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None
    ) -> "CursorResult[Any]":
        """Run one statement, once or for each of `rows`."""
        with translate_errors(self.place):
            return self.connection.execute(statement, rows)

    def all(self, statement: Executable, values: Mapping[str, Any] | None = None) -> "Sequence[Row[Any]]":
        """Every row. `values` are those of the statement's named parameters: one that is built once costs less."""
        with translate_errors(self.place):
            return self.connection.execute(statement, values).all()

    def first(self, statement: Executable, values: Mapping[str, Any] | None = None) -> "Row[Any] | None":
        """The first row, or none."""
        with translate_errors(self.place):
            return self.connection.execute(statement, values).first()

    def value(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        with translate_errors(self.place):
            return self.connection.execute(statement, values).scalar()

    def stream(self, statement: Executable, *, rows_at_once: int = 256) -> "Iterator[Row[Any]]":
        """Row by row, holding no more than `rows_at_once` of them in memory."""
        with translate_errors(self.place):
            # Of the statement alone: set on the connection, PostgreSQL would declare a cursor for every later UPDATE too.
            yield from self.connection.execute(statement, execution_options={"yield_per": rows_at_once})

    def change(self, statement: Executable) -> int:
        """Run an UPDATE or DELETE and tell how many rows it met."""
        return self.run(statement).rowcount

    def upsert(self, table: Table) -> "Upsert":
        """An INSERT of this engine's dialect, which knows ON CONFLICT."""
        return upsert(table, is_sqlite=self.is_sqlite)

    def add_row_locks(self, select: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        """`select`, holding its rows against other writers until the end. Rows may still be referred to meanwhile.

        With `skip_locked`, rows that another holds are left out instead of being waited for.
        """
        return select.with_for_update(key_share=True, skip_locked=skip_locked)

    def lock_name(self, name: str) -> None:
        """Hold a name that no row stands for, until the end of the transaction."""
        if not self.is_sqlite:
            with translate_errors(self.place):
                self.connection.exec_driver_sql(
                    "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))", {"name": name}
                )

    def now(self) -> datetime:
        """The database's clock. SQLite's ticks in milliseconds, PostgreSQL's in microseconds."""
        with translate_errors(self.place):
            if self.is_sqlite:
                told = self.connection.exec_driver_sql("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").scalar_one()
                return datetime.fromisoformat(told).replace(tzinfo=UTC)
            # Not now(), which stands still from the transaction's first statement, however long it waited for a lock.
            present: datetime = self.connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            return present.astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the catalog lies. Safe to use from several threads at once."""

    engine: Engine
    readers: Engine
    """What only reads takes its connections here. SQLite's are such that nothing can be written through them, from their
    first day: to switch that on and off would make SQLite forget its prepared statements, and a look at a version took
    0.4 ms instead of 0.2. PostgreSQL's are the same."""
    place: str
    """As people know it, without a password."""
    file: Path | None
    """SQLite's, else None."""
    _writer_lock: threading.Lock = field(default_factory=threading.Lock)
    """SQLite's writers of this process queue here. SQLite itself lets them poll, and some starve: of 600 transactions in
    16 threads the slowest took 2.4 s, with the queue 0.5 s, and all together half the time."""

    @contextmanager
    def writing(self, effects: Effects) -> Iterator[Session]:
        """One transaction that may write. Committed at the end, undone by any exception.

        Raises:
            StoreError: the database could not do it (see `translate_errors`).
        """
        with (
            translate_errors(self.place),
            self._hold_writer_lock(),
            self.engine.connect() as connection,
            connection.begin(),
        ):
            if self.file is not None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            before = 0 if self.file is None else count_changes(connection)
            yield Session(connection, effects, self.place)
            if self.file is not None and count_changes(connection) != before:
                count_transaction(connection)

    @contextmanager
    def reading(self, effects: Effects) -> Iterator[Session]:
        """One consistent snapshot, in which nothing can be written.

        Raises:
            StoreError: the database could not do it (see `translate_errors`).
        """
        with translate_errors(self.place), self.readers.connect() as connection, _begin_read_only(connection):
            yield Session(connection, effects, self.place)

    def empty_log(self) -> bool:
        """Bring SQLite's write-ahead log into the file and truncate it, so that nothing that was overwritten is left there.

        Returns:
            Whether that was possible: another process may read at the moment. PostgreSQL's log is its operator's.

        Raises:
            StoreError: the database could not do it (see `translate_errors`).
        """
        if self.file is None:
            return False
        with translate_errors(self.place), self._hold_writer_lock(), self.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(LOG_SECONDS_MAX * 1000)}")
            try:
                busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_SECONDS_MAX * 1000}")
        return not busy

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()
        self.readers.dispose()

    def _hold_writer_lock(self) -> AbstractContextManager[object]:
        return nullcontext() if self.file is None else _hold(self._writer_lock, self.place)


def configure_database(url: str) -> Database:
    """The database that `url` names. Nothing is opened yet.

    Raises:
        InvalidInput: neither sqlite:///path nor postgresql://....
        ToolMissing: psycopg is not installed.
    """
    if url.startswith(_SQLITE) and url != _SQLITE:
        # Not through make_url: a path may hold '?' and '%'.
        return _sqlite(Path(url.removeprefix(_SQLITE)).absolute())
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise _invalid_address_error(url) from error
    if address.drivername not in _POSTGRESQL:
        raise _invalid_address_error(url)
    return _postgresql(address.set(drivername="postgresql+psycopg"))


def _sqlite(path: Path) -> Database:
    return Database(
        engine=_sqlite_engine(path), readers=_sqlite_engine(path, "query_only = ON"), place=str(path), file=path
    )


def _sqlite_engine(path: Path, *pragmas: str) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": LOCK_SECONDS_MAX}, **_POOL
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: "DBAPIConnection", _entry: ConnectionPoolEntry) -> None:
        # Transactions begin where `Database` says so, not where the driver guesses.
        connection.isolation_level = None
        cursor = connection.cursor()
        # In WAL mode less than FULL may lose committed transactions at a power failure, and a charge with them. What is
        # deleted is overwritten with zeros: a source's URL may be signed.
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _postgresql(address: URL) -> Database:
    try:
        engine = create_engine(
            address,
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": CONNECT_SECONDS_MAX},
            **_POOL,
        )
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "PostgreSQL needs the optional package psycopg.",
            found=str(error),
            expected="psycopg 3",
            hint=install_hint("postgresql"),
            target="psycopg",
        ) from error

    @event.listens_for(engine, "connect")
    def _prepare(connection: "DBAPIConnection", _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'")
        cursor.close()
        connection.commit()

    _ping_idle_connections(engine)
    return Database(engine=engine, readers=engine, place=address.render_as_string(hide_password=True), file=None)


def _ping_idle_connections(engine: Engine) -> None:
    """Ask a connection that lay idle whether it still lives, and make a new one where it does not.

    SQLAlchemy's own pool_pre_ping asks before each transaction, in a round trip of its own: of a placement's time 6%.
    """

    @event.listens_for(engine, "checkin")
    def _note_checkin(_connection: "DBAPIConnection | None", entry: ConnectionPoolEntry) -> None:
        entry.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping_after_idle(
        connection: "DBAPIConnection", entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        idle_since = entry.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < IDLE_SECONDS_MAX:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # The server went: the others that lie idle are as dead.


@contextmanager
def _begin_read_only(connection: Connection) -> Iterator[None]:
    if connection.dialect.name != "sqlite":
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield
        return
    with connection.begin():
        connection.exec_driver_sql("BEGIN")
        yield


@contextmanager
def _hold(lock: threading.Lock, place: str) -> Iterator[None]:
    if not lock.acquire(timeout=LOCK_SECONDS_MAX):
        raise StoreUnreachable(
            f"The catalog in {place} was locked too long.",
            found=f"another transaction of this process for more than {LOCK_SECONDS_MAX} s",
            expected="transactions of milliseconds, never one inside another",
            hint="run the command again",
            target=place,
        )
    try:
        yield
    finally:
        lock.release()


def _invalid_address_error(url: str) -> InvalidInput:
    return InvalidInput(
        "The database's address is invalid.",
        found=repr(url.rsplit("@", maxsplit=1)[-1]),
        expected="sqlite:///PATH or postgresql://USER@HOST/NAME",
        hint="set --database or IMGSTORE_DATABASE",
        target="database",
    )
