"""All rows of a catalog, read by the driver and not by the code under test."""

from contextlib import closing
from typing import Any

from sqlalchemy import create_engine, select

from imgstore.catalog.schema import metadata


def read_tables(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each table, in a fixed order.

    Args:
        url: an address as for ``--database``.
    """
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with closing(engine.connect()) as connection:
        found = {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found
