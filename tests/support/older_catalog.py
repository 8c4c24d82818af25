"""A catalog as an older release left it: empty tables, made by the migrations up to a revision."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config

from imgstore.catalog.engine.database import Session, configure_database
from imgstore.domain.effects import Effects


@contextmanager
def older_catalog(url: str, revision: str) -> Iterator[Session]:
    """Make a catalog of an older revision by its migrations."""
    database = configure_database(url)
    if database.file is not None:
        database.file.parent.mkdir(exist_ok=True)
    try:
        with database.engine.begin() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", "imgstore.catalog:migrations")
            command.upgrade(config, revision)
            yield Session(connection, Effects(), database.place)
    finally:
        database.close()
