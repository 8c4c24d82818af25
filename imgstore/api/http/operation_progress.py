"""The progress of a long-running operation, for clients that poll the operation."""

import threading

from imgstore.domain.progress import ProgressEvent, Stage, Subscriber


class OperationProgress:
    """A subscriber that counts the bytes of all tasks of an operation, and passes events on. Threads may share it."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._lock = threading.Lock()
        self._done_bytes: dict[str, int] = {}
        self._total_bytes: dict[str, int] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Count the bytes of an event."""
        if event.stage is not Stage.NOTE:
            with self._lock:
                self._done_bytes[event.task] = event.bytes_done
                self._total_bytes[event.task] = event.bytes_total
        self._subscriber(event)

    @property
    def percent_complete(self) -> float | None:
        """The processed bytes in percent, with one decimal. None before the first task with bytes."""
        with self._lock:
            total_bytes = sum(self._total_bytes.values())
            return round(100 * sum(self._done_bytes.values()) / total_bytes, 1) if total_bytes else None
