"""Durations and times in words, for people."""

from datetime import datetime, timedelta

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
