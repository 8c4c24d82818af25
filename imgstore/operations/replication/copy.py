"""Desired against observed: every replica of a version that is not complete is made, several at once.

Read both afresh, decide (``policy/copy_plan.py``), lease, act, record. A failed region keeps its error and stops no other.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.errors import ImgstoreError, ReadBackMismatch, WorkHeld
from imgstore.domain.resources import ImageVersion, ManifestRow, SegmentRow, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter, task_name
from imgstore.operations.replication.targets import (
    abandon_if_unwanted,
    check_slot_is_free,
    is_wanted,
    remove_surplus_replicas,
    unwanted_replica_error,
)
from imgstore.operations.slots.completion import (
    Listed,
    complete_replica,
    list_segments,
    named_by,
    party_of,
    write_failure,
    write_version_state,
)
from imgstore.operations.slots.cross_region_reads import CrossRegionReads
from imgstore.operations.slots.degrade import degrade, degrade_damaged, remove_damaged
from imgstore.operations.slots.gc_guard import claim
from imgstore.operations.slots.key_deletions import wait_for_deletions
from imgstore.operations.slots.restore import RestorePlan, once_complete, plan_restore, rest_seconds_after, restore
from imgstore.operations.slots.works import at_work, copy_plan, take_up
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.policy.copy_plan import CopyStep, ready_steps
from imgstore.policy.worker_queue import QueuedVersion
from imgstore.segments.manifest import ManifestCheck
from imgstore.transfer.copy import CopyOrder, copy_segments, plan_segments
from imgstore.transfer.scatter import Damage, ignore_served
from imgstore.transfer.slot_access import SlotAccess, read_from_any

_LOOK_SECONDS: Final = 1.0
"""So often a person's command looks whether other processes are done with replicas of its version."""


def replicate(
    installation: Installation, definition_path: DefinitionPath, version: ImageVersion
) -> dict[str, ImgstoreError]:
    """Make every replica that is not complete, as far as it can be made now, and wait for those that others make.

    Returns:
        The errors of the replicas that failed, by replica uid.
    """
    failed: dict[str, ImgstoreError] = {}
    busy: dict[Future[None], str] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(installation.tuning.replicas_at_once, thread_name_prefix="replicate") as pool:
        try:
            while True:
                installation.keeper.check_cancelled()
                ours = frozenset(busy.values())
                with installation.catalog.reading() as transaction:
                    queued = read_queued_versions(installation, transaction, [version.uid])[0]
                for step in _ready(queued, ours, failed):
                    made = pool.submit(
                        _lease_and_make, installation, definition_path, version, step, frozenset(failed), stop
                    )
                    busy[made] = step.replica.uid
                elsewhere = queued.busy - ours - failed.keys()
                if not busy and not elsewhere:
                    return failed
                for uid, error in _ended(busy, elsewhere, stop):
                    failed |= {uid: error} if error is not None else {}
        except BaseException:
            stop.set()  # What is under way begins no further request; its work stays open.
            raise


def _ended(
    busy: dict[Future[None], str], elsewhere: Collection[str], stop: threading.Event
) -> Iterator[tuple[str, ImgstoreError | None]]:
    """Wait for the first of ours, or a while for others'; give what ended, with its error."""
    if not busy:
        stop.wait(_LOOK_SECONDS)
    for future in wait(busy, _LOOK_SECONDS if elsewhere else None, return_when=FIRST_COMPLETED).done:
        uid = busy.pop(future)
        try:
            future.result()
        except WorkHeld:
            stop.wait(_LOOK_SECONDS)  # Another process was quicker.
        except ImgstoreError as error:
            yield uid, error
        else:
            yield uid, None


def _ready(queued: QueuedVersion, busy: Collection[str], failed: Collection[str]) -> list[CopyStep]:
    """A person does not wait for the time at which a failed replica is due."""
    return ready_steps(
        queued.replicas,
        source_region=queued.source_region,
        busy=queued.busy.union(busy),
        failed=failed,
        once_complete=queued.once_complete,
    )


def read_queued_versions(
    installation: Installation, transaction: Transaction, version_uids: Sequence[str]
) -> list[QueuedVersion]:
    """Those versions as they stand now, in their order. A lease whose holder is known to be dead is none."""
    under_way = transaction.queue.holders_by_replica(version_uids)
    busy = frozenset(uid for uid, holder in under_way.items() if not installation.keeper.is_dead(holder))
    queued: list[QueuedVersion] = []
    for uid in version_uids:
        replicas = transaction.replicas.list(uid)
        served = any(replica.state is ReplicaState.COMPLETED for replica in replicas)
        queued.append(
            QueuedVersion(
                uid=uid,
                source_region=transaction.versions.by_uid(uid).location,
                replicas=replicas,
                busy=busy,
                # Asked only where it matters: a version with a complete replica is copied from there.
                once_complete=frozenset() if served else once_complete(transaction, uid, replicas),
            )
        )
    return queued


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """A replica whose work is leased."""

    lease: Lease
    origins: list[ManifestRow]
    """The preferred source's manifests: the OS disk's, then by LUN."""
    segments: list[SegmentRow]
    """Of all disks, each once."""
    unrecorded: frozenset[bytes]
    target_objects: int
    is_degraded: bool
    """The replica was complete before: it is here because it was found damaged."""


def _lease_and_make(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    step: CopyStep,
    failed: Collection[str],
    stop: threading.Event,
) -> None:
    """One replica, from lease to record; nothing where it is no longer to be made.

    Its turn is looked for as it was found, with the same replicas left alone: else the one that failed before it would
    have its turn for ever, and this one never.

    Raises:
        WorkHeld: another process makes it.
    """
    try:
        with installation.catalog.transaction() as transaction:
            transaction.versions.lock(version.uid)
            ready = _ready(read_queued_versions(installation, transaction, [version.uid])[0], (), failed)
            if step.replica.uid not in {each.replica.uid for each in ready}:
                return  # Another process was quicker: it made it, or is making it.
            plan = plan_step(installation, transaction, version, step)
    except WorkHeld:
        raise
    except ImgstoreError as error:
        # Without a lease the replica may be another process's, which is well at work: its row is left as it is.
        ProgressCounter(installation, task_name(step.replica)).fail(str(error))
        raise
    make_replica(installation, definition_path, version, step, plan, stop)


def make_replica(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    step: CopyStep,
    plan: CopyPlan | RestorePlan,
    stop: threading.Event,
    task: str | None = None,
) -> None:
    """Bring a replica's bytes under its lease, and write down that they came, or why not.

    Nothing is written of one whose region or replica was taken away meanwhile.

    Args:
        installation: where.
        definition_path: the definition and the gallery of the version.
        version: the replica's.
        step: the replica, and where it is copied from.
        plan: its work, leased.
        stop: set to have nothing further begun.
        task: what its progress is called; None is "region/ordinal".

    Raises:
        ImgstoreError: it failed; so says its row.
        KeyboardInterrupt: `stop` was set; the work stays open and the lease is given back.
    """
    counter = ProgressCounter(installation, task or task_name(step.replica), replica=step.replica)
    try:
        _act(installation, definition_path, version, step, plan, counter, stop)
    except Exception as error:
        if isinstance(error, ImgstoreError) and abandon_if_unwanted(installation, plan.lease, step.replica):
            counter.stop("no longer wanted: its region or its replica was taken away meanwhile")
            return
        counter.fail(str(error))
        rest_seconds = rest_seconds_after(error) if isinstance(plan, RestorePlan) else None
        write_failure(installation, plan.lease, step.replica, str(error), rest_seconds=rest_seconds)
        if isinstance(error, ReadBackMismatch):
            remove_damaged(installation, step.replica.slot, error)
        raise


def plan_step(
    installation: Installation, transaction: Transaction, version: ImageVersion, step: CopyStep
) -> CopyPlan | RestorePlan:
    """Open or take over the work of a step: a copy, or a restore where no replica of the version is complete.

    The caller holds the version's row. Raises as `plan_copy`.
    """
    if step.sources:
        return plan_copy(installation, transaction, version, step)
    check_slot_is_free(transaction, step.replica)
    return plan_restore(installation, transaction, step.replica)


def plan_copy(installation: Installation, transaction: Transaction, version: ImageVersion, step: CopyStep) -> CopyPlan:
    """Open or take up the replica's work; it is Replicating from here on.

    The caller holds the version's row, and nothing is waited for under it: whoever completes a replica holds its work
    and waits for the version (docs/internals/locking.md).

    Raises:
        WorkHeld: another process makes it.
    """
    slot = step.replica.slot
    source = step.sources[0]
    check_slot_is_free(transaction, step.replica)
    origins = transaction.manifests.of_replica(version.uid, source.slot.uid)
    assert len(origins) == len(version.disks), "a complete replica has a manifest of each disk (promise 2)"
    ids = named_by(origins)
    there = transaction.manifests.segment_ids_in_slot(slot.uid)
    standing = transaction.manifests.of_replica(version.uid, slot.uid)
    is_degraded = any(transaction.manifests.is_complete(row.uid) for row in standing)
    segments = transaction.segments.rows(slot.key.pool_uid, ids)
    unrecorded = frozenset(
        row.name for row, known in zip(segments, np.isin(ids, there).tolist(), strict=True) if not known
    )
    plan = copy_plan(origins)
    _, lease = take_up(
        installation,
        transaction,
        kind=WorkKind.COPY,
        slot=slot,
        owner_uid=version.uid,
        plan=plan,
        pins=tuple(row.uid for row in origins),
        still_fits=lambda old: old == plan,
        wait=False,
    )
    begun = transaction.works.find_open(WorkKind.INGEST, slot.uid, version.uid)
    if begun is not None:  # By one who died after the bytes had come into another slot of the source region.
        transaction.works.abandon(begun.uid)
    transaction.replicas.move(step.replica.uid, ReplicaState.REPLICATING)
    write_version_state(transaction, transaction.versions.by_uid(version.uid))
    return CopyPlan(
        lease=lease,
        origins=origins,
        segments=segments,
        unrecorded=unrecorded,
        target_objects=len(there),
        is_degraded=is_degraded,
    )


def _wait_a_while(stop: threading.Event, seconds: float) -> None:
    """Until `stop` is set, at most."""
    stop.wait(seconds)


def _act(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    step: CopyStep,
    plan: CopyPlan | RestorePlan,
    counter: ProgressCounter,
    stop: threading.Event,
) -> None:
    slot = step.replica.slot
    unwanted = threading.Event()

    def beat() -> None:
        if not is_wanted(installation, step.replica):
            unwanted.set()
        counter.save()

    def check_wanted() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        if unwanted.is_set():
            raise unwanted_replica_error(step.replica)

    if isinstance(plan, RestorePlan):
        restore(installation, definition_path, version, plan, counter=counter, check_cancelled=check_wanted, beat=beat)
        return
    target = installation.access(slot)
    damages: list[Damage] = []

    def check_cancelled() -> None:
        check_wanted()
        hold.check_cancelled()

    def patiently(seconds: float) -> None:
        _wait_a_while(stop, min(seconds, _LOOK_SECONDS))
        check_cancelled()

    sources = installation.access_all(
        [source.slot for source in step.sources],
        lambda source: installation.access_from(slot.key.region, source, patiently),
    )
    with at_work(installation, slot, plan.lease, beat) as hold:
        wait_for_deletions(installation, slot, [origin.body_key for origin in plan.origins], check_cancelled)
        wanted = {row.name: row.stored_bytes for row in plan.segments}
        reads = CrossRegionReads(
            installation=installation,
            party=party_of(definition_path, version),
            home=slot,
            stored_bytes=wanted,
            regions={str(source.slot.key): source.slot.key.region for source in step.sources},
            reader=plan.lease.name,
        )
        # The first replica of a region is charged for what crosses when it is complete.
        is_inside = step.sources[0].slot.key.region == slot.key.region
        order = CopyOrder(
            sources=sources,
            target=target,
            segments=wanted,
            unrecorded=plan.unrecorded,
            marked=claim(installation, slot, wanted),
            target_objects=plan.target_objects,
            is_degraded=plan.is_degraded,
            check_cancelled=check_cancelled,
            on_moved=counter.add_bytes,
            damages=damages,
            on_served=reads.served if is_inside else ignore_served,
        )
        looking = installation.threads(installation.tuning.copy_workers, slot.key.region)
        absent, missing = plan_segments(order, workers=looking)
        counter.total = sum(absent.values())
        counter.begin()
        if missing:
            degrade(installation, slot, missing, "the store no longer has it")
        try:
            regions = slot.key.region, step.sources[0].slot.key.region
            workers = installation.threads(installation.tuning.copy_workers, *regions)
            with reads.metering():
                receipt = copy_segments(order, absent, missing, workers=workers)
        finally:
            degrade_damaged(installation, [source.slot for source in step.sources], damages)
        with installation.catalog.transaction() as transaction:
            transaction.works.guard(plan.lease)
            manifests = [_listed(installation, transaction, slot, origin) for origin in plan.origins]
        for origin in plan.origins:
            check_cancelled()
            _, data = read_from_any(sources, partial(_body, origin))
            target.put_manifest(origin.body_key, data)
        with installation.catalog.reading() as transaction:
            version = transaction.versions.by_uid(version.uid)
        complete_replica(
            installation,
            lease=plan.lease,
            definition_path=definition_path,
            version=version,
            replica=step.replica,
            manifests=manifests,
        )
    record_zone_gaps(installation, slot)
    counter.end(f"{receipt.sent_bytes} bytes stored")


def _listed(installation: Installation, transaction: Transaction, slot: Slot, origin: ManifestRow) -> ManifestRow:
    """The row that a manifest has in another slot: under the same key, with the same segments."""
    listed = Listed(
        owner_uid=origin.owner_uid,
        slot=slot,
        disk=origin.disk,
        digest=origin.digest,
        body_key=origin.body_key,
        object_bytes=origin.object_bytes,
        virtual_bytes=origin.virtual_bytes,
        disk_digest=origin.disk_digest,
    )
    return list_segments(installation, transaction, listed, named_by([origin]))


def _body(origin: ManifestRow, source: SlotAccess) -> bytes:
    return source.get_object(origin.body_key, ManifestCheck(origin.digest))


def leave_to_workers(installation: Installation, version: ImageVersion) -> None:
    """Take away what is to go; `imgstore worker` makes the replicas that are missing, failed ones without a rest."""
    remove_surplus_replicas(installation, version.uid)
    with installation.catalog.transaction() as transaction:
        transaction.replicas.retry_now(version.uid)


def converge(
    installation: Installation, definition_path: DefinitionPath, version: ImageVersion
) -> dict[str, ImgstoreError]:
    """Take away what is to go, make what is lacking, take away what that stands in for; again while slots come free.

    Returns:
        The errors of the replicas that failed, by replica uid.
    """
    remove_surplus_replicas(installation, version.uid)
    while True:
        failed = replicate(installation, definition_path, version)
        went = [removal for removal in remove_surplus_replicas(installation, version.uid) if removal.waits_for is None]
        if failed or not went:
            return failed
