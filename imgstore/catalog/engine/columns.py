"""How values lie in columns: instants, decimals and words that read back exactly as they went in, on both engines."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import DateTime, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

EnumMember = TypeVar("EnumMember", bound=StrEnum)


def fold_name(name: str) -> str:
    """A name as it is compared and kept unique: Azure's names differ in case for the eye only."""
    return name.casefold()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime with microseconds: `timestamptz` in PostgreSQL, sortable text in UTC in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC. A naive instant is nobody's."""
        if value is None:
            return None
        assert value.tzinfo is not None, f"a naive instant: {value}"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite's text carries no zone, PostgreSQL gives the session's; both are made UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DecimalText(TypeDecorator[Decimal]):
    """A decimal, digit by digit, as text: SQLite would make a binary float of a NUMERIC, and money must balance."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Every digit as it stands."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        """The same digits."""
        return None if value is None else Decimal(value)


class EnumText(TypeDecorator[EnumMember]):
    """A word of an enumeration, kept by its value, so that the table reads as the resource does."""

    impl = String
    cache_ok = True

    def __init__(self, words: type[EnumMember]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: EnumMember | str | None, dialect: Dialect) -> str | None:
        """The word's value; a word that the enumeration lacks is refused here."""
        return None if value is None else self.words(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> EnumMember | None:
        """The member itself."""
        return None if value is None else self.words(value)
