"""Passes of scrub through a slot, and how far each has come: a process that is started again resumes one."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

RESUMED_BY_COMMAND: Final = timedelta(days=1)
"""A command resumes a pass that was interrupted no longer ago: a person who asks later wants all of it read."""
_ALL_PERCENT: Final = 100.0


class ScrubRunner(StrEnum):
    """Who scrubs. A command never resumes the pass of a worker, because its caller wants to know of the whole slot."""

    COMMAND = "command"
    WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubPass:
    """One way through the objects of a slot, in the order of their keys, by one process or several in turn."""

    uid: str
    slot_uid: str
    runner: ScrubRunner
    percent: float
    seed: int
    """Of the sample, as `ScrubRequest.seed`: the same one to the end of the pass."""
    position: str = ""
    """The objects up to this key, below the slot, were all read. Empty is none."""
    began_at: datetime
    """The database's clock, as `saved_at`."""
    saved_at: datetime
    damaged: Mapping[str, bool]
    """The keys below the slot that were missing or wrong, and whether each was repaired."""

    @property
    def repaired(self) -> frozenset[str]:
        """The damaged keys that were repaired."""
        return frozenset(key for key, is_repaired in self.damaged.items() if is_repaired)

    def remaining(self, keys: Iterable[str], always: Collection[str] = ()) -> list[str]:
        """Return the keys that are still to be read, in their order: those behind the position, and the damaged ones again.

        Objects that were there when the pass began are behind the position or were read. Objects that came since are
        read if they are behind it.

        Args:
            keys: of the objects that the slot should have now.
            always: of them, those to be read in any case.
        """
        again = {*always, *self.damaged} - self.repaired
        return sorted(key for key in keys if key > self.position or key in again)

    def can_resume(self, *, percent: float, seed: int | None, now: datetime) -> bool:
        """Tell whether a request goes on with this pass.

        Args:
            percent: the share that the request asks for.
            seed: the seed that it asks for; None is any.
            now: the database's clock.
        """
        is_same_sample = self.percent == percent and (percent >= _ALL_PERCENT or seed in (None, self.seed))
        is_recent = self.runner is ScrubRunner.WORKER or now - self.saved_at <= RESUMED_BY_COMMAND
        return is_same_sample and is_recent


class ReadFront:
    """Follows how far ordered keys were all read, while threads read them in any order. Not safe in several threads."""

    def __init__(self, keys: Sequence[str], position: str) -> None:
        """Begin before the first key.

        Args:
            keys: in their order, all behind the position.
            position: the last key before them; empty where there is none.
        """
        self._keys = keys
        self._count = 0
        self._ahead: set[str] = set()
        self.position = position
        """All keys up to this one were read."""

    def add(self, key: str) -> None:
        """Note that a key was read."""
        self._ahead.add(key)
        while self._count < len(self._keys) and self._keys[self._count] in self._ahead:
            self.position = self._keys[self._count]
            self._ahead.discard(self.position)
            self._count += 1
