"""Works, opened, taken over and marked in their slots (invariants W1, W2 and W7)."""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from imgstore.catalog import Transaction
from imgstore.domain.errors import ObjectNotFound, StoreFull
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.leases import Hold
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
    pins: tuple[str, ...] = (),
    can_resume: Callable[[Mapping[str, Any]], bool] = lambda _plan: True,
    wait: bool = True,
) -> tuple[Work, Lease]:
    """The open work of that kind, slot and owner with a lease on it; a new one where there is none.

    A work whose plan no longer fits (another source, another codec) is abandoned aloud and begun anew. Without `wait`,
    a work whose row another transaction has in hand counts as held.

    Raises:
        WorkHeld: a live process has the lease.
    """
    work = transaction.works.find_open(kind, slot.uid, owner_uid)
    if work is not None and not can_resume(work.plan):
        _leased(installation, transaction, work, wait=wait)
        transaction.works.abandon(work.uid)
        installation.note(
            f"{slot.key.region}/{slot.key.ordinal}", "what an earlier run began no longer fits; beginning anew"
        )
        work = None
    if work is None:
        work = transaction.works.open(kind=kind, slot_uid=slot.uid, owner_uid=owner_uid, plan=plan, pins=pins)
    return work, _leased(installation, transaction, work, wait=wait)


def make_copy_plan(manifests: Sequence[ManifestRow]) -> dict[str, Any]:
    """The plan of a work that makes a replica of these, of copying it or of restoring it: one takes over the
    other's.
    """
    return {"digests": {row.disk: row.digest.hex() for row in manifests}}


def _leased(installation: Installation, transaction: Transaction, work: Work, *, wait: bool) -> Lease:
    keeper = installation.keeper
    return transaction.works.lease(
        work.uid, holder=keeper.holder, lease_seconds=keeper.lease_seconds, steal=keeper.can_take_over(work), wait=wait
    )


@contextmanager
def hold_work(
    installation: Installation, slot: Slot, lease: Lease, tick: Callable[[], None] = lambda: None
) -> Iterator[Hold]:
    """Hold the lease, with the work's object in the slot: its LastModified is the work's start by the store's clock.

    The object is taken away when the block ends well, with those of works that were closed and left theirs (abandoned,
    or killed on the way out); after a crash it stays, as the work does. A store that is late with that is left alone:
    the next work in the slot does it.
    """
    with installation.keeper.hold(lease, tick) as hold, _named_if_full(installation):
        access = installation.access(slot)
        began = installation.effects.monotonic()
        if lease.checkpoint is not None:
            installation.locator.put_checkpoint(slot, lease.checkpoint)
        _lay_mark(access, object_keys.work_key(lease.work_uid), is_new=lease.token == 1)
        answer_seconds = installation.effects.monotonic() - began
        yield hold
        # The work is done and written down: a mark that stays is an empty object, no more.
        late_seconds = Grace().seconds(last_seconds=answer_seconds)
        outcome = ask_briefly(partial(_clean_up, installation, slot, access), late_seconds=late_seconds)
        if outcome.late and outcome.age_seconds:
            installation.locator.note_late(slot, outcome.age_seconds)


def _clean_up(installation: Installation, slot: Slot, access: SlotAccess) -> None:
    remove_start_markers(installation, slot, access)
    run_removals(installation, slot)


@contextmanager
def _named_if_full(installation: Installation) -> Iterator[None]:
    """Name the place where a file that stands in for memory found no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFull(
            "There is no room left for scratch files.",
            found=error.strerror,
            expected="room in the file system of the data folder",
            hint="make room, then run the same command again: it goes on",
            target=str(installation.scratch.parent),
        ) from error


def _lay_mark(access: SlotAccess, key: str, *, is_new: bool) -> None:
    """Once: a mark that is laid anew would be younger than what the work's first run has put.

    A work that `is_new` was never leased before, so nobody has laid its mark.
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
    """Remove the marks of the works that the catalog knows as closed."""
    top = access.prefix + object_keys.WORKS
    marks = [info.key.removeprefix(top) for info in access.store.list(top)]
    with installation.catalog.reading() as transaction:
        closed = transaction.works.filter_closed(slot.uid, marks)
    access.remove([object_keys.work_key(uid) for uid in closed])
