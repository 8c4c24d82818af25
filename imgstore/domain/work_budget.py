"""A budget for the evaluation of a caller's text: how many elements it touches, and for how long it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

_ELEMENTS_PER_LOOK: Final = 5_000
"""Elements between two looks at the clock: about a millisecond of work."""
_CHARACTERS_PER_ELEMENT: Final = 8
"""Copying or searching so many characters takes less time than handling one element."""


def text_elements(characters: int) -> int:
    """Return the elements that a text of `characters` counts for."""
    return 1 + characters // _CHARACTERS_PER_ELEMENT


class WorkBudget:
    """The elements and seconds that an evaluation may still use. One evaluation at a time uses it.

    A budget that was exceeded stays exceeded: a caller that suppresses the error gets it again at the next step.
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
            elements_max: elements that may be read or made.
            seconds_max: seconds of evaluation, without those in `pause`.
            monotonic: a clock, in seconds.
            exceeded: makes the error; takes the limit as text, such as "at most 5 s".
        """
        self._elements_max, self._seconds_left = elements_max, seconds_max
        self._limit_seconds = seconds_max
        self._left, self._next_look = elements_max, elements_max - _ELEMENTS_PER_LOOK
        self._monotonic, self._exceeded = monotonic, exceeded
        self._looked_at: float | None = None
        self._is_late = False

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count the time inside. Nested calls count it once.

        Raises:
            Exception: that of `exceeded`.
        """
        if self._looked_at is not None:
            yield
            return
        self._looked_at = self._monotonic()
        try:
            yield
        finally:
            self._take_time()
            self._looked_at = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count the time inside: something else than evaluation happens there."""
        if self._looked_at is None:
            yield
            return
        self._take_time()
        try:
            yield
        finally:
            self._looked_at = self._monotonic()

    def spend(self, elements: int) -> None:
        """Take `elements` from the budget.

        Raises:
            Exception: that of `exceeded`, if fewer are left or the time is over.
        """
        self._left -= elements
        if self._left < self._next_look:
            self._look()

    def spend_on(self, value: Any, on_text: Callable[[str], None] | None = None) -> None:
        """Take all elements of a JSON value, those in several places once for each place. Raises as `spend`.

        Args:
            value: the value.
            on_text: is called with each text in it.
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

    def _look(self) -> None:
        self._next_look = self._left - _ELEMENTS_PER_LOOK
        if self._looked_at is not None:
            self._take_time()
        if self._left < 0:
            self._next_look = self._left + 1
            raise self._exceeded(f"at most {self._elements_max:,} elements read or made")
        if self._is_late:
            self._next_look = self._left + 1
            raise self._exceeded(f"at most {self._limit_seconds:g} s of evaluation")

    def _take_time(self) -> None:
        assert self._looked_at is not None, "time is taken only while it is counted"
        now = self._monotonic()
        self._seconds_left -= now - self._looked_at
        self._looked_at = now
        self._is_late = self._is_late or self._seconds_left < 0
