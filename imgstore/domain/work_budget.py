"""A budget for the evaluation of a caller's text: elements and running time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

_ELEMENTS_PER_CHECK: Final = 5_000
"""The elements between two checks of the clock: about a millisecond of work."""
_CHARACTERS_PER_ELEMENT: Final = 8
"""Copying or searching this number of characters takes less time than processing an element."""


def text_elements(characters: int) -> int:
    """Return the number of elements that a text of `characters` counts as."""
    return 1 + characters // _CHARACTERS_PER_ELEMENT


class WorkBudget:
    """The elements and seconds that an evaluation may still use. A single evaluation at a time uses a budget.

    An exceeded budget stays exceeded: a caller that suppresses the error gets the error again at the next step.
    """

    def __init__(
        self,
        *,
        elements_max: int,
        seconds_max: float,
        monotonic: Callable[[], float],
        exceeded: Callable[[str], Exception],
    ) -> None:
        """Start with the full budget.

        Args:
            elements_max: the limit of elements that are read or created.
            seconds_max: the limit of seconds of evaluation, without the seconds in `pause`.
            monotonic: a monotonic clock, in seconds.
            exceeded: creates the error from the limit as text, such as "at most 5 s".
        """
        self._elements_max, self._seconds_left = elements_max, seconds_max
        self._limit_seconds = seconds_max
        self._left, self._next_check = elements_max, elements_max - _ELEMENTS_PER_CHECK
        self._monotonic, self._exceeded = monotonic, exceeded
        self._checked_at: float | None = None
        self._is_late = False

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count the time inside of the block. Nested blocks count once.

        Raises:
            Exception: the error from `exceeded`.
        """
        if self._checked_at is not None:
            yield
            return
        self._checked_at = self._monotonic()
        try:
            yield
        finally:
            self._subtract_time()
            self._checked_at = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count the time inside of the block, which does no evaluation."""
        if self._checked_at is None:
            yield
            return
        self._subtract_time()
        try:
            yield
        finally:
            self._checked_at = self._monotonic()

    def spend(self, elements: int) -> None:
        """Subtract `elements` from the budget.

        Raises:
            Exception: the error from `exceeded`, if too few elements or no time is left.
        """
        self._left -= elements
        if self._left < self._next_check:
            self._check_clock()

    def spend_on(self, value: Any, on_text: Callable[[str], None] | None = None) -> None:
        """Subtract all elements of a JSON value.

        An element at several places counts once for each place. Raises as `spend`.

        Args:
            value: the value.
            on_text: called with each text in the value.
        """
        self.spend(1)
        heap = [value]
        while heap:
            one = heap.pop()
            if isinstance(one, str):
                self.spend(len(one) // _CHARACTERS_PER_ELEMENT)
                if on_text is not None:
                    on_text(one)
            elif isinstance(one, list | tuple):
                self.spend(len(one))
                heap += one
            elif isinstance(one, Mapping):
                self.spend(len(one))
                heap += (*one, *one.values())

    def _check_clock(self) -> None:
        self._next_check = self._left - _ELEMENTS_PER_CHECK
        if self._checked_at is not None:
            self._subtract_time()
        if self._left < 0:
            self._next_check = self._left + 1
            raise self._exceeded(f"at most {self._elements_max:,} elements read or made")
        if self._is_late:
            self._next_check = self._left + 1
            raise self._exceeded(f"at most {self._limit_seconds:g} s of evaluation")

    def _subtract_time(self) -> None:
        assert self._checked_at is not None, "time is subtracted only inside of run()"
        now = self._monotonic()
        self._seconds_left -= now - self._checked_at
        self._checked_at = now
        self._is_late = self._is_late or self._seconds_left < 0
