"""Remove objects that a disk may have left in a slot after a move to another slot (invariants G12 and W20).

A store may carry out the PUT of the manifest long after the client has given up. So each former slot has an open work
of kind removal, with the keys in the plan. The removal runs after no request can arrive any more: by the next work that
ends in the slot, by a collection, or by a worker.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import LeaseLost, StoreError, WorkHeld
from imgstore.domain.resources import Slot
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.leases import is_dead
from imgstore.operations.slots.key_deletions import delete_objects

_KEYS: Final = "keys"


def open_removal(transaction: Transaction, slot: Slot, owner_uid: str, doomed: Sequence[str]) -> None:
    """Open a removal of keys below a slot. The keys are deleted after no earlier request can write the keys any more.

    Raises:
        Conflict: a removal for this owner is open in the slot.
    """
    transaction.works.open(
        kind=WorkKind.REMOVAL, slot_uid=slot.uid, owner_uid=owner_uid, plan={_KEYS: list(doomed)}, pins=()
    )


def is_removal_of_keys(work: Work) -> bool:
    """Return whether `open_removal` opened the work. Such a work outlives the disk that left the keys."""
    return work.kind is WorkKind.REMOVAL and _KEYS in work.plan


def run_removals(installation: Installation, slot: Slot | None = None) -> int:
    """Run the removals that are due, of one slot or of all slots.

    Skip removals of other processes and of failed stores.

    Returns:
        The number of finished removals.
    """
    bound = timedelta(seconds=installation.tuning.delete_seconds_max)
    with installation.catalog.reading() as transaction:
        now = transaction.now()
        works = transaction.works.list_open(None if slot is None else slot.uid)
        due = [work for work in works if is_removal_of_keys(work) and now - work.opened_at >= bound]
        slots = {work.slot_uid: transaction.slots.get(work.slot_uid) for work in due}
    return sum(_run(installation, slots[work.slot_uid], work) for work in due)


def _run(installation: Installation, slot: Slot, work: Work) -> bool:
    keeper = installation.keeper
    try:
        with installation.catalog.transaction() as transaction:
            lease = transaction.works.lease(
                work.uid,
                holder=keeper.holder,
                lease_seconds=keeper.lease_seconds,
                steal=is_dead(work.holder),
                wait=False,
            )
        with keeper.hold(lease) as hold:
            delete_objects(installation, slot, work.plan[_KEYS], hold.check_cancelled)
            with installation.catalog.transaction() as transaction:
                transaction.works.complete(lease)
    except (WorkHeld, LeaseLost, StoreError):
        return False
    return True
