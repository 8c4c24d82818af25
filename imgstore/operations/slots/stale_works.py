"""Works that nobody goes on with: closed undone after a while, so that they hold nothing back (invariant W3).

No store is asked: what such a work had sent lies where it lies, named by no row, and is condemned by the collection
that follows.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.resources import Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import Work
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import remove_manifests, state_after_failure, update_version_state
from imgstore.policy.gc_plan import is_abandonable, unleased_since

WORK_ABANDON_DAYS: Final = 7.0
"""A command that was killed on Friday is repeated on Monday; what nobody repeats in a week nobody misses."""


def list_stale_works(transaction: Transaction, patience: timedelta) -> list[Work]:
    """The open works that nobody has had a lease on for so long, oldest first."""
    now = transaction.now()
    return [work for work in transaction.works.list_open() if is_abandonable(work, now=now, patience=patience)]


def abandon_stale_works(installation: Installation, patience: timedelta) -> Sequence[Work]:
    """Close those works, each in a transaction of its own. One that is taken up meanwhile is left alone.

    Returns:
        Those that were closed.
    """
    with installation.catalog.reading() as transaction:
        works = list_stale_works(transaction, patience)
    return [work for work in works if _abandoned(installation, work, patience)]


def _abandoned(installation: Installation, work: Work, patience: timedelta) -> bool:
    with installation.catalog.transaction() as transaction:
        standing = transaction.works.try_lock(work.uid)
        if standing is None or not is_abandonable(standing, now=transaction.now(), patience=patience):
            return False
        slot = transaction.slots.get(work.slot_uid)
        others = [each for each in transaction.works.list_open(slot.uid) if each.owner_uid == work.owner_uid]
        if len(others) == 1:  # Else what is unfinished may be the other's.
            _forget_unfinished(installation, transaction, work, slot)
        transaction.works.abandon(work.uid)
        return True


def _forget_unfinished(installation: Installation, transaction: Transaction, work: Work, slot: Slot) -> None:
    """The rows of manifests that were never completed go, and the names of segments with them; the replica has
    failed.
    """
    rows = transaction.manifests.of_replica(work.owner_uid, slot.uid)
    remove_manifests(
        installation, transaction, slot, [row for row in rows if not transaction.manifests.is_complete(row.uid)]
    )
    for replica in transaction.replicas.in_slot(slot.uid):
        if replica.version_uid == work.owner_uid and replica.state is ReplicaState.REPLICATING:
            transaction.versions.lock(replica.version_uid)
            error = f"abandoned: nobody went on with it since {unleased_since(work).isoformat(timespec='seconds')}"
            transaction.replicas.record_failure(
                replica.uid,
                error=error,
                attempts=replica.attempts + 1,
                retry_at=transaction.now(),
                state=state_after_failure(transaction, replica),
            )
            update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
