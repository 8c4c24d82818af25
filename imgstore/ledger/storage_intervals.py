"""Stored bytes: owners, durations and costs (invariants M9 and M10).

Each slot is metered by the distinct stored bytes. The attribution rule assigns each byte to the first owner, in the
given order, that names the byte. After an owner arrives or leaves, the rule is applied again, and
`plan_interval_changes` returns the intervals to close and to open. An interval changes only by closing.

Time is counted in whole microseconds, so that the parts of a divided interval have exactly the weight of the whole.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgstore.ledger.entries import StorageInterval
from imgstore.ledger.months import month_begins
from imgstore.ledger.rating import MICROSECONDS_PER_HOUR

_DIVIDING: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""An hour has a factor of nine, so quotients are infinite decimal fractions. Sixty digits are far below any coin."""

Owner: TypeAlias = tuple[str, NDArray[np.uint32], int]
"""(uid, ids of the named segments, bytes of the own manifest)."""
StoredBytes: TypeAlias = Callable[[NDArray[np.uint32]], NDArray[np.int64]] | NDArray[np.int64]
"""Stored bytes of segments: a function of many ids, or a column with the id as index."""


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


def attribute_bytes(owners: Sequence[Owner], stored_bytes: StoredBytes) -> dict[str, int]:
    """Assign the bytes of a slot to the owners by the attribution rule.

    Each owner gets the bytes of all segments that no earlier owner names, and the bytes of the own manifest. The values
    add up to the distinct bytes of the slot.

    Args:
        owners: all complete, existing owners of the slot, in the order of arrival.
        stored_bytes: the stored bytes of the segments.
    """
    if not owners:
        return {}
    ids, first = np.unique(np.concatenate([named for _, named, _ in owners]), return_index=True)
    ends = np.cumsum([len(named) for _, named, _ in owners])
    lengths = stored_bytes(ids) if callable(stored_bytes) else stored_bytes[ids]
    own = np.array([manifest_bytes for _, _, manifest_bytes in owners], dtype=np.int64)
    np.add.at(own, np.searchsorted(ends, first, side="right"), lengths.astype(np.int64))
    return {uid: int(count) for (uid, _, _), count in zip(owners, own, strict=True)}


class IntervalChanges(NamedTuple):
    """The changes that bring the open intervals of a slot up to date."""

    to_close: tuple[StorageInterval, ...]
    """Open intervals that end now."""
    to_open: dict[str, int]
    """Stored bytes by owner uid, for intervals that begin now. An owner of no bytes needs no interval."""


def plan_interval_changes(open_intervals: Iterable[StorageInterval], wanted: Mapping[str, int]) -> IntervalChanges:
    """Return the open intervals to close and the intervals to open, so that the intervals equal `wanted`.

    A correct interval stays open. An owner that arrives or leaves affects only intervals with other bytes.

    Args:
        open_intervals: the open intervals of the slot, one per owner.
        wanted: stored bytes by owner uid, from `attribute_bytes`.
    """
    current = {interval.owner_uid: interval for interval in open_intervals}
    kept = {uid for uid, interval in current.items() if wanted.get(uid, 0) == interval.stored_bytes}
    return IntervalChanges(
        to_close=tuple(interval for uid, interval in current.items() if uid not in kept),
        to_open={uid: count for uid, count in wanted.items() if uid not in kept and count},
    )
