"""Watch the operations that end when other processes have done the rest of the work. One thread watches all of them."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from imgstore.domain.errors import StoreError

_log: Final = logging.getLogger("imgstore.api")

_LOOKS_PER_SECOND_MAX: Final = 50
"""A bound, because each check reads the catalog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingOperation:
    """An operation that ends when `is_done` returns True or raises."""

    is_done: Callable[[], bool]
    """Checks for the end once. A StoreError means that the catalog does not answer, so the check is repeated. Any other
    error ends the operation."""
    end: Callable[[Exception | None], None]
    """Stores the result. None is success."""


class WaitingOperations:
    """The waiting operations of a process, checked at an interval. Safe for use in several threads."""

    def __init__(self, look_seconds: float) -> None:
        """Prepare the watch. The first operation starts the thread.

        Args:
            look_seconds: the interval of the checks of an operation. The interval grows with the number of operations.
        """
        self._look_seconds = look_seconds
        self._lock = threading.Lock()
        self._waiting: list[WaitingOperation] = []
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, operation: WaitingOperation) -> None:
        """Watch an operation until the operation ends or `close` is called."""
        with self._lock:
            self._waiting.append(operation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waiting operations", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop watching. Rows of operations stay InProgress, and the next server resumes them."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        seconds = self._look_seconds
        while not self._closed.wait(seconds):
            with self._lock:
                waiting = list(self._waiting)
            for operation in waiting:
                if self._closed.is_set():
                    return
                if _has_ended(operation):
                    with self._lock:
                        self._waiting.remove(operation)
            seconds = max(self._look_seconds, len(waiting) / _LOOKS_PER_SECOND_MAX)


def _has_ended(operation: WaitingOperation) -> bool:
    error: Exception | None = None
    try:
        if not operation.is_done():
            return False
    except StoreError:
        return False
    except Exception as failure:  # noqa: BLE001 - the error becomes the operation's result
        error = failure
    try:
        operation.end(error)
    except StoreError as lost:
        _log.warning("could not store the result of an operation, and will retry: %s", lost)
        return False
    except Exception:  # noqa: BLE001 - one operation must not end the watch of the others
        _log.exception("could not store the result of an operation")
    return True
