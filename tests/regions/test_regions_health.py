"""Tests of the health of zones: effects of requests, of probes, and of other processes of the host."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from imgstore.domain.errors import (
    CircuitOpen,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreSilent,
    StoreUnreachable,
)
from imgstore.domain.storage.circuits import ZoneHealth
from imgstore.regions.health import CircuitBreakers, ZoneWatch
from imgstore.stores import MemoryStore
from imgstore.stores.wrappers.retry import RetryingStore
from imgstore.stores.wrappers.watched import WatchedStore
from imgstore.testing.store_contract import RawAccess, RawMemoryAccess, StoreContract
from tests.support.manual_clock import ManualClock

HERE = ("westus2", "1")


class Board:
    """Shared records in memory, for any number of processes of one host."""

    observer = "host/boot"

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, str], tuple[float, ZoneHealth]] = {}
        self.writes = 0

    def load(self) -> Sequence[ZoneHealth] | None:
        now = self._clock.monotonic()
        return [
            replace(each, since_seconds=each.since_seconds + now - at, probe_seconds=each.probe_seconds - (now - at))
            for at, each in self._rows.values()
        ]

    def save(self, health: ZoneHealth) -> None:
        self.writes += 1
        self._rows[health.region, health.zone] = self._clock.monotonic(), health


class Process:
    """A process with circuits, a watch over one zone, and probes that run on demand."""

    def __init__(self, clock: ManualClock, board: Board) -> None:
        self.tasks: list[Callable[[], None]] = []
        self.fault: StoreError | None = None
        self.book = CircuitBreakers(monotonic=clock.monotonic, records=board, background=self.tasks.append)
        self.watch: ZoneWatch = self.book.watch(*HERE, self._probe)

    def _probe(self) -> None:
        if self.fault is not None:
            raise self.fault

    def ask(self, error: StoreError | None = None) -> None:
        with self.watch.request():
            if error is not None:
                raise error

    def fail(self, error: StoreError) -> None:
        with pytest.raises(type(error)):
            self.ask(error)

    def run_probes(self) -> int:
        tasks, self.tasks[:] = list(self.tasks), []
        for task in tasks:
            task()
        return len(tasks)

    def avoided(self) -> bool:
        return self.book.is_avoided(*HERE)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def board(clock: ManualClock) -> Board:
    return Board(clock)


@pytest.fixture
def process(clock: ManualClock, board: Board) -> Process:
    return Process(clock, board)


SILENT = StoreSilent("no answer", found="connection refused")


@pytest.mark.parametrize("error", [SILENT, StoreDenied("no"), StoreError("no bucket")])
def test_an_outage_is_avoided_at_once(process: Process, error: StoreError) -> None:
    process.fail(error)
    assert process.avoided()


@pytest.mark.parametrize("error", [ObjectNotFound("no such key"), StoreFull("no room")])
def test_a_store_that_refuses_is_healthy(process: Process, error: StoreError) -> None:
    process.fail(SILENT)
    process.fail(error)
    assert not process.avoided()


def test_a_busy_store_is_avoided_after_several_refusals(process: Process) -> None:
    for _ in range(4):
        process.fail(StoreUnreachable("slow down"))
    assert not process.avoided()
    process.fail(StoreUnreachable("slow down"))
    assert process.avoided()


def test_the_next_process_knows_at_once(process: Process, clock: ManualClock, board: Board) -> None:
    process.fail(SILENT)
    other = Process(clock, board)
    assert not other.avoided()
    other.book.refresh()
    assert other.avoided()
    assert other.book.circuit(HERE).error == "no answer (connection refused)"


def test_nothing_is_written_for_a_single_request(process: Process, board: Board) -> None:
    for _ in range(100):
        process.ask()
    assert board.writes == 0
    for _ in range(100):
        process.fail(SILENT)
    assert board.writes == 1


def test_a_probe_in_the_background_finds_that_it_is_back(process: Process, clock: ManualClock, board: Board) -> None:
    process.fault = SILENT
    process.fail(SILENT)
    process.book.refresh()
    assert process.run_probes() == 0, "not yet due"
    clock.advance(1)
    process.book.refresh()
    process.book.refresh()
    assert process.run_probes() == 1, "one at a time"
    assert process.avoided()
    process.fault = None
    clock.advance(2)
    process.book.refresh()
    assert process.run_probes() == 1
    assert not process.avoided()
    other = Process(clock, board)
    other.book.refresh()
    assert not other.avoided()


def test_one_process_probes_for_all(process: Process, clock: ManualClock, board: Board) -> None:
    process.fail(SILENT)
    clock.advance(1)
    process.book.refresh()
    other = Process(clock, board)
    other.book.refresh()
    assert (len(process.tasks), len(other.tasks)) == (1, 0)
    clock.advance(15)  # The process that probed has ended without an answer.
    other.book.refresh()
    assert len(other.tasks) == 1


def test_a_circuit_closed_by_another_process_is_closed(process: Process, clock: ManualClock, board: Board) -> None:
    process.fail(SILENT)
    other = Process(clock, board)
    other.book.refresh()
    process.ask()
    clock.advance(1)
    other.book.refresh()
    assert not other.avoided()


def test_requests_are_refused_after_an_outage_and_sent_again_after_a_probe(
    process: Process, clock: ManualClock
) -> None:
    process.fail(SILENT)
    clock.advance(4)
    process.fail(SILENT)
    clock.advance(1)
    with pytest.raises(CircuitOpen, match="gets no requests"):
        process.ask()
    assert process.run_probes() == 1, "the refusal began a probe"
    process.ask()


def test_a_refusal_does_not_wait(process: Process, clock: ManualClock) -> None:
    waits: list[float] = []
    store = RetryingStore(WatchedStore(MemoryStore(), process.watch), wait=waits.append)
    process.fail(SILENT)
    clock.advance(5)
    process.fail(SILENT)
    with pytest.raises(CircuitOpen):
        store.head("a")
    assert waits == []


class TestWatched(StoreContract):
    """The wrapper fulfils the contract of stores."""

    @pytest.fixture
    def within(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def store(self, within: MemoryStore, process: Process) -> WatchedStore:
        return WatchedStore(within, process.watch)

    @pytest.fixture
    def raw(self, within: MemoryStore) -> RawAccess:
        return RawMemoryAccess(within)
