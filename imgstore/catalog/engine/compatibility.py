"""Code of several revisions on one catalog: the oldest code that may use the schema (invariants L7 and L8).

An upgrade that only adds leaves running processes of the previous release untouched ("expand"). The column
`oldest_code` of Alembic's table names the oldest code that the schema admits. A migration that removes something, or
that changes a meaning, raises this revision ("contract"). Every transaction compares the row with the revision of its
own code, so a process that is too old can neither read nor write a contracted catalog.
"""

from typing import Any, Final

from sqlalchemy import Connection, inspect

from imgstore.catalog.schema import REVISION
from imgstore.domain.errors import StoreMismatch

FENCE: Final = f"SELECT 1 / (oldest_code <= '{REVISION}')::int FROM alembic_version"  # noqa: S608 - a constant
"""The comparison on PostgreSQL, as a part of the statements that begin a transaction. It fails with `FENCE_STATE`.

The shared lock on the table lasts until the end of the transaction, and a contracting upgrade takes the exclusive lock.
"""

FENCE_STATE: Final = "22012"
"""The SQLSTATE of a division by zero."""


def find_oldest_code(connection: Connection) -> str | None:
    """Return the oldest revision of code that the catalog admits. None before revision 0033."""
    inspector = inspect(connection)
    if not inspector.has_table("alembic_version"):
        return None
    if all(column["name"] != "oldest_code" for column in inspector.get_columns("alembic_version")):
        return None
    found: str | None = connection.exec_driver_sql("SELECT max(oldest_code) FROM alembic_version").scalar()
    return found


def admits_this_code(connection: Connection, stored: str | None) -> bool:
    """Return whether a catalog has the revision of this code, or a newer revision that admits this code."""
    if stored == REVISION:
        return True
    if stored is None or not stored.isdecimal() or stored < REVISION:
        return False
    oldest = find_oldest_code(connection)
    return oldest is not None and oldest <= REVISION


def check_sqlite(connection: Connection, place: str) -> None:
    """Refuse a transaction on an SQLite catalog that was contracted since this process opened the catalog.

    Raises:
        StoreMismatch: the catalog needs newer code.
    """
    driver: Any = connection.connection.dbapi_connection  # SQLAlchemy's own result costs ten times as much.
    (oldest,) = driver.execute("SELECT max(oldest_code) FROM alembic_version").fetchone()
    if oldest is not None and oldest > REVISION:
        raise contracted_error(place)


def contracted_error(place: str) -> StoreMismatch:
    """Return the error of code that is too old for a catalog."""
    return StoreMismatch(
        f"The catalog in {place} was upgraded to a revision that this version of imgstore cannot use.",
        found=f"code of revision {REVISION}, which is too old",
        expected="the version of imgstore that upgraded the catalog, or a newer version",
        hint="upgrade imgstore on this machine, and start this process again",
        target=place,
    )
