"""A circuit breaker for a store (invariant Z11): a pure state machine. The caller supplies the time.

==========  ====================================  ==========
state       event                                 next state
==========  ====================================  ==========
closed      a failure that indicates an outage    open
closed      `answered_failures_max` refusals      open
open        `probe_at` has passed                 half-open
half-open   the probe's time limit has passed     open again, for a new probe
any         an answer                             closed
open        a failure                             open
half-open   a failure, not only a late answer     open, for twice as long
==========  ====================================  ==========

An open circuit makes readers and writers prefer another store. Requests to the store are still sent, because a caller
without another store has nothing to lose. After `refuse_after_seconds` of outage, requests are refused at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol


class CircuitState(StrEnum):
    """The known state of a store."""

    CLOSED = "closed"
    """The store answers, as far as known."""
    OPEN = "open"
    """The store failed. Callers prefer other stores until a probe gets an answer."""
    HALF_OPEN = "half-open"
    """A probe is in progress."""


class Failure(StrEnum):
    """The kind of a failed request."""

    SILENT = "silent"
    """No connection, or no answer in time."""
    BROKEN = "broken"
    """An answer that all other requests would also get: refused credentials, or another bucket."""
    REFUSED = "refused"
    """An answer that a later request may not get: the store is busy."""
    LATE = "late"
    """No answer yet. The request is in progress, and may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitPolicy:
    """The limits for opening a circuit and for refusing requests."""

    answered_failures_max: int = 5
    """The number of consecutive refusals that opens a circuit."""
    first_open_seconds: float = 1.0
    """The time from the opening to the first probe."""
    open_seconds_max: float = 30.0
    """The limit of the time, which doubles with each failed probe."""
    probe_seconds_max: float = 15.0
    """A probe without an end after this time counts as lost, because the process may have ended."""
    refuse_after_seconds: float = 5.0
    """The length of an outage before requests are refused without being sent."""


DEFAULT_POLICY: Final = CircuitPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """The state of a store's circuit. Times are seconds of a monotonic clock."""

    state: CircuitState = CircuitState.CLOSED
    since: float = 0.0
    """The time of the last opening or closing."""
    failures: int = 0
    """Consecutive failures.

    Late answers do not count, so a circuit without failures may be open because of a slow store.
    """
    probe_at: float = 0.0
    """The time of the next probe. For a half-open circuit: the time when the present probe counts as lost."""
    open_seconds: float = 0.0
    """The time for which the last failure opened the circuit."""
    error: str | None = None
    """The last failure, also after the circuit closes."""
    silent_since: float | None = None
    """The time of the first of the consecutive unanswered requests. None if the last request was answered."""
    silent_at: float = 0.0
    """The time when the last of the unanswered requests was counted."""
    strikes: int = 0
    """The number of consecutive unanswered requests. Requests in progress at the same time count once."""

    @property
    def avoided(self) -> bool:
        """Whether callers prefer another store."""
        return self.state is not CircuitState.CLOSED

    @property
    def down(self) -> bool:
        """Whether writers also avoid the store: the store failed, and was not only late."""
        return self.avoided and self.failures > 0

    def refuses(self, now: float, policy: CircuitPolicy = DEFAULT_POLICY) -> bool:
        """Return whether requests are refused without being sent."""
        if not self.avoided or self.silent_since is None or self.strikes < 2:
            return False
        return now - self.silent_since >= policy.refuse_after_seconds


def record_answer(circuit: Circuit, now: float) -> Circuit:
    """Close the circuit after an answer of the store."""
    if circuit.state is CircuitState.CLOSED:
        return circuit if circuit.failures == 0 else replace(Circuit(since=circuit.since), error=circuit.error)
    return Circuit(since=now, error=circuit.error)


def record_failure(
    circuit: Circuit, now: float, *, began: float, failure: Failure, error: str, policy: CircuitPolicy = DEFAULT_POLICY
) -> Circuit:
    """Count a failed request, and open the circuit if the failure indicates an outage.

    Args:
        circuit: the state before.
        now: the time.
        began: the time when the request was sent.
        failure: the kind of the failure.
        error: the failure in words, for people.
        policy: the limits.
    """
    failed = replace(circuit, failures=circuit.failures + (failure is not Failure.LATE), error=error)
    if failure is Failure.SILENT:
        is_strike = circuit.silent_since is None or began >= circuit.silent_at
        failed = replace(
            failed,
            silent_since=began if circuit.silent_since is None else circuit.silent_since,
            silent_at=now if is_strike else circuit.silent_at,
            strikes=circuit.strikes + is_strike,
        )
    elif failure is not Failure.LATE:
        failed = replace(failed, silent_since=None, strikes=0)
    if failure is Failure.REFUSED and not circuit.avoided and failed.failures < policy.answered_failures_max:
        return failed
    if circuit.state is CircuitState.OPEN:
        return failed  # Requests in progress at the opening do not delay the probe.
    if circuit.state is CircuitState.HALF_OPEN and failure is Failure.LATE:
        return failed  # The probe is still in progress and decides later.
    longer = circuit.open_seconds * 2 if circuit.state is CircuitState.HALF_OPEN else 0.0
    seconds = min(policy.open_seconds_max, max(policy.first_open_seconds, longer))
    return replace(
        failed,
        state=CircuitState.OPEN,
        since=circuit.since if circuit.avoided else now,
        probe_at=now + seconds,
        open_seconds=seconds,
    )


def begin_probe(circuit: Circuit, now: float, policy: CircuitPolicy = DEFAULT_POLICY) -> Circuit | None:
    """Return the half-open circuit if a probe is due, else None."""
    if not circuit.avoided or now < circuit.probe_at:
        return None
    return replace(circuit, state=CircuitState.HALF_OPEN, probe_at=now + policy.probe_seconds_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneHealth:
    """The circuit of a zone in the view of an observer, for other processes.

    Times are relative, so that no two clocks are compared.
    """

    region: str
    zone: str
    observer: str
    """The host of the observation. A host with a broken network must not speak for other hosts."""
    state: CircuitState
    since_seconds: float
    """The age of the last opening or closing."""
    failures: int
    probe_seconds: float
    """The time to the next probe."""
    open_seconds: float
    error: str | None

    @property
    def avoided(self) -> bool:
        """Whether the observer prefers other stores."""
        return self.state is not CircuitState.CLOSED


class HealthRecords(Protocol):
    """The records of an installation's circuits. No method raises an error, because health is a hint."""

    @property
    def observer(self) -> str:
        """The host that reads and writes the records."""
        ...

    def load(self) -> Sequence[ZoneHealth] | None:
        """Return all circuits of this observer that were ever opened, or None if the records are not readable now."""
        ...

    def save(self, health: ZoneHealth) -> None:
        """Write a circuit with a new state."""
        ...


class NoHealthRecords:
    """Records without storage. Each process knows the results of its requests only."""

    observer: Final = ""

    def load(self) -> Sequence[ZoneHealth] | None:
        """See `HealthRecords.load`."""
        return None

    def save(self, health: ZoneHealth) -> None:
        """See `HealthRecords.save`."""
