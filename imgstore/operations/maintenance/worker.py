"""Workers: processes that make the replicas of all versions. Any number of workers run on any machines (invariant R11).

A worker looks, plans (`policy/worker_queue.py`), leases a replica, makes the replica in a thread, and records the
result. A command does the same for one version (`operations/replication/copy.py`), at the same time. After the lease of
a dead worker has expired, another process resumes the work.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, HostFault, ImgstoreError, StoreError
from imgstore.domain.host.os_errors import translate_host_faults
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.reports import WorkerReport
from imgstore.domain.resources import Replica
from imgstore.domain.storage.works import Worker
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.operations.maintenance.scheduler import MaintenanceRunner
from imgstore.operations.progress import task_name
from imgstore.operations.replication.copy import CopyPlan, make_replica, plan_step, read_queued_versions
from imgstore.operations.replication.targets import remove_surplus_replicas
from imgstore.operations.slots.restore import RestorePlan
from imgstore.operations.stores.catalog_checks import check_catalog_in_background
from imgstore.policy.copy_plan import CopyStep
from imgstore.policy.worker_queue import (
    QueuedVersion,
    WorkerLimits,
    find_resting,
    full_regions,
    next_steps,
    startable_steps,
)

POLL_SECONDS: Final = 5.0
"""The time between two looks of an idle worker."""

REPLICA_WRITE: Final = "imgstore/replicas/write"
"""The action in the activity log for a replica that a worker makes."""

_BEAT_SECONDS: Final = 10.0
"""The time between two updates of the row of a worker, several within `WORKER_ALIVE_SECONDS`."""

_LOOKS_MAX: Final = 100
_LOOK_SECONDS: Final = 0.02
"""The time until the transaction of another worker is probably over."""

_VERSIONS_AT_ONCE: Final = 32
"""The number of versions that are read and compared for one choice."""


def run_worker(
    installation: Installation,
    principal: Principal,
    *,
    once: bool = False,
    limits: WorkerLimits = WorkerLimits(),  # noqa: B008 - frozen
    poll_seconds: float = POLL_SECONDS,
    stop: threading.Event | None = None,
) -> WorkerReport:
    """Make replicas and run maintenance until the worker is stopped.

    With `once`, end when nothing can be begun any more.

    A stopped worker (KeyboardInterrupt or `stop`) begins no further request. Its works stay open for other processes,
    and its leases are released.

    Args:
        installation: the installation.
        principal: an administrator of the installation.
        once: end when nothing can be begun. Replicas that fail and rest are left to the next run.
        limits: the numbers of replicas at a time.
        poll_seconds: the time between two looks of an idle worker.
        stop: stops the worker.

    Raises:
        AccessDenied: the principal has no right to write everywhere.
        StoreError: with `once`, the database did not answer. Without `once`, the worker notes this and looks again.
    """
    authorize(principal, Action.WRITE, installation.scope)
    stop = stop or threading.Event()
    check_catalog_in_background(installation)
    with _register(installation) as show:
        worker = _Worker(installation, principal, limits, stop)
        worker.run(once=once, poll_seconds=poll_seconds, show=show)
    return worker.report()


class _Worker:
    """The worker of one process, in the main thread. Each replica has a separate thread."""

    def __init__(
        self, installation: Installation, principal: Principal, limits: WorkerLimits, stop: threading.Event
    ) -> None:
        self._installation = installation
        self._principal = replace(principal, name=f"worker {installation.keeper.holder}")
        self._limits = limits
        self._stop = stop
        self._busy: dict[Future[None], Replica] = {}
        self._refused: set[str] = set()
        """The uids of the versions with an error in this look."""
        self._report = WorkerReport()

    def run(self, *, once: bool, poll_seconds: float, show: Callable[[], None]) -> None:
        """See `run_worker`."""
        pause = min(poll_seconds, _BEAT_SECONDS)
        maintains = False
        with (
            closing(MaintenanceRunner(self._installation, self._principal)) as maintenance,
            ThreadPoolExecutor(self._limits.replicas, thread_name_prefix="replica") as pool,
        ):
            try:
                while not self._stop.is_set():
                    try:
                        with translate_host_faults():
                            show()
                            self._begin(pool)
                            maintains = maintenance.poll(once=once)
                    except (StoreError, HostFault) as error:
                        if once:
                            raise
                        reason = f"{error.message} ({error.found})" if error.found else error.message
                        self._installation.note("worker", f"the worker cannot continue and tries again: {reason}")
                    if once and not self._busy:
                        if not maintains:
                            return
                        maintenance.wait(pause)
                        continue
                    self._wait(pause)
            except KeyboardInterrupt:
                self._stop.set()  # Running copies begin no further request. Their works stay open.
            except BaseException:
                self._stop.set()
                raise
        for future in list(self._busy):
            self._end(future)

    def report(self) -> WorkerReport:
        """Return the finished replicas, and the replicas that wait."""
        with suppress(StoreError), self._installation.catalog.reading() as transaction:
            self._report.waiting_for_retry, self._report.next_retry_at = transaction.queue.waiting_retries()
            self._report.without_source = transaction.queue.count_without_source()
        return self._report

    def _begin(self, pool: ThreadPoolExecutor) -> None:
        self._refused.clear()
        while len(self._busy) < self._limits.replicas and (claim := self._claim()) is not None:
            future = pool.submit(self._make, claim)
            self._busy[future] = claim.replica

    def _make(self, claim: CopyPlan | RestorePlan) -> None:
        """Make the replica, then remove replicas that the new replica replaces."""
        scope, replica = claim.definition_path.version_id(claim.version.name), task_name(claim.replica)
        with record_activity(self._installation, self._principal, Action.WRITE, scope, REPLICA_WRITE, about=replica):
            task = f"{claim.definition_path.definition.name} {claim.version.name} {replica}"
            make_replica(self._installation, claim, self._stop, task)
        remove_surplus_replicas(self._installation, claim.version.uid)

    def _claim(self) -> CopyPlan | RestorePlan | None:
        """Lease the next replica. If other workers have leased all choices first, look again."""
        for _ in range(_LOOKS_MAX):
            nothing = True
            for step in self._choices():
                nothing, uid = False, step.replica.version_uid
                with self._isolate(uid), suppress(Conflict), self._installation.catalog.transaction() as transaction:
                    if (claim := self._lease(transaction, step)) is not None:
                        self._report.failed.pop(uid, None)
                        return claim
            if nothing or self._stop.wait(_LOOK_SECONDS):
                break
        return None

    def _choices(self) -> Iterator[CopyStep]:
        """Yield steps that can begin, a page of versions at a time. Versions with the longest wait come first."""
        at_work = Counter(replica.slot.key.region for replica in self._busy.values())
        for page in count():
            with self._installation.catalog.reading() as transaction:
                uids = transaction.queue.list_due(
                    limit=_VERSIONS_AT_ONCE,
                    offset=page * _VERSIONS_AT_ONCE,
                    dead=[each for each in transaction.queue.holders() if self._installation.keeper.is_dead(each)],
                    full_regions=full_regions(at_work, self._limits),
                )
                now = transaction.now()
                queue = self._read_queue(transaction, [uid for uid in uids if uid not in self._refused], now)
            yield from next_steps(queue, now=now, at_work=at_work, limits=self._limits)
            if len(uids) < _VERSIONS_AT_ONCE:
                return

    def _read_queue(self, transaction: Transaction, uids: Sequence[str], now: datetime) -> list[QueuedVersion]:
        """Read versions of the queue. After an error, read each version alone, and leave out versions with an error."""
        read = partial(
            read_queued_versions, self._installation, transaction, find_failed=partial(find_resting, now=now)
        )
        try:
            return read(uids)
        except (StoreError, HostFault):
            raise
        except Exception:  # noqa: BLE001 - told below, for the version with the error
            queue: list[QueuedVersion] = []
            for uid in uids:
                with self._isolate(uid):
                    queue += read([uid])
            return queue

    @contextmanager
    def _isolate(self, version_uid: str) -> Iterator[None]:
        """Keep the error of one version from the other versions. The worker looks at the version again in the next look.

        Raises:
            StoreError: the database does not answer.
            HostFault: the machine has a fault.
        """
        try:
            yield
        except (StoreError, HostFault):
            raise
        except Exception as error:  # noqa: BLE001 - a damaged row may raise any error
            self._refused.add(version_uid)
            reason = _describe_error(error)
            if self._report.failed.get(version_uid) != reason:
                self._installation.note("worker", f"the version {version_uid} cannot be planned: {reason}")
            self._report.failed[version_uid] = reason

    def _lease(self, transaction: Transaction, chosen: CopyStep) -> CopyPlan | RestorePlan | None:
        """Lease a replica that must still be made. The version is locked and read again for this."""
        uid = chosen.replica.version_uid
        if not transaction.queue.try_lock(uid):
            return None
        now = transaction.now()
        queued = read_queued_versions(self._installation, transaction, [uid], partial(find_resting, now=now))[0]
        ready = startable_steps(queued, now)
        step = next((each for each in ready if each.replica.uid == chosen.replica.uid), None)
        if step is None:
            return None
        version = transaction.versions.by_uid(uid)
        definition_path = definition_path_of(transaction, version)
        plan = plan_step(self._installation, transaction, definition_path, version, queued, step)
        transaction.queue.mark_served(uid)
        return plan

    def _wait(self, pause: float) -> None:
        """Wait until a replica is done, for `pause` seconds at most."""
        if not self._busy:
            self._stop.wait(pause)
        for future in wait(self._busy, pause, return_when=FIRST_COMPLETED).done:
            self._end(future)

    def _end(self, future: Future[None]) -> None:
        """Count a finished replica. The row of a failed replica contains the error, and the worker continues."""
        uid = self._busy.pop(future).uid
        error = future.exception()
        if error is None:
            self._report.completed += 1
            self._report.failed.pop(uid, None)
        elif isinstance(error, Exception):
            self._report.failed[uid] = _describe_error(error)


def _describe_error(error: Exception) -> str:
    return error.message if isinstance(error, ImgstoreError) else repr(error)


@contextmanager
def _register(installation: Installation) -> Iterator[Callable[[], None]]:
    """Keep this process in the list of workers while the block runs. Yields the function that renews the row."""
    uid = installation.effects.new_uid()
    shown = float("-inf")

    def show() -> None:
        nonlocal shown
        if time.monotonic() - shown < _BEAT_SECONDS:
            return
        shown = time.monotonic()
        with installation.catalog.transaction() as transaction:
            transaction.workers.record_heartbeat(uid, installation.keeper.holder)
            transaction.clock_steps.correct()

    try:
        yield show
    finally:
        with suppress(StoreError), installation.catalog.transaction() as transaction:
            transaction.workers.remove(uid)


def list_workers(installation: Installation, principal: Principal) -> list[Worker]:
    """List the live workers, and remove the rows of other workers."""
    authorize(principal, Action.READ, installation.scope)
    with installation.catalog.discarding_writes(), installation.catalog.transaction() as transaction:
        registered = transaction.workers.list()
        living = [each for each in registered if is_alive(installation, transaction, each)]
        for worker in registered:
            if worker not in living:
                transaction.workers.remove(worker.uid)
    return living


def has_living_worker(installation: Installation) -> bool:
    """Return whether a worker was active recently, so that pending replicas will be made."""
    with installation.catalog.reading() as transaction:
        return any(is_alive(installation, transaction, each) for each in transaction.workers.list())


def is_alive(installation: Installation, transaction: Transaction, worker: Worker) -> bool:
    """Return whether a worker was active recently, and did not end on this machine."""
    return transaction.workers.is_alive(worker) and not installation.keeper.is_dead(worker.holder)
