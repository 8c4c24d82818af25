"""Count the bytes of a task: report each change, and save the progress of a work and its replica in the catalog."""

import threading
from contextlib import suppress

from imgstore.domain.errors import StoreError
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.resources import Replica
from imgstore.domain.storage.works import Lease
from imgstore.operations.installation import Installation


class ProgressCounter:
    """The progress of a task. Several threads may call `add_bytes`."""

    def __init__(
        self,
        installation: Installation,
        task: str,
        total: int = 0,
        replica: Replica | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Count up to `total`.

        Args:
            installation: the installation. Its subscriber gets the reports.
            task: the name of the task.
            total: all bytes of the task. May be set until `begin`.
            replica: the replica for `save`. None if the task makes no replica.
            lease: the lease of the work for `save`. None if no other process waits for the work.
        """
        self.total = total
        self._installation = installation
        self._task = task
        self._replica = replica
        self._lease = lease
        self._done = 0
        self._written = -1
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Report the start of the task, with the total. A second start counts again from zero."""
        self._done = 0
        if self._replica is not None or self._lease is not None:
            with self._installation.catalog.transaction() as transaction:
                if self._lease is not None:
                    transaction.works.record_progress(self._lease, 0, self.total)
                if self._replica is not None:
                    transaction.replicas.record_start(self._replica.uid, self.total)
        self._report(Stage.STARTED)

    def add_bytes(self, moved_bytes: int) -> None:
        """Add bytes and report the progress."""
        with self._lock:
            self._done += moved_bytes
        self._report(Stage.MOVED)

    def end(self, detail: str = "") -> None:
        """Report the end of the task, with all bytes done."""
        self._done = self.total
        self._report(Stage.COMPLETED, detail)
        with suppress(StoreError):  # The work is done, and the progress is only a report.
            self.save()

    def stop(self, detail: str) -> None:
        """Report that the task is not needed any more.

        The row of the replica may belong to another process, so nothing is saved.
        """
        self._report(Stage.COMPLETED, detail)

    def fail(self, detail: str = "") -> None:
        """Report that the task failed.

        Args:
            detail: the error. Empty if the caller raises the error, so that a person reads the error once.
        """
        self._report(Stage.FAILED, detail)

    def save(self) -> None:
        """Save the progress in the rows of the work and of the replica, if the progress changed."""
        if (self._replica is None and self._lease is None) or self._done == self._written:
            return
        self._written = self._done
        done = min(self._done, self.total)
        with self._installation.catalog.transaction() as transaction:
            if self._lease is not None:
                transaction.works.record_progress(self._lease, done, self.total)
            if self._replica is not None:
                transaction.replicas.record_progress(self._replica.uid, done, self.total)

    def _report(self, stage: Stage, detail: str = "") -> None:
        self._installation.subscriber(
            ProgressEvent(
                task=self._task,
                stage=stage,
                bytes_done=min(self._done, self.total),
                bytes_total=self.total,
                detail=detail,
            )
        )


class SavedProgress:
    """The progress of a task of another process, reported as that process saves the progress in the catalog."""

    def __init__(self, installation: Installation, task: str) -> None:
        self._subscriber = installation.subscriber
        self._task = task
        self._last: tuple[int, int] | None = None

    def report(self, bytes_done: int, bytes_total: int) -> None:
        """Report the progress, if the progress changed."""
        if (bytes_done, bytes_total) == self._last or not bytes_total:
            return
        stage = Stage.STARTED if self._last is None else Stage.MOVED
        self._last = (bytes_done, bytes_total)
        self._send(stage, bytes_done)

    def end(self) -> None:
        """Report that the other process has completed the task."""
        if self._last is not None:
            self._send(Stage.COMPLETED, self._last[1])

    def fail(self, detail: str) -> None:
        """Report that the task failed."""
        if self._last is not None:
            self._send(Stage.FAILED, self._last[0], detail)

    def _send(self, stage: Stage, bytes_done: int, detail: str = "") -> None:
        assert self._last is not None, "a progress was reported before"
        self._subscriber(
            ProgressEvent(task=self._task, stage=stage, bytes_done=bytes_done, bytes_total=self._last[1], detail=detail)
        )


def task_name(replica: Replica) -> str:
    """Return the task name of a replica, for example "westus2/0"."""
    return f"{replica.slot.key.region}/{replica.slot.key.ordinal}"
