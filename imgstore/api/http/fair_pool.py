"""Share a pool of threads fairly: a caller never holds more than a quarter of the threads, and queues are bounded.

`FairQueue` decides which job runs next and is pure. `FairPool` adds the threads.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from imgstore.domain.errors import ImgstoreError

T = TypeVar("T")

SHARE: Final = 4
"""The divisor of a caller's share: one caller holds at most a quarter of the threads of a pool."""
RETRY_AFTER_SECONDS: Final = 2
"""The value of Retry-After for refused requests."""


class CallerQueueFull(ImgstoreError):
    """The caller has too many requests that wait for a thread."""

    code = "TooManyRequests"
    status = 429
    retry_after_seconds = RETRY_AFTER_SECONDS


class PoolQueueFull(ImgstoreError):
    """All callers together have too many requests that wait for a thread."""

    code = "ServerBusy"
    status = 503
    retry_after_seconds = RETRY_AFTER_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """The size of a pool."""

    threads: int
    queued_per_caller_max: int = 64
    """Jobs of one caller that may wait."""
    queued_max: int = 1_024
    """Jobs of all callers together that may wait."""

    @property
    def share(self) -> int:
        """The number of threads that one caller may hold: a quarter of the pool, at least one."""
        return max(1, self.threads // SHARE)


class FairQueue(Generic[T]):
    """Waiting jobs, in a queue for each caller, and the number of running jobs of each caller.

    Callers are served round robin. Not safe for use in several threads: `FairPool` holds a lock.
    """

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._waiting: dict[str, deque[T]] = {}
        self._running: dict[str, int] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        """The callers with a waiting job and fewer running jobs than the share, in the order of service."""
        self._queued = 0

    def put(self, caller: str, job: T, *, bounded: bool = True) -> None:
        """Add a job.

        Args:
            caller: the caller of the job.
            job: the job, which `take` returns later.
            bounded: whether to refuse the job if the queue is full. Pass False for jobs that were accepted earlier.

        Raises:
            CallerQueueFull: the caller has `queued_per_caller_max` waiting jobs.
            PoolQueueFull: `queued_max` jobs wait.
        """
        waiting = self._waiting.get(caller, ())
        if bounded and len(waiting) >= self._limits.queued_per_caller_max:
            raise CallerQueueFull(
                "Too many requests of this caller wait for a thread.",
                found=f"{len(waiting)} waiting requests",
                expected=f"at most {self._limits.queued_per_caller_max}",
                hint="send the same request again after the time in Retry-After",
            )
        if bounded and self._queued >= self._limits.queued_max:
            raise PoolQueueFull(
                "The server is busy.",
                found=f"{self._queued} waiting requests",
                expected=f"at most {self._limits.queued_max}",
                hint="send the same request again after the time in Retry-After",
            )
        self._waiting.setdefault(caller, deque()).append(job)
        self._queued += 1
        self._note_ready(caller)

    def take(self) -> tuple[str, T] | None:
        """Return the next caller and job that may run, or None. Call `finish` when the job has ended."""
        if not self._ready:
            return None
        caller, _ = self._ready.popitem(last=False)
        waiting = self._waiting[caller]
        job = waiting.popleft()
        if not waiting:
            del self._waiting[caller]
        self._queued -= 1
        self._running[caller] = self._running.get(caller, 0) + 1
        self._note_ready(caller)
        return caller, job

    def finish(self, caller: str) -> None:
        """Count a job of the caller as ended."""
        left = self._running[caller] - 1
        if left:
            self._running[caller] = left
        else:
            del self._running[caller]
        self._note_ready(caller)

    def clear(self) -> list[T]:
        """Remove and return all waiting jobs."""
        jobs = [job for waiting in self._waiting.values() for job in waiting]
        self._waiting.clear()
        self._ready.clear()
        self._queued = 0
        return jobs

    def _note_ready(self, caller: str) -> None:
        if caller in self._waiting and self._running.get(caller, 0) < self._limits.share:
            self._ready.setdefault(caller, None)


class FairPool:
    """Threads that run the jobs of a `FairQueue`. Safe for use in several threads.

    The threads are daemons, so that a job that hangs does not keep the process alive after `close`.
    """

    def __init__(self, limits: PoolLimits, name: str) -> None:
        self._limits = limits
        self._name = name
        self._queue: FairQueue[tuple[Future[Any], Callable[[], Any]]] = FairQueue(limits)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, caller: str, work: Callable[[], T], *, bounded: bool = True) -> "Future[T]":
        """Queue `work` for a thread of the pool.

        Raises:
            CallerQueueFull, PoolQueueFull: a queue is full (`FairQueue.put`).
            PoolQueueFull: the pool is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise _stopping_error()
            self._queue.put(caller, (future, work), bounded=bounded)
            if len(self._threads) < self._limits.threads:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
        return future

    def close(self, wait_seconds: float) -> bool:
        """Refuse the waiting jobs, and wait for the running jobs for at most `wait_seconds`.

        Returns:
            Whether all running jobs ended.
        """
        with self._changed:
            self._closed = True
            waiting = self._queue.clear()
            self._changed.notify_all()
        for future, _ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(_stopping_error())
        with self._changed:
            return self._changed.wait_for(lambda: not self._threads, wait_seconds)

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            caller, (future, work) = taken
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - the future raises the error again
                    future.set_exception(error)
            del future, work, taken
            with self._changed:
                self._queue.finish(caller)
                self._changed.notify()
        with self._changed:
            self._threads.remove(threading.current_thread())
            self._changed.notify_all()

    def _next(self) -> "tuple[str, tuple[Future[Any], Callable[[], Any]]] | None":
        """Wait for the next job. Return None after the pool was closed."""
        with self._changed:
            while (taken := self._queue.take()) is None and not self._closed:
                self._changed.wait()
            return taken


def _stopping_error() -> PoolQueueFull:
    return PoolQueueFull(
        "The server is stopping.",
        found="a closed thread pool",
        expected="a running server",
        hint="send the same request again in a moment",
        code="ServerStopping",
    )
