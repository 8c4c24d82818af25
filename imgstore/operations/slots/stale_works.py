"""Abandon works without a lease for a long time, so that these works do not delay GC (invariant W3).

No store request is sent. The stored segments of such a work are unreferenced, and the next GC marks these segments.
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
"""A command that was killed on Friday can be repeated on Monday. After a week without a lease, a work is abandoned."""


def list_stale_works(transaction: Transaction, patience: timedelta) -> list[Work]:
    """List the open works without a lease for at least `patience`, oldest first."""
    now = transaction.now()
    return [work for work in transaction.works.list_open() if is_abandonable(work, now=now, patience=patience)]


def abandon_stale_works(installation: Installation, patience: timedelta) -> Sequence[Work]:
    """Abandon stale works, each in a separate transaction. A work that is leased in the mean time is left alone.

    Returns:
        The abandoned works.
    """
    with installation.catalog.reading() as transaction:
        works = list_stale_works(transaction, patience)
    return [work for work in works if _abandon(installation, work, patience)]


def _abandon(installation: Installation, work: Work, patience: timedelta) -> bool:
    with installation.catalog.transaction() as transaction:
        current = transaction.works.try_lock(work.uid)
        if current is None or not is_abandonable(current, now=transaction.now(), patience=patience):
            return False
        slot = transaction.slots.get(work.slot_uid)
        others = [each for each in transaction.works.list_open(slot.uid) if each.owner_uid == work.owner_uid]
        if len(others) == 1:  # Otherwise the incomplete manifests may belong to the other work.
            _remove_unfinished(installation, transaction, work, slot)
        transaction.works.abandon(work.uid)
        return True


def _remove_unfinished(installation: Installation, transaction: Transaction, work: Work, slot: Slot) -> None:
    """Remove the rows of incomplete manifests of the work, and set its replica to Failed or Degraded."""
    rows = transaction.manifests.of_replica(work.owner_uid, slot.uid)
    remove_manifests(
        installation, transaction, slot, [row for row in rows if not transaction.manifests.is_complete(row.uid)]
    )
    for replica in transaction.replicas.in_slot(slot.uid):
        if replica.version_uid == work.owner_uid and replica.state is ReplicaState.REPLICATING:
            transaction.versions.lock(replica.version_uid)
            error = f"abandoned: no process resumed the work after {unleased_since(work).isoformat(timespec='seconds')}"
            transaction.replicas.record_failure(
                replica.uid,
                error=error,
                attempts=replica.attempts + 1,
                retry_at=transaction.now(),
                state=state_after_failure(transaction, replica),
            )
            update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
