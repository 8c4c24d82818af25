"""The circuit breaker: properties of every history, and examples of outages."""

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
    """Whether the event begins a due probe first."""


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
    """Return the circuit and the time after a history."""

    def step(before: tuple[Circuit, float], event: Event) -> tuple[Circuit, float]:
        circuit, now = before[0], before[1] + event.after_seconds
        if event.probe:
            circuit = begin_probe(circuit, now) or circuit
        if event.failure is None:
            return record_answer(circuit, now), now
        return fail(circuit, now, event.failure, event.took_seconds), now

    return reduce(step, history, (Circuit(), 100.0))


@given(events)
def test_answer_closes_the_circuit_after_any_history(history: list[Event]) -> None:
    circuit, now = play(history)
    closed = record_answer(circuit, now)
    assert (closed.state, closed.failures) == (CircuitState.CLOSED, 0)
    assert closed.error == circuit.error, "the last error stays available"
    assert not closed.refuses(now + 1000)


@given(events, st.sampled_from(OUTAGES))
def test_an_outage_opens_the_circuit_at_once(history: list[Event], failure: Failure) -> None:
    circuit, now = play(history)
    assert fail(circuit, now, failure).avoided


@given(events)
def test_probe_is_due_within_the_limit(history: list[Event]) -> None:
    circuit, now = play(history)
    if circuit.avoided:
        assert circuit.probe_at <= now + max(POLICY.open_seconds_max, POLICY.probe_seconds_max)
        assert begin_probe(circuit, circuit.probe_at) is not None
    else:
        assert begin_probe(circuit, now + 1000) is None


@given(events)
def test_requests_are_refused_only_after_a_long_outage(history: list[Event]) -> None:
    circuit, now = play(history)
    if circuit.refuses(now):
        answers = [place for place, event in enumerate(history) if event.failure is None]
        since = history[answers[-1] + 1 :] if answers else history
        silent = [event for event in since if event.failure is Failure.SILENT]
        assert len(silent) >= 2, "a single unanswered request must not refuse requests"


@given(events)
def test_half_open_circuit_has_a_single_probe_until_the_probe_is_lost(history: list[Event]) -> None:
    circuit, now = play(history)
    probing = begin_probe(circuit, now)
    if probing is not None:
        assert begin_probe(probing, now + POLICY.probe_seconds_max / 2) is None
        assert begin_probe(probing, now + POLICY.probe_seconds_max) is not None


def test_several_refusals_of_a_busy_store_open_the_circuit() -> None:
    circuit = Circuit()
    for _ in range(POLICY.answered_failures_max - 1):
        circuit = fail(circuit, 1.0, Failure.REFUSED)
        assert not circuit.avoided
    assert fail(circuit, 1.0, Failure.REFUSED).avoided


def test_failed_probes_double_the_open_time() -> None:
    circuit, now, waits = fail(Circuit(), 0.0, Failure.SILENT), 0.0, []
    for _ in range(7):
        waits.append(circuit.probe_at - now)
        now = circuit.probe_at
        probing = begin_probe(circuit, now)
        assert probing is not None
        circuit = fail(probing, now, Failure.SILENT)
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert circuit.since == 0.0, "the outage began with the first failure"


def test_concurrent_failures_count_as_one_strike() -> None:
    circuit = Circuit()
    for _ in range(16):
        circuit = fail(circuit, 10.0, Failure.SILENT, took_seconds=10.0)
    assert not circuit.refuses(10.0), "a store with a single stall still gets requests"
    assert fail(circuit, 20.0, Failure.SILENT, took_seconds=10.0).refuses(20.0)


def test_late_answers_open_the_circuit_but_never_refuse_requests() -> None:
    circuit = fail(Circuit(), 2.0, Failure.LATE, took_seconds=2.0)
    assert circuit.avoided
    assert not circuit.down, "writers still use the store"
    assert fail(circuit, 3.0, Failure.SILENT).down
    assert not fail(circuit, 300.0, Failure.LATE).refuses(300.0)
    assert record_answer(circuit, 5.0).state is CircuitState.CLOSED, "a late store is not dead"


def test_a_late_answer_does_not_end_a_probe() -> None:
    probing = begin_probe(fail(Circuit(), 0.0, Failure.SILENT), 1.0)
    assert probing is not None
    assert fail(probing, 2.0, Failure.LATE).state is CircuitState.HALF_OPEN
