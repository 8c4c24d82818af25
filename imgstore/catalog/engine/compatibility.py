"""Code of several revisions on one catalog: the oldest code that may use the schema (invariant L7).

An upgrade that only adds leaves running processes of the previous release untouched ("expand"). The column
`oldest_code` of Alembic's table names the oldest code that the schema admits. Code of this revision only reads the
column. The next revision adds the column.
"""

from sqlalchemy import Connection, inspect

from imgstore.catalog.schema import REVISION


def find_oldest_code(connection: Connection) -> str | None:
    """Return the oldest revision of code that the catalog admits. None before revision 0032."""
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
