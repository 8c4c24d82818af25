"""A stop request for all threads of a job: a single operation, or a whole process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OperationCanceled(KeyboardInterrupt):
    """The cancellation of a long-running operation by a caller.

    The class is a KeyboardInterrupt, so that code which handles Ctrl-C also handles cancellation: works stay open for a
    repeated request, and leases are released.
    """


class StopSignal:
    """A signal that is set once and never reset. Safe for use in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._reason: type[BaseException] = KeyboardInterrupt
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0

    def set(self, reason: type[BaseException] = KeyboardInterrupt) -> None:
        """Request all threads to stop: `check` raises `reason` from now on. Callbacks run once, in this thread."""
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
        """The class that `check` raises. None before a stop request."""
        return self._reason if self._set.is_set() else None

    def check(self) -> None:
        """Raise the reason if the signal is set.

        Raises:
            KeyboardInterrupt: the reason of the stop request.
        """
        if self._set.is_set():
            raise self._reason

    def wait(self, seconds: float) -> None:
        """Wait for the given seconds, or until the signal is set.

        Raises:
            KeyboardInterrupt: see `check`.
        """
        self._set.wait(seconds)
        self.check()

    @contextmanager
    def call_on_stop(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` when the signal is set while the block runs, or at once if the signal is already set."""
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
        """Create a signal for a single job. While the block runs, a set parent also sets the child."""
        inner = StopSignal()
        with self.call_on_stop(lambda: inner.set(self._reason)):
            yield inner
