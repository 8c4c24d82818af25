"""The base class of repositories.

A lookup by a name from a person returns None if there is no such row. A lookup by a uid raises `NotFound`, because the
catalog itself gave out the uid.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, Select, Table, delete, update

from imgstore.catalog.engine.database import Session
from imgstore.domain.errors import NotFound


class Repository:
    """The rows of a table, as a transaction sees the rows."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _row(self, select: Select[Any], what: str, uid: str) -> Row[Any]:
        row = self._session.first(select)
        if row is None:
            raise missing_row_error(what, uid)
        return row

    def _replace(self, table: Table, uid: str, values: Mapping[str, Any], what: str) -> None:
        if not self._session.change(update(table).where(table.c.uid == uid).values(**values)):
            raise missing_row_error(what, uid)

    def _remove(self, table: Table, uid: str, what: str) -> None:
        if not self._session.change(delete(table).where(table.c.uid == uid)):
            raise missing_row_error(what, uid)


def missing_row_error(what: str, uid: str) -> NotFound:
    """Return the error for a uid without a row."""
    return NotFound(
        f"The {what} is not in the catalog.",
        found=f"no {what} with uid {uid}",
        expected="a row, because another row refers to the uid",
        hint="another process deleted the row: list the existing resources, then run the command again",
        target=uid,
    )
