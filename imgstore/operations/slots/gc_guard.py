"""Protect writers from garbage collection (invariant G8).

A segment that is marked for deletion counts as absent for writers. A writer removes the mark, then puts the segment.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.errors import WorkHeld
from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark, GcState
from imgstore.domain.text.durations import format_time_until
from imgstore.operations.installation import Installation
from imgstore.policy.gc_plan import is_delete_over, takeover_at
from imgstore.segments.fingerprint_index import Locations

_LOOK_SECONDS: Final = 0.5


def list_marked_segments(installation: Installation, slot: Slot) -> frozenset[Digest]:
    """List the segments that a writer must treat as absent.

    Call this after the work is open and before the slot is listed. The slot lock decides the order. Either the mark is
    seen here, or the collector finds the open work and deletes no segment with this mark.
    """
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        return frozenset(each.name for each in transaction.deletion_marks.list(slot.uid))


def claim_segments(installation: Installation, slot: Slot, names: Collection[Digest]) -> frozenset[Digest]:
    """Remove the deletion marks of segments that are about to be put, and wait for deletions in progress.

    A deletion is over after the lease of the collector and the request limit.

    Returns:
        The segments that were marked for deletion or are deleted by now.

    Raises:
        WorkHeld: a collector deletes segments, and has not ended in time.
    """
    found: set[Digest] = set()
    delete_bound = timedelta(seconds=installation.tuning.delete_seconds_max)
    until = installation.effects.monotonic() + installation.tuning.claim_seconds_max
    while names:
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(slot.uid)
            now = transaction.now()
            marked = transaction.deletion_marks.find(slot.uid, names)
            transaction.deletion_marks.unmark(slot.uid, [each.name for each in marked])
            deleting = [each for each in marked if each.gc_state is GcState.DELETING]
            over = [each for each in deleting if is_delete_over(each, now, delete_bound)]
            transaction.deletion_marks.remove(slot.uid, [each.name for each in over])
        found.update(each.name for each in marked)
        deleting = [each for each in deleting if each not in over]
        if not deleting:
            break
        if installation.effects.monotonic() >= until:
            raise _held_error(installation, slot, deleting, now)
        installation.effects.wait(_LOOK_SECONDS)
    return frozenset(found)


def unmark_named_segments(installation: Installation, transaction: Transaction, slot: Slot, ids: Locations) -> None:
    """Remove the deletion marks of the segments of a manifest, in the transaction that writes the manifest row.

    The caller holds the slot lock. The segments still exist. The writer has claimed the segments that were marked
    before the work was opened. Segments with later marks are not deleted while the work is open (`policy/gc_plan.py`).

    Raises:
        WorkHeld: one of the segments is being deleted in spite of this.
    """
    marked = _find_marked(transaction, slot, ids)
    deleting = [each for each in marked if each.gc_state is GcState.DELETING]
    if deleting:
        raise _held_error(installation, slot, deleting, transaction.now())
    transaction.deletion_marks.unmark(slot.uid, [each.name for each in marked])


def check_unmarked(installation: Installation, transaction: Transaction, slot: Slot, ids: Locations) -> None:
    """Check under the slot lock that no segment has a GC state, before Completed is written (invariant G9).

    Raises:
        WorkHeld: one of the segments is marked for deletion or is being deleted.
    """
    marked = _find_marked(transaction, slot, ids)
    if marked:
        raise _held_error(installation, slot, marked, transaction.now())


def _find_marked(transaction: Transaction, slot: Slot, ids: Locations) -> list[DeletionMark]:
    marked = {each.name: each for each in transaction.deletion_marks.list(slot.uid)}
    known = transaction.segments.find_ids(slot.key.pool_uid, marked)
    names = list(known)
    is_named = np.isin(np.array([known[name] for name in names], dtype=np.uint32), ids).tolist()
    return [marked[name] for name, is_hit in zip(names, is_named, strict=True) if is_hit]


def _held_error(installation: Installation, slot: Slot, marked: Collection[DeletionMark], now: datetime) -> WorkHeld:
    first = min(marked, key=lambda each: each.name)
    bound = timedelta(seconds=installation.tuning.delete_seconds_max)
    free_at = max((at for each in marked if (at := takeover_at(each, bound)) is not None), default=None)
    if free_at is None:
        found, hint = "", "run the same command again"
    else:
        found = f"; they are free at {format_time_until(free_at, now)} at the latest"
        hint = (
            f"run the same command again when the collector has ended, or, if it was killed, at {free_at:%H:%M:%S} UTC"
        )
    return WorkHeld(
        f"`imgstore gc` is deleting segments of {slot.key} that this work needs.",
        found=f"{len(marked)} segments {first.gc_state}, the first {first.name.hex()}{found}",
        expected="a collection that ends within a minute",
        hint=hint,
        target=str(slot.key),
    )
