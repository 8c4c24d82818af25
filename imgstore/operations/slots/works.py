"""Open works, take over works, and mark the start of works in the slots (invariants W1 to W5)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from imgstore.catalog import Transaction
from imgstore.domain.errors import ObjectNotFound, StoreFull
from imgstore.domain.host.os_errors import advise, describe, find_os_error, host_fault, is_full
from imgstore.domain.resources import Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.leases import Hold, is_dead
from imgstore.operations.slots.leftovers import run_removals
from imgstore.stores.wrappers.hedging import Grace, ask_briefly
from imgstore.transfer.slot_access import SlotAccess


def acquire_work(
    installation: Installation,
    transaction: Transaction,
    *,
    kind: WorkKind,
    slot: Slot,
    owner_uid: str,
    plan: Mapping[str, Any],
    fixed: Collection[str] = (),
    pins: Sequence[str] = (),
    wait: bool = True,
) -> tuple[Work, Lease]:
    """Lease the open work of a kind, slot and owner. Open a work if there is none.

    The `fixed` entries of the plan must be equal in the open work. If an entry differs (another source, another codec),
    abandon the work, report this, and open a new work (invariant W5). Without `wait`, a work with a locked row counts
    as held.

    Raises:
        WorkLeased: a live process, or another thread of this process, does the work.
    """
    work = transaction.works.find_open(kind, slot.uid, owner_uid)
    if work is not None and any(work.plan.get(name) != plan[name] for name in fixed):
        _lease(installation, transaction, work, wait=wait)
        transaction.works.abandon(work.uid)
        installation.note(
            f"{slot.key.region}/{slot.key.ordinal}",
            "the work of an earlier run does not fit this request; a new work begins",
        )
        work = None
    if work is None:
        work = transaction.works.open(kind=kind, slot_uid=slot.uid, owner_uid=owner_uid, plan=plan, pins=tuple(pins))
    return work, _lease(installation, transaction, work, wait=wait)


def _lease(installation: Installation, transaction: Transaction, work: Work, *, wait: bool) -> Lease:
    keeper = installation.keeper
    return transaction.works.lease(
        work.uid,
        holder=keeper.holder,
        lease_seconds=keeper.lease_seconds,
        own_token=keeper.own_token(work.uid),
        steal=is_dead(work.holder),
        wait=wait,
    )


@contextmanager
def hold_work(
    installation: Installation, slot: Slot, lease: Lease, tick: Callable[[], None] = lambda: None
) -> Iterator[Hold]:
    """Hold a lease, with the start marker of the work in the slot (invariant W1).

    If the block ends without an error, remove the start marker, and the markers of other closed works. After a crash,
    the marker and the work stay. If the store is late with the removal, the next work in the slot removes the markers.
    """
    with installation.keeper.hold(lease, tick) as hold, _translate_scratch_errors(installation):
        access = installation.access(slot)
        began = installation.effects.monotonic()
        if lease.checkpoint is not None:
            installation.locator.put_checkpoint(slot, lease.checkpoint)
        _put_start_marker(access, object_keys.work_key(lease.work_uid), is_new=lease.token == 1)
        answer_seconds = installation.effects.monotonic() - began
        yield hold
        # The work is completed. A marker that stays is an empty object, and harmless.
        late_seconds = Grace().seconds(last_seconds=answer_seconds)
        outcome = ask_briefly(partial(_remove_leftovers, installation, slot, access), late_seconds=late_seconds)
        if outcome.late and outcome.age_seconds:
            installation.locator.note_late(slot, outcome.age_seconds)


def _remove_leftovers(installation: Installation, slot: Slot, access: SlotAccess) -> None:
    remove_start_markers(installation, slot, access)
    run_removals(installation, slot)


@contextmanager
def _translate_scratch_errors(installation: Installation) -> Iterator[None]:
    """Name the scratch folder in the error for a full file system, and translate other errors of this machine."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        found = find_os_error(error)
        if found is None:
            raise
        if not is_full(found):
            raise host_fault(found) from error
        scratch = installation.scratch.parent
        raise StoreFull(
            "There is no room left for scratch files.",
            found=describe(found),
            expected="free space in the file system of the data folder",
            hint=f"{advise(found, scratch)}, then run the same command again, which resumes the work",
            target=str(scratch),
        ) from error


def _put_start_marker(access: SlotAccess, key: str, *, is_new: bool) -> None:
    """Put the start marker once: a second marker would be younger than the segments of the first run.

    A work that `is_new` was never leased before, so no process has put a marker.
    """
    if not is_new:
        try:
            access.store.head(access.prefix + key)
        except ObjectNotFound:
            pass
        else:
            return
    access.put_object(key, b"", lambda body: body == b"")


def remove_start_markers(installation: Installation, slot: Slot, access: SlotAccess) -> None:
    """Remove the start markers of works that the catalog knows as closed."""
    top = access.prefix + object_keys.WORKS
    markers = [info.key.removeprefix(top) for info in access.store.list(top)]
    with installation.catalog.reading() as transaction:
        closed = transaction.works.filter_closed(slot.uid, markers)
    access.remove([object_keys.work_key(uid) for uid in closed])
