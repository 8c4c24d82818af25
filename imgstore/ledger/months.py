"""Calendar months in UTC, the periods of statements."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Final

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month in UTC."""

    year: int
    number: int
    """1 for January."""

    @staticmethod
    def of(time: datetime) -> "Month":
        """Return the month of a time."""
        utc = time.astimezone(UTC)
        return Month(utc.year, utc.month)

    @staticmethod
    def parse(text: str) -> "Month | None":
        """Return the month of a text such as "2026-11", or None for another text. The years are 0001 to 9998."""
        found = _MONTH.fullmatch(text)
        return Month(int(found[1]), int(found[2])) if found and MINYEAR <= int(found[1]) < MAXYEAR else None

    @property
    def begin(self) -> datetime:
        """The first moment of the month."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment of the next month."""
        return self.next.begin

    @property
    def next(self) -> "Month":
        """The next month."""
        return Month(self.year + 1, 1) if self.number == 12 else Month(self.year, self.number + 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"


def list_months(first: Month, last: Month) -> list[Month]:
    """Return the months from `first` to `last`, both included."""
    months = []
    while first <= last:
        months.append(first)
        first = first.next
    return months


def day_begin(time: datetime) -> datetime:
    """Return the begin of the day of a time in UTC."""
    return time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def day_begins(first: datetime, last: datetime) -> Iterator[datetime]:
    """Return the begins of days in UTC after `first` and before `last`."""
    border = day_begin(first) + timedelta(days=1)
    while border < last:
        yield border
        border += timedelta(days=1)


def month_begins(first: datetime, last: datetime) -> Iterator[datetime]:
    """Return the begins of months after `first` and before `last`."""
    border = Month.of(first).end
    while border < last:
        yield border
        border = Month.of(border).end
