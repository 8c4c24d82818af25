"""Instants and durations of templates: .NET's time formats and ISO 8601's durations."""

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from imgstore.templates.scope import InvalidArgument

DEFAULT: Final = "yyyyMMddTHHmmssZ"
"""The default format of ``utcNow``."""
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
    """Format a UTC time with a pattern of .NET, for example ``yyyy-MM-dd`` or ``u``.

    Raises:
        InvalidArgument: The pattern contains an unknown letter.
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
    """Parse an instant in ISO 8601, or in the format of ``utcNow``.

    Raises:
        ValueError: The text is not an instant.
    """
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def add_duration(time: datetime, duration: str) -> datetime:
    """Add an ISO 8601 duration to a time, for example ``P3Y`` or ``-PT1H``.

    A day that the new month does not have becomes the last day of the month.

    Raises:
        InvalidArgument: The text is not a duration.
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
