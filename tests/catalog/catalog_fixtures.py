"""Fixtures with a catalog on each engine. This is a plugin, because mypy permits only one conftest.py in a checkout."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from catalog_values import ENGINES
from sqlalchemy import delete

from imgstore.catalog import Catalog
from imgstore.catalog.schema import metadata, revision_marks
from imgstore.domain.effects import Effects
from imgstore.testing.engines import PgBouncer, PostgreSQL


@pytest.fixture(params=ENGINES)
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a database that does not exist or is empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/catalog.db"
    url = str(request.getfixturevalue("postgresql"))
    return url if request.param == "postgresql" else request.getfixturevalue("pgbouncer").url(url)


@pytest.fixture
def fresh_catalog(catalog_url: str) -> Iterator[Catalog]:
    """Return a new catalog."""
    opened = Catalog.open(catalog_url, Effects())
    yield opened
    opened.close()


@pytest.fixture(params=ENGINES)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """Return an empty catalog quickly: a copy of a file, or a database that is emptied before each test."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("_empty_file"), tmp_path / "catalog.db")
        opened = Catalog.open(f"sqlite:///{tmp_path}/catalog.db", Effects())
        yield opened
        opened.close()
        return
    shared: Catalog = request.getfixturevalue("_shared" if request.param == "postgresql" else "_shared_by_pgbouncer")
    with shared._database.engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
        connection.execute(delete(revision_marks))  # The deletions above have marked resources.
    yield shared


@pytest.fixture(scope="session")
def _empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("catalog") / "catalog.db"
    Catalog.open(f"sqlite:///{file}", Effects()).close()
    return file


@pytest.fixture(scope="session")
def _shared(postgresql_server: PostgreSQL) -> Iterator[Catalog]:
    with postgresql_server.database() as url:
        opened = Catalog.open(url, Effects())
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def _shared_by_pgbouncer(postgresql_server: PostgreSQL, pgbouncer: PgBouncer) -> Iterator[Catalog]:
    with postgresql_server.database() as url:
        opened = Catalog.open(pgbouncer.url(url), Effects())
        yield opened
        opened.close()
