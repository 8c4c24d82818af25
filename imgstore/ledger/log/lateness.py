"""Find entries that were added behind a checkpoint that should cover the entries (invariant M22).

A checkpoint that ends a run of sealing states its coverage: all entries up to a time are in the log, and all storage
intervals that were open at that time were opened at another time or later. So an entry with an earlier time behind the
checkpoint was added later. Checkpoints of earlier releases have no coverage. Then the times of sealed entries alone count,
because a run seals in the order of time.
"""

import json
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from imgstore.ledger.log.checkpoint_lines import Coverage

TOLERANCE_SECONDS: Final = 3600
"""Clocks differ, and a transaction may be committed after a transaction with a later time."""
LATE_ENTRY: Final = "the entry was added after the sealing of entries that are more than an hour newer"
LATE_BEGIN: Final = "the storage interval was added, or its begin moved, after the sealing of all earlier intervals"
LATE_END: Final = (
    "the storage interval ends more than an hour before sealed entries, and no settlement has closed the interval"
)
_CHANGED_BY_SETTLEMENT: Final = ("uid", "opened_at", "closed_at")


@dataclass(slots=True)
class Border:
    """The times that an entry at the end of the log must have. Times are seconds since 1970."""

    newest: float = 0.0
    """The log has all entries up to this time."""
    open_since: float = 0.0
    """Each interval whose end is not in the log was opened at this time or later."""

    def add_coverage(self, coverage: Coverage) -> None:
        """Take the coverage of a checkpoint into account."""
        self.newest = max(self.newest, coverage.complete_until.timestamp())
        self.open_since = max(self.open_since, coverage.open_since.timestamp())

    def is_late(self, time: float) -> bool:
        """Return whether an entry of this time should be in the log already."""
        return time < self.newest - TOLERANCE_SECONDS

    def is_opened_late(self, opened_at: float) -> bool:
        """Return whether an interval that was opened at this time should be in the log already."""
        return opened_at < self.open_since - TOLERANCE_SECONDS


class EntryTimes:
    """The times of sealed entries by place, in seconds since 1970. 0 is the time of no entry."""

    def __init__(self, count: int) -> None:
        self.times, self.begins, self.ends = (array("d", bytes(count * 8)) for _ in range(3))

    def add(self, place: int, begin: str | None, time: str) -> None:
        """Add an entry.

        Args:
            place: the place of the entry.
            begin: the begin of an interval, or None for another entry.
            time: the time of the entry, or the end of the interval.
        """
        if begin is None:
            self.times[place] = read_time(time)
        else:
            self.begins[place], self.ends[place] = read_time(begin), read_time(time)


@dataclass(slots=True)
class LatePlaces:
    """The places of late entries."""

    entries: set[int] = field(default_factory=set)
    """Transfers and price lists."""
    opened: set[int] = field(default_factory=set)
    """Intervals that were opened before the intervals that an older checkpoint did not cover."""
    ended: set[int] = field(default_factory=set)
    """Intervals that ended before an older checkpoint. A late settlement makes such intervals, too (`is_continued`)."""


def find_late(times: EntryTimes, first: int, coverages: Sequence[tuple[int, Coverage]]) -> tuple[LatePlaces, Border]:
    """Return the places of late entries, and the border for entries that are not sealed.

    Args:
        times: the times of the sealed entries from a position on.
        first: the position of the first entry of `times`.
        coverages: (number of entries, coverage) of checkpoints in the order of the numbers.
    """
    border, late, waiting = Border(), LatePlaces(), list(reversed(coverages))
    for place, (time, begin, end) in enumerate(zip(times.times, times.begins, times.ends, strict=True)):
        while waiting and waiting[-1][0] <= first + place:
            border.add_coverage(waiting.pop()[1])
        if time:
            if time >= border.newest:
                border.newest = time
            elif border.is_late(time):
                late.entries.add(place)
        elif end:
            if border.is_opened_late(begin):
                late.opened.add(place)
            elif border.is_late(end):
                late.ended.add(place)
    while waiting:
        border.add_coverage(waiting.pop()[1])
    return late, border


def find_displaced(times: EntryTimes, first: int, begin: int, end: int) -> list[int]:
    """Return the positions of leaves that are not in the order of time. A checkpoint seals its entries in this order.

    Args:
        times: the times of the sealed entries from the position `first` on.
        first: the position of the first entry of `times`.
        begin: the first position of a checkpoint's new entries.
        end: the position after the last entry of the checkpoint.
    """
    places = range(max(begin - first, 0), min(end - first, len(times.times)))
    known = [(times.times[place] or times.ends[place], first + place) for place in places]
    known = [each for each in known if each[0]]
    pairs = zip(known, sorted(known, key=lambda each: each[0]), strict=True)
    exchanged = [position for (time, position), (expected, _) in pairs if time != expected]
    if len(exchanged) <= 2:
        return exchanged
    return sorted(position for _, position in _leave_out_longest_run(known))


def _leave_out_longest_run(known: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the items outside of the longest ascending subsequence (https://en.wikipedia.org/wiki/Patience_sorting)."""
    ends: list[float] = []
    lengths: list[int] = []
    for time, _ in known:
        place = bisect_right(ends, time)
        ends[place : place + 1] = [time]
        lengths.append(place)
    wanted, left = len(ends) - 1, list[tuple[float, int]]()
    bound = float("inf")
    for item, length in zip(reversed(known), reversed(lengths), strict=True):
        if length == wanted and item[0] <= bound:
            wanted, bound = wanted - 1, item[0]
        else:
            left.append(item)
    return left


def is_continued(leaf: str, next_leaf: str) -> bool:
    """Return whether an interval continues another interval without a change, as after a settlement.

    Args:
        leaf: the canonical JSON of an interval.
        next_leaf: the canonical JSON of the interval that follows.
    """
    part, following = json.loads(leaf), json.loads(next_leaf)
    if not isinstance(part, dict) or not isinstance(following, dict) or part["closed_at"] != following["opened_at"]:
        return False
    for name in _CHANGED_BY_SETTLEMENT:
        part.pop(name, None)
        following.pop(name, None)
    return part == following


def read_time(text: str) -> float:
    """Return a time of a row in seconds since 1970. A text that no code would write counts as the earliest time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
