"""Replicate versions: make the replicas that are not complete, several at a time (invariant R1).

A step reads the desired and the observed state, plans (`policy/copy_plan.py`), leases a work, copies, and records the
result. A failed region keeps its error and blocks no other region.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import ImgstoreError, WorkHeld
from imgstore.domain.resources import ImageVersion, Replica
from imgstore.domain.states import ReplicaState
from imgstore.domain.views import DefinitionPath
from imgstore.ledger.egress import ArrivalPath
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter, SavedProgress, task_name
from imgstore.operations.replication.boot_packs import inherit_packs
from imgstore.operations.replication.routes import choose_parents, record_parents
from imgstore.operations.replication.slot_copy import CopiedContent, SlotCopy, read_content
from imgstore.operations.replication.targets import (
    abandon_if_unwanted,
    check_slot_is_free,
    is_wanted,
    remove_surplus_replicas,
    unwanted_replica_error,
)
from imgstore.operations.slots.completion import (
    LeasedReplica,
    complete_replica,
    record_manifest,
    version_party,
)
from imgstore.operations.slots.restore import (
    DAMAGED_REST_SECONDS,
    RESTORED,
    RestorePlan,
    find_once_complete,
    plan_restore,
    restore,
)
from imgstore.operations.slots.runner import ReplicaUnwantedError, begin_copy, run_work
from imgstore.policy.copy_plan import CopyStep, ready_steps
from imgstore.policy.worker_queue import QueuedVersion
from imgstore.transfer.slot_access import CheckCancelled

_LOOK_SECONDS: Final = 1.0
"""The time between two looks of a command at the replicas that other processes make."""


def replicate(
    installation: Installation, definition_path: DefinitionPath, version: ImageVersion
) -> dict[str, ImgstoreError]:
    """Make the replicas of a version that can be made now, and wait for the replicas that other processes make.

    Returns:
        The errors of the failed replicas, by replica uid.
    """
    failed: dict[str, ImgstoreError] = {}
    copies: dict[Future[None], str] = {}
    others: dict[str, SavedProgress] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(installation.tuning.replicas_at_once, thread_name_prefix="replicate") as pool:
        try:
            while True:
                installation.keeper.check_cancelled()
                own = frozenset(copies.values())
                with installation.catalog.reading() as transaction:
                    queued = read_queued_versions(installation, transaction, [version.uid], _always(failed))[0]
                for step in _ready(queued, own, failed):
                    copy = pool.submit(
                        _lease_and_make, installation, definition_path, version, step, frozenset(failed), stop
                    )
                    copies[copy] = step.replica.uid
                elsewhere = queued.busy - own - failed.keys()
                _report_others(installation, queued.replicas, elsewhere, others)
                if not copies and not elsewhere:
                    return failed
                for uid, error in _wait_for_copies(copies, elsewhere, stop):
                    failed |= {uid: error} if error is not None else {}
        except BaseException:
            stop.set()  # Running copies begin no further request. Their works stay open.
            raise


def _report_others(
    installation: Installation,
    replicas: Sequence[Replica],
    elsewhere: Collection[str],
    others: dict[str, SavedProgress],
) -> None:
    """Report the saved progress of the replicas that other processes make, and the end of such a replica."""
    for replica in replicas:
        if replica.uid in elsewhere:
            if replica.uid not in others:
                others[replica.uid] = SavedProgress(installation, task_name(replica))
            others[replica.uid].report(replica.bytes_done, replica.bytes_total)
        elif replica.uid in others:
            progress = others.pop(replica.uid)
            if replica.state is ReplicaState.COMPLETED:
                progress.end()


def _wait_for_copies(
    copies: dict[Future[None], str], elsewhere: Collection[str], stop: threading.Event
) -> Iterator[tuple[str, ImgstoreError | None]]:
    """Wait for the first copy of this process, for a second at most if other processes make replicas.

    Yields the uid of each replica whose copy ended, with its error.
    """
    if not copies:
        stop.wait(_LOOK_SECONDS)
    for future in wait(copies, _LOOK_SECONDS if elsewhere else None, return_when=FIRST_COMPLETED).done:
        uid = copies.pop(future)
        try:
            future.result()
        except WorkHeld:
            stop.wait(_LOOK_SECONDS)  # Another process has leased the replica first.
        except ImgstoreError as error:
            yield uid, error
        else:
            yield uid, None


def _always(failed: Collection[str]) -> Callable[[Sequence[Replica]], Collection[str]]:
    return lambda _replicas: failed


def _ready(queued: QueuedVersion, busy: Collection[str], failed: Collection[str]) -> list[CopyStep]:
    """Return the steps that can begin.

    A command retries failed replicas immediately, before their back-off has passed.
    """
    return ready_steps(
        queued.replicas,
        source_region=queued.source_region,
        busy=queued.busy.union(busy),
        failed=failed,
        once_complete=queued.once_complete,
        parents=queued.parents,
    )


def read_queued_versions(
    installation: Installation,
    transaction: Transaction,
    version_uids: Sequence[str],
    find_failed: Callable[[Sequence[Replica]], Collection[str]],
) -> list[QueuedVersion]:
    """Read the replicas of versions, the leases on them, and the parents of their regions, in the order of the uids.

    A lease of a process that is known to be dead does not count.

    Args:
        installation: the installation.
        transaction: the open transaction.
        version_uids: the versions.
        find_failed: returns the uids of the replicas to leave alone. Such replicas are no parents.
    """
    under_way = transaction.queue.holders_by_replica(version_uids)
    busy = frozenset(uid for uid, holder in under_way.items() if not installation.keeper.is_dead(holder))
    queued: list[QueuedVersion] = []
    for uid in version_uids:
        replicas = transaction.replicas.list(uid)
        served = any(replica.state is ReplicaState.COMPLETED for replica in replicas)
        source_region = transaction.versions.by_uid(uid).location
        queued.append(
            QueuedVersion(
                uid=uid,
                source_region=source_region,
                replicas=replicas,
                busy=busy,
                # A version with a complete replica is copied from that replica, so no other replica is restored.
                once_complete=frozenset() if served else find_once_complete(transaction, uid, replicas),
                parents=choose_parents(
                    installation,
                    transaction,
                    source_region=source_region,
                    replicas=replicas,
                    failed=find_failed(replicas),
                ),
            )
        )
    return queued


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan(LeasedReplica):
    """The leased work of a replica that is copied from other slots."""

    sources: Sequence[Replica]
    """Complete replicas, the preferred source first."""
    content: CopiedContent
    is_degraded: bool
    """Whether the replica was complete before. Then at least one object of the replica was damaged."""
    earlier_region: str | None
    """The region that earlier runs of the copy read from, on a cheapest route into another region. None for the route
    `source`, and for a copy inside a region.
    """


def _lease_and_make(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    step: CopyStep,
    failed: Collection[str],
    stop: threading.Event,
) -> None:
    """Make one replica, from the lease to the record. Do nothing if the replica must not be made any more.

    The step must still be ready if the same failed replicas are left out. With the failed replicas included, a failed
    replica that is planned first would block this replica forever.

    Raises:
        WorkHeld: another process makes the replica.
    """
    try:
        with installation.catalog.transaction() as transaction:
            transaction.versions.lock(version.uid)
            queued = read_queued_versions(installation, transaction, [version.uid], _always(failed))[0]
            ready = {each.replica.uid: each for each in _ready(queued, (), failed)}
            if step.replica.uid not in ready:
                return  # Another process has made the replica, or makes the replica now.
            plan = plan_step(installation, transaction, definition_path, version, queued, ready[step.replica.uid])
    except WorkHeld:
        raise
    except ImgstoreError as error:
        # Without a lease, another process may be making the replica. So the row stays unchanged.
        ProgressCounter(installation, task_name(step.replica)).fail(str(error))
        raise
    make_replica(installation, plan, stop)


def make_replica(
    installation: Installation, plan: CopyPlan | RestorePlan, stop: threading.Event, task: str | None = None
) -> None:
    """Copy or restore a replica under its lease, and record the result.

    Record no failure for a replica that was removed from the target regions in the mean time.

    Args:
        installation: the installation.
        plan: the leased work.
        stop: set to begin no further request.
        task: the name of the task for progress reports. None means "region/ordinal".

    Raises:
        ImgstoreError: the copy failed. The row of the replica contains the error.
        KeyboardInterrupt: `stop` was set. The work stays open, and the lease is released.
    """
    replica = plan.replica
    counter = ProgressCounter(installation, task or task_name(replica), replica=replica)
    unwanted = threading.Event()

    def beat() -> None:
        if not is_wanted(installation, replica):
            unwanted.set()

    def check_wanted() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        if unwanted.is_set():
            raise unwanted_replica_error(replica)

    try:
        with run_work(
            installation,
            replica.slot,
            plan.lease,
            counter,
            replica=replica,
            keys=() if isinstance(plan, RestorePlan) else [origin.body_key for origin in plan.content.origins],
            check_cancelled=check_wanted,
            beat=beat,
            is_unwanted=partial(abandon_if_unwanted, installation, plan.lease, replica),
            damaged_rest_seconds=DAMAGED_REST_SECONDS if isinstance(plan, RestorePlan) else None,
        ) as check_cancelled:
            if isinstance(plan, RestorePlan):
                restore(installation, plan, counter, check_cancelled)
                result = RESTORED
            else:
                sent_bytes = _copy(installation, plan, counter, stop, check_cancelled)
                result = f"{sent_bytes} bytes stored"
    except ReplicaUnwantedError:
        return
    counter.end(result)
    inherit_packs(installation, plan.version, replica.slot)


def plan_step(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    version: ImageVersion,
    queued: QueuedVersion,
    step: CopyStep,
) -> CopyPlan | RestorePlan:
    """Open or take over the work of a step: a copy, or a restore if no replica of the version is complete.

    Record the parents of the regions. The caller holds the lock on the row of the version.

    Raises:
        WorkHeld: another process makes the replica, or an earlier replica in the slot is not removed yet.
    """
    record_parents(transaction, queued, step)
    if step.sources:
        plan = plan_copy(installation, transaction, definition_path, version, step)
        return replace(plan, earlier_region=find_earlier_region(queued, step))
    check_slot_is_free(transaction, step.replica)
    return plan_restore(installation, transaction, step.replica)


def find_earlier_region(queued: QueuedVersion, step: CopyStep) -> str | None:
    """Return the region that the last run of a copy read from. Without an earlier run: the region to read from now.

    None for the route `source`, and for a copy inside a region.
    """
    if queued.parents is None or not step.is_cross_region:
        return None
    has_begun = step.replica.state is not ReplicaState.PENDING
    return (step.replica.parent_region if has_begun else None) or step.sources[0].slot.key.region


def plan_copy(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    version: ImageVersion,
    step: CopyStep,
) -> CopyPlan:
    """Open or take over the copy work of a replica, and set the replica to Replicating.

    The caller holds the lock on the row of the version.

    Raises:
        WorkHeld: another process makes the replica, or an earlier replica in the slot is not removed yet.
    """
    slot = step.replica.slot
    source = step.sources[0]
    check_slot_is_free(transaction, step.replica)
    origins = transaction.manifests.of_replica(version.uid, source.slot.uid)
    assert len(origins) == len(version.disks), "a complete replica has a manifest of each disk (invariant P2)"
    existing = transaction.manifests.of_replica(version.uid, slot.uid)
    is_degraded = any(transaction.manifests.is_complete(row.uid) for row in existing)
    return CopyPlan(
        definition_path=definition_path,
        version=version,
        replica=step.replica,
        lease=begin_copy(installation, transaction, step.replica, origins),
        sources=step.sources,
        content=read_content(transaction, slot, origins),
        is_degraded=is_degraded,
        earlier_region=None,
    )


def _wait_for_stop(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


def _copy(
    installation: Installation,
    plan: CopyPlan,
    counter: ProgressCounter,
    stop: threading.Event,
    check_cancelled: CheckCancelled,
) -> int:
    """Copy the missing segments and the manifests of a replica, and complete the replica; return the sent bytes."""
    slot = plan.replica.slot
    copy = SlotCopy(
        installation=installation,
        slot=slot,
        lease=plan.lease,
        sources=[source.slot for source in plan.sources],
        content=plan.content,
        party=version_party(plan.definition_path, plan.version),
        counter=counter,
        check_cancelled=check_cancelled,
        wait=partial(_wait_for_stop, stop),
        is_degraded=plan.is_degraded,
    )
    sent = copy.send()
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(plan.lease)
        manifests = [
            record_manifest(
                installation, transaction, slot, replace(origin, uid=installation.effects.new_uid(), slot_uid=slot.uid)
            )
            for origin in plan.content.origins
        ]
    for origin in plan.content.origins:
        check_cancelled()
        sent.put_manifest(origin)
    with installation.catalog.reading() as transaction:
        version = transaction.versions.by_uid(plan.version.uid)
    path = None
    if plan.earlier_region is not None:
        parent = plan.sources[0].slot.key.region
        path = ArrivalPath(parent=parent, earlier=plan.earlier_region, served=sent.served)
    complete_replica(installation, replace(plan, version=version), manifests, path)
    return sent.sent_bytes


def leave_to_workers(installation: Installation, version: ImageVersion) -> None:
    """Remove surplus replicas, and let workers make the others. Failed replicas are due immediately."""
    remove_surplus_replicas(installation, version.uid)
    with installation.catalog.transaction() as transaction:
        transaction.replicas.retry_now(version.uid)


def converge(
    installation: Installation, definition_path: DefinitionPath, version: ImageVersion
) -> dict[str, ImgstoreError]:
    """Remove surplus replicas and make missing replicas of a version, until nothing changes any more.

    A complete replica may replace another replica, which is then removed. A removed replica may free the slot of a
    missing replica.

    Returns:
        The errors of the failed replicas, by replica uid.
    """
    remove_surplus_replicas(installation, version.uid)
    while True:
        failed = replicate(installation, definition_path, version)
        removed = [each for each in remove_surplus_replicas(installation, version.uid) if each.waits_for is None]
        if failed or not removed:
            return failed
