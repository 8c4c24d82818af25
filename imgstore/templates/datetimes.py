"""Instants and durations as templates write them: .NET's formats of time, ISO 8601's durations."""

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from imgstore.templates.scope import InvalidArgument

DEFAULT: Final = "yyyyMMddTHHmmssZ"
"""Of ``utcNow``."""
_STANDARD: Final = {
    "d": "MM/dd/yyyy",
    "s": "yyyy-MM-ddTHH:mm:ss",
    "u": "yyyy-MM-dd HH:mm:ssZ",
    "o": "yyyy-MM-ddTHH:mm:ss.fffffffZ",
}
_WORDS: Final = {"yyyy": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
_WORD: Final = re.compile("yyyy|yy|MM|dd|HH|mm|ss|f{1,7}|[A-Za-z]")
_DURATION: Final = re.compile(
    r"(-)?P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII
)


def format_time(time: datetime, pattern: str) -> str:
    """`time`, in UTC, by a pattern of .NET's: ``yyyy-MM-dd``, ``u``.

    Raises:
        InvalidArgument: the pattern has a letter that is not known here.
    """

    def word(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] == "f":
            return f"{time.microsecond:06}0"[: len(found)]
        if found not in _WORDS and found not in "TZ":
            raise InvalidArgument(f"a format of yyyy, MM, dd, HH, mm, ss, f, T and Z, not {found!r}")
        return time.strftime(_WORDS[found]) if found in _WORDS else found

    return _WORD.sub(word, _STANDARD.get(pattern, pattern))


def parse_time(text: str) -> datetime:
    """An instant that a template has: ISO 8601, ``utcNow``'s too.

    Raises:
        ValueError: it is none.
    """
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def add_duration(time: datetime, duration: str) -> datetime:
    """`time` and an ISO 8601 duration: ``P3Y``, ``-PT1H``. Of a month without its day, the last day.

    Raises:
        InvalidArgument: it is none.
    """
    match = _DURATION.fullmatch(duration)
    if match is None or duration[-1] in "PT":
        raise InvalidArgument("a duration of ISO 8601, such as PT1H")
    sign = -1 if match[1] else 1
    years, months, weeks, days, hours, minutes, seconds = (sign * int(each or 0) for each in match.groups()[1:])
    count = time.year * 12 + time.month - 1 + years * 12 + months
    year, month = count // 12, count % 12 + 1
    moved = time.replace(year=year, month=month, day=min(time.day, calendar.monthrange(year, month)[1]))
    return moved + timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
