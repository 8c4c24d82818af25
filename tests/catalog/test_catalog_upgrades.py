"""Code of two revisions on one catalog: expansion, contraction and refusals (invariants L7 and L8)."""

import importlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from catalog_values import POOLED_ENGINES, SUBSCRIPTION, group
from sqlalchemy import Connection

from imgstore.catalog import Catalog
from imgstore.catalog.engine.database import Session
from imgstore.catalog.schema import REVISION, metadata
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, StoreMismatch
from tests.support.next_release import NEXT, Release, make_next_release
from tests.support.older_catalog import older_catalog

pytest_plugins = ["catalog_fixtures"]

ADDED = (
    "op.add_column('groups', sa.Column('added', sa.String(), nullable=True, server_default='x'))",
    "op.create_table('added', sa.Column('uid', sa.String(), primary_key=True))",
)
REMOVED = ("op.drop_column('activity', 'repeats')",)


def read_migrations() -> ScriptDirectory:
    folder = Path(importlib.import_module("imgstore.catalog.migrations").__file__ or "").parent
    return ScriptDirectory(str(folder))


def test_migrations_name_the_oldest_code() -> None:
    """Invariant L7. Each migration from 0033 on says which code may use the catalog afterwards."""
    before = ""
    for script in reversed(list(read_migrations().walk_revisions())):
        if script.revision < "0033":
            continue
        named = script.module.oldest_code
        assert named.isdecimal()
        assert len(named) == 4
        assert before <= named <= script.revision, f"{script.revision} names {named}"
        before = named


def test_changelog_names_each_revision() -> None:
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    steps = dict(re.findall(r"^\| (\d{4}) \| .+ \| (.+) \|$", text, re.MULTILINE))
    assert sorted(steps) == sorted(script.revision for script in read_migrations().walk_revisions())
    assert all(re.match("expand|contract", step) for revision, step in steps.items() if revision >= "0033")


@contextmanager
def opened(url: str) -> Iterator[Catalog]:
    catalog = Catalog.open(url, Effects())
    try:
        yield catalog
    finally:
        catalog.close()


def set_versions(catalog: Catalog, revision: str, oldest_code: str) -> None:
    with catalog._database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE alembic_version SET version_num = '{revision}', oldest_code = '{oldest_code}'"
        )


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_newer_catalog_that_admits_this_code_opens(fresh_catalog: Catalog, catalog_url: str) -> None:
    set_versions(fresh_catalog, "9999", REVISION)
    with opened(catalog_url) as catalog:
        with catalog.transaction() as transaction:
            transaction.groups.add(group())
        with catalog.reading() as transaction:
            assert len(transaction.groups.list(SUBSCRIPTION)) == 1


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_open_catalog_is_refused_after_a_contraction(fresh_catalog: Catalog) -> None:
    """Invariant L8."""
    with fresh_catalog.transaction() as transaction:
        transaction.groups.add(group())
    set_versions(fresh_catalog, "9999", "9998")
    for _ in range(3):
        with pytest.raises(StoreMismatch, match="cannot use"), fresh_catalog.transaction() as transaction:
            transaction.groups.add(group("other"))
        with pytest.raises(StoreMismatch, match="upgrade imgstore on this machine"), fresh_catalog.reading():
            pass
    set_versions(fresh_catalog, REVISION, REVISION)
    with fresh_catalog.reading() as transaction:
        assert len(transaction.groups.list(SUBSCRIPTION)) == 1


def add_worker(session: Session) -> None:
    row = {"uid": "w", "holder": "host/boot/7/1", "started_at": session.now(), "seen_at": session.now()}
    session.run(metadata.tables["workers"].insert(), row)


def add_operation(session: Session) -> None:
    names = ("uid", "subscription", "kind", "principal")
    session.run(
        metadata.tables["operations"].insert(),
        {name: name for name in names}
        | {"request": {}, "status": "InProgress", "holder": "host/boot/7/1", "started_at": session.now()}
        | {"lease_expires_at": session.now() + timedelta(seconds=30)},
    )


@pytest.mark.parametrize("live", [add_worker, add_operation])
def test_upgrade_never_excludes_the_code_of_a_live_process(catalog_url: str, live: Callable[[Session], None]) -> None:
    """Invariant L8. Revision 0033 admits code of revision 0032, but not code of revision 0029."""
    with older_catalog(catalog_url, "0029") as session:
        live(session)
    with pytest.raises(Conflict, match="host/boot/7/1") as caught:
        Catalog.open(catalog_url, Effects())
    assert "killed on another machine counts as running for 60 seconds" in str(caught.value.hint)
    Catalog.open(catalog_url, Effects(), is_dead=lambda holder: holder == "host/boot/7/1").close()


def test_times_after_a_step_of_the_clock_delay_no_upgrade(catalog_url: str) -> None:
    with older_catalog(catalog_url, "0029") as session:
        add_worker(session)
        add_operation(session)
        for table, column in (("workers", "seen_at"), ("operations", "lease_expires_at")):
            future = {column: session.now() + timedelta(days=1)}
            session.run(metadata.tables[table].update().values(future))
    Catalog.open(catalog_url, Effects()).close()


def test_upgrade_runs_beside_the_code_before(catalog_url: str) -> None:
    """A worker and an operation of revision 0032 do not delay the upgrade to 0033."""
    with older_catalog(catalog_url, "0032") as session:
        add_worker(session)
        add_operation(session)
    Catalog.open(catalog_url, Effects()).close()


def test_threads_upgrade_at_once(catalog_url: str) -> None:
    """Threads open a catalog with connections of their own, as processes do. A migration alters Alembic's own table."""
    with older_catalog(catalog_url, "0031"):
        pass
    barrier = threading.Barrier(4)

    def start(_: int) -> None:
        barrier.wait()
        Catalog.open(catalog_url, Effects()).close()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(start, range(4))) == [None] * 4


# -- with real processes of a next release ----------------------------------------------------------------------------


def run_next(release: Release, url: str, home: Path) -> tuple[int, str]:
    done = release.run("--database", url, "--home", str(home), "group", "create", "-n", "new", "-l", "westus2")
    return done.returncode, done.stderr


def count_waiting(connection: Connection) -> int:
    rows = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'alembic_version'::regclass"
    return int(connection.exec_driver_sql(rows).scalar_one())


def test_expanded_catalog_serves_both_releases(catalog_url: str, tmp_path: Path) -> None:
    release = make_next_release(tmp_path / "next", *ADDED, oldest_code=REVISION)
    with opened(catalog_url) as catalog:
        with catalog.transaction() as transaction:
            transaction.installation.ensure(SUBSCRIPTION)
            transaction.workers.record_heartbeat("w", "host/boot/7/1")
        assert run_next(release, catalog_url, tmp_path / "home") == (0, "")
        with catalog.transaction() as transaction:
            transaction.groups.add(group("old"))
        with opened(catalog_url) as again, again.reading() as transaction:
            assert {each.name for each in transaction.groups.list(SUBSCRIPTION)} == {"old", "new"}
            added = "SELECT added FROM groups WHERE name = 'old'"
            assert transaction._session.connection.exec_driver_sql(added).scalar() == "x"


def test_contraction_waits_for_transactions_and_excludes_older_code(catalog_url: str, tmp_path: Path) -> None:
    """Invariant L8. The upgrade waits for a transaction in progress, and refuses each later one of older code."""
    release = make_next_release(tmp_path / "next", *REMOVED, oldest_code=NEXT)
    with opened(catalog_url) as catalog:
        with catalog.transaction() as transaction:
            transaction.installation.ensure(SUBSCRIPTION)
            transaction.workers.record_heartbeat("w", "host/boot/7/1")
        code, text = run_next(release, catalog_url, tmp_path / "home")
        assert code, "a worker of this code is alive"
        assert "exclude processes of older code that still run" in text
        with catalog.transaction() as transaction:
            transaction.workers.remove("w")
            transaction.groups.add(group("before"))
        ended: list[tuple[int, str]] = []
        upgrade = threading.Thread(target=lambda: ended.append(run_next(release, catalog_url, tmp_path / "home")))
        with catalog.transaction() as transaction:
            transaction.groups.add(group("during"))
            upgrade.start()
            if not transaction._session.is_sqlite:  # SQLite has one writer anyway.
                while upgrade.is_alive() and not count_waiting(transaction._session.connection):
                    upgrade.join(0.05)
            assert not ended
        upgrade.join()
        assert ended == [(0, "")]
        with pytest.raises(StoreMismatch), catalog.transaction() as transaction:
            transaction.groups.add(group("after"))
        with pytest.raises(StoreMismatch, match=f"{NEXT}, which this imgstore does not know"):
            Catalog.open(catalog_url, Effects())
    listed = release.run("--database", catalog_url, "--home", str(tmp_path / "home"), "group", "list", "-o", "tsv")
    assert {"before", "during", "new"} <= set(listed.stdout.split()), listed.stderr
    assert "after" not in listed.stdout.split()
