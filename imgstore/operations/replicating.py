"""Desired against observed: every replica of a version that is not complete is made, several at once.

Read both afresh, decide (``control/plan.py``), lease, act, record. A failed region keeps its error and stops no other.
"""

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from imgstore.control.plan import CopyStep, ready_steps
from imgstore.domain import keys
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.resources import OS_DISK, ImageVersion, ManifestRow, SegmentRow
from imgstore.domain.states import ReplicaState
from imgstore.domain.works import Lease, WorkKind
from imgstore.operations.counting import Counter, task_of
from imgstore.operations.degrading import degrade, degrade_damaged
from imgstore.operations.finding import Lineage
from imgstore.operations.installation import Installation, first_that_serves
from imgstore.operations.retargeting import check_left, is_wanted, let_go, no_longer_wanted
from imgstore.operations.settling import Listed, complete_replica, list_segments, write_failure, write_version_state
from imgstore.operations.working import at_work, take_up
from imgstore.segments.manifest import intact
from imgstore.transfer.copying import CopyOrder, copy_segments, to_send
from imgstore.transfer.scatter import Damage


def replicate(installation: Installation, line: Lineage, version: ImageVersion) -> dict[str, ImgstoreError]:
    """Make every replica that is not complete, as far as it can be made now.

    Returns:
        The errors of the replicas that failed, by replica uid.
    """
    failed: dict[str, ImgstoreError] = {}
    busy: dict[Future[None], str] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(installation.tuning.replicas_at_once, thread_name_prefix="replicate") as pool:
        try:
            while True:
                for step in _ready(installation, version, set(busy.values()), set(failed)):
                    busy[pool.submit(_make, installation, line, version, step, stop)] = step.replica.uid
                if not busy:
                    return failed
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    uid = busy.pop(future)
                    try:
                        future.result()
                    except ImgstoreError as error:
                        failed[uid] = error
        except BaseException:
            stop.set()  # What is under way begins no further request; its work stays open.
            raise


def _ready(installation: Installation, version: ImageVersion, busy: set[str], failed: set[str]) -> list[CopyStep]:
    with installation.catalog.reading() as facts:
        replicas = facts.replicas.list(version.uid)
    return ready_steps(replicas, source_region=version.location, busy=busy, failed=failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    lease: Lease
    origin: ManifestRow
    """The preferred source's manifest."""
    segments: list[SegmentRow]
    lacking: frozenset[bytes]
    target_objects: int
    ids: "np.ndarray[tuple[int], np.dtype[np.uint32]]"
    distrusted: bool
    """The replica was complete before: it is here because it was found damaged."""


def _make(
    installation: Installation, line: Lineage, version: ImageVersion, step: CopyStep, stop: threading.Event
) -> None:
    """One replica, from lease to record."""
    counter = Counter(installation, task_of(step.replica), replica=step.replica)
    plan: _Plan | None = None
    try:
        plan = _plan(installation, version, step)
        _act(installation, line, version, step, plan, counter, stop)
    except ImgstoreError as error:
        if plan is not None and let_go(installation, plan.lease, step.replica):
            counter.stop("no longer wanted: its region or its replica was taken away meanwhile")
            return
        counter.fail(str(error))
        if plan is not None:  # Without a lease the replica may be another process's, which is well at work.
            write_failure(installation, plan.lease, step.replica, str(error))
        raise


def _plan(installation: Installation, version: ImageVersion, step: CopyStep) -> _Plan:
    slot = step.replica.slot
    source = step.sources[0]
    with installation.catalog.transaction() as facts:
        check_left(facts, step.replica)
        origin = facts.manifests.find(version.uid, source.slot.uid, OS_DISK)
        assert origin is not None, "a complete replica has a manifest (promise 2)"
        ids = np.frombuffer(origin.segment_ids, dtype="<u4").astype(np.uint32)
        there = facts.manifests.named_in_slot(slot.uid)
        standing = facts.manifests.find(version.uid, slot.uid, OS_DISK)
        distrusted = standing is not None and facts.manifests.is_complete(standing.uid)
        segments = facts.segments.rows(slot.key.pool_uid, ids)
        lacking = frozenset(
            row.name for row, known in zip(segments, np.isin(ids, there).tolist(), strict=True) if not known
        )
        _, lease = take_up(
            installation,
            facts,
            kind=WorkKind.COPY,
            slot=slot,
            owner_uid=version.uid,
            plan={"digest": origin.digest.hex()},
            pins=(origin.uid,),
            still_fits=lambda plan: plan.get("digest") == origin.digest.hex(),
        )
        facts.versions.lock(version.uid)
        facts.replicas.move(step.replica.uid, ReplicaState.REPLICATING)
        write_version_state(facts, facts.versions.by_uid(version.uid))
    return _Plan(
        lease=lease,
        origin=origin,
        segments=segments,
        lacking=lacking,
        target_objects=len(there),
        ids=ids,
        distrusted=distrusted,
    )


def _act(
    installation: Installation,
    line: Lineage,
    version: ImageVersion,
    step: CopyStep,
    plan: _Plan,
    counter: Counter,
    stop: threading.Event,
) -> None:
    slot = step.replica.slot
    target = installation.access(slot)
    sources = installation.accesses([source.slot for source in step.sources])
    damages: list[Damage] = []
    unwanted = threading.Event()

    def beat() -> None:
        if not is_wanted(installation, step.replica):
            unwanted.set()
        counter.write_down()

    def go_on() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        if unwanted.is_set():
            raise no_longer_wanted(step.replica)
        hold.go_on()

    with at_work(installation, slot, plan.lease, beat) as hold:
        order = CopyOrder(
            sources=sources,
            target=target,
            segments={row.name: row.stored_bytes for row in plan.segments},
            lacking=plan.lacking,
            target_objects=plan.target_objects,
            distrusted=plan.distrusted,
            workers=installation.tuning.copy_workers,
            go_on=go_on,
            moved=counter.moved,
            damages=damages,
        )
        absent, missing = to_send(order)
        counter.total = sum(absent.values())
        counter.begin()
        if missing:
            degrade(installation, slot, missing, "the store no longer has it")
        try:
            receipt = copy_segments(order, absent, missing)
        finally:
            degrade_damaged(installation, [source.slot for source in step.sources], damages)
        listed = Listed(
            owner_uid=version.uid,
            slot=slot,
            digest=plan.origin.digest,
            body_key=keys.manifest_key(version.uid, OS_DISK),
            object_bytes=plan.origin.object_bytes,
            virtual_bytes=plan.origin.virtual_bytes,
            disk_digest=plan.origin.disk_digest,
        )
        with installation.catalog.transaction() as facts:
            facts.works.guard(plan.lease)
            manifest = list_segments(installation, facts, listed, plan.ids)
        data = first_that_serves(sources, lambda each: each.object(plan.origin.body_key, intact(plan.origin.digest)))
        target.put_manifest(listed.body_key, data)
        with installation.catalog.reading() as facts:
            version = facts.versions.by_uid(version.uid)
        complete_replica(
            installation, lease=plan.lease, line=line, version=version, replica=step.replica, manifest=manifest
        )
    counter.end(f"{receipt.sent_bytes} bytes stored")
