"""Threads, bounded: so many at work, so many pieces of work waiting, the first error stops all."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class BoundedPool:
    """A pool whose `submit` waits while `ahead` calls are under way or waiting, and raises once any has failed.

    Nothing begins after that, not even what waits already.

    Memory is bounded by `ahead` times what a call holds. Leaving the block waits for all and raises the first error;
    leaving it by an exception gives up what has not begun.
    """

    def __init__(self, workers: int, ahead: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._room = threading.Semaphore(ahead)
        self._error: BaseException | None = None

    def submit(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Run the call in a thread when there is room."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error

        def begun() -> _R:
            if self._error is not None:
                raise self._error
            return call(*args, **kwargs)

        future = self._pool.submit(begun)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[_R]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None and self._error is None:
            self._error = error
        self._room.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None or self._error is not None)
        if error is None and self._error is not None:
            raise self._error
