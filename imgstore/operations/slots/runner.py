"""Run the leased work that writes a replica or a disk into a slot: begin, hold, and record the outcome.

The kinds of work (ingest, copy, restore, Shallow publication) differ only in the bytes that they move.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from imgstore.catalog import Transaction
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ReadBackMismatch, public_text
from imgstore.domain.resources import ManifestRow, Replica, SegmentRow, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.completion import record_failure, record_manifest, update_version_state
from imgstore.operations.slots.degrade import remove_damaged
from imgstore.operations.slots.held_segments import NOT_RECORDED
from imgstore.operations.slots.key_deletions import wait_for_deletions
from imgstore.operations.slots.removal import abandon_writers
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.transfer.slot_access import CheckCancelled, never_cancelled


class ReplicaUnwantedError(Exception):
    """The end of a work on a replica that was removed from the target regions in the mean time."""


def begin_replica(
    installation: Installation,
    transaction: Transaction,
    replica: Replica,
    kind: WorkKind,
    *,
    plan: Mapping[str, Any],
    fixed: Collection[str],
    pins: Sequence[str],
    wait: bool = True,
) -> tuple[Work, Lease]:
    """Open or take over the work of a replica, and set the replica to Replicating.

    A replica is made by one kind of work at a time, so an open work of the other kind is abandoned.

    Args:
        installation: the installation.
        transaction: the open transaction.
        replica: the replica.
        kind: the kind of the work, INGEST or COPY.
        plan: the plan of a new work.
        fixed: see `acquire_work`.
        pins: the uids of the manifest rows that the work reads.
        wait: whether to wait for the row of the work. Without it, a work with a locked row counts as held.

    Raises:
        WorkHeld: a live process has the lease of a work on the replica.
    """
    work, lease = acquire_work(
        installation,
        transaction,
        kind=kind,
        slot=replica.slot,
        owner_uid=replica.version_uid,
        plan=plan,
        fixed=fixed,
        pins=pins,
        wait=wait,
    )
    transaction.versions.lock(replica.version_uid)
    other = WorkKind.COPY if kind is WorkKind.INGEST else WorkKind.INGEST
    if transaction.works.find_open(other, replica.slot.uid, replica.version_uid) is not None:
        slot = replica.slot
        abandon_writers(transaction, replica.version_uid, str(slot.key), slot, kinds={other})
    transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
    update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
    return work, lease


def begin_copy(
    installation: Installation, transaction: Transaction, replica: Replica, manifests: Sequence[ManifestRow]
) -> Lease:
    """Open or take over the work of a replica that gets, or has, the content of these manifests.

    Copies and restores have equal plans, so a copy can take over the work of a restore and the reverse. The caller
    holds the lock on the row of the version. Under this lock, do not wait for the row of the work: a process that
    completes a replica holds its work and waits for the version (docs/internals/locking.md).

    Raises:
        WorkHeld: another process makes the replica.
    """
    plan: dict[str, Any] = {"digests": {row.disk: row.digest.hex() for row in manifests}}
    pins = [row.uid for row in manifests]
    _, lease = begin_replica(
        installation, transaction, replica, WorkKind.COPY, plan=plan | NOT_RECORDED, fixed=plan, pins=pins, wait=False
    )
    return lease


@contextmanager
def run_work(
    installation: Installation,
    slot: Slot,
    lease: Lease,
    counter: ProgressCounter | None = None,
    *,
    replica: Replica | None = None,
    keys: Collection[str] = (),
    check_cancelled: CheckCancelled = never_cancelled,
    beat: Callable[[], None] = lambda: None,
    is_unwanted: Callable[[], bool] = lambda: False,
    uses_bases: bool = False,
    damaged_rest_seconds: float | None = None,
) -> Iterator[CheckCancelled]:
    """Hold the work of a slot while the block moves bytes, and record the outcome.

    The block begins when no earlier deletion can remove the keys of the work any more. At the end of the block, count
    the writes that a zone missed. After an error, record the failure of the replica and delete a segment that cannot be
    read back. The next command resumes the work.

    Args:
        installation: the installation.
        slot: the slot.
        lease: the lease of the work.
        counter: the progress of the work, saved with each beat of the lease.
        replica: the replica that the work makes. None for the work of a disk.
        keys: the keys below the slot that the work may write again.
        check_cancelled: raises to end the work, in addition to the check of the lease.
        beat: called with each beat of the lease.
        is_unwanted: asked after an error. Whether the replica was removed in the mean time.
        uses_bases: whether the plan names stored objects as bases. After ObjectCorrupt, the work is abandoned, and the
            next command makes a new plan.
        damaged_rest_seconds: the time until workers try again after ObjectCorrupt. None means the usual back-off.

    Yields:
        The check to call before each request of the block.

    Raises:
        ImgstoreError: the block failed. The failure is recorded.
        ReplicaUnwantedError: the block failed because the replica is not wanted any more. Nothing is recorded.
    """

    def tick() -> None:
        beat()
        if counter is not None:
            counter.save()

    try:
        with hold_work(installation, slot, lease, tick) as hold:

            def check() -> None:
                check_cancelled()
                hold.check_cancelled()

            wait_for_deletions(installation, slot, keys, check)
            yield check
        record_zone_gaps(installation, slot)
    except Exception as error:
        if isinstance(error, ImgstoreError) and is_unwanted():
            if counter is not None:
                counter.stop("no longer wanted: its region or its replica was removed from the target regions")
            raise ReplicaUnwantedError from error
        is_corrupt = isinstance(error, ObjectCorrupt)
        if counter is not None:
            counter.fail(str(error))
        if replica is not None:
            rest_seconds = damaged_rest_seconds if is_corrupt else None
            record_failure(installation, lease, replica, public_text(error), rest_seconds=rest_seconds)
        if isinstance(error, ReadBackMismatch):
            remove_damaged(installation, slot, error)
        if is_corrupt and uses_bases:
            with installation.catalog.transaction() as transaction:
                transaction.works.abandon(lease.work_uid)
        raise


def store_manifest(
    installation: Installation,
    slot: Slot,
    lease: Lease,
    manifest: ManifestRow,
    data: bytes,
    segments: Sequence[SegmentRow] = (),
) -> ManifestRow:
    """Record a manifest under a lease, then put its object (`record_manifest`).

    Raises:
        LeaseLost: another process has taken over the work. Nothing was written.
    """
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        row = record_manifest(installation, transaction, slot, manifest, segments)
    installation.access(slot).put_manifest(row.body_key, data)
    return row
