"""Delete objects with keys that may be written again (invariants G6, G7 and G14).

A store may carry out a DELETE long after the client stopped waiting. If the key has a new object by then, the new
object is lost. So each request is recorded before the request is sent, and is sent once and in time. No process writes
the key until the store has answered or the request cannot arrive any more. The record of a segment is a row of
`condemned`, which writers check in any case (`operations/slots/gc_guard.py`). The record of any other key is a row of
`deletions`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import LeaseLost, WorkHeld
from imgstore.domain.resources import Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.garbage import GcState
from imgstore.operations.installation import Installation
from imgstore.operations.stores.catalog_checks import refuse_if_outdated
from imgstore.transfer.slot_access import CheckCancelled, never_cancelled

_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDeletion:
    """A recorded request that is not sent yet."""

    slot: Slot
    keys: tuple[str, ...]
    """Keys below the slot."""
    token: str
    recorded_at: float
    """The monotonic time before the transaction that recorded the request."""


def delete_objects(
    installation: Installation, slot: Slot, doomed: Collection[str], check_cancelled: CheckCancelled = never_cancelled
) -> None:
    """Record and send the deletion of objects of a slot.

    Args:
        installation: the installation.
        slot: the slot.
        doomed: keys below the slot.
        check_cancelled: called before the request is sent.

    Raises:
        CatalogOutdated: the catalog is older than its buckets.
        StoreError: the store refused, or the answer was lost.
        LeaseLost: the request would be sent too late.
    """
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        deletion = record_deletion(installation, transaction, slot, doomed, recorded_at)
    send_deletion(installation, deletion, check_cancelled)


def record_deletion(
    installation: Installation, transaction: Transaction, slot: Slot, doomed: Collection[str], recorded_at: float
) -> KeyDeletion:
    """Record a request in the transaction that decides on the deletion. After the commit no writer uses the keys.

    Args:
        installation: the installation.
        transaction: the open transaction.
        slot: the slot.
        doomed: keys below the slot. Segments that a collector deletes already are left to the collector.
        recorded_at: the monotonic time before the transaction began.

    Raises:
        CatalogOutdated: the catalog is older than its buckets.
    """
    tuning = installation.tuning
    if doomed:
        refuse_if_outdated(transaction)
    transaction.slots.lock(slot.uid)
    token, now = installation.effects.new_uid(), transaction.now()
    segments = {object_keys.segment_name(key): key for key in doomed if object_keys.is_segment_key(key)}
    lease_expires_at = now + timedelta(seconds=tuning.removal_lease_seconds)
    taken = {
        each.name for each in transaction.deletion_marks.find(slot.uid, segments) if each.gc_state is GcState.DELETING
    }
    mine = [name for name in segments if name not in taken]
    transaction.deletion_marks.add(slot.uid, dict.fromkeys(mine, 0))
    transaction.deletion_marks.begin_deleting(slot.uid, mine, token=token, lease_expires_at=lease_expires_at)
    others = [key for key in doomed if not object_keys.is_segment_key(key)]
    until = lease_expires_at + timedelta(seconds=tuning.delete_seconds_max)
    transaction.deletions.begin(slot.uid, others, token=token, until=until)
    chosen = (*(segments[name] for name in mine), *others)
    return KeyDeletion(slot=slot, keys=chosen, token=token, recorded_at=recorded_at)


def send_deletion(
    installation: Installation,
    deletion: KeyDeletion,
    check_cancelled: CheckCancelled = never_cancelled,
    send: Callable[[Collection[str], CheckCancelled], bool] | None = None,
) -> None:
    """Send a recorded request once, then remove the record.

    After an error, or if a zone may carry out the request later, the record blocks the keys until its time has passed.

    Args:
        installation: the installation.
        deletion: the request.
        check_cancelled: called before the request is sent.
        send: sends the request. It gets the keys, and a check to call first. None deletes in the store of the slot.
            The result is false if a zone may carry out the request later.

    Raises:
        StoreError: the store refused, or the answer was lost.
        LeaseLost: the request would be sent too late.
    """
    slot, tuning = deletion.slot, installation.tuning
    if not deletion.keys:
        return

    def in_time() -> None:
        check_cancelled()
        late_seconds = installation.effects.monotonic() - deletion.recorded_at - tuning.removal_lease_seconds
        if late_seconds > 0:
            raise LeaseLost(
                f"A deletion in {slot.key} was about to be sent too late.",
                found=f"{late_seconds:.1f} seconds more than the limit of {tuning.removal_lease_seconds:g} seconds",
                expected="a request that is sent at once",
                hint="run the same command again",
                target=str(slot.key),
            )

    is_settled = (send or installation.access(slot).remove)(deletion.keys, in_time)
    if not is_settled:
        return
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.deletion_marks.end_deleting(slot.uid, deletion.token)
        transaction.deletions.end(slot.uid, deletion.token)


def wait_for_deletions(
    installation: Installation, slot: Slot, wanted: Collection[str], check_cancelled: CheckCancelled = never_cancelled
) -> None:
    """Wait until no earlier request can delete one of the keys any more, for three minutes at most.

    Args:
        installation: the installation.
        slot: the slot.
        wanted: keys below the slot that are about to be written.
        check_cancelled: called during the wait. May raise to end the wait.
    """
    noted: datetime | None = None
    while True:
        with installation.catalog.reading() as transaction:
            until, now = transaction.deletions.pending_until(slot.uid, wanted), transaction.now()
        if until is None:
            return
        if until != noted:
            noted = until
            installation.note(
                str(slot.key),
                f"waiting for an earlier deletion of the same object, at most {(until - now).total_seconds():.0f} s "
                f"(until {until:%H:%M:%S} UTC)",
            )
        check_cancelled()
        installation.effects.wait(_LOOK_SECONDS)


def check_no_deletion(transaction: Transaction, slot: Slot, key: str) -> None:
    """Refuse to record an object if an earlier request may still delete its key. The caller holds the slot lock.

    Raises:
        WorkHeld: a recorded delete request for the key may still be carried out.
    """
    until = transaction.deletions.pending_until(slot.uid, [key])
    if until is not None:
        raise WorkHeld(
            f"An earlier deletion of '{key}' may still be carried out in {slot.key}.",
            found=f"a request that can arrive until {until:%Y-%m-%d %H:%M:%S} UTC "
            f"(in {(until - transaction.now()).total_seconds():.0f} s)",
            expected="no earlier request without an answer",
            hint="run the same command again after that time",
            target=key,
        )
