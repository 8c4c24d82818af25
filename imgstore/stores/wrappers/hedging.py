"""Ask another store when the first one is late (hedged requests), and take the first answer.

See https://research.google/pubs/the-tail-at-scale/: the request that is late goes on, and may still win. It runs in a
thread that nobody waits for. Only requests that change nothing are sent twice. A write to several stores goes to all of
them at once (`ask_to_quorum`), and the last of them gets a grace after the others have taken it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
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
    monotonic: Callable[[], float]
    unanswered_since: float | None
    """When the request was sent that the store has not begun to answer; None while it waits for no answer."""
    moved_at: float | None = None
    """When the store last answered or took a part of a body; None where it did neither."""


_call: ContextVar[_Call | None] = ContextVar("imgstore_hedged_call", default=None)


def note_request() -> None:
    """Note that a request is sent. A repeat of one that was never answered leaves its time as it is."""
    for call in _calls():
        if call.unanswered_since is None:
            call.unanswered_since = call.monotonic()


def note_answer() -> None:
    """Note that an answer has begun: a long body is not late."""
    for call in _calls():
        call.unanswered_since, call.moved_at = None, call.monotonic()


def note_progress() -> None:
    """Note that a part of a body was sent: a body that moves is not late."""
    for call in _calls():
        call.moved_at = call.monotonic()
        if call.unanswered_since is not None:
            call.unanswered_since = call.moved_at


def _calls() -> Iterator[_Call]:
    """The call of this thread and those around it."""
    call = _call.get()
    while call is not None:
        yield call
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
    """Of one that is late: how long ago the request was sent that is not answered; 0 where it waits for something else."""

    @property
    def value(self) -> T:
        """What the store gave, where it is not late and there is no error."""
        return cast("T", self.given)


def race(
    asks: Sequence[Ask[T]],
    *,
    at_once: int = 1,
    patient: bool = False,
    late_seconds: float = LATE_SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome[T]]:
    """Ask stores in their order: the next one when those before have ended or are late. Give each outcome as it comes.

    A caller that has enough leaves the loop; what is still under way is given up. The only or last store is asked with
    the usual patience.

    Args:
        asks: one for each store. It may send several requests, one after another: each may be late.
        at_once: so many are asked from the beginning.
        patient: every store is asked with the usual patience, until it is given up.
        late_seconds: how long a store may take to begin an answer.
        monotonic: seconds of a clock that only goes on.
    """
    if len(asks) == 1:
        yield _outcome(0, asks[0])
    else:
        yield from _race(asks, at_once=at_once, patient=patient, late_seconds=late_seconds, monotonic=monotonic)


def _race(
    asks: Sequence[Ask[T]], *, at_once: int, patient: bool, late_seconds: float, monotonic: Callable[[], float]
) -> Iterator[Outcome[T]]:
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    calls: list[_Call] = []
    waiting: dict[int, _Call] = {}
    """Those under way that have neither ended nor become late."""
    running = 0

    def begin() -> None:
        nonlocal running
        place, running = len(calls), running + 1
        urgent = is_urgent() or (not patient and place + 1 < len(asks))
        call = waiting[place] = _new_call(urgent=urgent, monotonic=monotonic)
        calls.append(call)
        _start(place, asks[place], call, ended.put)

    try:
        for _ in range(min(at_once, len(asks))):
            begin()
        while running:
            try:
                outcome = ended.get(timeout=_seconds_left(waiting.values(), late_seconds, monotonic()))
            except Empty:
                late: list[Outcome[T]] = _pop_late(waiting, late_seconds, monotonic())
                yield from late
                if late and len(calls) < len(asks):
                    begin()
                continue
            running -= 1
            if isinstance(outcome, BaseException):
                raise outcome
            waiting.pop(outcome.place, None)
            yield outcome
            if not waiting and len(calls) < len(asks):
                begin()  # The caller has not enough.
    finally:
        for call in calls:
            call.urgent = True  # What is given up is not repeated.


def ask_all(asks: Sequence[Ask[T]]) -> list[Outcome[T]]:
    """Ask all stores at once, and wait for each, with the usual patience. In their order."""
    if len(asks) == 1:
        return [_outcome(0, asks[0])]
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    for place, ask in enumerate(asks):
        _start(place, ask, _call.get(), ended.put)
    outcomes = []
    for _ in asks:
        outcome = ended.get()
        if isinstance(outcome, BaseException):
            raise outcome
        outcomes.append(outcome)
    return sorted(outcomes, key=lambda each: each.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """How long the last stores get after a quorum has taken a write. A store that is slower than the others needs more."""

    seconds_min: float = LATE_SECONDS
    """Of a store that is not known to be late, and of one that takes a body."""
    known_late_seconds_min: float = 0.1
    """Of a store that is known to be late, until it moves."""
    factor: float = 3.0
    """By this the time of the quorum is multiplied, and the time that the store took last."""

    def seconds(self, *, last_seconds: float, quorum_seconds: float = 0.0, known_late: bool = False) -> float:
        """The grace of one store.

        Args:
            last_seconds: how long this store took lately; 0 where that is not known.
            quorum_seconds: how long the quorum took.
            known_late: whether it is known to be late.
        """
        least = self.known_late_seconds_min if known_late else self.seconds_min
        return max(least, self.factor * max(quorum_seconds, last_seconds))


def ask_to_quorum(
    asks: Sequence[Ask[T]],
    *,
    quorum: int,
    grace: Callable[[int, float, bool], float],
    ended_late: Callable[[Outcome[T]], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> list[Outcome[T]]:
    """Ask all stores at once. Once a quorum has succeeded, give up those that neither move nor end in their grace.

    Args:
        asks: one for each store.
        quorum: so many must succeed before any is given up.
        grace: gives the seconds that a store gets after the quorum, or after it moved last: of its place, the seconds that
            the quorum took, and whether the store has moved.
        ended_late: called in another thread when one that was given up has ended. Must be quick and must not raise.
        monotonic: seconds of a clock that only goes on.

    Returns:
        The outcomes in the order of `asks`. `Outcome.late` tells those that were given up.
    """
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    lock = threading.Lock()
    running: set[int] = set()
    given_up: set[int] = set()
    """Guarded by the lock, like `running`: each call either ends in time or is given up."""

    def end(outcome: Outcome[T] | BaseException, place: int) -> None:
        with lock:
            running.discard(place)
            is_late = place in given_up
        if not is_late:
            ended.put(outcome)
        elif isinstance(outcome, Outcome):
            ended_late(outcome)

    began = monotonic()
    calls = [_new_call(urgent=is_urgent(), monotonic=monotonic) for _ in asks]
    running.update(range(len(asks)))
    for place, (ask, call) in enumerate(zip(asks, calls, strict=True)):
        _start(place, ask, call, partial(end, place=place))
    outcomes: dict[int, Outcome[T]] = {}
    quorum_at = began if quorum == 0 else None
    while len(outcomes) < len(asks):
        due: dict[int, float] = {}
        if quorum_at is not None:
            left = [(place, call.moved_at) for place, call in enumerate(calls) if place not in outcomes]
            for place, moved_at in left:
                since = quorum_at if moved_at is None else max(quorum_at, moved_at)
                due[place] = since + grace(place, quorum_at - began, moved_at is not None)
        now = monotonic()
        try:
            outcome = ended.get(timeout=max(0.0, min(due.values()) - now) if due else None)
        except Empty:
            with lock:
                over = {place for place, at in due.items() if at <= now and place in running}
                given_up |= over
            for place in over:
                calls[place].urgent = True  # What is given up is not repeated.
                unanswered_since = calls[place].unanswered_since
                age_seconds = 0.0 if unanswered_since is None else now - unanswered_since
                outcomes[place] = Outcome(place=place, late=True, age_seconds=age_seconds)
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        outcomes[outcome.place] = outcome
        if quorum_at is None and sum(each.error is None for each in outcomes.values()) >= quorum:
            quorum_at = monotonic()
    return [outcomes[place] for place in range(len(asks))]


def ask_briefly(ask: Ask[T], *, late_seconds: float = LATE_SECONDS) -> Outcome[T]:
    """Ask a store for what nobody depends on. Give it up where nothing is answered for `late_seconds`."""
    (outcome,) = ask_to_quorum(
        [ask], quorum=0, grace=lambda _place, _seconds, _moved: late_seconds, ended_late=lambda _outcome: None
    )
    return outcome


def _pop_late(waiting: dict[int, _Call], late_seconds: float, now: float) -> "list[Outcome[T]]":
    """Take out those that are late."""
    ages = {place: now - since for place, call in waiting.items() if (since := call.unanswered_since) is not None}
    late = {place: age for place, age in ages.items() if age >= late_seconds}
    for place in late:
        del waiting[place]
    return [Outcome(place=place, late=True, age_seconds=age) for place, age in late.items()]


def _seconds_left(waiting: Iterable[_Call], late_seconds: float, now: float) -> float | None:
    """Until the next attempt can become late; None where none can."""
    # One that waits for no answer now may send its next request at any moment.
    sent = [now if (since := call.unanswered_since) is None else since for call in waiting]
    return max(0.0, min(sent) + late_seconds - now) if sent else None


def _new_call(*, urgent: bool, monotonic: Callable[[], float]) -> _Call:
    return _Call(urgent=urgent, outer=_call.get(), monotonic=monotonic, unanswered_since=monotonic())


def _start(place: int, ask: Ask[T], call: _Call | None, end: "Callable[[Outcome[T] | BaseException], None]") -> None:
    context = copy_context()
    context.run(_call.set, call)

    def run() -> None:
        try:
            end(_outcome(place, ask))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            end(error)

    start_thread(lambda: context.run(run))


def _outcome(place: int, ask: Ask[T]) -> Outcome[T]:
    try:
        return Outcome(place=place, given=ask())
    except StoreError as error:
        return Outcome(place=place, error=error)
