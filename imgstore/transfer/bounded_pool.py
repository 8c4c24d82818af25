"""A thread pool with a bounded queue that stops at the first error."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class BoundedPool:
    """A pool with at most `ahead` calls running or queued.

    A further `submit` waits, and raises after the first failed call.

    After a failure no call begins, not even a queued call.

    Memory is bounded by `ahead` times the memory of a call. Leaving the block waits for all calls and raises the first
    error. Leaving the block by an exception drops the queued calls.
    """

    def __init__(self, workers: int, ahead: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._free = threading.Semaphore(ahead)
        self._error: BaseException | None = None

    def submit(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Run the call in a thread. Wait until the pool accepts a further call."""
        self._free.acquire()
        if self._error is not None:
            self._free.release()
            raise self._error

        def run_unless_failed() -> _R:
            if self._error is not None:
                raise self._error
            return call(*args, **kwargs)

        future = self._pool.submit(run_unless_failed)
        future.add_done_callback(self._end_call)
        return future

    def _end_call(self, future: Future[_R]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None and self._error is None:
            self._error = error
        self._free.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None or self._error is not None)
        if error is None and self._error is not None:
            raise self._error
