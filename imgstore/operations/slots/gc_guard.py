"""Writers against collection: what is condemned counts as absent, is let live, and put again (invariant G8)."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.durations import format_time_until
from imgstore.domain.errors import WorkHeld
from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark, GcState
from imgstore.operations.installation import Installation
from imgstore.policy.gc_plan import is_delete_over, takeover_at
from imgstore.segments.fingerprint_index import Locations

_LOOK_SECONDS: Final = 0.5


def list_marked_segments(installation: Installation, slot: Slot) -> frozenset[Digest]:
    """What a writer must hold to be absent. Asked once its work is open and before it lists the slot.

    Under the slot's lock, so that a collector which condemns at this moment is either seen here, or finds the work open
    and deletes nothing of what it condemned.
    """
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        return frozenset(each.name for each in transaction.deletion_marks.list(slot.uid))


def claim_segments(installation: Installation, slot: Slot, names: Collection[Digest]) -> frozenset[Digest]:
    """Lift the condemnation of segments that are about to be put; wait for those whose delete is under way.

    A delete whose lease and request bound have passed is under way no longer, whoever sent it.

    Returns:
        Those that were condemned, or are deleted by now.

    Raises:
        WorkHeld: a collector deletes them, and has not ended in time.
    """
    found: set[Digest] = set()
    delete_bound = timedelta(seconds=installation.tuning.delete_seconds_max)
    until = installation.effects.monotonic() + installation.tuning.claim_seconds_max
    while names:
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(slot.uid)
            now = transaction.now()
            condemned = transaction.deletion_marks.find(slot.uid, names)
            transaction.deletion_marks.unmark(slot.uid, [each.name for each in condemned])
            deleting = [each for each in condemned if each.gc_state is GcState.DELETING]
            over = [each for each in deleting if is_delete_over(each, now, delete_bound)]
            transaction.deletion_marks.remove(slot.uid, [each.name for each in over])
        found.update(each.name for each in condemned)
        deleting = [each for each in deleting if each not in over]
        if not deleting:
            break
        if installation.effects.monotonic() >= until:
            raise _held(installation, slot, deleting, now)
        installation.effects.wait(_LOOK_SECONDS)
    return frozenset(found)


def unmark_named_segments(installation: Installation, transaction: Transaction, slot: Slot, ids: Locations) -> None:
    """In the transaction that writes a manifest's row, under the slot's lock: what it names is condemned no more.

    Nothing of it was deleted. What was condemned before the writer's work opened, it has claimed; what was condemned
    later is not deleted while that work is open (`policy/gc_plan.py`).

    Raises:
        WorkHeld: one of the segments is being deleted all the same.
    """
    condemned = _condemned_of(transaction, slot, ids)
    deleting = [each for each in condemned if each.gc_state is GcState.DELETING]
    if deleting:
        raise _held(installation, slot, deleting, transaction.now())
    transaction.deletion_marks.unmark(slot.uid, [each.name for each in condemned])


def check_unmarked(installation: Installation, transaction: Transaction, slot: Slot, ids: Locations) -> None:
    """Under the slot's lock, before Completed is written.

    Raises:
        WorkHeld: one of the segments is condemned, or being deleted.
    """
    condemned = _condemned_of(transaction, slot, ids)
    if condemned:
        raise _held(installation, slot, condemned, transaction.now())


def _condemned_of(transaction: Transaction, slot: Slot, ids: Locations) -> list[DeletionMark]:
    condemned = {each.name: each for each in transaction.deletion_marks.list(slot.uid)}
    known = transaction.segments.find_ids(slot.key.pool_uid, condemned)
    names = list(known)
    mine = np.isin(np.array([known[name] for name in names], dtype=np.uint32), ids).tolist()
    return [condemned[name] for name, is_mine in zip(names, mine, strict=True) if is_mine]


def _held(installation: Installation, slot: Slot, condemned: Collection[DeletionMark], now: datetime) -> WorkHeld:
    first = min(condemned, key=lambda each: each.name)
    bound = timedelta(seconds=installation.tuning.delete_seconds_max)
    free_at = max((at for each in condemned if (at := takeover_at(each, bound)) is not None), default=None)
    if free_at is None:
        found, hint = "", "run the same command again"
    else:
        found = f"; they are free at {format_time_until(free_at, now)} at the latest"
        hint = (
            f"run the same command again when the collector has ended, or, if it was killed, at {free_at:%H:%M:%S} UTC"
        )
    return WorkHeld(
        f"`imgstore gc` is collecting segments of {slot.key} that are wanted here.",
        found=f"{len(condemned)} segments {first.gc_state}, the first {first.name.hex()}{found}",
        expected="a collector that ends within a minute",
        hint=hint,
        target=str(slot.key),
    )
