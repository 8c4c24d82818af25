"""Stored bytes: owners and intervals (invariants M9 and M10).

Each slot is metered by the distinct stored bytes. The attribution rule assigns each byte to the first owner, in the
given order, that names the byte. After an owner arrives or leaves, the rule is applied again, and
`plan_interval_changes` returns the intervals to close and to open. An interval changes only by closing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgstore.ledger.entries import StorageInterval

Owner: TypeAlias = tuple[str, NDArray[np.uint32], int]
"""(uid, ids of the named segments, bytes of the own manifest)."""
StoredBytes: TypeAlias = Callable[[NDArray[np.uint32]], NDArray[np.int64]] | NDArray[np.int64]
"""Stored bytes of segments: a function of many ids, or a column with the id as index."""


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
    ids, payers = find_payers(owners)
    lengths = stored_bytes(ids) if callable(stored_bytes) else stored_bytes[ids]
    own = np.array([manifest_bytes for _, _, manifest_bytes in owners], dtype=np.int64)
    np.add.at(own, payers, lengths.astype(np.int64))
    return {uid: int(count) for (uid, _, _), count in zip(owners, own, strict=True)}


def find_payers(owners: Sequence[Owner]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the ids of all named segments, ascending, and the place of the first owner of each segment.

    Args:
        owners: at least one owner, in the order of arrival.
    """
    ids, first = np.unique(np.concatenate([named for _, named, _ in owners]), return_index=True)
    ends = np.cumsum([len(named) for _, named, _ in owners])
    return ids, np.searchsorted(ends, first, side="right")


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
