"""A request to stop, seen by all threads of a job: of one operation, or of a whole process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OperationCanceled(KeyboardInterrupt):
    """A long-running operation is to stop, because somebody canceled it.

    It is a KeyboardInterrupt, so that code which ends well at Ctrl-C ends as well here: works stay open for the same
    request, leases are given back.
    """


class StopSignal:
    """Set once, for good. Safe for use in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._reason: type[BaseException] = KeyboardInterrupt
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0

    def set(self, reason: type[BaseException] = KeyboardInterrupt) -> None:
        """Ask all threads to stop: `check` raises `reason` from now on. Callbacks run once, in this thread."""
        with self._lock:
            if self._set.is_set():
                return
            self._reason = reason
            self._set.set()
            callbacks = list(self._callbacks.values())
        for each in callbacks:
            each()

    @property
    def reason(self) -> type[BaseException] | None:
        """What `check` raises; None while nobody asked to stop."""
        return self._reason if self._set.is_set() else None

    def check(self) -> None:
        """Go on.

        Raises:
            KeyboardInterrupt: it is set; the reason it was set with.
        """
        if self._set.is_set():
            raise self._reason

    def wait(self, seconds: float) -> None:
        """Wait so many seconds, or less.

        Raises:
            KeyboardInterrupt: see `check`.
        """
        self._set.wait(seconds)
        self.check()

    @contextmanager
    def call_on_stop(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` when it is set while the block runs; at once if it is set already."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._callbacks[number] = callback
            late = self._set.is_set()
        if late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                del self._callbacks[number]

    @contextmanager
    def child(self) -> "Iterator[StopSignal]":
        """A signal of one job: set by itself, or with this one while the block runs."""
        inner = StopSignal()
        with self.call_on_stop(lambda: inner.set(self._reason)):
            yield inner
