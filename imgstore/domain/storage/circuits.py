"""A circuit breaker for one store: a pure state machine. The caller brings the time.

==========  ====================================  ==========
state       event                                 next state
==========  ====================================  ==========
closed      a failure that tells of an outage     open
closed      `answered_failures_max` refusals      open
open        `probe_at` has passed                 half-open
half-open   the probe's time limit has passed     open again, for a new probe
any         an answer                             closed
open        a failure                             open
half-open   a failure, not only a late answer     open, for twice as long
==========  ====================================  ==========

An open circuit makes choosers prefer another store. Requests are still sent, since a caller without another store has
nothing to lose, until the outage has lasted for `refuse_after_seconds`: from then on they are refused at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol


class CircuitState(StrEnum):
    """What is known of a store."""

    CLOSED = "closed"
    """It answers, as far as is known."""
    OPEN = "open"
    """It did not answer; it is left alone until the next probe."""
    HALF_OPEN = "half-open"
    """A probe is under way."""


class Failure(StrEnum):
    """What a failed request tells of a store."""

    SILENT = "silent"
    """No connection, or no answer in time."""
    BROKEN = "broken"
    """An answer that every other request would get, too: the credentials are refused, the bucket is another one."""
    REFUSED = "refused"
    """An answer that a later request may not get: the store is busy."""
    LATE = "late"
    """No answer yet. The request is still under way, and may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitPolicy:
    """When a circuit opens, for how long, and when requests are refused."""

    answered_failures_max: int = 5
    """So many refusals in a row open it."""
    first_open_seconds: float = 1.0
    """How long it is open before the first probe."""
    open_seconds_max: float = 30.0
    """The time doubles with each failed probe, up to this."""
    probe_seconds_max: float = 15.0
    """A probe that has not ended after this time counts as lost: its process may have ended."""
    refuse_after_seconds: float = 5.0
    """How long an outage lasts before requests are refused without being sent."""


DEFAULT_POLICY: Final = CircuitPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """The state of one store's circuit. Times are seconds of a clock that only goes on."""

    state: CircuitState = CircuitState.CLOSED
    since: float = 0.0
    """When it opened or closed."""
    failures: int = 0
    """Failures in a row. Late answers are none: an open circuit without a failure is one of a store that may be slow."""
    probe_at: float = 0.0
    """When the next probe is due; of a half-open circuit, when the present one counts as lost."""
    open_seconds: float = 0.0
    """For how long the last failure opened it."""
    error: str | None = None
    """The last failure. It stays when the circuit closes."""
    silent_since: float | None = None
    """When the first of the unanswered requests in a row was sent; None where the last request was answered."""
    silent_at: float = 0.0
    """When the last of them failed."""
    strikes: int = 0
    """How many of them failed one after another; those that failed side by side count once."""

    @property
    def avoided(self) -> bool:
        """Whether choosers prefer another store."""
        return self.state is not CircuitState.CLOSED

    @property
    def down(self) -> bool:
        """Whether writers leave the store out, too: it has failed, and was not only late."""
        return self.avoided and self.failures > 0

    def refuses(self, now: float, policy: CircuitPolicy = DEFAULT_POLICY) -> bool:
        """Whether requests are refused without being sent."""
        if not self.avoided or self.silent_since is None or self.strikes < 2:
            return False
        return now - self.silent_since >= policy.refuse_after_seconds


def record_answer(circuit: Circuit, now: float) -> Circuit:
    """Close the circuit: the store answered."""
    if circuit.state is CircuitState.CLOSED:
        return circuit if circuit.failures == 0 else replace(Circuit(since=circuit.since), error=circuit.error)
    return Circuit(since=now, error=circuit.error)


def record_failure(
    circuit: Circuit, now: float, *, began: float, failure: Failure, error: str, policy: CircuitPolicy = DEFAULT_POLICY
) -> Circuit:
    """Count a failed request, and open the circuit where the failure tells of an outage.

    Args:
        circuit: the state before.
        now: the time.
        began: when the request was sent.
        failure: what it tells.
        error: the failure in words, for people.
        policy: the limits.
    """
    failed = replace(circuit, failures=circuit.failures + (failure is not Failure.LATE), error=error)
    if failure is Failure.SILENT:
        strike = circuit.silent_since is None or began >= circuit.silent_at
        failed = replace(
            failed,
            silent_since=began if circuit.silent_since is None else circuit.silent_since,
            silent_at=now if strike else circuit.silent_at,
            strikes=circuit.strikes + strike,
        )
    elif failure is not Failure.LATE:
        failed = replace(failed, silent_since=None, strikes=0)
    if failure is Failure.REFUSED and not circuit.avoided and failed.failures < policy.answered_failures_max:
        return failed
    if circuit.state is CircuitState.OPEN:
        return failed  # Requests that were under way when it opened do not put the probe off.
    if circuit.state is CircuitState.HALF_OPEN and failure is Failure.LATE:
        return failed  # The probe waits longer, and decides.
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
    """Make the circuit half-open where a probe is due; None where none is."""
    if not circuit.avoided or now < circuit.probe_at:
        return None
    return replace(circuit, state=CircuitState.HALF_OPEN, probe_at=now + policy.probe_seconds_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneHealth:
    """The circuit of one zone as one observer saw it last, as it is shared between processes.

    Times are relative, so that no two clocks are compared.
    """

    region: str
    zone: str
    observer: str
    """The host that saw it: a host whose own network is broken must not speak for the others."""
    state: CircuitState
    since_seconds: float
    """How long ago the circuit opened or closed."""
    failures: int
    probe_seconds: float
    """In how many seconds the next probe is due."""
    open_seconds: float
    error: str | None

    @property
    def avoided(self) -> bool:
        """Whether the observer prefers other stores."""
        return self.state is not CircuitState.CLOSED


class HealthRecords(Protocol):
    """Where the circuits of an installation are kept. Neither method raises: health is a hint."""

    @property
    def observer(self) -> str:
        """Who reads and writes here."""
        ...

    def load(self) -> Sequence[ZoneHealth] | None:
        """All circuits of this observer that were ever opened; None where they cannot be read now."""
        ...

    def save(self, health: ZoneHealth) -> None:
        """Write a circuit that has changed its state."""
        ...


class NoHealthRecords:
    """Records that keep nothing: each process knows what it has seen itself."""

    observer: Final = ""

    def load(self) -> Sequence[ZoneHealth] | None:
        """See `HealthRecords.load`."""
        return None

    def save(self, health: ZoneHealth) -> None:
        """See `HealthRecords.save`."""
