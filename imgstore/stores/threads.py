"""Threads for requests that may be given up: not even the end of the process waits for these threads.

`concurrent.futures` joins its threads when the interpreter ends. A request to a store that does not answer would
therefore delay the end of a finished command by the time limit of the request.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from imgstore.domain.host.os_errors import translate_host_faults

_T = TypeVar("_T")

_IDLE_SECONDS_MAX: Final = 10.0
"""A thread without a task ends after this time."""


class _Threads:
    """Daemon threads that wait for another task after the first. Safe to use from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Callable[[], None]]] = []

    def reset(self) -> None:
        """Start without threads after a fork, because the threads belong to the parent."""
        self._lock = threading.Lock()
        self._idle = []

    def start(self, task: Callable[[], None]) -> None:
        """Run a task in a daemon thread without waiting. The task must not raise."""
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(task)
            return
        threading.Thread(target=self._work, args=(task,), name="request", daemon=True).start()

    def _work(self, task: Callable[[], None]) -> None:
        inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        while True:
            task()
            with self._lock:
                self._idle.append(inbox)
            try:
                task = inbox.get(timeout=_IDLE_SECONDS_MAX)
            except Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        return
                task = inbox.get()  # `start` took the inbox just before the timeout.


_threads: Final = _Threads()
os.register_at_fork(after_in_child=_threads.reset)
start_thread: Final = _threads.start


def start_future(act: Callable[[], _T]) -> "Future[_T]":
    """Call a function in a thread that may be given up. The result is a value, or the error."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            with translate_host_faults():
                future.set_result(act())
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises the error
            future.set_exception(error)

    start_thread(run)
    return future
