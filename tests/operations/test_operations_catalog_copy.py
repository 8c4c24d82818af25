"""Tests of copies of a catalog into another database: equal rows, sequences, triggers, refusals, and writers."""

import json
import os
import shlex
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from imgstore.catalog import Catalog
from imgstore.catalog.engine import upgrade
from imgstore.catalog.recovery import row_copies
from imgstore.cli.main import main
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, InvalidInput, ObjectCorrupt, StoreMismatch, StoreUnreachable, WorkHeld
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.copy import copy_catalog
from imgstore.testing.engines import PostgreSQL
from tests.support.catalog_tables import read_tables
from tests.support.sample_gallery import (
    ADMIN,
    audit,
    create_sample_gallery,
    make_disk,
    open_home,
)

pytest_plugins = ["tests.support.published_gallery"]


def without_activity(url: str) -> dict[str, list[Any]]:
    return {name: rows for name, rows in read_tables(url).items() if name != "activity"}


def run(home: Path, *words: str, database: str = "") -> Result:
    env = {"IMGSTORE_DATABASE": database}
    return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore", env=env)


def test_a_home_moves_to_postgresql_and_back(published: Installation, postgresql_server: PostgreSQL) -> None:
    home = published.home
    first = f"sqlite:///{home}/catalog.sqlite"
    for name in ("d1", "d2"):
        make_disk(published, name, "eastus")
    with published.catalog.transaction() as transaction:
        transaction.settings.initialize({"limits.galleries_max": 7})
    with postgresql_server.database() as url:
        expected = without_activity(first)
        moved = run(home, "catalog", "copy", "--to", url)
        assert moved.exit_code == 0, moved.output
        answer = json.loads(moved.stdout)
        assert (answer["equal"], answer["changedDuringCopy"]) == (True, [])
        counts = {each["table"]: each["rows"] for each in answer["tables"]}
        assert {name: len(rows) for name, rows in expected.items()} == {
            name: count for name, count in counts.items() if name != "activity"
        }
        assert f"IMGSTORE_DATABASE={shlex.quote(answer['to'])}" in moved.stderr
        assert f"mv {home}/catalog.sqlite" in moved.stderr
        assert without_activity(url) == expected
        with open_home(home, database=url) as installation:
            assert installation.uid == published.uid
            audit(installation, quiet=False)
            make_disk(installation, "d3", "eastus")  # The sequences continue.
            audit(installation, quiet=False)
        expected = without_activity(url)
        (home / "catalog.sqlite").rename(home / "former.sqlite")
        for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
            (home / name).unlink(missing_ok=True)
        back = run(home, "catalog", "copy", "--to", first, database=url)
        assert back.exit_code == 0, back.output
        assert "unset IMGSTORE_DATABASE" in back.stderr
        assert without_activity(first) == expected
    with open_home(home) as installation:
        audit(installation, quiet=False)
        make_disk(installation, "d4", "eastus")
        with installation.catalog.reading() as transaction:
            actions = [row.action for row in transaction.activity.list(100)]
    assert actions.count("imgstore/catalog/copy") == 2, "each copy is recorded in its target, too"


def test_a_deleted_last_key_is_not_used_again(tmp_path: Path, postgresql_server: PostgreSQL) -> None:
    with (
        postgresql_server.database() as url,
        postgresql_server.database() as other,
        open_home(tmp_path / "home") as installation,
    ):
        create_sample_gallery(installation)
        with installation.catalog.transaction() as transaction:
            connection = transaction._session.connection
            last = connection.exec_driver_sql("SELECT max(id) FROM activity").scalar_one()
            connection.exec_driver_sql("DELETE FROM activity WHERE id = ?", (last,))
        copy_catalog(installation, ADMIN, url)  # This also adds a row to both logs.
        with psycopg.connect(url.replace("+psycopg", "")) as connection_:
            (found,) = connection_.execute("SELECT max(id) FROM activity").fetchone() or (0,)
            assert found == last + 1
            connection_.execute("DELETE FROM activity WHERE id = %s", (found,))
        with open_home(tmp_path / "home", database=url) as moved:
            for target in (other, f"sqlite:///{tmp_path}/back.sqlite"):
                copy_catalog(moved, ADMIN, target)
        assert [row[0] for row in read_tables(other)["activity"]][-1] == found + 1
        assert max(row[0] for row in read_tables(f"sqlite:///{tmp_path}/back.sqlite")["activity"]) == found + 2


TRIGGER = "CREATE TRIGGER marked AFTER INSERT ON groups BEGIN UPDATE installation SET outdated = 'marked'; END"
POSTGRESQL_TRIGGER = """
CREATE FUNCTION mark() RETURNS trigger AS 'BEGIN UPDATE installation SET outdated = ''marked''; RETURN NEW; END'
LANGUAGE plpgsql;
CREATE TRIGGER marked AFTER INSERT ON groups FOR EACH ROW EXECUTE FUNCTION mark()
"""


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.engine("postgresql"))])
def test_triggers_of_the_target_do_not_run_and_stay(
    empty: Installation, engine: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("postgresql") if engine == "postgresql" else f"sqlite:///{tmp_path}/new.sqlite"
    real = upgrade.upgrade_catalog

    def add_trigger(database: Any, is_dead: Any) -> None:
        real(database, is_dead)
        with database.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(POSTGRESQL_TRIGGER if engine == "postgresql" else TRIGGER)

    monkeypatch.setattr(row_copies, "upgrade_catalog", add_trigger)
    expected = without_activity(f"sqlite:///{empty.home}/catalog.sqlite")
    copy_catalog(empty, ADMIN, url)
    assert without_activity(url) == expected
    with open_home(tmp_path / "home", database=url) as moved, moved.catalog.transaction() as transaction:
        connection = transaction._session.connection
        connection.exec_driver_sql("DELETE FROM definitions")
        connection.exec_driver_sql("DELETE FROM galleries")
        connection.exec_driver_sql("UPDATE groups SET name_key = 'other'")
        connection.exec_driver_sql(
            "INSERT INTO groups SELECT 'u', subscription, subscription_key, name, 'n', location, "
            "tags, created_at FROM groups"
        )
        assert transaction.installation.get().outdated == "marked", "the trigger exists after the copy"


def test_changes_during_the_copy_are_named(
    empty: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target has one snapshot, and the exit code tells that the source has changed since."""
    real = row_copies._copy_sequences

    def change(*args: Any) -> None:
        real(*args)
        monkeypatch.undo()
        with open_home(empty.home) as other, other.catalog.transaction() as transaction:
            transaction.sequence.next()

    monkeypatch.setattr(row_copies, "_copy_sequences", change)
    before = without_activity(f"sqlite:///{empty.home}/catalog.sqlite")
    done = run(empty.home, "catalog", "copy", "--to", f"sqlite:///{tmp_path}/new.sqlite")
    assert done.exit_code == 1, done.output
    answer = json.loads(done.stdout)
    assert answer["changedDuringCopy"] == ["checkpoints"]
    assert "stop all servers and workers" in answer["nextSteps"][0]
    assert without_activity(f"sqlite:///{tmp_path}/new.sqlite") == before


def test_a_target_with_content_is_refused(empty: Installation, tmp_path: Path, postgresql: str) -> None:
    target = tmp_path / "new.sqlite"
    target.write_text("x")
    with pytest.raises(Conflict, match="not empty") as caught:
        copy_catalog(empty, ADMIN, f"sqlite:///{target}")
    assert caught.value.found == "new.sqlite with 1 bytes"
    assert target.read_text() == "x"
    with pytest.raises(InvalidInput, match="onto itself"):
        copy_catalog(empty, ADMIN, f"sqlite:///{empty.home}/catalog.sqlite")
    with pytest.raises(StoreUnreachable, match=r"catalog in postgresql://ann@127\.0\.0\.1:1/x"):
        copy_catalog(empty, ADMIN, "postgresql://ann@127.0.0.1:1/x")
    with pytest.raises(InvalidInput, match="address"):
        copy_catalog(empty, ADMIN, "mysql://db/x")
    plain = postgresql.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE TABLE other (x int)")
        with pytest.raises(Conflict, match="not empty") as caught:
            copy_catalog(empty, ADMIN, postgresql)
        assert caught.value.found == "the tables other"
        connection.execute("DROP TABLE other")
    copy_catalog(empty, ADMIN, postgresql)
    with pytest.raises(Conflict, match="not empty") as caught:
        copy_catalog(empty, ADMIN, postgresql)
    assert "rows in" in (caught.value.found or "")
    with psycopg.connect(plain, autocommit=True) as connection:  # Another installation that nobody has upgraded yet.
        connection.execute("UPDATE alembic_version SET version_num = '0030'")
        with pytest.raises(Conflict, match="not empty"):
            copy_catalog(empty, ADMIN, postgresql)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0030",)]


def test_two_copies_into_one_file_exclude_each_other(
    empty: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, url = row_copies._copy_sequences, f"sqlite:///{tmp_path}/folder/new.sqlite"

    def copy_again(*args: Any) -> None:
        real(*args)
        with pytest.raises(WorkHeld, match="Another process copies"):
            empty.catalog.copy_rows(url, lambda *_: None)

    monkeypatch.setattr(row_copies, "_copy_sequences", copy_again)
    copy_catalog(empty, ADMIN, url)
    assert without_activity(url) == without_activity(f"sqlite:///{empty.home}/catalog.sqlite")
    assert sorted(each.name for each in (tmp_path / "folder").iterdir()) == ["new.sqlite", "new.sqlite.lock"]


def test_a_source_of_another_revision_is_refused(
    empty: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer catalog may have columns that this code does not know."""
    monkeypatch.setattr(row_copies, "REVISION", "0001")
    with pytest.raises(StoreMismatch, match="another revision"):
        copy_catalog(empty, ADMIN, f"sqlite:///{tmp_path}/new.sqlite")
    assert not list(tmp_path.glob("*.sqlite*"))


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.engine("postgresql"))])
def test_a_difference_undoes_the_copy(
    empty: Installation, engine: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("postgresql") if engine == "postgresql" else f"sqlite:///{tmp_path}/new.sqlite"
    real = row_copies._copy_table

    def lose(reader: Any, writer: Any, table: Any, progress: Any) -> Any:
        digest = real(reader, writer, table, progress)
        if table.name == "groups":
            writer.connection.exec_driver_sql("UPDATE groups SET location = 'elsewhere'")
        return digest

    monkeypatch.setattr(row_copies, "_copy_table", lose)
    with pytest.raises(ObjectCorrupt, match="differ") as caught:
        copy_catalog(empty, ADMIN, url)
    assert caught.value.found == "groups: 1 of 1 rows"
    monkeypatch.undo()
    assert not list(tmp_path.glob("*new.sqlite*"))
    assert without_activity(f"sqlite:///{empty.home}/catalog.sqlite")["groups"]
    copy_catalog(empty, ADMIN, url)


def test_a_killed_copy_is_repeated(empty: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/new.sqlite"
    child = os.fork()
    if not child:
        with suppress(BaseException):
            row_copies._copy_sequences = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            with open_home(empty.home) as other:
                copy_catalog(other, ADMIN, url)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "new.sqlite").exists()
    copy_catalog(empty, ADMIN, url)
    assert [each.name for each in tmp_path.glob("*new.sqlite*")] == ["new.sqlite", "new.sqlite.lock"]
    assert without_activity(url) == without_activity(f"sqlite:///{empty.home}/catalog.sqlite")


def test_stored_values_are_copied_and_not_interpreted(empty: Installation, tmp_path: Path, postgresql: str) -> None:
    """Values of a newer or older release, decimals with zeros, deep JSON, and every kind of text."""
    texts = ["", "e\u0301", "\u00e9", "\U0001f600", "line\nend", "'quoted' \\ \"double\"", " x ", "\t"]
    with empty.catalog.transaction() as transaction:
        connection = transaction._session.connection
        connection.exec_driver_sql("UPDATE definitions SET os_type = 'Plan9'")
        for number, value in enumerate([*texts, *({"a": [1, 1.0, None, True, text], "b": {}} for text in texts)]):
            connection.exec_driver_sql(
                "INSERT INTO settings VALUES (?, ?, '2026-01-02 03:04:05.000001')", (f"k{number}", json.dumps(value))
            )
    for target in (postgresql, f"sqlite:///{tmp_path}/one.sqlite"):
        empty.catalog.copy_rows(target, lambda *_: None)
    with closing(Catalog.open(postgresql, Effects())) as moved:  # No installation reads such settings.
        moved.copy_rows(f"sqlite:///{tmp_path}/two.sqlite", lambda *_: None)
    dumps = []
    for file in (empty.home / "catalog.sqlite", tmp_path / "one.sqlite", tmp_path / "two.sqlite"):
        with closing(sqlite3.connect(file)) as found:
            dumps.append(
                [found.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in ("settings", "definitions")]
            )
    assert dumps[0] == dumps[1] == dumps[2]
