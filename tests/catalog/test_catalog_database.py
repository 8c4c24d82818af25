"""Opening, upgrades, transactions and errors of real databases. A killed process leaves no changes."""

import fcntl
import importlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from catalog_values import POOLED_ENGINES, SUBSCRIPTION, group, settle
from sqlalchemy import Connection, create_engine, make_url, text

from imgstore.catalog import Catalog
from imgstore.catalog.engine.database import configure_database
from imgstore.catalog.engine.sqlite_dialect import COMPILED
from imgstore.catalog.schema import REVISION, metadata
from imgstore.domain.effects import Effects
from imgstore.domain.errors import (
    ImgstoreError,
    InvalidInput,
    ObjectCorrupt,
    StoreDenied,
    StoreFull,
    StoreMismatch,
    StoreUnreachable,
    ToolMissing,
)
from imgstore.testing import engines
from imgstore.testing.engines import PgBouncer, PostgreSQL
from tests.support.older_catalog import older_catalog

pytest_plugins = ["catalog_fixtures"]


class _Undone(Exception):
    pass


# -- the schema -------------------------------------------------------------------------------------------------------


def test_migrations_end_at_the_expected_revision() -> None:
    folder = Path(importlib.import_module("imgstore.catalog.migrations").__file__ or "").parent
    assert ScriptDirectory(str(folder)).get_heads() == [REVISION]


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_migrations_create_the_schema(catalog_url: str) -> None:
    with older_catalog(catalog_url, REVISION) as session:
        assert compare_metadata(MigrationContext.configure(session.connection), metadata) == []


def test_new_catalog_equals_a_migrated_catalog(catalog_url: str, tmp_path: Path) -> None:
    """Compare the database's own statements. Alembic does not compare checks, partial indexes and cascades."""
    with older_catalog(catalog_url, REVISION) as session:
        migrated = _told(session.connection)
        is_sqlite = session.is_sqlite
    new_url = f"sqlite:///{tmp_path}/new/catalog.db" if is_sqlite else catalog_url
    if not is_sqlite:
        emptied = configure_database(catalog_url)
        with emptied.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
        emptied.close()
    new = Catalog.open(new_url, Effects())
    with new.reading() as transaction:
        assert _told(transaction._session.connection) == migrated
    new.close()
    assert len(migrated) > 100


def test_new_catalog_admits_the_oldest_code_of_the_migrations(fresh_catalog: Catalog) -> None:
    """Invariant L7."""
    folder = Path(importlib.import_module("imgstore.catalog.migrations").__file__ or "").parent
    scripts = ScriptDirectory(str(folder)).walk_revisions()
    oldest = max(getattr(script.module, "oldest_code", "") for script in scripts)
    with fresh_catalog.reading() as transaction:
        stored = transaction._session.connection.exec_driver_sql("SELECT * FROM alembic_version").all()
    assert stored == [(REVISION, oldest)]


def test_empty_revision_table_is_no_catalog(catalog_url: str) -> None:
    other = create_engine(_created(catalog_url))
    with other.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    other.dispose()
    Catalog.open(catalog_url, Effects()).close()
    Catalog.open(catalog_url, Effects()).close()


def _spaced(sql: str) -> str:
    """Return a statement without quotes and with single spaces, because ADD COLUMN puts a space before a comma."""
    return " ".join(sql.replace('"', "").split()).replace(" ,", ",")


def _told(connection: Connection) -> set[tuple[str, ...]]:
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    else:
        rows = connection.exec_driver_sql(
            "SELECT conname, conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace"
            " UNION ALL SELECT indexname, indexdef FROM pg_indexes"
            " WHERE schemaname = 'public'"
            " UNION ALL SELECT column_name, table_name || ' ' || data_type || ' ' || is_nullable"
            " || coalesce(column_default, '') FROM information_schema.columns"
            " WHERE table_schema = 'public'"
            " UNION ALL SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
            " UNION ALL SELECT proname, pg_get_functiondef(oid) FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
        ).all()
    # Ignore the order of constraints, and the quotes that SQLite puts around the name of a recreated table.
    return {
        (
            str(row[0]),
            *sorted(part.rstrip(" )") for part in _spaced(str(row[1])).split(", CONSTRAINT ")),
        )
        for row in rows
    }


def test_current_catalog_opens_without_alembic(fresh_catalog: Catalog, catalog_url: str) -> None:
    program = (
        "import sys\nfrom imgstore.catalog import Catalog\nfrom imgstore.domain.effects import Effects\n"
        f"Catalog.open({catalog_url!r}, Effects()).close()\nprint('alembic' in sys.modules, flush=True)"
    )
    with _started(program) as process:
        _await(process, "False")


def test_catalog_of_newer_code_is_refused(fresh_catalog: Catalog, catalog_url: str) -> None:
    with fresh_catalog.transaction() as transaction:
        transaction._session.connection.exec_driver_sql(
            "UPDATE alembic_version SET version_num = '9999', oldest_code = '9998'"
        )
    with pytest.raises(StoreMismatch, match="revision 9999, which this imgstore does not know") as caught:
        Catalog.open(catalog_url, Effects())
    assert "newer" in str(caught.value.hint)


@pytest.mark.parametrize("other", ["0001", "9999"])
def test_catalog_with_two_revisions_is_refused(fresh_catalog: Catalog, catalog_url: str, other: str) -> None:
    """A backup that was restored into a database in use may have two revisions."""
    with fresh_catalog.transaction() as transaction:
        transaction._session.connection.exec_driver_sql(f"INSERT INTO alembic_version (version_num) VALUES ('{other}')")
    with pytest.raises(StoreMismatch, match=f"revision .*{other}.*, which this imgstore does not know"):
        Catalog.open(catalog_url, Effects())


def test_database_of_another_program_is_refused(catalog_url: str) -> None:
    other = create_engine(_created(catalog_url))
    with other.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE groups (id INTEGER)")
    other.dispose()
    with pytest.raises(StoreMismatch, match="tables without a revision: groups"):
        Catalog.open(catalog_url, Effects())


def _created(url: str) -> str:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    return url


# -- opening ----------------------------------------------------------------------------------------------------------


def test_sqlite_files_are_private_and_durable(tmp_path: Path) -> None:
    file = tmp_path / "a?b %41" / "catalog.db"
    catalog = Catalog.open(f"sqlite:///{file}", Effects())
    try:
        with catalog.transaction() as transaction:
            settle(transaction)
            told = [
                transaction._session.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
            ]
        assert told == ["wal", 2, 30_000, 1]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (file.parent, *file.parent.iterdir())}
        assert modes.pop(file.parent.name) == 0o700
        assert set(modes.values()) == {0o600}
        assert {"catalog.db", "catalog.db-wal"} <= modes.keys()
    finally:
        catalog.close()


def test_processes_open_a_new_home_at_once(catalog_url: str) -> None:
    program = (
        "import sys\nfrom imgstore.catalog import Catalog\nfrom imgstore.domain.effects import Effects\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        f"catalog = Catalog.open({catalog_url!r}, Effects())\n"
        "with catalog.transaction() as facts:\n    print(facts.installation.ensure(None).uid)\ncatalog.close()"
    )
    with ExitStack() as stack:
        processes = [stack.enter_context(_started(program)) for _ in range(3)]
        for process in processes:
            _await(process, "ready")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], told
    assert len({out for out, _ in told}) == 1


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_threads_open_a_new_home_at_once(catalog_url: str) -> None:
    barrier = Barrier(4)

    def start(_: int) -> str:
        barrier.wait()
        catalog = Catalog.open(catalog_url, Effects())
        try:
            with catalog.transaction() as transaction:
                return transaction.installation.ensure(None).uid
        finally:
            catalog.close()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(start, range(4)))) == 1


def test_open_waits_for_the_creation_of_the_catalog(tmp_path: Path) -> None:
    """SQLite refuses the second of two processes that set the journal mode at once."""
    descriptor = os.open(tmp_path / "catalog.db.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as thread:
        try:
            opening = thread.submit(Catalog.open, f"sqlite:///{tmp_path}/catalog.db", Effects())
            with pytest.raises(TimeoutError):
                opening.result(timeout=0.3)
            assert not (tmp_path / "catalog.db").exists()
        finally:
            os.close(descriptor)
        opening.result(timeout=60).close()


@pytest.mark.parametrize(
    "url", ["mysql://root@h/x", "sqlite://", "sqlite:///", "nonsense", "postgresql+psycopg2://h/x"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="postgresql://USER@HOST/NAME"):
        Catalog.open(url, Effects())


def test_password_is_not_shown() -> None:
    with pytest.raises(InvalidInput) as caught:
        Catalog.open("mysql://root:secret@h/x", Effects())
    assert "secret" not in str(caught.value)


def test_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ToolMissing, match=r"pip install 'imgstore-gallery\[postgresql\]'"):
        Catalog.open("postgresql://u@127.0.0.1/x", Effects())


@pytest.mark.engine("postgresql")
def test_postgresql_is_named_with_or_without_its_driver(postgresql: str) -> None:
    for url in (postgresql, postgresql.replace("postgresql+psycopg", "postgresql")):
        Catalog.open(url, Effects()).close()


@pytest.mark.engine("postgresql")
def test_postgresql_session_keeps_no_state(postgresql: str) -> None:
    """Invariant L6. A repeated statement is not prepared, and the limit of a wait for locks ends with its transaction."""
    catalog = Catalog.open(postgresql, Effects())
    try:
        for _ in range(12):
            with catalog.transaction() as transaction:
                transaction._session.lock_name("westus2")
                assert transaction._session.connection.exec_driver_sql("SHOW lock_timeout").scalar() == "30s"
                transaction.groups.list(SUBSCRIPTION)
            with catalog.reading() as transaction:
                list(transaction._session.stream(text("SELECT generate_series(1, 1000)")))
        with catalog._database.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            rows = driver.execute(
                "SELECT (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors),"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
                " (SELECT count(*) FROM pg_settings WHERE source = 'session' AND name <> 'client_encoding')"
            ).fetchall()
        assert rows == [(0, 0, 0, 0)]
    finally:
        catalog.close()


# -- transactions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_exception_rolls_back_the_transaction(catalog: Catalog) -> None:
    with pytest.raises(_Undone), catalog.transaction() as transaction:
        settle(transaction)
        raise _Undone
    with catalog.reading() as transaction:
        assert transaction.groups.list(SUBSCRIPTION) == []


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_reading_sees_one_snapshot(catalog: Catalog) -> None:
    with catalog.reading() as before:
        assert before.groups.list(SUBSCRIPTION) == []
        with catalog.transaction() as transaction:
            transaction.groups.add(group())
        assert before.groups.list(SUBSCRIPTION) == []
    with catalog.reading() as after:
        assert len(after.groups.list(SUBSCRIPTION)) == 1


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_reading_cannot_write_and_leaves_the_connection_unchanged(catalog: Catalog) -> None:
    for _ in range(2):
        with pytest.raises(StoreDenied), catalog.reading() as transaction:
            transaction.groups.add(group())
        with catalog.transaction() as transaction:
            transaction.groups.add(group(f"g{len(transaction.groups.list(SUBSCRIPTION))}"))


def test_time_comes_from_the_database(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        first, second = transaction.now(), transaction.now()
    assert first <= second
    assert first.utcoffset() is not None
    # Invariant W16.
    assert abs(first - Effects().now()).total_seconds() < 60


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
@pytest.mark.parametrize("lock", ["slot", "region", "turn"])
def test_locks_block_other_transactions(catalog: Catalog, lock: str) -> None:
    """The second transaction reads only after the first has committed its change under the lock."""
    with catalog.transaction() as transaction:
        world = settle(transaction)
    locks: dict[str, Callable[..., None]] = {
        "slot": lambda transaction: transaction.slots.lock(world.slot.uid),
        "region": lambda transaction: transaction.slots.lock_region(world.pool.uid, "westus2"),
        "turn": lambda transaction: transaction.placements.advance_counter(world.version.uid, "westus2"),
    }

    def add_one(_: int) -> None:
        with catalog.transaction() as transaction:
            locks[lock](transaction)
            count = len(transaction.groups.list("counted"))
            transaction.groups.add(group(f"g{count}", subscription="counted"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add_one, range(40)))
    with catalog.reading() as transaction:
        assert len(transaction.groups.list("counted")) == 40


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_killed_writer_leaves_no_changes(fresh_catalog: Catalog, catalog_url: str) -> None:
    program = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom catalog_values import *\n"
        "from imgstore.catalog import Catalog\nfrom imgstore.domain.effects import Effects\n"
        f"catalog = Catalog.open({catalog_url!r}, Effects())\n"
        "with catalog.transaction() as facts:\n    facts.groups.add(group('kept'))\n"
        "with catalog.transaction() as facts:\n"
        "    pool = settle(facts).pool.uid\n"
        "    facts.segments.put(pool, [segment(number) for number in range(20_000)])\n"
        "    print('written', flush=True)\n    sys.stdin.readline()\n"
    )
    with _started(program) as process:
        _await(process, "written")
        process.kill()
    opened = Catalog.open(catalog_url, Effects())
    try:
        with opened.transaction() as transaction:
            assert [each.name for each in transaction.groups.list(SUBSCRIPTION)] == ["kept"]
            assert transaction._session.connection.exec_driver_sql("SELECT count(*) FROM segments").scalar() == 0
            if catalog_url.startswith("sqlite"):
                assert transaction._session.connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            settle(transaction)
    finally:
        opened.close()


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_lock_that_is_held_too_long_is_reported(catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgstore.catalog.engine.database.LOCK_SECONDS_MAX", 0.05)
    first, second = (Catalog.open(catalog_url, Effects()) for _ in range(2))
    try:
        with first.transaction() as transaction:
            transaction.slots.lock_region("pool", "westus2")
            # SQLite waits for another process or another thread. PostgreSQL waits for the lock of the name.
            for other in (second, first):
                with pytest.raises(StoreUnreachable) as caught, other.transaction() as waiting:
                    waiting.slots.lock_region("pool", "westus2")
                assert caught.value.hint
    finally:
        first.close()
        second.close()


def test_full_disk_is_reported(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db", Effects())
    try:
        with pytest.raises(StoreFull, match="full"), catalog.transaction() as transaction:
            # SQLite then reports the same error as with a full file system.
            transaction._session.connection.exec_driver_sql("PRAGMA max_page_count = 1")
            for number in range(10_000):
                transaction.groups.add(group(f"g{number}"))
        with catalog.reading() as transaction:
            assert transaction.groups.list(SUBSCRIPTION) == []
    finally:
        catalog.close()


def test_file_that_is_not_a_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"VHD? " * 1000)
    with pytest.raises(ObjectCorrupt, match="not a database"):
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db", Effects())


def test_damaged_database_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    catalog = Catalog.open(f"sqlite:///{file}", Effects())
    with catalog.transaction() as transaction:
        for number in range(200):
            transaction.groups.add(group(f"g{number}"))
    catalog.close()
    whole = file.read_bytes()
    root = sqlite3.connect(file).execute("SELECT rootpage FROM sqlite_master WHERE name = 'groups'").fetchone()[0]
    page = 4096 * (root - 1)
    file.write_bytes(whole[:page] + b"\xff" * 4096 + whole[page + 4096 :])
    catalog = Catalog.open(f"sqlite:///{file}", Effects())
    try:
        with pytest.raises(ObjectCorrupt, match="malformed") as caught, catalog.reading() as transaction:
            transaction.groups.list(SUBSCRIPTION)
        assert "backup" in str(caught.value.hint)
    finally:
        catalog.close()


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreDenied, match=r"Not a directory|File exists"):
        Catalog.open(f"sqlite:///{tmp_path}/file/catalog.db", Effects())
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(StoreDenied):
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db", Effects())


def test_server_that_does_not_answer_is_reported() -> None:
    with pytest.raises(StoreUnreachable, match="refused") as caught:
        Catalog.open("postgresql://me:secret@127.0.0.1:1/x", Effects())
    assert "secret" not in str(caught.value)
    assert caught.value.retryable


def test_silent_server_is_reported() -> None:
    """A firewall or a frozen server accepts no connection and refuses none."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2"
        with pytest.raises(StoreUnreachable, match="timeout expired") as caught:
            Catalog.open(address, Effects())
    assert caught.value.retryable


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize(
    ("change", "kind", "found"),
    [
        ({"database": "nowhere"}, StoreDenied, 'database "nowhere" does not exist'),
        ({"username": "stranger"}, StoreDenied, 'role "stranger" does not exist'),
        ({"query": {"service": "nowhere"}}, InvalidInput, 'service "nowhere" not found'),
        ({"query": {"target_session_attrs": "master"}}, InvalidInput, 'invalid target_session_attrs value: "master"'),
        ({"query": {"hostaddr": "::1,::2"}}, InvalidInput, "could not match 1 host names with 2 hostaddr values"),
        ({"query": {"target_session_attrs": "standby"}}, StoreUnreachable, "not in hot standby mode"),
        ({"query": {"connect_timeout": "soon"}}, InvalidInput, "bad value for connect_timeout"),
        ({"query": {"options": "-c nothing=1"}}, InvalidInput, 'unrecognized configuration parameter "nothing"'),
        ({"query": {"sslnegotiation": "direct"}}, InvalidInput, 'weak sslmode "prefer"'),
        ({"query": {"client_encoding": "SQL_ASCII"}}, None, ""),
        ({"query": {"application_name": "a", "options": "-c search_path=public", "connect_timeout": "9"}}, None, ""),
    ],
)
def test_refused_connections_name_the_cause(
    postgresql: str, change: dict[str, Any], kind: type[ImgstoreError] | None, found: str
) -> None:
    url = make_url(postgresql).set(drivername="postgresql")
    url = url.update_query_dict(change["query"]) if "query" in change else url.set(**change)
    address = url.set(password="secret-word").render_as_string(hide_password=False).replace("+", "%20")
    with nullcontext() if kind is None else pytest.raises(kind) as caught:
        Catalog.open(address, Effects()).close()
    if caught is not None:
        assert found in str(caught.value)
        assert "secret-word" not in str(caught.value)


@pytest.mark.engine("pgbouncer")
def test_parameters_that_a_pooler_refuses_are_named(postgresql: str, pgbouncer: PgBouncer) -> None:
    url = pgbouncer.url(postgresql)
    with pytest.raises(InvalidInput, match=r"unsupported startup parameter: options(.|\n)*ALTER ROLE"):
        Catalog.open(f"{url}?options=-c%20search_path%3Dpublic", Effects())
    with pytest.raises(StoreDenied, match=r"server does not support SSL(.|\n)*sslmode"):
        Catalog.open(f"{url}?sslmode=require", Effects())


@pytest.mark.engine("pgbouncer")
def test_pooler_in_statement_mode_is_refused(postgresql: str, postgresql_server: PostgreSQL, tmp_path: Path) -> None:
    with (
        engines.start_pgbouncer(tmp_path, postgresql_server, pool_mode="statement") as pooler,
        pytest.raises(StoreDenied, match="pool_mode = transaction"),
    ):
        Catalog.open(pooler.url(postgresql), Effects())


@pytest.mark.engine("pgbouncer")
def test_exhausted_pooler_is_named(postgresql: str, postgresql_server: PostgreSQL, tmp_path: Path) -> None:
    limits = {"default_pool_size": "1", "max_client_conn": "2", "query_wait_timeout": "1"}
    with engines.start_pgbouncer(tmp_path, postgresql_server, **limits) as pooler:
        url = pooler.url(postgresql)
        catalog = Catalog.open(url, Effects())
        try:
            with catalog.transaction() as transaction:
                transaction.groups.list(SUBSCRIPTION)
                with pytest.raises(StoreUnreachable, match=r"query_wait_timeout(.|\n)*default_pool_size"):
                    Catalog.open(url, Effects())
                with (
                    closing(catalog._database.engine.raw_connection()),
                    pytest.raises(StoreUnreachable, match=r"no more connections allowed(.|\n)*raise max_client_conn"),
                ):
                    Catalog.open(url, Effects())
        finally:
            catalog.close()


@pytest.mark.engine("pgbouncer")
def test_first_of_several_hosts_that_answers_is_used(postgresql: str, pgbouncer: PgBouncer) -> None:
    url = pgbouncer.url(postgresql).replace("127.0.0.1:", "127.0.0.1:1,[::1]:1,127.0.0.1:")
    catalog = Catalog.open(url, Effects())
    try:
        assert catalog.place == url
        with catalog.transaction() as transaction:
            transaction.groups.add(group())
    finally:
        catalog.close()


@pytest.mark.engine("postgresql")
def test_connections_that_the_server_ended_are_replaced(postgresql: str) -> None:
    catalog = Catalog.open(postgresql, Effects())
    try:
        with pytest.raises(StoreUnreachable), catalog.transaction() as transaction:
            transaction.groups.add(group())
            transaction._session.connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        with catalog.transaction() as transaction:
            assert transaction.groups.list(SUBSCRIPTION) == []
    finally:
        catalog.close()


@pytest.mark.engine("postgresql")
def test_connections_that_the_server_ended_while_idle_are_replaced(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgstore.catalog.engine.database.IDLE_SECONDS_MAX", 0.0)
    catalog, other = (Catalog.open(postgresql, Effects()) for _ in range(2))
    try:
        with catalog.reading() as transaction:
            process = transaction._session.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with other.transaction() as transaction:
            ended = f"SELECT pg_terminate_backend({process}, 10000)"
            assert transaction._session.connection.exec_driver_sql(ended).scalar()
        with catalog.transaction() as transaction:
            assert transaction.groups.list(SUBSCRIPTION) == []
    finally:
        catalog.close()
        other.close()


@pytest.mark.engine("postgresql")
def test_deadlock_can_be_retried(postgresql: str) -> None:
    catalog = Catalog.open(postgresql, Effects())
    barrier = Barrier(2)

    def lock(names: tuple[str, str]) -> str:
        try:
            with catalog.transaction() as transaction:
                transaction.slots.lock_region("pool", names[0])
                barrier.wait()
                transaction.slots.lock_region("pool", names[1])
        except StoreUnreachable as error:
            return str(error.found)
        return "done"

    try:
        with ThreadPoolExecutor(2) as threads:
            told = sorted(threads.map(lock, [("a", "b"), ("b", "a")]))
    finally:
        catalog.close()
    assert "deadlock" in told[0]
    assert told[1] == "done"


# -- other processes --------------------------------------------------------------------------------------------------


@contextmanager
def _started(program: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process with `program` and end the process after the block."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _await(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != word:
        pytest.fail(process.communicate()[1])


def test_catalogs_of_a_process_share_compiled_statements(tmp_path: Path) -> None:
    stored = []
    for name in ("one", "two"):
        catalog = Catalog.open(f"sqlite:///{tmp_path}/{name}/catalog.db", Effects())
        with catalog.transaction() as transaction:
            transaction.groups.add(group(name))
        with catalog.reading() as transaction:
            assert [each.name for each in transaction.groups.list(SUBSCRIPTION)] == [name]
        catalog.close()
        stored.append(len(COMPILED))
    assert stored[0] == stored[1] > 0


@pytest.mark.parametrize("ends_before", [False, True])
def test_a_transaction_beside_the_close_leaves_no_connection(catalog_url: str, *, ends_before: bool) -> None:
    """A thread that looks at silent regions may end after the last command of a process."""
    catalog = Catalog.open(catalog_url, Effects())
    database = catalog._database
    pool = database.readers.pool
    with ExitStack() as reading:
        reading.enter_context(catalog.reading()).now()
        if ends_before:
            reading.close()
        catalog.close()
        if ends_before:
            reading.enter_context(catalog.reading()).now()
    for each in (pool, database.readers.pool):
        assert each.checkedin() == 0  # type: ignore[attr-defined]
