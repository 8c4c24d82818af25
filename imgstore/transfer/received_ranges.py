"""The received ranges of an upload, disjoint and in order."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReceivedRange:
    """A received range, end excluded."""

    begin: int
    end: int
    digest: int | None
    """XXH3 of the bytes; None for zeros."""


class ReceivedRanges:
    """Disjoint received ranges, in order."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._arrived: list[ReceivedRange] = []

    def __iter__(self) -> Iterator[ReceivedRange]:
        return iter(self._arrived)

    def __len__(self) -> int:
        return len(self._arrived)

    def overlapping(self, begin: int, end: int) -> list[ReceivedRange]:
        """Return the ranges that have a byte in [begin, end)."""
        low = self._first(begin)
        high = bisect_left(self._begins, end)
        return self._arrived[low:high]

    def remove(self, begin: int, end: int) -> None:
        """Remove the ranges that have a byte in [begin, end). Ranges of zeros keep the part outside [begin, end)."""
        removed = self.overlapping(begin, end)
        low = self._first(begin)
        del self._begins[low : low + len(removed)], self._arrived[low : low + len(removed)]
        for each in removed:
            if each.digest is None and each.begin < begin:
                self.add(ReceivedRange(each.begin, begin, None))
            if each.digest is None and each.end > end:
                self.add(ReceivedRange(end, each.end, None))

    def add(self, arrived: ReceivedRange) -> None:
        """Add a range that overlaps no other. Adjacent ranges of zeros are merged if the new range follows."""
        at = bisect_left(self._begins, arrived.begin)
        before = self._arrived[at - 1] if at else None
        if before is not None and before.digest is None and arrived.digest is None and before.end == arrived.begin:
            self._arrived[at - 1] = ReceivedRange(before.begin, arrived.end, None)
            return
        self._begins.insert(at, arrived.begin)
        self._arrived.insert(at, arrived)

    def _first(self, begin: int) -> int:
        at = bisect_left(self._begins, begin)
        return at - 1 if at and self._arrived[at - 1].end > begin else at
