"""Passes of scrub through a slot. A restarted process resumes a pass at the saved position."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

RESUMED_BY_COMMAND: Final = timedelta(days=1)
"""The age up to which a command resumes an interrupted pass. A later command reads the whole slot."""
ALL_PERCENT: Final = 100.0
"""The share of a pass that reads all segments."""


class ScrubRunner(StrEnum):
    """The runner of a pass.

    A command never resumes the pass of a worker, because the caller asks about the whole slot.
    """

    COMMAND = "command"
    WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubPass:
    """A pass through the objects of a slot in the order of the keys, by one or several processes in sequence."""

    uid: str
    slot_uid: str
    runner: ScrubRunner
    percent: float
    seed: int
    """The seed of the sample, as in `ScrubRequest.seed`, constant for the whole pass."""
    position: str = ""
    """All objects up to this key were read. The key is below the slot. Empty is none."""
    began_at: datetime
    """By the clock of the database, like `saved_at`."""
    saved_at: datetime
    damaged: Mapping[str, bool]
    """The missing or wrong keys below the slot. The value is True for a repaired key."""

    @property
    def repaired(self) -> frozenset[str]:
        """The damaged keys that were repaired."""
        return frozenset(key for key, is_repaired in self.damaged.items() if is_repaired)

    def remaining(self, keys: Iterable[str], always: Collection[str] = ()) -> list[str]:
        """Return the keys that the pass must still read, sorted: keys after the position, and unrepaired damaged keys.

        All objects from the start of the pass are after the position or were read. A newer object is read only after
        the position.

        Args:
            keys: the keys of the objects that the slot should contain now.
            always: keys to read also before the position, except repaired keys.
        """
        again = {*always, *self.damaged} - self.repaired
        return sorted(key for key in keys if key > self.position or key in again)

    def can_resume(self, *, percent: float, seed: int | None, now: datetime) -> bool:
        """Return whether a request can resume this pass.

        Args:
            percent: the requested share of the segments.
            seed: the requested seed. None is any seed.
            now: the time by the clock of the database.
        """
        is_same_sample = self.percent == percent and (percent >= ALL_PERCENT or seed in (None, self.seed))
        is_recent = self.runner is ScrubRunner.WORKER or now - self.saved_at <= RESUMED_BY_COMMAND
        return is_same_sample and is_recent


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotScrubRecord:
    """The last finished pass through a slot. All times are by the clock of the database."""

    slot_uid: str
    began_at: datetime
    ended_at: datetime
    percent: float
    """The share of the segments that the pass read."""
    objects: int
    """The number of objects that the pass read."""
    complete_at: datetime | None = None
    """The end of the last pass that read all objects. None before the first such pass."""


class ReadFront:
    """The position up to which all ordered keys were read, while threads read in any order.

    Not safe for several threads.
    """

    def __init__(self, keys: Sequence[str], position: str) -> None:
        """Start before the first key.

        Args:
            keys: the keys in order, all after the position.
            position: the key before the first key. Empty is none.
        """
        self._keys = keys
        self._count = 0
        self._ahead: set[str] = set()
        self.position = position
        """All keys up to this key were read."""

    def add(self, key: str) -> None:
        """Record a key that was read."""
        self._ahead.add(key)
        while self._count < len(self._keys) and self._keys[self._count] in self._ahead:
            self.position = self._keys[self._count]
            self._ahead.discard(self.position)
            self._count += 1
