"""Bytes that lie: whose they are, for how long, and what that costs (rules.md, rule 22).

Each slot is metered by its distinct stored bytes. The law of attribution gives every byte to one owner: the first, in
the order given, that names it. When an owner comes or goes the law is applied afresh and `plan_interval_changes` says which intervals
end and which begin; intervals themselves never change but by being closed.

Time is reckoned in whole microseconds, so that an interval cut in two weighs exactly what it weighed before.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgstore.domain.storage.sizes import GIGABYTE, HOURS_PER_MONTH
from imgstore.ledger.entries import StorageInterval

MICROSECONDS_PER_HOUR: Final = 3_600 * 10**6

_DIVIDING: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""An hour has a factor of nine and Azure's month one of 73, so quotients do not end; sixty digits are far below any
coin, and what is shown is rounded once, by `statement`."""

Owner: TypeAlias = tuple[str, NDArray[np.uint32], int]
"""(uid, ids of the segments that it names, bytes of its own manifest)."""
StoredBytes: TypeAlias = Callable[[NDArray[np.uint32]], NDArray[np.int64]] | NDArray[np.int64]
"""Stored bytes of segments: a look-up of many ids at once, or a column with the id as index."""


def byte_microseconds(interval: StorageInterval, until: datetime) -> int:
    """Bytes times microseconds of `interval`, as far as it lies before `until`: exact."""
    end = until if interval.closed_at is None else min(interval.closed_at, until)
    return interval.stored_bytes * max(0, (end - interval.opened_at) // timedelta(microseconds=1))


def byte_hours(interval: StorageInterval, until: datetime) -> Decimal:
    """Bytes times hours of `interval`, as far as it lies before `until`."""
    return to_byte_hours(byte_microseconds(interval, until))


def to_byte_hours(byte_microseconds: int) -> Decimal:
    """The same weight in bytes times hours, to sixty digits."""
    return _DIVIDING.divide(Decimal(byte_microseconds), Decimal(MICROSECONDS_PER_HOUR))


def storage_amount(byte_microseconds: int, per_gb_month: Decimal) -> Decimal:
    """What bytes that lay so long cost at a price per GB and month of 730 hours, to sixty digits."""
    per = Decimal(GIGABYTE * HOURS_PER_MONTH * MICROSECONDS_PER_HOUR)
    return _DIVIDING.divide(_DIVIDING.multiply(Decimal(byte_microseconds), per_gb_month), per)


def attribute_bytes(owners: Sequence[Owner], stored_bytes: StoredBytes) -> dict[str, int]:
    """The law of attribution, for one slot.

    Each owner gets the bytes of those segments that no earlier owner names, and those of its own manifest; so the
    values add up to the distinct bytes of the slot.

    Args:
        owners: all complete, living owners of the slot, in order of arrival.
        stored_bytes: the segments' stored bytes.
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
    """What is to be written so that a slot's open intervals say what they should."""

    to_close: tuple[StorageInterval, ...]
    """Open intervals that end now."""
    to_open: dict[str, int]
    """Stored bytes by owner's uid, for intervals that begin now. Owners of no bytes need none."""


def plan_interval_changes(open_intervals: Iterable[StorageInterval], wanted: Mapping[str, int]) -> IntervalChanges:
    """Which open intervals of a slot to close, and which to open, so that they say what `wanted` says.

    An interval that says it already is left alone: an owner that comes or goes touches those only whose bytes change.

    Args:
        open_intervals: the slot's open intervals, one an owner.
        wanted: stored bytes by owner's uid, as `attribute_bytes` gives them.
    """
    standing = {interval.owner_uid: interval for interval in open_intervals}
    kept = {uid for uid, interval in standing.items() if wanted.get(uid, 0) == interval.stored_bytes}
    return IntervalChanges(
        to_close=tuple(interval for uid, interval in standing.items() if uid not in kept),
        to_open={uid: count for uid, count in wanted.items() if uid not in kept and count},
    )
