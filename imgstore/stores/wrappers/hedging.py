"""Ask another store when the first one is late (hedged requests), and take the first answer.

See https://research.google/pubs/the-tail-at-scale/: the request that is late goes on, and may still win. It runs in a
thread that nobody waits for. Only requests that change nothing are hedged.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeAlias, TypeVar, cast

from imgstore.domain.errors import StoreError
from imgstore.stores.threads import start_thread

T = TypeVar("T")
Ask: TypeAlias = Callable[[], T]
"""Asks one store. Raises `StoreError` where the store cannot serve it."""

LATE_SECONDS: Final = 2.0
"""A store that has not begun to answer after this time is late: the next one is asked as well."""


@dataclass(slots=True)
class _Call:
    """One attempt, as the code below it sees it."""

    urgent: bool
    """Another store can be asked: retries would only keep the caller waiting."""
    outer: "_Call | None"
    answered: bool = False
    """The answer has begun."""


_call: ContextVar[_Call | None] = ContextVar("imgstore_hedged_call", default=None)


def note_answer() -> None:
    """Called by a store as soon as an answer has begun: a long body is not late."""
    call = _call.get()
    while call is not None:
        call.answered = True
        call = call.outer


def is_urgent() -> bool:
    """Whether a failed request should not be repeated, since another store is asked at once."""
    call = _call.get()
    return call is not None and call.urgent


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """How an attempt ended; or that it is late, and how it ends follows."""

    place: int
    """Its place among the attempts."""
    given: T | None = None
    error: StoreError | None = None
    late: bool = False
    age_seconds: float = 0.0
    """Of one that is late: how long ago it was sent."""

    @property
    def value(self) -> T:
        """What the store gave, where it is not late and there is no error."""
        return cast("T", self.given)


def race(
    asks: Sequence[Ask[T]],
    *,
    at_once: int = 1,
    late_seconds: float = LATE_SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome[T]]:
    """Ask stores in their order: the next one when those before have ended or are late. Give each outcome as it comes.

    A caller that has enough leaves the loop; what is still under way is given up. The only or last store is asked with
    the usual patience.

    Args:
        asks: one for each store.
        at_once: so many are asked from the beginning.
        late_seconds: how long a store may take to begin its answer.
        monotonic: seconds of a clock that only goes on.
    """
    if len(asks) == 1:
        yield _outcome(0, asks[0])
        return
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    waiting: dict[int, tuple[_Call, float]] = {}
    """Those under way that have neither ended nor become late."""
    begun = running = 0

    def begin() -> None:
        nonlocal begun, running
        place, begun, running = begun, begun + 1, running + 1
        call = _Call(urgent=begun < len(asks) or is_urgent(), outer=_call.get())
        waiting[place] = call, monotonic()
        _start(place, asks[place], call, ended)

    for _ in range(min(at_once, len(asks))):
        begin()
    while running:
        try:
            outcome = ended.get(timeout=_seconds_left(waiting, late_seconds, monotonic()))
        except Empty:
            late: list[Outcome[T]] = _pop_late(waiting, late_seconds, monotonic())
            yield from late
            if late and begun < len(asks):
                begin()
            continue
        running -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        waiting.pop(outcome.place, None)
        yield outcome
        if not waiting and begun < len(asks):
            begin()  # The caller has not enough.


def ask_all(asks: Sequence[Ask[T]]) -> list[Outcome[T]]:
    """Ask all stores at once, and wait for each, with the usual patience. In their order."""
    if len(asks) == 1:
        return [_outcome(0, asks[0])]
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    for place, ask in enumerate(asks):
        _start(place, ask, _call.get(), ended)
    outcomes = []
    for _ in asks:
        outcome = ended.get()
        if isinstance(outcome, BaseException):
            raise outcome
        outcomes.append(outcome)
    return sorted(outcomes, key=lambda each: each.place)


def _pop_late(waiting: dict[int, tuple[_Call, float]], late_seconds: float, now: float) -> "list[Outcome[T]]":
    """Take out those that are late, and those whose answer has begun, which never will be."""
    over = [place for place, (call, began) in waiting.items() if call.answered or now - began >= late_seconds]
    gone = [(place, *waiting.pop(place)) for place in over]
    return [
        Outcome(place=place, late=True, age_seconds=now - began) for place, call, began in gone if not call.answered
    ]


def _seconds_left(waiting: dict[int, tuple[_Call, float]], late_seconds: float, now: float) -> float | None:
    """Until the next attempt becomes late; None where none will."""
    if not waiting:
        return None
    return max(0.0, min(began for _, began in waiting.values()) + late_seconds - now)


def _start(place: int, ask: Ask[T], call: _Call | None, ended: "SimpleQueue[Outcome[T] | BaseException]") -> None:
    context = copy_context()
    context.run(_call.set, call)

    def run() -> None:
        try:
            ended.put(_outcome(place, ask))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            ended.put(error)

    start_thread(lambda: context.run(run))


def _outcome(place: int, ask: Ask[T]) -> Outcome[T]:
    try:
        return Outcome(place=place, given=ask())
    except StoreError as error:
        return Outcome(place=place, error=error)
