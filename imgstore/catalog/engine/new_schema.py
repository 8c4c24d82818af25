"""Creation of the schema in an empty database, without the migrations.

The migrations would alter empty tables 35 times. The statements of the present schema take 20 ms instead of 100 ms, and
Alembic is not imported. A test compares the result with the result of the migrations.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table

from imgstore.catalog.engine.revision_triggers import MarkedTable, install_region_trigger, install_triggers
from imgstore.catalog.schema import OLDEST_CODE, REVISION, metadata
from imgstore.catalog.storage.revisions import KINDS, list_marked_tables
from imgstore.domain.storage.revisions import OWNER_KINDS

_ALEMBIC_VERSION: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    Column("oldest_code", String),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def create_schema(connection: Connection) -> None:
    """Create all tables and triggers, and record the revision of this code, in the caller's transaction."""
    metadata.create_all(connection, checkfirst=False)
    _ALEMBIC_VERSION.drop(connection, checkfirst=True)  # The table may exist without a row.
    _ALEMBIC_VERSION.create(connection, checkfirst=False)
    tables = list_marked_tables()
    install_triggers(connection, tables)
    install_region_trigger(connection, _choose_roots(tables))
    connection.execute(_ALEMBIC_VERSION.insert().values(version_num=REVISION, oldest_code=OLDEST_CODE))


def _choose_roots(tables: Sequence[MarkedTable]) -> list[MarkedTable]:
    """Return the first table of each kind whose revisions are in each region."""
    names = {each.name for each in KINDS.values() if not each.is_ledger} - OWNER_KINDS
    return list({each.kind: each for each in reversed(tables) if each.kind in names}.values())
