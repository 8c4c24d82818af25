"""The circuit breaker: laws that hold for every history of a store, and the histories that it is made for."""

from dataclasses import dataclass
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.storage.circuits import (
    Circuit,
    CircuitPolicy,
    CircuitState,
    Failure,
    begin_probe,
    record_answer,
    record_failure,
)

POLICY = CircuitPolicy()
OUTAGES = (Failure.SILENT, Failure.BROKEN, Failure.LATE)


@dataclass(frozen=True)
class Event:
    after_seconds: float
    failure: Failure | None
    """None is an answer."""
    took_seconds: float
    probe: bool
    """Whether a probe is begun first, if one is due."""


events = st.lists(
    st.builds(
        Event,
        after_seconds=st.floats(0, 60),
        failure=st.sampled_from([None, *Failure]),
        took_seconds=st.floats(0, 20),
        probe=st.booleans(),
    ),
    max_size=30,
)


def fail(circuit: Circuit, now: float, failure: Failure, took_seconds: float = 0.0) -> Circuit:
    return record_failure(circuit, now, began=now - took_seconds, failure=failure, error=failure.value)


def play(history: list[Event]) -> tuple[Circuit, float]:
    """The circuit after a history, and the time then."""

    def step(before: tuple[Circuit, float], event: Event) -> tuple[Circuit, float]:
        circuit, now = before[0], before[1] + event.after_seconds
        if event.probe:
            circuit = begin_probe(circuit, now) or circuit
        if event.failure is None:
            return record_answer(circuit, now), now
        return fail(circuit, now, event.failure, event.took_seconds), now

    return reduce(step, history, (Circuit(), 100.0))


@given(events)
def test_an_answer_closes_the_circuit_whatever_happened_before(history: list[Event]) -> None:
    circuit, now = play(history)
    closed = record_answer(circuit, now)
    assert (closed.state, closed.failures) == (CircuitState.CLOSED, 0)
    assert closed.error == circuit.error, "what went wrong last can still be shown"
    assert not closed.refuses(now + 1000)


@given(events, st.sampled_from(OUTAGES))
def test_an_outage_opens_the_circuit_at_once(history: list[Event], failure: Failure) -> None:
    circuit, now = play(history)
    assert fail(circuit, now, failure).avoided


@given(events)
def test_a_probe_is_due_within_the_longest_time(history: list[Event]) -> None:
    circuit, now = play(history)
    if circuit.avoided:
        assert circuit.probe_at <= now + max(POLICY.open_seconds_max, POLICY.probe_seconds_max)
        assert begin_probe(circuit, circuit.probe_at) is not None
    else:
        assert begin_probe(circuit, now + 1000) is None


@given(events)
def test_requests_are_refused_only_after_an_outage_that_lasted(history: list[Event]) -> None:
    circuit, now = play(history)
    if circuit.refuses(now):
        answers = [place for place, event in enumerate(history) if event.failure is None]
        since = history[answers[-1] + 1 :] if answers else history
        silent = [event for event in since if event.failure is Failure.SILENT]
        assert len(silent) >= 2, "one request that was not answered is not enough"


@given(events)
def test_a_half_open_circuit_takes_no_second_probe_until_the_first_is_lost(history: list[Event]) -> None:
    circuit, now = play(history)
    probing = begin_probe(circuit, now)
    if probing is not None:
        assert begin_probe(probing, now + POLICY.probe_seconds_max / 2) is None
        assert begin_probe(probing, now + POLICY.probe_seconds_max) is not None


def test_a_busy_store_is_left_alone_after_several_refusals() -> None:
    circuit = Circuit()
    for _ in range(POLICY.answered_failures_max - 1):
        circuit = fail(circuit, 1.0, Failure.REFUSED)
        assert not circuit.avoided
    assert fail(circuit, 1.0, Failure.REFUSED).avoided


def test_probes_that_fail_come_less_and_less_often() -> None:
    circuit, now, waits = fail(Circuit(), 0.0, Failure.SILENT), 0.0, []
    for _ in range(7):
        waits.append(circuit.probe_at - now)
        now = circuit.probe_at
        probing = begin_probe(circuit, now)
        assert probing is not None
        circuit = fail(probing, now, Failure.SILENT)
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert circuit.since == 0.0, "the outage began with the first failure"


def test_requests_that_fail_side_by_side_are_one_strike() -> None:
    circuit = Circuit()
    for _ in range(16):
        circuit = fail(circuit, 10.0, Failure.SILENT, took_seconds=10.0)
    assert not circuit.refuses(10.0), "a store that stalled once is asked again"
    assert fail(circuit, 20.0, Failure.SILENT, took_seconds=10.0).refuses(20.0)


def test_a_late_answer_makes_it_avoided_and_never_refused() -> None:
    circuit = fail(Circuit(), 2.0, Failure.LATE, took_seconds=2.0)
    assert circuit.avoided
    assert not circuit.down, "it is still written to"
    assert fail(circuit, 3.0, Failure.SILENT).down
    assert not fail(circuit, 300.0, Failure.LATE).refuses(300.0)
    assert record_answer(circuit, 5.0).state is CircuitState.CLOSED, "slow, and not dead"


def test_a_late_answer_does_not_end_a_probe() -> None:
    probing = begin_probe(fail(Circuit(), 0.0, Failure.SILENT), 1.0)
    assert probing is not None
    assert fail(probing, 2.0, Failure.LATE).state is CircuitState.HALF_OPEN
