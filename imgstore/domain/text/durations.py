"""Durations and times in words, for people."""

import re
from datetime import datetime, timedelta

_ISO = re.compile(r"P(?:([0-9]{1,4})D)?(?:T(?:([0-9]{1,5})H)?(?:([0-9]{1,7})M)?(?:([0-9]{1,9})S)?)?")
_MINUTE_SECONDS = 60
_HOUR_SECONDS = 3_600
_DAY_SECONDS = 86_400


def format_duration(span: timedelta) -> str:
    """Return a duration rounded up to one unit: "40 s", "3 min", "5 h", "2 days". Negative durations are "0 s"."""
    seconds = -int(-max(span.total_seconds(), 0.0) // 1)
    for unit, unit_seconds in (("days", _DAY_SECONDS), ("h", _HOUR_SECONDS), ("min", _MINUTE_SECONDS)):
        if seconds >= 2 * unit_seconds:
            return f"{-(-seconds // unit_seconds)} {unit}"
    return f"{seconds} s"


def format_time(time: datetime) -> str:
    """Return a time of UTC with its zone: "2026-05-01 12:00:00 UTC"."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def format_time_until(time: datetime, now: datetime) -> str:
    """Return a time with the duration until then: "2026-05-01 12:00:00 UTC (in 3 min)"."""
    return f"{format_time(time)} (in {format_duration(time - now)})"


def format_iso_duration(seconds: int) -> str:
    """Return a duration in the notation of ISO 8601: "PT0S", "PT2M30S", "PT1H"."""
    hours, rest = divmod(seconds, _HOUR_SECONDS)
    minutes, left = divmod(rest, _MINUTE_SECONDS)
    parts = [f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M"), (left, "S")) if number]
    return "PT" + ("".join(parts) or "0S")


def parse_iso_duration(text: str) -> int | None:
    """Return the seconds of a duration in the notation of ISO 8601. None if the text is no such duration.

    Years, months and fractions are not accepted, because no setting needs such durations.
    """
    found = _ISO.fullmatch(text)
    if found is None or text.endswith(("P", "T")):
        return None
    units = (_DAY_SECONDS, _HOUR_SECONDS, _MINUTE_SECONDS, 1)
    return sum(int(number or 0) * seconds for number, seconds in zip(found.groups(), units, strict=True))
