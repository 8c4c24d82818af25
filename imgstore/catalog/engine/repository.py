"""The base classes of repositories.

A lookup by a name from a person returns None if there is no such row. A lookup by a uid raises `NotFound`, because the
catalog itself gave out the uid.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Select, Table, delete, select, update

from imgstore.catalog.engine.database import Session
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.errors import NotFound

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_V = TypeVar("_V", bound="DataclassInstance")


class Repository:
    """The rows of a table, as a transaction sees the rows."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _row(self, statement: Select[Any], what: str, uid: str) -> Row[Any]:
        row = self._session.first(statement)
        if row is None:
            raise missing_row_error(what, uid)
        return row

    def _replace(self, table: Table, uid: str, values: Mapping[str, Any], what: str) -> None:
        if not self._session.change(update(table).where(table.c.uid == uid).values(**values)):
            raise missing_row_error(what, uid)

    def _remove(self, table: Table, uid: str, what: str) -> None:
        if not self._session.change(delete(table).where(table.c.uid == uid)):
            raise missing_row_error(what, uid)


class Rows(Repository, Generic[_V]):
    """The rows of a table with a uid. Each row is one frozen value."""

    _table: ClassVar[Table]
    _noun: ClassVar[str]
    _value_type: ClassVar[type[Any]]
    _select: ClassVar[Select[Any]]

    def __init_subclass__(
        cls,
        *,
        table: Table | None = None,
        noun: str = "row",
        value: type[Any] = object,
        statement: Select[Any] | None = None,
    ) -> None:
        """Declare the rows of a subclass.

        Args:
            table: the table. None declares a base class.
            noun: the word for a row in errors.
            value: the type of the values.
            statement: the statement that reads the rows. The default reads the columns of the table.
        """
        if table is not None:
            cls._table, cls._noun, cls._value_type = table, noun, value
            cls._select = select(table) if statement is None else statement

    @classmethod
    def from_row(cls, row: Any) -> _V:
        """Return the value in a row."""
        value: _V = to_value(cls._value_type, row)
        return value

    def _columns(self, value: _V) -> dict[str, Any]:
        return to_columns(self._table, value)

    def add(self, value: _V) -> None:
        """Add a row.

        Raises:
            ParentNotFound: the subscription has no such group, if the rows belong to a group.
            Conflict: another row has the same name or identifier, or the row above was deleted.
        """
        self._session.run(self._table.insert(), self._columns(value))

    def by_uid(self, uid: str) -> _V:
        """Return the value with this uid.

        Raises:
            NotFound: no row has this uid.
        """
        return self.from_row(self._row(self._select.where(self._table.c.uid == uid), self._noun, uid))

    def lock(self, uid: str) -> None:
        """Lock a row until the end of the transaction. Rows that are read under the lock stay valid until then.

        Raises:
            NotFound: no row has this uid.
            StoreUnreachable: another transaction held the lock for 30 seconds.
        """
        locked = self._session.add_row_locks(select(self._table.c.uid).where(self._table.c.uid == uid))
        self._row(locked, self._noun, uid)

    def get_for_update(self, uid: str) -> _V:
        """Lock a row until the end of the transaction, and return the value.

        Raises:
            NotFound: no row has this uid.
        """
        self.lock(uid)
        return self.by_uid(uid)

    def delete(self, uid: str) -> None:
        """Remove a row.

        Raises:
            NotFound: no row has this uid.
            Conflict: another row still refers to the row.
        """
        self._remove(self._table, uid, self._noun)

    def _find(self, *conditions: ColumnElement[bool]) -> _V | None:
        row = self._session.first(self._select.where(*conditions))
        return None if row is None else self.from_row(row)

    def _list(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> list[_V]:
        return [self.from_row(row) for row in self._session.all(statement, values)]


class MutableRows(Rows[_V]):
    """Rows that may change as a whole."""

    def update(self, value: _V) -> None:
        """Replace the row with the same uid.

        Raises:
            NotFound: no row has this uid.
        """
        columns = self._columns(value)
        self._replace(self._table, columns["uid"], columns, self._noun)


def missing_row_error(what: str, uid: str) -> NotFound:
    """Return the error for a uid without a row."""
    return NotFound(
        f"The {what} is not in the catalog.",
        found=f"no {what} with uid {uid}",
        expected="a row, because another row refers to the uid",
        hint="another process deleted the row: list the existing resources, then run the command again",
        target=uid,
    )
