"""Hedged requests: ask another store if the first one is late, and use the first answer.

See https://research.google/pubs/the-tail-at-scale/. The late request continues in a thread that no caller waits for,
and its answer may still be the first. Only requests without effects are sent twice. A write goes to several stores at
once (`ask_to_quorum`), and the last stores have a grace after a quorum has succeeded.
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
"""A function with the requests to one store. Raises `StoreError` if the store cannot serve the requests."""

LATE_SECONDS: Final = 2.0
"""A store is late if no answer begins within this time: the next store is then asked, too."""


@dataclass(slots=True)
class _Call:
    """An attempt, as lower layers see it."""

    urgent: bool
    """Whether another store can be asked, so that retries would only delay the caller."""
    outer: "_Call | None"
    monotonic: Callable[[], float]
    unanswered_since: float | None
    """The time of the request whose answer has not begun; None without such a request."""
    moved_at: float | None = None
    """The last time when the store answered or received a part of a body; None before."""


_call: ContextVar[_Call | None] = ContextVar("imgstore_hedged_call", default=None)


def note_request() -> None:
    """Note that a request is sent. A repeat of an unanswered request keeps the first time."""
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
    """Return the call of this thread and all outer calls."""
    call = _call.get()
    while call is not None:
        yield call
        call = call.outer


def is_urgent() -> bool:
    """Return whether a failed request should not be repeated, because another store is asked at once."""
    call = _call.get()
    return call is not None and call.urgent


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """The result of an attempt, or the report that the attempt is late. The result of a late attempt follows."""

    place: int
    """The index of the attempt."""
    given: T | None = None
    error: StoreError | None = None
    late: bool = False
    age_seconds: float = 0.0
    """For a late attempt: the age of its unanswered request; 0 if the attempt waits for something else."""

    @property
    def value(self) -> T:
        """The store's result, if the attempt is not late and has no error."""
        return cast("T", self.given)


def race(
    asks: Sequence[Ask[T]],
    *,
    at_once: int = 1,
    patient: bool = False,
    late_seconds: float = LATE_SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome[T]]:
    """Ask stores in order, the next one when all earlier ones have ended or are late. Yield each outcome as it arrives.

    A caller with a sufficient answer leaves the loop, and the remaining attempts are given up. The only or last store
    has the usual retries.

    Args:
        asks: a function for each store, which may send several requests in sequence. Each request may be late.
        at_once: the number of stores to ask at first.
        patient: give every store the usual retries until it is given up.
        late_seconds: the time in which a store must begin an answer.
        monotonic: seconds of a monotonic clock.
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
    """Running attempts that are not late."""
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
                begin()  # The caller needs another answer.
    finally:
        for call in calls:
            call.urgent = True  # Requests of abandoned attempts are not repeated.


def ask_all(
    asks: Sequence[Ask[T]], *, late_seconds: float | None = None, on_late: Callable[[int, float], None] | None = None
) -> list[Outcome[T]]:
    """Ask all stores at once with the usual retries, wait for all, and return the outcomes in order.

    Args:
        asks: the requests to each store.
        late_seconds: the time after which a store is late if another store has ended. None reports no store.
        on_late: called once for each late store, with its place and its seconds. The wait continues.
    """
    if len(asks) == 1:
        return [_outcome(0, asks[0])]
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    for place, ask in enumerate(asks):
        _start(place, ask, _call.get(), ended.put)
    waiting, outcomes, began = set(range(len(asks))), list[Outcome[T]](), time.monotonic()
    while waiting:
        try:
            outcome = ended.get(timeout=late_seconds)
        except Empty:
            if outcomes:
                late_seconds = None
                for place in sorted(waiting):
                    if on_late is not None:
                        on_late(place, time.monotonic() - began)
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        outcomes.append(outcome)
        waiting.discard(outcome.place)
    return sorted(outcomes, key=lambda each: each.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """The time for the last stores after a quorum has taken a write. A slower store has a longer grace."""

    seconds_min: float = LATE_SECONDS
    """For a store that is not known to be late, and for a store that is receiving a body."""
    known_late_seconds_min: float = 0.1
    """For a store that is known to be late, until bytes move."""
    factor: float = 3.0
    """The factor for the time of the quorum, and for the last time of the store."""

    def seconds(self, *, last_seconds: float, quorum_seconds: float = 0.0, known_late: bool = False) -> float:
        """Return the grace of one store.

        Args:
            last_seconds: the recent time of this store; 0 if unknown.
            quorum_seconds: the time of the quorum.
            known_late: whether the store is known to be late.
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
    """Ask all stores at once. After a quorum, give up stores that neither move nor end within their grace.

    Args:
        asks: a function for each store.
        quorum: the number of successes before any store is given up.
        grace: returns the grace in seconds after the quorum or the last movement, from the store's index, the time of
            the quorum in seconds, and whether the store has moved.
        ended_late: called in another thread when a store that was given up has ended. Must be quick and must not raise.
        monotonic: seconds of a monotonic clock.

    Returns:
        The outcomes in the order of `asks`. `Outcome.late` marks stores that were given up.
    """
    ended: SimpleQueue[Outcome[T] | BaseException] = SimpleQueue()
    lock = threading.Lock()
    running: set[int] = set()
    given_up: set[int] = set()
    """The lock guards this set and `running`: each call either ends in time or is given up."""

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
                calls[place].urgent = True  # Requests of abandoned attempts are not repeated.
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
    """Ask a store for an unimportant result. Give up if no answer begins for `late_seconds`."""
    (outcome,) = ask_to_quorum(
        [ask], quorum=0, grace=lambda _place, _seconds, _moved: late_seconds, ended_late=lambda _outcome: None
    )
    return outcome


def _pop_late(waiting: dict[int, _Call], late_seconds: float, now: float) -> "list[Outcome[T]]":
    """Remove and return the late attempts."""
    ages = {place: now - since for place, call in waiting.items() if (since := call.unanswered_since) is not None}
    late = {place: age for place, age in ages.items() if age >= late_seconds}
    for place in late:
        del waiting[place]
    return [Outcome(place=place, late=True, age_seconds=age) for place, age in late.items()]


def _seconds_left(waiting: Iterable[_Call], late_seconds: float, now: float) -> float | None:
    """Return the time until the next attempt can become late; None if no attempt can."""
    # An attempt without an open request may send its next request at any moment.
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
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises the error
            end(error)

    start_thread(lambda: context.run(run))


def _outcome(place: int, ask: Ask[T]) -> Outcome[T]:
    try:
        return Outcome(place=place, given=ask())
    except StoreError as error:
        return Outcome(place=place, error=error)
