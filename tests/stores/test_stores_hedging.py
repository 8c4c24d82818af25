"""Tests of hedged requests: order, late stores, requests that are given up, and slow bodies."""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from imgstore.domain.errors import ObjectNotFound, StoreError, StoreUnreachable
from imgstore.stores import MemoryStore
from imgstore.stores.wrappers.hedging import (
    ask_all,
    ask_briefly,
    is_urgent,
    note_answer,
    note_progress,
    note_request,
    race,
)
from imgstore.stores.wrappers.retry import RetryingStore
from tests.support.faulty_store import Fault, FaultyStore

SOON = 0.05
"""Late after this many seconds: a store that never answers is late for certain."""
NEVER = 1e6


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """The event that a hanging store waits for, set at the end of the test."""
    opened = threading.Event()
    yield opened
    opened.set()


def hang(gate: threading.Event, answer: str = "late") -> Callable[[], str]:
    def ask() -> str:
        gate.wait()
        return answer

    return ask


def fail() -> str:
    raise ObjectNotFound("no such key")


def test_the_next_store_is_asked_after_a_failure() -> None:
    outcomes = list(race([fail, lambda: "here"], late_seconds=NEVER))
    assert [(each.place, each.given) for each in outcomes] == [(0, None), (1, "here")]
    assert isinstance(outcomes[0].error, ObjectNotFound)


def test_no_other_store_is_asked_in_time() -> None:
    asked = []

    def second() -> str:
        asked.append(True)
        return "second"

    assert next(race([lambda: "first", second], late_seconds=NEVER)).value == "first"
    assert not asked


def test_the_next_store_is_asked_when_one_is_late(gate: threading.Event) -> None:
    outcomes = race([hang(gate), lambda: "second"], late_seconds=SOON)
    late, won = next(outcomes), next(outcomes)
    assert (late.place, late.late) == (0, True)
    assert (won.place, won.value) == (1, "second")


def test_a_late_store_may_still_answer_first(gate: threading.Event) -> None:
    def second() -> str:
        gate.set()
        threading.Event().wait(NEVER)
        return "never"

    outcomes = [each for each, _ in zip(race([hang(gate), second], late_seconds=SOON), range(2), strict=False)]
    assert [(each.place, each.late) for each in outcomes] == [(0, True), (0, False)]
    assert outcomes[1].value == "late"


def test_an_answer_that_has_begun_is_not_late(gate: threading.Event) -> None:
    begun = threading.Event()

    def body() -> str:
        note_answer()
        begun.set()
        gate.wait(SOON * 6)
        return "a long body"

    outcomes = list(zip(race([body, lambda: "other"], late_seconds=SOON), range(1), strict=False))
    assert begun.is_set()
    assert [each.value for each, _ in outcomes] == ["a long body"]


def test_an_answer_of_an_inner_race_counts_for_the_outer(gate: threading.Event) -> None:
    def outer() -> str:
        def inner() -> str:
            note_answer()
            gate.wait(SOON * 6)
            return "inner"

        return next(race([inner, fail], late_seconds=NEVER)).value

    assert next(race([outer, lambda: "other"], late_seconds=SOON)).value == "inner"


def test_each_request_of_an_attempt_may_be_late(gate: threading.Event) -> None:
    def two_requests() -> str:
        note_request()
        note_answer()
        note_request()
        gate.wait()
        return "late"

    outcomes = race([two_requests, lambda: "second"], late_seconds=SOON)
    assert next(outcomes).late
    assert next(outcomes).value == "second"


def test_a_pause_between_requests_is_not_late(gate: threading.Event) -> None:
    def pause() -> str:
        note_request()
        note_answer()
        gate.wait(SOON * 4)
        return "paused"

    assert next(race([pause, lambda: "other"], late_seconds=SOON)).value == "paused"


def test_a_body_that_moves_is_not_late(gate: threading.Event) -> None:
    def send() -> str:
        for _ in range(20):
            gate.wait(SOON / 5)
            note_progress()
        return "sent"

    assert next(race([send, lambda: "other"], late_seconds=SOON)).value == "sent"


def test_abandoned_requests_are_not_repeated(gate: threading.Event) -> None:
    urgent = SimpleQueue[bool]()

    def ask() -> str:
        urgent.put(is_urgent())
        gate.wait()
        urgent.put(is_urgent())
        return "late"

    outcomes = race([ask, lambda: "second"], patient=True, late_seconds=SOON)
    assert [next(outcomes).late, next(outcomes).value] == [True, "second"]
    outcomes.close()  # type: ignore[attr-defined]
    gate.set()
    assert [urgent.get(), urgent.get()] == [False, True]


def test_a_late_unimportant_request_is_given_up(gate: threading.Event) -> None:
    assert ask_briefly(lambda: "here").value == "here"
    assert isinstance(ask_briefly(fail).error, ObjectNotFound)
    assert ask_briefly(hang(gate), late_seconds=SOON).late


def test_only_the_last_store_has_retries() -> None:
    urgent: list[bool] = []

    def ask() -> str:
        urgent.append(is_urgent())
        raise StoreUnreachable("no")

    assert len(list(race([ask, ask, ask], late_seconds=NEVER))) == 3
    assert urgent == [True, True, False]
    assert not is_urgent()


def test_retries_do_not_delay_the_next_store() -> None:
    waits: list[float] = []
    faulty = FaultyStore(MemoryStore())
    faulty.script = [Fault(method="head", calls=frozenset({1, 2, 3}))]
    store = RetryingStore(faulty, wait=waits.append)
    outcomes = list(race([lambda: store.head("a"), lambda: store.head("a")], late_seconds=NEVER))
    assert isinstance(outcomes[0].error, StoreUnreachable)
    assert isinstance(outcomes[1].error, ObjectNotFound), "the last one was tried again"
    assert len(waits) == 2


def test_all_stores_are_asked_at_once() -> None:
    meeting = threading.Barrier(3)

    def meet() -> str:
        meeting.wait()
        assert not is_urgent()
        return "met"

    assert [each.value for each in ask_all([meet, meet, meet])] == ["met"] * 3
    assert [type(each.error) for each in ask_all([fail, lambda: "here"])] == [ObjectNotFound, type(None)]
    assert ask_all([]) == []


@pytest.mark.parametrize("call", [race, ask_all])
def test_other_errors_are_raised(call: Callable[..., object]) -> None:
    def broken() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(call([broken, broken]))  # type: ignore[call-overload]
    assert issubclass(ObjectNotFound, StoreError)
