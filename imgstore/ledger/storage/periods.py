"""Durations of storage, and the periods of an interval with one price (invariants M9 and M19).

Time is counted in whole microseconds, so that the parts of a divided interval have exactly the weight of the whole.
"""

import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import pairwise
from typing import Final

from imgstore.ledger.entries import StorageInterval
from imgstore.ledger.months import month_begins
from imgstore.ledger.prices.rating import MICROSECONDS_PER_HOUR

_DIVIDING: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""An hour has a factor of nine, so quotients are infinite decimal fractions. Sixty digits are far below any coin."""


def byte_microseconds(interval: StorageInterval, until: datetime) -> int:
    """Return bytes times microseconds of `interval` up to `until`, exactly."""
    end = until if interval.closed_at is None else min(interval.closed_at, until)
    return interval.stored_bytes * max(0, microseconds_between(interval.opened_at, end))


def microseconds_between(begin: datetime, end: datetime) -> int:
    """Return the whole microseconds from `begin` to `end`."""
    return (end - begin) // timedelta(microseconds=1)


def to_byte_hours(byte_microseconds: int) -> Decimal:
    """Convert bytes times microseconds to bytes times hours, with sixty digits."""
    return _DIVIDING.divide(Decimal(byte_microseconds), Decimal(MICROSECONDS_PER_HOUR))


def cut_interval(
    interval: StorageInterval, borders: Sequence[datetime], until: datetime
) -> list[tuple[datetime, datetime]]:
    """Return the periods of an interval up to `until`, cut at the month borders and at the given borders.

    Each period has one month and one price. So neither a later price nor the time of the close changes the cost of an
    earlier period (invariant M19).

    Args:
        interval: the interval.
        borders: further borders in ascending order, for example the begins of price lists.
        until: the end of an open interval.
    """
    begin = interval.opened_at
    end = until if interval.closed_at is None else min(interval.closed_at, until)
    if begin >= end:
        return []
    inside = borders[bisect_right(borders, begin) : bisect_left(borders, end)]
    times = sorted({begin, end, *inside, *month_begins(begin, end)})
    return list(pairwise(times))


def settle_interval(interval: StorageInterval, until: datetime) -> list[StorageInterval]:
    """Cut an open interval at the month ends up to `until`. Each month but the last becomes a closed interval.

    The first part keeps the uid. The uid of each later part is derived from the uid of the part before it and from the
    month end, so that settling each month and settling once give the same parts.

    Returns:
        The parts in order. The last part is open. A single part: no month has ended since the interval opened.
    """
    parts = [interval]
    for border in month_begins(interval.opened_at, until + timedelta(microseconds=1)):
        part = parts[-1]
        uid = derive_uid(part.uid, border)
        parts[-1:] = [replace(part, closed_at=border), replace(part, uid=uid, opened_at=border)]
    return parts


def derive_uid(uid: str, border: datetime) -> str:
    """Return the uid of the interval that continues the interval with the uid `uid` at the end of a month."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{uid}/{border.isoformat()}"))
