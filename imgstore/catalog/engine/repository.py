"""What the repositories share: a session, and two ways of looking up.

What is looked up by a word that a person said may be missing: None. What is looked up by a uid is a reference that the
catalog itself gave out: its absence is an error, `NotFound`.
"""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Table, delete, update

from imgstore.catalog.engine.database import Session
from imgstore.domain.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Row


class Repository:
    """The rows of one noun, as one transaction sees them."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def _row(self, select: Select[Any], what: str, uid: str) -> "Row[Any]":
        row = self._session.first(select)
        if row is None:
            raise missing_row_error(what, uid)
        return row

    def _replace(self, table: Table, uid: str, values: "Mapping[str, Any]", what: str) -> None:
        if not self._session.change(update(table).where(table.c.uid == uid).values(**values)):
            raise missing_row_error(what, uid)

    def _remove(self, table: Table, uid: str, what: str) -> None:
        if not self._session.change(delete(table).where(table.c.uid == uid)):
            raise missing_row_error(what, uid)


def missing_row_error(what: str, uid: str) -> NotFound:
    """No row of that uid."""
    return NotFound(
        f"The {what} is not in the catalog.",
        found=f"no {what} with uid {uid}",
        expected="a row that something else refers to",
        hint="it was deleted meanwhile: list what is there, then run the command again",
        target=uid,
    )
