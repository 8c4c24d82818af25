"""Column types that read values back exactly as written on both engines: times, decimals and enumerations."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import DateTime, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

EnumMember = TypeVar("EnumMember", bound=StrEnum)


def fold_name(name: str) -> str:
    """Return the form of a name that is compared and kept unique. Azure compares names without regard to case."""
    return name.casefold()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime with microseconds. PostgreSQL stores `timestamptz`, SQLite stores sortable text in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a datetime to UTC. A naive datetime fails an assertion."""
        if value is None:
            return None
        assert value.tzinfo is not None, f"a naive datetime: {value}"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a stored time to UTC. SQLite's text has no zone, PostgreSQL's value has the zone of the session."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DecimalText(TypeDecorator[Decimal]):
    """A decimal as text with all digits.

    SQLite would round a NUMERIC to a binary float, and statements must balance.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Return the decimal with all digits."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        """Return the decimal with the stored digits."""
        return None if value is None else Decimal(value)


class EnumText(TypeDecorator[EnumMember]):
    """A member of an enumeration, stored by its value."""

    impl = String
    cache_ok = True

    def __init__(self, members: type[EnumMember]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: EnumMember | str | None, dialect: Dialect) -> str | None:
        """Return the value of a member. Raise ValueError for other values."""
        return None if value is None else self.members(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> EnumMember | None:
        """Return the member with the stored value."""
        return None if value is None else self.members(value)
