"""Automatic maintenance by workers: leased tasks in separate threads, with a bandwidth limit.

Each task has a row in the catalog (`catalog/storage/maintenance.py`) with the time of its last run. Any number of
workers share the rows. A task may be repeated and may be killed at any time. So a lost lease causes double work and no
damage.
"""

from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, StoreError, StoreMismatch
from imgstore.domain.host.os_errors import translate_host_faults
from imgstore.domain.host.stop_signal import StopSignal
from imgstore.domain.identity.access import INSTALLATION, Principal
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.settings.maintenance import MaintenanceKind, MaintenanceTask, failure_outcome
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.operations.activity_log import trim_activity
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.seal import seal_entries, write_log_checkpoint
from imgstore.operations.ledger_log.settlement import settle_months
from imgstore.operations.maintenance.gc import GRACE_HOURS, collect
from imgstore.operations.maintenance.pace import make_pace
from imgstore.operations.maintenance.revision_upkeep import repair_installation_zones
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.replication.targets import remove_all_surplus_replicas
from imgstore.operations.revisions import (
    copy_ledger_checkpoints,
    write_ledger_checkpoints,
    write_waiting_revisions,
)
from imgstore.operations.slots.leftovers import run_removals
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.operations.versions.delete import purge_soft_deleted
from imgstore.operations.versions.unfinished_deletes import finish_deletes
from imgstore.policy.maintenance_schedule import maintenance_tasks, next_due
from imgstore.regions import ALL_ZONES

_LEASE_SECONDS: Final = 60.0
"""The lease of a task. The worker renews the lease at each poll, several times within this time."""
_LOOK_SECONDS: Final = 15.0
"""The time between two looks for a due task. Each look reads the slots of the installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningTask:
    """A task that this worker has leased and runs."""

    task: MaintenanceTask
    token: str
    future: Future[str]


class MaintenanceRunner:
    """The maintenance of one worker. At most one task of each kind runs at a time, so a long scrub delays no deletion.

    Only the thread of the worker calls `poll`.
    """

    def __init__(self, installation: Installation, principal: Principal) -> None:
        """Begin no task yet.

        Args:
            installation: the installation.
            principal: the worker, as an administrator. The activity log shows the name.
        """
        self._stop = StopSignal()
        self._installation = replace(installation, keeper=installation.keeper.with_stop_signal(self._stop))
        self._principal = principal
        self._pace = make_pace(
            installation.maintenance.bytes_per_second_max,
            check=self._stop.check,
            wait=self._stop.wait,
            monotonic=installation.effects.monotonic,
        )
        self._pool = ThreadPoolExecutor(len(MaintenanceKind), thread_name_prefix="maintenance")
        self._running: list[_RunningTask] = []
        self._ended: set[str] = set()
        self._looked_at: float | None = None

    def poll(self, *, once: bool = False) -> bool:
        """Renew the leases of running tasks, record finished tasks, and begin due tasks.

        Args:
            once: look for tasks now, without waiting for the next look, and begin each task only one time.

        Returns:
            Whether a task runs.

        Raises:
            StoreError: the catalog does not answer.
        """
        for running in list(self._running):
            if running.future.done():
                self._end(running)
                self._looked_at = None  # Another task may begin now.
            else:
                with self._installation.catalog.transaction() as transaction:
                    transaction.maintenance_tasks.renew(running.task.name, running.token, lease_seconds=_LEASE_SECONDS)
        now = self._installation.effects.monotonic()
        if once or self._looked_at is None or now - self._looked_at >= _LOOK_SECONDS:
            while (task_begun := self._begin_due(self._ended if once else frozenset())) is not None:
                self._running.append(task_begun)
            self._looked_at = now
        return bool(self._running)

    def wait(self, seconds: float) -> None:
        """Wait until a running task has ended, for `seconds` at most."""
        wait([running.future for running in self._running], seconds, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        """Stop the running tasks at their next step, and release the tasks for other workers."""
        self._stop.set()
        self._pool.shutdown(wait=True)
        with suppress(StoreError):
            for running in list(self._running):
                self._end(running)

    def _end(self, running: _RunningTask) -> None:
        error, name = running.future.exception(), running.task.name
        with self._installation.catalog.transaction() as transaction:
            if error is None:
                transaction.maintenance_tasks.complete(name, running.token, running.future.result())
            elif isinstance(error, Exception):
                transaction.maintenance_tasks.complete(name, running.token, failure_outcome(_error_text(error)))
            else:
                transaction.maintenance_tasks.release(name, running.token)
        self._ended.add(name)
        self._running.remove(running)

    def _begin_due(self, excluded: Collection[str]) -> _RunningTask | None:
        """Begin the next due task of a kind that does not run and that is not `excluded`."""
        keeper = self._installation.keeper
        with self._installation.catalog.reading() as transaction:
            slots = transaction.slots.list_all()
            tasks = maintenance_tasks(
                self._installation.maintenance,
                slots,
                zoned_regions={slot.key.region for slot in slots if slot.zone == ALL_ZONES},
                degraded=transaction.replicas.degraded_slots(),
            )
            records, now = transaction.maintenance_tasks.list(), transaction.now()
        if {task.name for task in tasks} != {record.name for record in records}:
            with self._installation.catalog.transaction() as transaction:
                transaction.maintenance_tasks.register(tasks)
                # The time is read again, because new rows may be due now.
                records, now = transaction.maintenance_tasks.list(), transaction.now()
        dead = {each.holder for each in records if each.holder is not None and keeper.is_dead(each.holder)}
        kinds = {each.task.kind for each in self._running}
        free = [task for task in tasks if task.kind not in kinds and task.name not in excluded]
        found = next_due(free, records, now=now, dead=dead)
        if found is None:
            return None
        task, record = found
        with self._installation.catalog.transaction() as transaction:
            token = transaction.maintenance_tasks.lease(record, holder=keeper.holder, lease_seconds=_LEASE_SECONDS)
        return (
            None if token is None else _RunningTask(task=task, token=token, future=self._pool.submit(self._run, task))
        )

    def _run(self, task: MaintenanceTask) -> str:
        """Run a task and return the outcome. A failure is noted, and the task is tried again later."""
        try:
            with translate_host_faults():
                outcome = self._run_kind(task)
        except ImgstoreError as error:
            self._installation.note("maintenance", f"{task.name} failed: {error.message}")
            raise
        if outcome:
            self._installation.note("maintenance", f"{task.name}: {outcome}")
        return outcome or "nothing to do"

    def _run_kind(self, task: MaintenanceTask) -> str:
        if task.kind is MaintenanceKind.DELETIONS:
            return self._end_deletions()
        if task.kind is MaintenanceKind.ACTIVITY:
            deleted = trim_activity(self._installation)
            return f"{deleted} rows of the activity log deleted" if deleted else ""
        if task.kind is MaintenanceKind.REVISIONS:
            return self._write_revisions()
        if task.kind is MaintenanceKind.LEDGER:
            return self._write_checkpoints()
        if task.kind is MaintenanceKind.REPAIRS:
            return self._repair_zones(task.subject)
        if task.kind is MaintenanceKind.SCRUB:
            return self._scrub(task.subject)
        return self._collect()

    def _end_deletions(self) -> str:
        installation = self._installation
        purged = len(purge_soft_deleted(installation))
        removed = sum(removal.waits_for is None for removal in remove_all_surplus_replicas(installation))
        counts = {
            "versions whose retention has passed ended": purged,
            "replicas ended": removed,
            "interrupted deletions ended": finish_deletes(installation),
            "removals from slots that disks left ended": run_removals(installation),
        }
        outcome = _format_counts(counts)
        self._record("imgstore/maintenance/deletions", outcome)
        return outcome

    def _write_revisions(self) -> str:
        waiting = write_waiting_revisions(self._installation)
        repaired = repair_installation_zones(self._installation)
        return _format_counts(
            {"revisions wait for a store": waiting, "objects given to zones that missed them": repaired}
        )

    def _write_checkpoints(self) -> str:
        settled = settle_months(self._installation)
        sealed = 0
        failure: ObjectCorrupt | None = None
        try:
            sealed = seal_entries(self._installation).sealed
        except ObjectCorrupt as error:  # The rows of the ledger must reach the buckets, also with a damaged log.
            failure = error
        rows = write_ledger_checkpoints(self._installation)
        copied = copy_ledger_checkpoints(self._installation)
        write_log_checkpoint(self._installation)
        if failure is not None:
            raise failure
        return _format_counts(
            {
                "months of storage settled": settled,
                "entries of the ledger sealed": sealed,
                "rows of the ledger stored": rows,
                "checkpoints copied": copied,
            }
        )

    def _repair_zones(self, region: str) -> str:
        """Give the zones of a region the objects that they missed, as far as the zones answer."""
        installation = self._installation
        with installation.catalog.reading() as transaction:
            slots = [
                each for each in transaction.slots.list_all() if each.key.region == region and each.zone == ALL_ZONES
            ]
        if slots:
            check_catalog_is_current(installation, slots)
        repaired = 0
        for slot in slots:
            installation.keeper.check_cancelled()
            gaps = record_zone_gaps(installation, slot)
            if any(installation.locator.health.is_avoided(region, zone) for zone in gaps):
                continue  # The zone does not answer, so it cannot get objects.
            (done,) = scrub(
                installation,
                self._principal,
                ScrubRequest(slot_uid=slot.uid, repair_notes_only=True, pace=self._pace, is_recorded=bool(gaps)),
            )
            repaired += len(done.repaired)
        return f"{repaired} objects given to the zones of {region} that missed them" if repaired else ""

    def _scrub(self, slot_uid: str) -> str:
        request = ScrubRequest(
            slot_uid=slot_uid,
            percent=float(self._installation.maintenance.scrub_percent),
            seed=date.toordinal(self._installation.effects.now().date()),
            pace=self._pace,
            runner=ScrubRunner.WORKER,
            takes_any_seed=True,
        )
        done = scrub(self._installation, self._principal, request)
        return "; ".join(_format_scrub(each) for each in done)

    def _collect(self) -> str:
        check_safe_to_collect(self._installation)
        done = collect(self._installation, self._principal, grace=timedelta(hours=GRACE_HOURS))
        collected = sum(sum(report.freed.values()) for report in done.slots)
        kept = sum(each.kept_bytes for each in done.old_versions)
        problems = [report.problem for report in done.slots if report.problem]
        if problems:
            raise StoreError(f"{len(problems)} slots were left alone; the first: {problems[0]}")
        parts = [f"{collected} bytes collected"] if collected else []
        parts += [f"{kept} bytes of old versions stay"] if kept else []
        return ", ".join(parts)

    def _record(self, action: str, outcome: str) -> None:
        """Add a row to the activity log if something was done."""
        if not outcome:
            return
        now = self._installation.effects.now()
        with self._installation.catalog.transaction() as transaction:
            transaction.activity.add(
                principal=self._principal.name,
                action=action,
                scope=INSTALLATION,
                outcome="Succeeded",
                detail=outcome,
                started_at=now,
                finished_at=now,
            )


def check_safe_to_collect(installation: Installation) -> None:
    """Refuse an automatic collection while a zone of a slot is not ready or has another store.

    A person sees the plan before `imgstore gc` deletes; no person sees the plan of a worker.

    Raises:
        StoreMismatch: a zone is not ready.
        CatalogOutdated: the catalog is older than its buckets.
    """
    check_catalog_is_current(installation)
    with installation.catalog.reading() as transaction:
        slots = transaction.slots.list_all()
    for region in sorted({slot.key.region for slot in slots}):
        used = {slot.zone for slot in slots if slot.key.region == region}
        for report in installation.locator.check(installation.regions.get(region)):
            if report.problem is not None and (ALL_ZONES in used or report.zone in used):
                raise StoreMismatch(
                    f"Nothing is collected while zone {report.zone} of region {region} is not ready.",
                    found=report.problem,
                    expected="every zone ready",
                    hint="`imgstore regions check` shows all zones; `imgstore gc` collects when a person asks for it",
                    target=region,
                )


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _format_scrub(found: SlotScrub) -> str:
    if found.problem is not None:
        raise StoreError(f"{found.slot.key}: {found.problem}")
    parts = [f"{found.slot.key}: {found.read_bytes} bytes read in {found.seconds:.0f} s"]
    if found.resumed_from is not None:
        parts.append(f"{found.earlier_objects} of {found.objects} objects read earlier, since {found.resumed_from}")
    if found.damaged:
        parts.append(f"{len(found.damaged)} objects damaged, {len(found.repaired)} repaired")
    if found.restored:
        parts.append(f"{found.restored} replicas restored")
    if found.unrestored:
        parts.append(f"{len(found.unrestored)} replicas not restored")
    return ", ".join(parts)


def _error_text(error: Exception) -> str:
    return error.message if isinstance(error, ImgstoreError) else repr(error)
