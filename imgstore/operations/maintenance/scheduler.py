"""Maintenance that workers do unasked: leased turns, in threads of their own, within a bound of bandwidth.

Each task has a row in the catalog (`catalog/storage/maintenance.py`) that says when it was done last. Any number of workers share
the rows. A turn may be repeated, and killed at any moment: what it calls can, too. So a lost lease costs double work and
nothing else.
"""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

from imgstore.domain.errors import ImgstoreError, StoreError, StoreMismatch
from imgstore.domain.identity.access import INSTALLATION, Principal
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.settings.maintenance import MaintenanceKind, MaintenanceTask, failure_outcome
from imgstore.domain.stop_signal import StopSignal
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.operations.activity_log import trim_activity
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc import GRACE_HOURS, collect
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.replication.targets import remove_all_surplus_replicas
from imgstore.operations.slots.leftovers import run_removals
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.operations.versions.delete import purge_soft_deleted
from imgstore.operations.versions.unfinished_deletes import finish_deletes
from imgstore.policy.maintenance_schedule import maintenance_tasks, next_due
from imgstore.regions import ALL_ZONES
from imgstore.stores.wrappers.bandwidth_limit import TokenBucket

_LEASE_SECONDS: Final = 60.0
"""Renewed each time that the worker looks, which is several times as often."""
_LOOK_SECONDS: Final = 15.0
"""The time between two looks for a task that is due: each look reads the slots of the installation."""
_WAIT_SECONDS_MIN: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A task that this worker has leased and does."""

    task: MaintenanceTask
    token: str
    future: Future[str]


class MaintenanceRunner:
    """The maintenance of one worker: at most one task of each kind at a time, so that a long scrub holds up no deletion.

    `poll` is called by the worker's thread alone.
    """

    def __init__(self, installation: Installation, principal: Principal) -> None:
        """Begin nothing yet.

        Args:
            installation: where.
            principal: the worker, as the activity log is to name it: an administrator.
        """
        self._stop = StopSignal()
        self._installation = replace(installation, keeper=installation.keeper.with_stop_signal(self._stop))
        self._principal = principal
        self._pace = _pace(installation.maintenance.bytes_per_second_max, self._stop, installation.effects.monotonic)
        self._pool = ThreadPoolExecutor(len(MaintenanceKind), thread_name_prefix="maintenance")
        self._turns: list[_Turn] = []
        self._ended: set[str] = set()
        self._looked_at: float | None = None

    def poll(self, *, once: bool = False) -> bool:
        """Renew the turns that run, or end them, and begin those that are due.

        Args:
            once: look for tasks now, however short ago the last look was, and begin each task one time only.

        Returns:
            Whether a turn runs.

        Raises:
            StoreError: the catalog does not answer.
        """
        for turn in list(self._turns):
            if turn.future.done():
                self._end(turn)
                self._looked_at = None  # What ended may be followed by another at once.
            else:
                with self._installation.catalog.transaction() as transaction:
                    transaction.maintenance_tasks.renew(turn.task.name, turn.token, lease_seconds=_LEASE_SECONDS)
        now = self._installation.effects.monotonic()
        if once or self._looked_at is None or now - self._looked_at >= _LOOK_SECONDS:
            while (begun := self._begin_due(self._ended if once else frozenset())) is not None:
                self._turns.append(begun)
            self._looked_at = now
        return bool(self._turns)

    def wait(self, seconds: float) -> None:
        """Wait until a turn that runs has ended, or so many seconds."""
        wait([turn.future for turn in self._turns], seconds, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        """Stop the turns that run at their next step, and give them back undone: the next worker does them."""
        self._stop.set()
        self._pool.shutdown(wait=True)
        with suppress(StoreError):
            for turn in list(self._turns):
                self._end(turn)

    def _end(self, turn: _Turn) -> None:
        error, name = turn.future.exception(), turn.task.name
        with self._installation.catalog.transaction() as transaction:
            if error is None:
                transaction.maintenance_tasks.complete(name, turn.token, turn.future.result())
            elif isinstance(error, Exception):
                transaction.maintenance_tasks.complete(name, turn.token, failure_outcome(_text_of(error)))
            else:
                transaction.maintenance_tasks.release(name, turn.token)
        self._ended.add(name)
        self._turns.remove(turn)

    def _begin_due(self, but: Collection[str]) -> _Turn | None:
        """Begin the next task that is due, of a kind that does not run, unless it is one of `but`."""
        keeper = self._installation.keeper
        with self._installation.catalog.reading() as transaction:
            slots = transaction.slots.list_all()
            tasks = maintenance_tasks(
                self._installation.maintenance,
                slots,
                zoned_regions={slot.key.region for slot in slots if slot.zone == ALL_ZONES},
                degraded=transaction.replicas.degraded_slots(),
            )
            turns, now = transaction.maintenance_tasks.list(), transaction.now()
        if {task.name for task in tasks} != {turn.name for turn in turns}:
            with self._installation.catalog.transaction() as transaction:
                transaction.maintenance_tasks.register(tasks)
                turns, now = (
                    transaction.maintenance_tasks.list(),
                    transaction.now(),
                )  # New rows may be due from this very moment on.
        dead = {each.holder for each in turns if each.holder is not None and keeper.is_dead(each.holder)}
        running = {turn.task.kind for turn in self._turns}
        free = [task for task in tasks if task.kind not in running and task.name not in but]
        found = next_due(free, turns, now=now, dead=dead)
        if found is None:
            return None
        task, turn = found
        with self._installation.catalog.transaction() as transaction:
            token = transaction.maintenance_tasks.lease(turn, holder=keeper.holder, lease_seconds=_LEASE_SECONDS)
        return None if token is None else _Turn(task=task, token=token, future=self._pool.submit(self._run, task))

    def _run(self, task: MaintenanceTask) -> str:
        """Do a task; tells how it ended. What fails is noted, and tried again (`MaintenanceTurn.due_at`)."""
        try:
            outcome = self._do(task)
        except ImgstoreError as error:
            self._installation.note("maintenance", f"{task.name} failed: {error.message}")
            raise
        if outcome:
            self._installation.note("maintenance", f"{task.name}: {outcome}")
        return outcome or "nothing to do"

    def _do(self, task: MaintenanceTask) -> str:
        if task.kind is MaintenanceKind.DELETIONS:
            return self._end_deletions()
        if task.kind is MaintenanceKind.ACTIVITY:
            deleted = trim_activity(self._installation)
            return f"{deleted} rows of the activity log deleted" if deleted else ""
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
            "versions whose retention has passed": purged,
            "replicas": removed,
            "interrupted deletions": finish_deletes(installation),
            "removals from slots that disks left": run_removals(installation),
        }
        outcome = ", ".join(f"{count} {what} ended" for what, count in counts.items() if count)
        self._record("imgstore/maintenance/deletions", outcome)
        return outcome

    def _repair_zones(self, region: str) -> str:
        """Bring the zones of a region up to date, as far as they answer."""
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
                continue  # It does not answer: nothing could be put there.
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
        return "; ".join(_told(each) for each in done)

    def _collect(self) -> str:
        check_safe_to_collect(self._installation)
        done = collect(self._installation, self._principal, grace=timedelta(hours=GRACE_HOURS))
        collected = sum(sum(report.collected.values()) for report in done.slots)
        problems = [report.problem for report in done.slots if report.problem]
        if problems:
            raise StoreError(f"{len(problems)} slots were left alone; the first: {problems[0]}")
        return f"{collected} bytes collected" if collected else ""

    def _record(self, action: str, outcome: str) -> None:
        """Leave a row in the activity log, where something was done."""
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
    """Refuse an automatic collection while a zone that a slot lies in is not ready, or is not the one that it was.

    A person who runs `imgstore gc` sees its plan first; nobody sees that of a worker.

    Raises:
        StoreMismatch: so it is.
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


def _pace(bytes_per_second: int, stop: StopSignal, monotonic: Callable[[], float]) -> Callable[[int], None]:
    """Return what is told of bytes that were read, and waits for as long as they should have taken."""
    if not bytes_per_second:
        return lambda _length: stop.check()
    bucket, lock = TokenBucket(bytes_per_second, monotonic), threading.Lock()

    def pace(length: int) -> None:
        stop.check()
        with lock:  # One at a time, else each thread waits for the debt of all.
            bucket.take(length)
            while (seconds := bucket.take(0)) > _WAIT_SECONDS_MIN:
                stop.wait(seconds)

    return pace


def _told(found: SlotScrub) -> str:
    if found.problem is not None:
        raise StoreError(f"{found.slot.key}: {found.problem}")
    parts = [f"{found.slot.key}: {found.read_bytes} bytes read"]
    if found.resumed_from is not None:
        parts.append(f"{found.earlier_objects} of {found.objects} objects read earlier, since {found.resumed_from}")
    if found.damaged:
        parts.append(f"{len(found.damaged)} objects damaged, {len(found.repaired)} repaired")
    if found.restored:
        parts.append(f"{found.restored} replicas restored")
    if found.unrestored:
        parts.append(f"{len(found.unrestored)} replicas not restored")
    return ", ".join(parts)


def _text_of(error: Exception) -> str:
    return error.message if isinstance(error, ImgstoreError) else repr(error)
