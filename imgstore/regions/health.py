"""The health of an installation's zones: a circuit for each, fed by requests, shared with the host's other processes.

A circuit that is open is probed in the background by a read of the zone's mark, so that no caller waits for a probe.
The records are read at most once a second, and written when a circuit changes its state, never for a single request.
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
"""How old the records of other processes may be."""
LOOK_SECONDS: Final = 10.0
"""A zone that was heard of in this time is not probed for those who only look."""
PROBE_WAIT_SECONDS: Final = 0.15
"""How long a caller without another store waits for a probe, and the end of a process."""


def classify_failure(error: StoreError) -> Failure | None:
    """What a store's error tells of the store; None where it tells only of the request."""
    if isinstance(error, CircuitOpen):
        return None
    if isinstance(error, StoreSilent):
        return Failure.SILENT
    if isinstance(error, StoreUnreachable):
        return Failure.REFUSED
    if isinstance(error, (StoreDenied, StoreMismatch)):
        return Failure.BROKEN
    return Failure.BROKEN if type(error) is StoreError else None  # No bucket, no certificate, an input/output error.


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
        """Know of no failure yet.

        Args:
            monotonic: seconds of a clock that only goes on.
            records: where circuits are shared; None shares them with nobody.
            policy: the limits.
            background: runs a probe without waiting for it.
            open_zone: has a zone watched that no request of this process went to yet, so that it can be probed.
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
            region: its region.
            zone: its name in the region.
            probe: sends one request without retries; raises `StoreError`.
        """
        name = region, zone
        self._probes[name] = probe
        return ZoneWatch(book=self, name=name)

    def refresh(self) -> None:
        """Read what other processes of this host saw, if that was not done in the last second; begin probes that are due.

        Not inside a transaction of the catalog.
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
        """Give the probes that are under way a moment to end: a short command would never see a store come back."""
        with self._probed:
            self._probed.wait_for(lambda: not self._probing, PROBE_WAIT_SECONDS)

    def probe_idle_zones(self, names: Iterable[ZoneName]) -> None:
        """Probe the zones that were not heard of lately, side by side, and wait for the answers as for any read.

        A zone whose answer is late is avoided then, and its probe goes on.
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
        """Whether the circuit of a zone is not closed."""
        circuit = self._circuits.get((region, zone))
        return circuit is not None and circuit.avoided

    def is_down(self, region: str, zone: str) -> bool:
        """Whether a zone has failed, and was not only late with an answer."""
        circuit = self._circuits.get((region, zone))
        return circuit is not None and circuit.down

    def circuit(self, name: ZoneName) -> Circuit:
        """The circuit of a zone."""
        return self._circuits.get(name, _CLOSED)

    def check_request(self, name: ZoneName) -> float:
        """The present time, where a request to the zone may be sent.

        Raises:
            CircuitOpen: it may not.
        """
        now = self._monotonic()
        circuit = self._circuits.get(name)
        if circuit is not None and circuit.refuses(now, self._policy) and not self._probe_now(name, now):
            raise CircuitOpen(
                f"Zone {name[1]} of {name[0]} is left alone: it does not answer.",
                found=circuit.error,
                expected="a store that answers",
                hint="see that it runs; it is probed by itself, and `imgstore regions check` asks it at once",
                target=f"{name[0]}/{name[1]}",
            )
        return now

    def count_answer(self, name: ZoneName) -> None:
        """The zone answered a request."""
        self._answered_at[name] = self._monotonic()
        circuit = self._circuits.get(name)
        if circuit is not None and (circuit.avoided or circuit.failures):
            self._change(name, record_answer)

    def count_error(self, name: ZoneName, error: StoreError, began: float) -> None:
        """A request that was sent at `began` ended in this error."""
        failure = classify_failure(error)
        if failure is None:
            if not isinstance(error, CircuitOpen):
                self.count_answer(name)
            return
        self.count_failure(name, failure, began, f"{error.message} ({error.found})" if error.found else error.message)

    def count_late(self, name: ZoneName, age_seconds: float) -> None:
        """A request that was sent so long ago is not answered yet. It counts where the zone answered no later one."""
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
        """Probe a zone in the background, unless this process does so already; tells whether it was begun."""
        with self._probed:
            if name in self._probing:
                return False
            self._probing.add(name)
        self._background(partial(self._probe, name))
        return True

    def _probe_now(self, name: ZoneName, now: float) -> bool:
        """Tell whether a zone answers again; for a caller that can ask no other.

        A probe is begun before it is due, but not twice a second. Only the caller that begins it waits for it, and only
        for a moment: that is enough for a store that is back.
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
        """Take over what another process saw last. The row is the latest word: this process writes its own changes there."""
        name = health.region, health.zone
        own = self._circuits.get(name, _CLOSED)
        if health.state is own.state and (health.state is CircuitState.CLOSED or health.failures <= own.failures):
            return
        if health.state is CircuitState.CLOSED:
            self._circuits[name] = Circuit(since=now - health.since_seconds, error=health.error)
            return
        longest = self._policy.open_seconds_max  # A clock that was set back must not hold a probe off.
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
    """The watch over one zone: see `stores.watched.Watch`."""

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
