"""Stored bytes: owners, durations and costs (invariants M9 and M10).

Each slot is metered by the distinct stored bytes. The attribution rule assigns each byte to the first owner, in the
given order, that names the byte. After an owner arrives or leaves, the rule is applied again, and
`plan_interval_changes` returns the intervals to close and to open. An interval changes only by closing.

Time is counted in whole microseconds, so that the parts of a divided interval have exactly the weight of the whole.
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
"""An hour has a factor of nine and Azure's month a factor of 73, so quotients are infinite decimal fractions.

Sixty digits are far below any coin. The statement rounds each amount once.
"""

Owner: TypeAlias = tuple[str, NDArray[np.uint32], int]
"""(uid, ids of the named segments, bytes of the own manifest)."""
StoredBytes: TypeAlias = Callable[[NDArray[np.uint32]], NDArray[np.int64]] | NDArray[np.int64]
"""Stored bytes of segments: a function of many ids, or a column with the id as index."""


def byte_microseconds(interval: StorageInterval, until: datetime) -> int:
    """Return bytes times microseconds of `interval` up to `until`, exactly."""
    end = until if interval.closed_at is None else min(interval.closed_at, until)
    return interval.stored_bytes * max(0, (end - interval.opened_at) // timedelta(microseconds=1))


def byte_hours(interval: StorageInterval, until: datetime) -> Decimal:
    """Return bytes times hours of `interval` up to `until`."""
    return to_byte_hours(byte_microseconds(interval, until))


def to_byte_hours(byte_microseconds: int) -> Decimal:
    """Convert bytes times microseconds to bytes times hours, with sixty digits."""
    return _DIVIDING.divide(Decimal(byte_microseconds), Decimal(MICROSECONDS_PER_HOUR))


def storage_amount(byte_microseconds: int, per_gb_month: Decimal) -> Decimal:
    """Return the cost of stored bytes at a price per GB and month of 730 hours, with sixty digits."""
    per = Decimal(GIGABYTE * HOURS_PER_MONTH * MICROSECONDS_PER_HOUR)
    return _DIVIDING.divide(_DIVIDING.multiply(Decimal(byte_microseconds), per_gb_month), per)


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
