"""Threads for requests that may be given up: nobody waits for them, not even the end of the process.

`concurrent.futures` joins its threads when the interpreter ends, so a request to a store that does not answer would
hold a finished command for as long as its time limit.
"""

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

_IDLE_SECONDS_MAX: Final = 10.0
"""A thread without a task ends after this time."""


class _Threads:
    """Daemon threads, kept for a while after their task. Safe to use from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Callable[[], None]]] = []

    def forget(self) -> None:
        """After a fork: the threads are the parent's."""
        self._lock = threading.Lock()
        self._idle = []

    def start(self, task: Callable[[], None]) -> None:
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
                task = inbox.get()  # It was given a task at this very moment.


_threads: Final = _Threads()
os.register_at_fork(after_in_child=_threads.forget)


def start_thread(task: Callable[[], None]) -> None:
    """Run a task in a daemon thread, without waiting for it. The task must not raise."""
    _threads.start(task)
