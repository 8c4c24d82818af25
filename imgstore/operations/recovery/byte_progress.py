"""The progress of a task of a backup, restore or copy, which may have no open installation."""

from collections.abc import Iterable, Iterator

from imgstore.domain.progress import ProgressEvent, Stage, Subscriber


class ByteProgress:
    """Counts the processed bytes of a task, and reports each change."""

    def __init__(self, subscriber: Subscriber, task: str, total: int = 0) -> None:
        self._subscriber = subscriber
        self._task = task
        self._total = total
        self._done = 0
        self._report(Stage.STARTED)

    @property
    def done(self) -> int:
        """The processed bytes."""
        return self._done

    def add(self, count: int) -> None:
        """Add processed bytes."""
        self.set(self._done + count, self._total)

    def set(self, done: int, total: int) -> None:
        """Set the processed bytes and all bytes. A total of 0 is unknown."""
        self._done, self._total = done, max(total, done)
        self._report(Stage.MOVED)

    def extend(self, count: int) -> None:
        """Add bytes to the total."""
        self._total += count

    def count(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the parts, and add their bytes."""
        for part in parts:
            self.add(len(part))
            yield part

    def end(self) -> None:
        """Report the end of the task."""
        self._report(Stage.COMPLETED)

    def _report(self, stage: Stage) -> None:
        self._subscriber(ProgressEvent(task=self._task, stage=stage, bytes_done=self._done, bytes_total=self._total))
