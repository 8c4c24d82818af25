"""Garbage collection: mark unreferenced segments for deletion, and delete marked segments after a grace period.

Each slot needs three kinds of transactions, under the slot lock, and no store request runs inside a transaction
(invariant G4). The first marks segments. The second begins the deletion of a batch of at most 1,000 segments, with a
lease. The third removes the rows of the batch. The batch has one delete request, which is sent between the last two
transactions. The request is sent only if the remaining lease is longer than the request limit (invariant G6).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, ImgstoreError, LeaseLost, StoreError
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.resources import Gallery, Pool, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc_survey import find_named_segments, read_gc_clock, survey_slot
from imgstore.operations.maintenance.old_versions import sweep_old_versions
from imgstore.operations.maintenance.revision_upkeep import delete_old_revisions, write_all_revisions
from imgstore.operations.maintenance.unknown_objects import record_unknown
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.targets import remove_all_surplus_replicas
from imgstore.operations.revisions import flush_revisions
from imgstore.operations.slots.attribution import account_for_manifests, update_intervals
from imgstore.operations.slots.leftovers import run_removals
from imgstore.operations.slots.stale_works import WORK_ABANDON_DAYS, abandon_stale_works, list_stale_works
from imgstore.operations.stores.catalog_checks import check_catalog_is_current, refuse_if_outdated
from imgstore.operations.versions.delete import purge_soft_deleted
from imgstore.operations.versions.unfinished_deletes import finish_deletes
from imgstore.policy.gc_plan import GcReport, SlotReport, SlotSurvey, is_deletable
from imgstore.policy.old_versions import VersionSweep
from imgstore.regions import ALL_ZONES
from imgstore.stores.interface import DELETE_KEYS_MAX
from imgstore.stores.zone_redundant import ZoneRedundantStore

GRACE_HOURS: Final = 24.0
COLLECTION: Final = "imgstore/gc"
"""The action in the activity log."""
PATIENCE: Final = timedelta(days=WORK_ABANDON_DAYS)


def plan_collection(
    installation: Installation, principal: Principal, *, grace: timedelta, patience: timedelta = PATIENCE
) -> GcReport:
    """List the segments that a collection would delete, slot by slot, and the works that it would abandon.

    Changes nothing.
    """
    authorize(principal, Action.READ, INSTALLATION)
    with installation.catalog.reading() as transaction:
        abandoned = list_stale_works(transaction, patience)
    slots = [report for _, reports in _survey_pools(installation, grace) for report in reports]
    old_versions = sweep_old_versions(installation, slots, remove=False)
    return GcReport(grace=grace, slots=slots, abandoned=abandoned, old_versions=old_versions)


def collect(
    installation: Installation, principal: Principal, *, grace: timedelta, patience: timedelta = PATIENCE
) -> GcReport:
    """Mark unreferenced segments, delete segments after the grace period, and remove unused rows, pools and notes.

    In buckets with versioning, the versions of deleted and replaced objects are deleted, too.

    May be repeated, may be killed at any time, and may run at the same time as any other operation, also as another
    collection. A slot that fails is reported, and does not stop the other slots.

    Args:
        installation: the installation.
        principal: the caller.
        grace: the time from the mark to the deletion of a segment.
        patience: the time without a lease after which a work is abandoned and its segments are marked.

    Raises:
        CatalogOutdated: the catalog is older than its buckets. Nothing was changed.
    """
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, COLLECTION):
        check_catalog_is_current(installation)
        with installation.catalog.transaction() as transaction:
            transaction.clock_steps.correct()
        # Segments that only these works and versions needed become unreferenced, and are marked below.
        abandoned = abandon_stale_works(installation, patience)
        purge_soft_deleted(installation)
        finish_deletes(installation)
        remove_all_surplus_replicas(installation)
        run_removals(installation)
        write_all_revisions(installation)
        done: list[SlotReport] = []
        segments = pools = 0
        for pool, planned in _survey_pools(installation, grace):
            reports = [_collect_slot(installation, report, grace) for report in planned]
            if all(report.problem is None for report in reports):
                segments += _remove_segment_rows(installation, pool, reports)
                pools += _remove_pool(installation, pool, reports)
            done += reports
        delete_old_revisions(installation, _owners_with_revisions(done))
        old_versions = sweep_old_versions(installation, done, remove=True)
        return GcReport(
            grace=grace,
            slots=[_count_kept(report, old_versions) for report in done],
            old_versions=old_versions,
            abandoned=abandoned,
            removed_segment_rows=segments,
            removed_pools=pools,
            resolved_notes=_drop_stale_notes(installation, done),
        )


def _owners_with_revisions(reports: Sequence[SlotReport]) -> frozenset[str] | None:
    """Return the uids with revisions in slots, or None if a slot was not read."""
    surveys = [report.survey for report in reports]
    return frozenset().union(*(each.owners_with_revisions for each in surveys if each)) if all(surveys) else None


def collect_pool(installation: Installation, principal: Principal, pool_uid: str) -> list[SlotReport]:
    """Collect the garbage of one pool without a grace period. Only for a caller that alone has written to the pool."""
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, COLLECTION):
        check_catalog_is_current(installation)
        flush_revisions(installation)
        done: list[SlotReport] = []
        for pool, planned in _survey_pools(installation, timedelta(0), pool_uid):
            done += [_collect_slot(installation, report, timedelta(0)) for report in planned]
            if all(report.problem is None for report in done):
                _remove_segment_rows(installation, pool, done)
                _remove_pool(installation, pool, done)
        return done


def _survey_pools(
    installation: Installation, grace: timedelta, pool_uid: str | None = None
) -> list[tuple[Pool, list[SlotReport]]]:
    """Survey all slots of all pools, or of one pool."""
    with installation.catalog.reading() as transaction:
        pools = [
            (pool, transaction.galleries.find_by_pool(pool.uid), transaction.slots.list(pool.uid))
            for pool in transaction.pools.list()
            if pool_uid in (None, pool.uid)
        ]
    return [
        (pool, [_survey(installation, slot, pool, gallery, grace) for slot in slots]) for pool, gallery, slots in pools
    ]


def _survey(
    installation: Installation, slot: Slot, pool: Pool, gallery: Gallery | None, grace: timedelta
) -> SlotReport:
    installation.keeper.check_cancelled()
    report = SlotReport(slot=slot, gallery=None if gallery is None else gallery.name, subscription=pool.subscription)
    try:
        return replace(report, survey=survey_slot(installation, slot, grace))
    except ImgstoreError as error:  # Also for a region that regions.yaml does not contain any more.
        return replace(report, problem=str(error))


def _collect_slot(installation: Installation, report: SlotReport, grace: timedelta) -> SlotReport:
    if report.survey is None:
        return report
    installation.keeper.check_cancelled()
    slot, survey = report.slot, report.survey
    total = sum(survey.plan.deletable.values())
    collected: dict[str, int] = {}
    counter = ProgressCounter(installation, f"gc {slot.key.region}/{slot.key.ordinal}", total)
    try:
        record_unknown(installation, slot, survey.unknown_manifest_bytes)
        _account_for_manifests(installation, survey)
        _mark_segments(installation, survey)
        if total:
            counter.begin()
        while batch := _next_batch(installation, survey, grace):
            _delete(installation, slot, batch)
            # Segments that a dead collector had deleted before were not listed, and do not count.
            deleted = [each for each in batch.marks if each.name in survey.segments]
            collected |= {object_keys.segment_key(each.name): each.stored_bytes for each in deleted}
            counter.add_bytes(sum(each.stored_bytes for each in deleted))
        if survey.stale:
            installation.access(slot).remove(survey.stale)
            collected |= survey.stale
    except (StoreError, LeaseLost) as error:
        counter.fail(error.message)
        return replace(report, collected=collected, problem=str(error))
    if total:
        counter.end()
    return replace(report, collected=collected)


def _count_kept(report: SlotReport, sweeps: Sequence[VersionSweep]) -> SlotReport:
    """Return the report with the deleted objects that a zone keeps as old versions. These bytes are not free."""
    slot = report.slot
    kept: dict[str, int] = {}
    for sweep in sweeps:
        if sweep.region == slot.key.region and slot.zone in {sweep.zone, ALL_ZONES}:
            kept |= {key: size for key, size in report.collected.items() if slot.prefix + key in sweep.kept_keys}
    return replace(report, kept=kept)


def _account_for_manifests(installation: Installation, survey: SlotSurvey) -> None:
    """Bill the manifests of a survey that no row accounts for (invariant M9)."""
    if survey.unaccounted_manifests:
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(survey.slot.uid)
            if account_for_manifests(transaction, survey.slot, survey.unaccounted_manifests):
                update_intervals(installation.effects, transaction, survey.slot)


def _mark_segments(installation: Installation, survey: SlotSurvey) -> None:
    """Mark the unreferenced segments of a survey, and remove the marks of segments that are named again.

    The manifest rows are read again under the slot lock.
    """
    slot, plan = survey.slot, survey.plan
    if not plan.to_mark and not plan.to_unmark:
        return
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.deletion_marks.unmark(slot.uid, plan.to_unmark)
        named = find_named_segments(transaction, slot, list(plan.to_mark))
        transaction.deletion_marks.add(
            slot.uid, {name: size for name, size in plan.to_mark.items() if name not in named}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    token: str
    marks: Sequence[DeletionMark]
    began: float
    """The monotonic time before the lease of the batch."""


def _next_batch(installation: Installation, survey: SlotSurvey, grace: timedelta) -> _Batch | None:
    """Begin the deletion of the next due segments. From here on, writers wait for these segments."""
    slot, effects = survey.slot, installation.effects
    began, token = effects.monotonic(), effects.new_uid()
    with installation.catalog.transaction() as transaction:
        refuse_if_outdated(transaction)
        transaction.slots.lock(slot.uid)
        clock = read_gc_clock(installation, transaction, slot, grace)
        due = [each for each in transaction.deletion_marks.list(slot.uid) if is_deletable(each, clock)]
        # A writer of a manifest row removes the marks of its segments. Check again, because a deletion is final.
        kept = survey.protected | find_named_segments(transaction, slot, [each.name for each in due])
        transaction.deletion_marks.unmark(slot.uid, kept)
        # A process died during the deletion of a damaged segment that a manifest names now. No delete can arrive any more.
        transaction.deletion_marks.remove(slot.uid, [each.name for each in due if each.name in kept])
        chosen = [each for each in due if each.name not in kept][:DELETE_KEYS_MAX]
        if not chosen:
            return None
        transaction.deletion_marks.begin_deleting(
            slot.uid,
            [each.name for each in chosen],
            token=token,
            lease_expires_at=clock.now + timedelta(seconds=installation.tuning.collect_lease_seconds),
        )
    return _Batch(token=token, marks=chosen, began=began)


def _delete(installation: Installation, slot: Slot, batch: _Batch) -> None:
    """Send the delete request of a batch, then remove the rows of the batch.

    The rows stay until their lease and the request limit have passed if a zone may carry out the request later.

    Raises:
        StoreError: the request failed, or the answer was lost. The rows stay until the next collection after their
            lease.
        LeaseLost: the rest of the lease is too short for the request.
    """
    tuning = installation.tuning

    def check_in_time() -> None:
        left = batch.began + tuning.collect_lease_seconds - installation.effects.monotonic()
        if left < tuning.delete_seconds_max:
            raise LeaseLost(
                f"This collection was too slow in {slot.key}.",
                found=f"{left:.0f} seconds left of the lease on {len(batch.marks)} segments",
                expected=f"at least {tuning.delete_seconds_max:g} seconds, the request limit",
                hint="run `imgstore gc` again: after the end of the lease, it deletes the segments",
                target=str(slot.key),
            )

    doomed = [object_keys.segment_key(each.name) for each in batch.marks]
    if not installation.access(slot).remove(doomed, check_in_time):
        return
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.deletion_marks.end_deleting(slot.uid, batch.token)


def _remove_segment_rows(installation: Installation, pool: Pool, reports: Sequence[SlotReport]) -> int:
    """Remove the rows of segments that no manifest of the pool names and that were not left in any slot of the pool."""
    remaining = frozenset[Digest]().union(*(_remaining_segments(report) for report in reports))
    with installation.catalog.transaction() as transaction:
        for slot in sorted(transaction.slots.list(pool.uid), key=lambda each: each.uid):
            # Writers of manifest rows wait for this lock. Afterwards, they find the segment ids or make new ids.
            transaction.slots.lock(slot.uid)
        ids = np.setdiff1d(transaction.segments.all_ids(pool.uid), transaction.manifests.segment_ids_in_pool(pool.uid))
        rows = zip(ids.tolist(), transaction.segments.rows(pool.uid, ids), strict=True)
        deleted = [number for number, row in rows if row.name not in remaining]
        transaction.segments.remove(pool.uid, deleted)
    return len(deleted)


def _remaining_segments(report: SlotReport) -> frozenset[Digest]:
    """Return the segments that the slot still contains."""
    listed = report.survey.segments if report.survey else ()
    return frozenset(name for name in listed if object_keys.segment_key(name) not in report.collected)


def _remove_pool(installation: Installation, pool: Pool, reports: Sequence[SlotReport]) -> int:
    """Remove the empty pool of a deleted gallery (invariant S3).

    The pools of a subscription are permanent (invariant S1).
    """
    if pool.subscription is not None:
        return 0
    left = sum(
        len(report.survey.segments) + report.survey.others - len(report.collected)
        for report in reports
        if report.survey
    )
    if left:
        return 0
    # A Conflict means that a row still refers to the pool.
    with suppress(Conflict), installation.catalog.transaction() as transaction:
        if transaction.galleries.find_by_pool(pool.uid) is None and _is_empty(transaction, pool):
            transaction.pools.remove(pool.uid)
            return 1
    return 0


def _is_empty(transaction: Transaction, pool: Pool) -> bool:
    return not len(transaction.segments.all_ids(pool.uid)) and not any(
        transaction.manifests.in_slot(slot.uid, complete_only=False)
        or transaction.replicas.in_slot(slot.uid)
        or transaction.works.list_open(slot.uid)
        or transaction.deletion_marks.list(slot.uid)
        or transaction.disks.states_in_slot(slot.uid)
        for slot in transaction.slots.list(pool.uid)
    )


def _drop_stale_notes(installation: Installation, reports: Sequence[SlotReport]) -> int:
    """Remove the repair notes of zones about objects that no zone contains."""
    settled = 0
    regions = {report.slot.key.region: report.slot for report in reports if report.slot.zone == ALL_ZONES}
    for slot in regions.values():
        try:
            store = installation.locator.store(slot)
            assert isinstance(store, ZoneRedundantStore), "the slot has three zones"
            settled += store.delete_stale_notes()
        except StoreError as error:
            installation.note(slot.key.region, f"the zones' notes stay: {error.message}")
    return settled
