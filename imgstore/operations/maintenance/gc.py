"""Collection: what nothing names any more is condemned, and after a grace deleted (invariants G1, G4 and S3).

Three transactions a slot, each under its lock, and no request to a store inside any: *condemn*; *deleting*, a batch of
at most 1,000 with a lease of its own; the rows of the batch go. The batch's one delete is sent between the last two,
and only while the lease has longer to run than a request may take.
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
from imgstore.operations.activity_log import recorded
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc_survey import read_gc_clock, survey_slot
from imgstore.operations.maintenance.unknown_objects import record_unknown
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.targets import remove_all_surplus_replicas
from imgstore.operations.slots.leftovers import run_removals
from imgstore.operations.slots.stale_works import WORK_ABANDON_DAYS, abandon_stale_works, list_stale_works
from imgstore.operations.stores.catalog_checks import check_catalog_is_current, refuse_if_outdated
from imgstore.operations.versions.delete import purge_soft_deleted
from imgstore.operations.versions.unfinished_deletes import finish_deletes
from imgstore.policy.gc_plan import GcReport, SlotReport, SlotSurvey, is_deletable
from imgstore.regions import ALL_ZONES
from imgstore.stores.interface import DELETE_KEYS_MAX
from imgstore.stores.zone_redundant import Zoned

GRACE_HOURS: Final = 24.0
_PATIENCE: Final = timedelta(days=WORK_ABANDON_DAYS)


def plan_collection(
    installation: Installation, principal: Principal, *, grace: timedelta, patience: timedelta = _PATIENCE
) -> GcReport:
    """What may go, slot by slot, and which works are to be abandoned. Changes nothing."""
    authorize(principal, Action.READ, INSTALLATION)
    with installation.catalog.reading() as transaction:
        abandoned = list_stale_works(transaction, patience)
    slots = [report for _, reports in _surveyed(installation, grace) for report in reports]
    return GcReport(grace=grace, slots=slots, abandoned=abandoned)


def collect(
    installation: Installation, principal: Principal, *, grace: timedelta, patience: timedelta = _PATIENCE
) -> GcReport:
    """Condemn what nothing names, delete what was condemned for longer than the grace, forget what is left of no use.

    May be repeated, killed at any moment, and run beside every other operation and itself. A slot that can't be had is
    told and stops no other.

    Args:
        installation: where.
        principal: who.
        grace: how long a condemned segment is kept.
        patience: how long a work may go without a lease before it is abandoned, and what it had sent condemned.

    Raises:
        CatalogOutdated: the catalog is older than its buckets; nothing was changed.
    """
    with recorded(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/gc"):
        check_catalog_is_current(installation)
        with installation.catalog.transaction() as transaction:
            transaction.clock_steps.correct()
        # What these end is unreferenced from here on, and its grace begins.
        abandoned = abandon_stale_works(installation, patience)
        purge_soft_deleted(installation)
        finish_deletes(installation)
        remove_all_surplus_replicas(installation)
        run_removals(installation)
        done: list[SlotReport] = []
        segments = pools = 0
        for pool, planned in _surveyed(installation, grace):
            reports = [_collect_slot(installation, report, grace) for report in planned]
            if all(report.problem is None for report in reports):
                segments += _forget_segments(installation, pool, reports)
                pools += _forget_pool(installation, pool, reports)
            done += reports
        return GcReport(
            grace=grace,
            slots=done,
            abandoned=abandoned,
            removed_segment_rows=segments,
            removed_pools=pools,
            resolved_notes=_settle_notes(installation, done),
        )


def collect_pool(installation: Installation, principal: Principal, pool_uid: str) -> list[SlotReport]:
    """`collect` for one pool, without grace: for who alone ever wrote into it and has deleted its gallery."""
    with recorded(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/gc"):
        check_catalog_is_current(installation)
        done: list[SlotReport] = []
        for pool, planned in _surveyed(installation, timedelta(0), pool_uid):
            done += [_collect_slot(installation, report, timedelta(0)) for report in planned]
            if all(report.problem is None for report in done):
                _forget_segments(installation, pool, done)
                _forget_pool(installation, pool, done)
        return done


def _surveyed(
    installation: Installation, grace: timedelta, pool_uid: str | None = None
) -> list[tuple[Pool, list[SlotReport]]]:
    """Every slot of every pool, or of one, as it stands."""
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
    except ImgstoreError as error:  # Also a region that regions.yaml no longer has.
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
        _condemn(installation, survey)
        if total:
            counter.begin()
        while batch := _next_batch(installation, survey, grace):
            _delete(installation, slot, batch)
            # What a dead collector had deleted already was not listed, and is counted for nobody.
            gone = [each for each in batch.condemned if each.name in survey.segments]
            collected |= {object_keys.segment_key(each.name): each.stored_bytes for each in gone}
            counter.add_bytes(sum(each.stored_bytes for each in gone))
        if survey.stale:
            installation.access(slot).remove(survey.stale)
            collected |= survey.stale
    except (StoreError, LeaseLost) as error:
        counter.fail(error.message)
        return replace(report, collected=collected, problem=str(error))
    if total:
        counter.end()
    return replace(report, collected=collected)


def _condemn(installation: Installation, survey: SlotSurvey) -> None:
    """Write down what nothing names, unless something names it by now; let live what is named after all."""
    slot, plan = survey.slot, survey.plan
    if not plan.to_mark and not plan.to_unmark:
        return
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.deletion_marks.unmark(slot.uid, plan.to_unmark)
        named = _named_among(transaction, slot, list(plan.to_mark))
        transaction.deletion_marks.add(
            slot.uid, {name: size for name, size in plan.to_mark.items() if name not in named}
        )


def _named_among(transaction: Transaction, slot: Slot, names: Sequence[Digest]) -> frozenset[Digest]:
    """Those of the segments that a manifest's row of the slot names, complete or not."""
    known = transaction.segments.find_ids(slot.key.pool_uid, names)
    ids = transaction.manifests.segment_ids_in_slot(slot.uid, complete_only=False)
    found = np.isin(np.array(list(known.values()), dtype=np.uint32), ids).tolist()
    return frozenset(name for name, is_named in zip(known, found, strict=True) if is_named)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    token: str
    condemned: Sequence[DeletionMark]
    began: float
    """By the monotonic clock, before the lease began."""


def _next_batch(installation: Installation, survey: SlotSurvey, grace: timedelta) -> _Batch | None:
    """Take up the next segments that are to be deleted; from here on writers wait for them."""
    slot, effects = survey.slot, installation.effects
    began, token = effects.monotonic(), effects.new_uid()
    with installation.catalog.transaction() as transaction:
        refuse_if_outdated(transaction)
        transaction.slots.lock(slot.uid)
        clock = read_gc_clock(installation, transaction, slot, grace)
        ripe = [each for each in transaction.deletion_marks.list(slot.uid) if is_deletable(each, clock)]
        # Whoever writes a manifest's row lifts what it names; asked once more all the same, since nothing brings it back.
        kept = survey.protected | _named_among(transaction, slot, [each.name for each in ripe])
        transaction.deletion_marks.unmark(slot.uid, kept)
        # A process died while it deleted a damaged segment that something names by now: no delete can arrive any more.
        transaction.deletion_marks.remove(slot.uid, [each.name for each in ripe if each.name in kept])
        chosen = [each for each in ripe if each.name not in kept][:DELETE_KEYS_MAX]
        if not chosen:
            return None
        transaction.deletion_marks.begin_deleting(
            slot.uid,
            [each.name for each in chosen],
            token=token,
            lease_expires_at=clock.now + timedelta(seconds=installation.tuning.collect_lease_seconds),
        )
    return _Batch(token=token, condemned=chosen, began=began)


def _delete(installation: Installation, slot: Slot, batch: _Batch) -> None:
    """Send the batch's one request, then forget its rows.

    Raises:
        StoreError: it failed, or its answer was lost: the rows stay, and are taken up again when their lease is over.
        LeaseLost: too late to send it.
    """
    tuning = installation.tuning

    def in_time() -> None:
        left = batch.began + tuning.collect_lease_seconds - installation.effects.monotonic()
        if left < tuning.delete_seconds_max:
            raise LeaseLost(
                f"This collector was too slow in {slot.key}.",
                found=f"{left:.0f} seconds left of the lease on {len(batch.condemned)} segments",
                expected=f"at least {tuning.delete_seconds_max:g}, the longest that a request may run",
                hint="run `imgstore gc` again: it takes them up when the lease is over",
                target=str(slot.key),
            )

    installation.access(slot).remove([object_keys.segment_key(each.name) for each in batch.condemned], in_time)
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.deletion_marks.end_deleting(slot.uid, batch.token)


def _forget_segments(installation: Installation, pool: Pool, reports: Sequence[SlotReport]) -> int:
    """Remove the rows of segments that no manifest of the pool names and no slot of it holds or held a moment ago."""
    lying = frozenset[Digest]().union(*(_left(report) for report in reports))
    with installation.catalog.transaction() as transaction:
        for slot in sorted(transaction.slots.list(pool.uid), key=lambda each: each.uid):
            transaction.slots.lock(
                slot.uid
            )  # Whoever writes a manifest's row waits, and finds the ids or makes new ones.
        ids = np.setdiff1d(transaction.segments.all_ids(pool.uid), transaction.manifests.segment_ids_in_pool(pool.uid))
        rows = zip(ids.tolist(), transaction.segments.rows(pool.uid, ids), strict=True)
        gone = [number for number, row in rows if row.name not in lying]
        transaction.segments.remove(pool.uid, gone)
    return len(gone)


def _left(report: SlotReport) -> frozenset[Digest]:
    """The segments that still lie in a slot."""
    listed = report.survey.segments if report.survey else ()
    return frozenset(name for name in listed if object_keys.segment_key(name) not in report.collected)


def _forget_pool(installation: Installation, pool: Pool, reports: Sequence[SlotReport]) -> int:
    """Remove the pool of a gallery that is gone, when nothing is left in it (invariant S3).

    A subscription's own pools live as long as it does.
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
    with (
        suppress(Conflict),
        installation.catalog.transaction() as transaction,
    ):  # Something stands on it that we do not know.
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


def _settle_notes(installation: Installation, reports: Sequence[SlotReport]) -> int:
    """Remove what zones noted about objects that are in none of them."""
    settled = 0
    regions = {report.slot.key.region: report.slot for report in reports if report.slot.zone == ALL_ZONES}
    for slot in regions.values():
        try:
            store = installation.locator.store(slot)
            assert isinstance(store, Zoned), "the slot lies in three zones"
            settled += store.delete_stale_notes()
        except StoreError as error:
            installation.note(slot.key.region, f"the zones' notes stay: {error.message}")
    return settled
