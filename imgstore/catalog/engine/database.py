"""The two engines behind one interface: connections, transactions, the clock and locks.

SQLite is a single file with a single writer. A writing transaction begins IMMEDIATE, so the transaction owns the whole
database from the first statement and needs no further lock. PostgreSQL runs READ COMMITTED and locks rows. Advisory
locks replace locks on rows that do not exist. A transaction that only reads sees one snapshot on both engines.

A PostgreSQL session has no state between transactions (invariant L6), so each transaction may run on another connection
of a pooler such as PgBouncer in transaction mode.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import URL, Connection, Engine, Executable, Select, Table, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from imgstore.catalog.engine.compatibility import FENCE, FENCE_STATE, check_sqlite, contracted_error
from imgstore.catalog.engine.errors import translate_errors
from imgstore.catalog.engine.postgresql_address import is_postgresql_address, parse_postgresql_address
from imgstore.catalog.engine.read_only import copy_catalog
from imgstore.catalog.engine.write_ahead_log import count_changes, count_transaction
from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput, StoreDenied, StoreError, StoreFull, StoreUnreachable, ToolMissing
from imgstore.domain.extras import install_hint
from imgstore.domain.host.os_errors import advise, describe, is_full

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import CursorResult, Row
    from sqlalchemy.engine.interfaces import DBAPIConnection

    Upsert: TypeAlias = "postgresql.Insert | sqlite.Insert"

LOCK_SECONDS_MAX: Final = 30
"""The longest wait for the locks of another transaction. No transaction waits for bytes, so most take milliseconds. The
longest one, the first upgrade of a catalog, takes about two seconds.
"""

LOG_SECONDS_MAX: Final = 2.0
"""The longest wait of a checkpoint of SQLite's log for readers. Writers wait during this time."""

CONNECT_SECONDS_MAX: Final = 10

IDLE_SECONDS_MAX: Final = 1.0
"""A PostgreSQL connection that was idle for longer is pinged before use."""

# In 16 to 32 threads, an operation needs one connection and its heartbeat needs another.
_POOL: Final[Mapping[str, Any]] = {"pool_size": 8, "max_overflow": 56, "pool_timeout": LOCK_SECONDS_MAX}

_SQLITE: Final = "sqlite:///"
_READ_ONLY: Final = "read_only"
"""The execution option of a PostgreSQL connection whose transactions only read."""
_FENCED: Final = "fenced"
"""The execution option of a PostgreSQL connection whose transactions are refused if the catalog needs newer code."""


def upsert(table: Table, *, is_sqlite: bool) -> "Upsert":
    """Return an INSERT of the engine's dialect, which supports ON CONFLICT."""
    if is_sqlite:
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415 - either dialect costs 30 ms to import

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415

    return postgresql.insert(table)


@dataclass(frozen=True, slots=True)
class Session:
    """A transaction on a connection. All methods raise errors of `domain/errors.py` only."""

    connection: Connection
    effects: Effects
    place: str
    """The address of the database without a password."""

    @property
    def is_sqlite(self) -> bool:
        """True on SQLite, where a writing transaction owns the whole database."""
        return self.connection.dialect.name == "sqlite"

    def run(
        self, statement: Executable, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None
    ) -> "CursorResult[Any]":
        """Run a statement once, or once for each of `rows`."""
        with translate_errors(self.place):
            return self.connection.execute(statement, rows)

    def all(self, statement: Executable, values: Mapping[str, Any] | None = None) -> "Sequence[Row[Any]]":
        """Return all rows. `values` are the named parameters of a statement, which can be built once and reused."""
        with translate_errors(self.place):
            return self.connection.execute(statement, values).all()

    def first(self, statement: Executable, values: Mapping[str, Any] | None = None) -> "Row[Any] | None":
        """Return the first row, or None."""
        with translate_errors(self.place):
            return self.connection.execute(statement, values).first()

    def value(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Any:
        """Return the first column of the first row, or None."""
        with translate_errors(self.place):
            return self.connection.execute(statement, values).scalar()

    def stream(self, statement: Executable, *, rows_at_once: int = 256) -> "Iterator[Row[Any]]":
        """Yield the rows with at most `rows_at_once` rows in memory."""
        with translate_errors(self.place):
            # On the connection, the option would make PostgreSQL declare a cursor for each later UPDATE too.
            result = self.connection.execute(statement, execution_options={"yield_per": rows_at_once})
            for rows in result.partitions():  # Half the time of an iteration over single rows.
                yield from rows

    def change(self, statement: Executable) -> int:
        """Run an UPDATE or DELETE and return the number of matched rows."""
        return self.run(statement).rowcount

    def upsert(self, table: Table) -> "Upsert":
        """Return an INSERT of this engine's dialect, which supports ON CONFLICT."""
        return upsert(table, is_sqlite=self.is_sqlite)

    def add_row_locks(self, select: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        """Return `select` with locks on its rows until the end of the transaction.

        Other rows may still refer to the locked rows.

        With `skip_locked`, the statement skips the rows that another transaction has locked.
        """
        return select.with_for_update(key_share=True, skip_locked=skip_locked)

    def lock_name(self, name: str) -> None:
        """Lock a name that is not the key of a row, until the end of the transaction."""
        if not self.is_sqlite:
            with translate_errors(self.place):
                self.connection.exec_driver_sql(
                    "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))", {"name": name}
                )

    def now(self) -> datetime:
        """Return the time of the database's clock in UTC.

        SQLite counts milliseconds, PostgreSQL counts microseconds.
        """
        with translate_errors(self.place):
            if self.is_sqlite:
                text = self.connection.exec_driver_sql("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").scalar_one()
                return datetime.fromisoformat(text).replace(tzinfo=UTC)
            # now() would return the time of the transaction's first statement, even after a long wait for a lock.
            present: datetime = self.connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            return present.astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The connections to a catalog. Several threads may use a database at once."""

    engine: Engine
    readers: Engine
    """The connections of transactions that only read. On SQLite they are opened with `query_only`, because a switch of
    this setting makes SQLite discard its prepared statements: a read of a version took 0.4 ms instead of 0.2 ms. On
    PostgreSQL, `readers` is `engine`.
    """
    url: str = field(repr=False)
    """The address, perhaps with a password."""
    place: str
    """The address without a password."""
    file: Path | None
    """The file of an SQLite catalog, else None."""
    write_fault: OSError | None = None
    """The error that prevents writing. `file` is then a copy, and `place` names the catalog itself."""
    _discards: threading.Event = field(default_factory=threading.Event)
    """Set while writes go to the copy."""
    _closed: threading.Event = field(default_factory=threading.Event)
    _writer_lock: threading.Lock = field(default_factory=threading.Lock)
    """The lock of the SQLite writers of this process. SQLite itself polls, and some writers starve. Of 600 transactions
    in 16 threads, the slowest took 2.4 s, and 0.5 s with this lock. The total time was half as long.
    """

    @contextmanager
    def writing(self, effects: Effects) -> Iterator[Session]:
        """Run a transaction that may write. Commit at the end, roll back on an exception.

        Raises:
            StoreError: the database refused (see `translate_errors`).
            StoreDenied, StoreFull: the catalog can be read only.
        """
        if self.write_fault is not None and not self._discards.is_set():
            raise _read_only_error(self.place, self.write_fault)
        with (
            translate_errors(self.place),
            self._hold_writer_lock(),
            self._connect(self.engine) as connection,
            connection.execution_options(**{_FENCED: True}).begin(),
        ):
            if self.file is not None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                check_sqlite(connection, self.place)
            before = 0 if self.file is None else count_changes(connection)
            yield Session(connection, effects, self.place)
            if self.file is not None and count_changes(connection) != before:
                count_transaction(connection)

    @contextmanager
    def reading(self, effects: Effects) -> Iterator[Session]:
        """Run a transaction that only reads, on one consistent snapshot.

        Raises:
            StoreError: the database refused (see `translate_errors`).
        """
        with (
            translate_errors(self.place),
            self._connect(self.readers) as connection,
            _begin_read_only(connection, self.place),
        ):
            yield Session(connection, effects, self.place)

    def empty_log(self) -> bool:
        """Write SQLite's write-ahead log into the file and truncate the log, which may contain overwritten values.

        Returns:
            True if the log is empty. False if another process reads at the moment, and on PostgreSQL.

        Raises:
            StoreError: the database refused (see `translate_errors`).
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

    @contextmanager
    def discarding_writes(self) -> Iterator[None]:
        """Let writes of the block go to the copy of a read-only catalog. The copy is discarded with the process."""
        was_set = self._discards.is_set()
        self._discards.set()
        try:
            yield
        finally:
            if not was_set:
                self._discards.clear()

    def close(self) -> None:
        """Close all connections. A thread that still uses a connection closes that connection after its transaction."""
        self._closed.set()
        self.engine.dispose()
        self.readers.dispose()

    @contextmanager
    def _connect(self, engine: Engine) -> Iterator[Connection]:
        pool = engine.pool  # A connection returns here, also after the engine has got a new pool.
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            if self._closed.is_set():  # The look at silent regions may end after the last command of a process.
                pool.dispose()

    def _hold_writer_lock(self) -> AbstractContextManager[object]:
        return nullcontext() if self.file is None else _hold(self._writer_lock, self.place)


def configure_database(url: str) -> Database:
    """Return the database that `url` names, without a connection.

    Raises:
        InvalidInput: `url` is neither sqlite:///path nor a valid postgresql:// address.
        ToolMissing: psycopg is not installed.
    """
    if url.startswith(_SQLITE) and url != _SQLITE:
        # make_url would change '?' and '%' in a path.
        return _sqlite(Path(url.removeprefix(_SQLITE)).absolute())
    address = url.strip()  # A variable from a file ends with a line end.
    if not is_postgresql_address(address):
        raise _invalid_address_error(url)
    return _postgresql(address)


def copy_database(database: Database, folder: Path, fault: OSError) -> Database:
    """Return a read-only database over a copy of an SQLite catalog.

    Args:
        database: the catalog that cannot be written.
        folder: the folder of the copy.
        fault: the error that prevents writing.

    Raises:
        StoreUnreachable: another process changed the catalog all the time.
        OSError: the folder cannot be written.
    """
    assert database.file is not None, "only SQLite catalogs are files"
    copy = _sqlite(copy_catalog(database.file, folder))
    return replace(copy, place=database.place, write_fault=fault)


def _sqlite(path: Path) -> Database:
    return Database(
        engine=_sqlite_engine(path),
        readers=_sqlite_engine(path, "query_only = ON"),
        url=f"{_SQLITE}{path}",
        place=str(path),
        file=path,
    )


def _sqlite_engine(path: Path, *pragmas: str) -> Engine:
    from imgstore.catalog.engine import sqlite_dialect  # noqa: PLC0415 - either dialect costs 30 ms to import

    engine = create_engine(
        URL.create(sqlite_dialect.NAME, database=str(path)),
        connect_args={"timeout": LOCK_SECONDS_MAX},
        execution_options={"compiled_cache": sqlite_dialect.COMPILED},
        **_POOL,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: "DBAPIConnection", _entry: ConnectionPoolEntry) -> None:
        # `Database` begins the transactions. The driver must not begin any.
        connection.isolation_level = None
        cursor = connection.cursor()
        # In WAL mode, less than FULL may lose committed transactions, and therefore charges, at a power failure.
        # secure_delete overwrites deleted values with zeros, because the URL of a source may contain a signature.
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _postgresql(url: str) -> Database:
    try:
        address = parse_postgresql_address(url)
        engine = create_engine(
            "postgresql+psycopg://",
            connect_args={
                "connect_timeout": CONNECT_SECONDS_MAX,
                **address.parameters,
                # In SQL_ASCII, the default of a database without a locale, the driver returns bytes instead of text.
                "client_encoding": "UTF8",
                # The event below begins the transactions. The driver must not begin any.
                "autocommit": True,
                # A prepared statement belongs to a session.
                "prepare_threshold": None,
            },
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

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        mode = "REPEATABLE READ, READ ONLY" if options.get(_READ_ONLY, False) else "READ COMMITTED"
        # All statements are one round trip. The limit ends with the transaction.
        statements = f"BEGIN ISOLATION LEVEL {mode}; SET LOCAL lock_timeout = '{int(LOCK_SECONDS_MAX * 1000)}ms'"
        if not options.get(_FENCED, False):
            connection.exec_driver_sql(statements)
            return
        try:
            connection.exec_driver_sql(f"{statements}; {FENCE}")
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != FENCE_STATE:
                raise
            raise contracted_error(address.place) from error

    _ping_idle_connections(engine)
    return Database(engine=engine, readers=engine, url=url, place=address.place, file=None)


def _ping_idle_connections(engine: Engine) -> None:
    """Ping a connection that was idle, and replace a dead connection.

    SQLAlchemy's pool_pre_ping pings before each transaction. That round trip takes 6% of the time of a placement.
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
            raise InvalidatePoolError from error  # The server has stopped, so all idle connections are dead.


@contextmanager
def _begin_read_only(connection: Connection, place: str) -> Iterator[None]:
    if connection.dialect.name != "sqlite":
        with connection.execution_options(**{_READ_ONLY: True, _FENCED: True}).begin():
            yield
        return
    with connection.begin():
        connection.exec_driver_sql("BEGIN")
        check_sqlite(connection, place)
        yield


def _read_only_error(place: str, fault: OSError) -> StoreError:
    return (StoreFull if is_full(fault) else StoreDenied)(
        f"The catalog in {place} can be read only.",
        found=describe(fault, place),
        expected="a catalog that this user may write, for a command that changes something",
        hint=f"{advise(fault, place)}, then run the same command again",
        target=place,
    )


@contextmanager
def _hold(lock: threading.Lock, place: str) -> Iterator[None]:
    if not lock.acquire(timeout=LOCK_SECONDS_MAX):
        raise StoreUnreachable(
            f"The catalog in {place} was locked too long.",
            found=f"a transaction of this process that took more than {LOCK_SECONDS_MAX} s",
            expected="transactions of milliseconds that are never nested",
            hint="run the command again",
            target=place,
        )
    try:
        yield
    finally:
        lock.release()


def _invalid_address_error(url: str) -> InvalidInput:
    return InvalidInput(
        "The address of the database is invalid.",
        found=repr(url.rpartition("@")[2].partition("?")[0]) if "://" in url else "no URL",
        expected="sqlite:///PATH or postgresql://USER@HOST/NAME",
        hint="correct the address in --database, IMGSTORE_DATABASE, or --to of `imgstore catalog copy`",
        target="database",
    )
