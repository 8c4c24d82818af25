"""Code of two revisions on one catalog (invariant L7)."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from catalog_values import POOLED_ENGINES, SUBSCRIPTION, group

from imgstore.catalog import Catalog
from imgstore.catalog.schema import REVISION
from imgstore.domain.effects import Effects

pytest_plugins = ["catalog_fixtures"]


@contextmanager
def opened(url: str) -> Iterator[Catalog]:
    catalog = Catalog.open(url, Effects())
    try:
        yield catalog
    finally:
        catalog.close()


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_newer_catalog_that_admits_this_code_opens(fresh_catalog: Catalog, catalog_url: str) -> None:
    with fresh_catalog._database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE alembic_version ADD COLUMN oldest_code VARCHAR")
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '9999', oldest_code = '{REVISION}'")
    with opened(catalog_url) as catalog:
        with catalog.transaction() as transaction:
            transaction.groups.add(group())
        with catalog.reading() as transaction:
            assert len(transaction.groups.list(SUBSCRIPTION)) == 1
