"""The circuits of an installation's zones, fed by requests and shared by the processes of a host.

A background probe of an open circuit reads the zone's mark, so that no caller waits for the probe. The shared records
are read at most once a second. A record is written when a circuit changes state, never for a single request.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from imgstore.domain.errors import (
    CircuitOpen,
    StoreDenied,
    StoreError,
    StoreMismatch,
    StoreSilent,
    StoreUnreachable,
)
from imgstore.domain.storage.circuits import (
    DEFAULT_POLICY,
    Circuit,
    CircuitPolicy,
    CircuitState,
    Failure,
    HealthRecords,
    NoHealthRecords,
    ZoneHealth,
    begin_probe,
    record_answer,
    record_failure,
)
from imgstore.stores.threads import start_thread
from imgstore.stores.wrappers.hedging import LATE_SECONDS, is_urgent, note_answer, note_request

ZoneName: TypeAlias = tuple[str, str]
"""Region and zone."""

REFRESH_SECONDS: Final = 1.0
"""The maximum age of the records of other processes."""
LOOK_SECONDS: Final = 10.0
"""`probe_idle_zones` skips a zone that answered or was probed within this time."""
PROBE_WAIT_SECONDS: Final = 0.15
"""The time that a process waits for a probe: at its end, and for a request that no other store can serve."""


def classify_failure(error: StoreError) -> Failure | None:
    """Classify an error of a store. None means that only the request failed, not the store."""
    if isinstance(error, CircuitOpen):
        return None
    if isinstance(error, StoreSilent):
        return Failure.SILENT
    if isinstance(error, StoreUnreachable):
        return Failure.REFUSED
    if isinstance(error, (StoreDenied, StoreMismatch)):
        return Failure.BROKEN
    return Failure.BROKEN if type(error) is StoreError else None  # No bucket, no certificate, or an I/O error.


class CircuitBreakers:
    """The circuits of all zones. Safe to use from several threads at once."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        records: HealthRecords | None = None,
        policy: CircuitPolicy = DEFAULT_POLICY,
        background: Callable[[Callable[[], None]], None] = start_thread,
        open_zone: Callable[[str, str], object] = lambda _region, _zone: None,
    ) -> None:
        """Start without any failure.

        Args:
            monotonic: seconds of a monotonic clock.
            records: the shared records of circuits; None shares nothing.
            policy: the limits.
            background: runs a probe without waiting for the result.
            open_zone: begins to watch a zone before the first request of this process, so that a probe is possible.
        """
        self._monotonic = monotonic
        self._records = records or NoHealthRecords()
        self._policy = policy
        self._background = background
        self._open_zone = open_zone
        self._probing: set[ZoneName] = set()
        self._probed_at: dict[ZoneName, float] = {}
        self._probed = threading.Condition()
        self._lock = threading.Lock()
        self._circuits: dict[ZoneName, Circuit] = {}
        self._probes: dict[ZoneName, Callable[[], object]] = {}
        self._answered_at: dict[ZoneName, float] = {}
        self._loaded_at: float | None = None

    def watch(self, region: str, zone: str, probe: Callable[[], object]) -> "ZoneWatch":
        """Watch a zone.

        Args:
            region: the zone's region.
            zone: the zone's name in the region.
            probe: sends one request without retries; raises `StoreError`.
        """
        name = region, zone
        self._probes[name] = probe
        return ZoneWatch(book=self, name=name)

    def refresh(self) -> None:
        """Read the records of other processes of this host, at most once a second, and begin probes that are due.

        Do not call this method inside a transaction of the catalog.
        """
        now = self._monotonic()
        if self._loaded_at is None or now - self._loaded_at >= REFRESH_SECONDS:
            self._loaded_at = now
            loaded = self._records.load()
            with self._lock:
                for health in loaded or ():
                    self._merge(health, now)
        self._begin_probes(now)

    def close(self) -> None:
        """Wait a moment for running probes. Otherwise a short command would never see a store recover."""
        with self._probed:
            self._probed.wait_for(lambda: not self._probing, PROBE_WAIT_SECONDS)

    def probe_idle_zones(self, names: Iterable[ZoneName]) -> None:
        """Probe in parallel the zones without a recent answer, and wait as long as for any read.

        A zone with a late answer is avoided afterwards, and its probe continues.
        """
        self.refresh()
        now = self._monotonic()
        old = [
            name
            for name in names
            if now - max(self._answered_at.get(name, _NEVER), self._probed_at.get(name, _NEVER)) >= LOOK_SECONDS
        ]
        begun = [name for name in old if self._begin_probe(name)]
        with self._probed:
            self._probed.wait_for(lambda: self._probing.isdisjoint(begun), LATE_SECONDS)
            late = self._probing.intersection(begun)
        for name in late:
            self.count_late(name, LATE_SECONDS)

    def is_avoided(self, region: str, zone: str) -> bool:
        """Return whether the circuit of a zone is not closed."""
        circuit = self._circuits.get((region, zone))
        return circuit is not None and circuit.avoided

    def is_down(self, region: str, zone: str) -> bool:
        """Return whether a zone has failed. A zone that was only late has not failed."""
        circuit = self._circuits.get((region, zone))
        return circuit is not None and circuit.down

    def circuit(self, name: ZoneName) -> Circuit:
        """Return the circuit of a zone."""
        return self._circuits.get(name, _CLOSED)

    def check_request(self, name: ZoneName) -> float:
        """Return the present time if a request to the zone may be sent.

        Raises:
            CircuitOpen: the circuit refuses the request.
        """
        now = self._monotonic()
        circuit = self._circuits.get(name)
        if circuit is not None and circuit.refuses(now, self._policy) and not self._probe_now(name, now):
            raise CircuitOpen(
                f"Zone {name[1]} of {name[0]} does not answer and gets no requests.",
                found=circuit.error,
                expected="a store that answers",
                hint="start the store; imgstore probes the zone regularly, and `imgstore regions check` probes at once",
                target=f"{name[0]}/{name[1]}",
            )
        return now

    def count_answer(self, name: ZoneName) -> None:
        """Count an answer of the zone."""
        self._answered_at[name] = self._monotonic()
        circuit = self._circuits.get(name)
        if circuit is not None and (circuit.avoided or circuit.failures):
            self._change(name, record_answer)

    def count_error(self, name: ZoneName, error: StoreError, began: float) -> None:
        """Count the error of a request that was sent at `began`."""
        failure = classify_failure(error)
        if failure is None:
            if not isinstance(error, CircuitOpen):
                self.count_answer(name)
            return
        self.count_failure(name, failure, began, f"{error.message} ({error.found})" if error.found else error.message)

    def count_late(self, name: ZoneName, age_seconds: float) -> None:
        """Count a request without an answer after `age_seconds`, unless the zone has answered a later request."""
        began = self._monotonic() - age_seconds
        if self._answered_at.get(name, began) <= began:
            self.count_failure(name, Failure.LATE, began, f"no answer within {age_seconds:.0f} s")

    def count_failure(self, name: ZoneName, failure: Failure, began: float, error: str) -> None:
        """Count a failure."""
        self._change(name, partial(record_failure, began=began, failure=failure, error=error, policy=self._policy))

    def _change(self, name: ZoneName, change: Callable[[Circuit, float], Circuit]) -> None:
        now = self._monotonic()
        with self._lock:
            before = self._circuits.get(name, _CLOSED)
            after = self._circuits[name] = change(before, now)
        if after.state is not before.state:
            self._save(name, after, now)

    def _begin_probes(self, now: float) -> None:
        due: list[tuple[ZoneName, Circuit]] = []
        with self._lock:
            for name, circuit in self._circuits.items():
                probing = begin_probe(circuit, now, self._policy)
                if probing is not None:
                    self._circuits[name] = probing
                    due.append((name, probing))
        for name, probing in due:
            self._save(name, probing, now)
            self._begin_probe(name)

    def _begin_probe(self, name: ZoneName) -> bool:
        """Probe a zone in the background, unless a probe is running. Return whether a probe began."""
        with self._probed:
            if name in self._probing:
                return False
            self._probing.add(name)
        self._background(partial(self._probe, name))
        return True

    def _probe_now(self, name: ZoneName, now: float) -> bool:
        """Return whether a zone answers again, for a caller without another store.

        A probe may begin before it is due, but not twice a second. Only the caller that begins the probe waits, and
        only for a moment. A moment is enough for a store that has recovered.
        """
        probed_at = self._probed_at.get(name)
        if is_urgent() or (probed_at is not None and now - probed_at < self._policy.first_open_seconds):
            return False
        if self._begin_probe(name):
            with self._probed:
                self._probed.wait_for(lambda: name not in self._probing, PROBE_WAIT_SECONDS)
        return not self.circuit(name).avoided

    def _probe(self, name: ZoneName) -> None:
        began = self._monotonic()
        try:
            if name not in self._probes:
                self._open_zone(*name)
            probe = self._probes.get(name)
            if probe is not None:
                probe()
                self.count_answer(name)
        except StoreError as error:
            self.count_error(name, error, began)
        finally:
            with self._probed:
                self._probed_at[name] = self._monotonic()
                self._probing.discard(name)
                self._probed.notify_all()

    def _merge(self, health: ZoneHealth, now: float) -> None:
        """Apply the record of another process.

        The record is the latest state, because this process saves its changes there too.
        """
        name = health.region, health.zone
        own = self._circuits.get(name, _CLOSED)
        if health.state is own.state and (health.state is CircuitState.CLOSED or health.failures <= own.failures):
            return
        if health.state is CircuitState.CLOSED:
            self._circuits[name] = Circuit(since=now - health.since_seconds, error=health.error)
            return
        longest = self._policy.open_seconds_max  # A clock that was set back must not delay a probe.
        self._circuits[name] = Circuit(
            state=health.state,
            since=now - health.since_seconds,
            failures=health.failures,
            probe_at=now + min(longest, health.probe_seconds),
            open_seconds=health.open_seconds,
            error=health.error,
            silent_since=own.silent_since,
            silent_at=own.silent_at,
            strikes=own.strikes,
        )

    def _save(self, name: ZoneName, circuit: Circuit, now: float) -> None:
        self._records.save(
            ZoneHealth(
                region=name[0],
                zone=name[1],
                observer=self._records.observer,
                state=circuit.state,
                since_seconds=now - circuit.since,
                failures=circuit.failures,
                probe_seconds=max(0.0, circuit.probe_at - now),
                open_seconds=circuit.open_seconds,
                error=circuit.error,
            )
        )


_CLOSED: Final = Circuit()
_NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneWatch:
    """The watch over one zone: see `Watch`."""

    book: CircuitBreakers
    name: ZoneName

    @contextmanager
    def request(self) -> Iterator[None]:
        """See `Watch.request`."""
        began = self.book.check_request(self.name)
        note_request()
        try:
            yield
        except StoreError as error:
            if classify_failure(error) is None:
                note_answer()
            self.book.count_error(self.name, error, began)
            raise
        note_answer()
        self.book.count_answer(self.name)
