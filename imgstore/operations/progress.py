"""Counts bytes of one task: tells subscribers as they move, and writes a replica's row once a second."""

import threading
from contextlib import suppress

from imgstore.domain.errors import StoreError
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.resources import Replica
from imgstore.operations.installation import Installation


class ProgressCounter:
    """The progress of one task. `moved` may be called from several threads at once."""

    def __init__(self, installation: Installation, task: str, total: int = 0, replica: Replica | None = None) -> None:
        """Count towards `total`.

        Args:
            installation: whose subscriber is told.
            task: whose news it is.
            total: bytes in all; may be set until `begin`.
            replica: whose row `save` writes; None has none.
        """
        self.total = total
        self._installation = installation
        self._task = task
        self._replica = replica
        self._done = 0
        self._written = -1
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Tell that the task is known."""
        if self._replica is not None:
            with self._installation.catalog.transaction() as transaction:
                transaction.replicas.record_start(self._replica.uid, self.total)
        self._tell(Stage.STARTED)

    def add_bytes(self, moved_bytes: int) -> None:
        """So many more."""
        with self._lock:
            self._done += moved_bytes
        self._tell(Stage.MOVED)

    def end(self, detail: str = "") -> None:
        """All is done."""
        self._done = self.total
        self._tell(Stage.COMPLETED, detail)
        with suppress(StoreError):  # The work is done: its progress is a report.
            self.save()

    def stop(self, detail: str) -> None:
        """It is not to be done any more: its replica's row is another's matter, or gone."""
        self._tell(Stage.COMPLETED, detail)

    def fail(self, detail: str) -> None:
        """It ended with an error."""
        self._tell(Stage.FAILED, detail)

    def save(self) -> None:
        """Write the replica's row, if it changed."""
        if self._replica is None or self._done == self._written:
            return
        self._written = self._done
        with self._installation.catalog.transaction() as transaction:
            transaction.replicas.record_progress(self._replica.uid, min(self._done, self.total), self.total)

    def _tell(self, stage: Stage, detail: str = "") -> None:
        self._installation.subscriber(
            ProgressEvent(
                task=self._task,
                stage=stage,
                bytes_done=min(self._done, self.total),
                bytes_total=self.total,
                detail=detail,
            )
        )


def task_name(replica: Replica) -> str:
    """The task that a replica's news is about: "westus2/0"."""
    return f"{replica.slot.key.region}/{replica.slot.key.ordinal}"
