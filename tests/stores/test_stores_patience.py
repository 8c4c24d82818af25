"""Tests of retries, metering and the faulty store."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import Conflict, ObjectCorrupt, StoreDenied, StoreError, StoreUnreachable
from imgstore.stores import (
    MemoryStore,
    MeteredStore,
    ObjectInfo,
    ObjectStore,
    RetryingStore,
    RetryPolicy,
    TrafficMeter,
    ZoneRedundantStore,
)
from tests.support.faulty_store import Fault, FaultyStore, Kind
from tests.support.manual_clock import ManualClock

CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "head": lambda store: store.head("a"),
    "list": lambda store: [info.key for info in store.list("")],
    "put": lambda store: store.put("a", b"body").stored_bytes,
    "copy_within": lambda store: store.copy_within("a", "b").stored_bytes,
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def faulty() -> FaultyStore:
    store = FaultyStore(MemoryStore())
    store.put("a", b"body")
    return store


def patient(store: ObjectStore, clock: ManualClock, **policy: float) -> RetryingStore:
    rules = RetryPolicy(**policy) if policy else None  # type: ignore[arg-type]
    return RetryingStore(store, policy=rules, wait=clock.wait, random=lambda: 0.5, monotonic=clock.monotonic)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.LOST])
def test_passing_errors_are_retried(method: str, kind: Kind, faulty: FaultyStore, clock: ManualClock) -> None:
    expected = CALLS[method](FaultyStore(MemoryStore()) if method == "put" else faulty)
    faulty.script = [Fault(method=method, calls=frozenset({1, 2, 3}), kind=kind)]
    assert CALLS[method](patient(faulty, clock)) == expected
    assert clock.waits == [0.1, 0.2, 0.4]


@pytest.mark.parametrize("method", CALLS)
def test_retries_end(method: str, faulty: FaultyStore, clock: ManualClock) -> None:
    faulty.die()
    with pytest.raises(StoreUnreachable):
        CALLS[method](patient(faulty, clock, attempts_max=4, wait_seconds_max=0.6))
    assert clock.waits == [0.1, 0.2, 0.3]


def test_retries_end_by_time(faulty: FaultyStore, clock: ManualClock) -> None:
    faulty.die()
    with pytest.raises(StoreUnreachable):
        patient(faulty, clock, attempts_max=100, first_wait_seconds_max=8.0, wait_seconds_max=8.0).get("a")
    assert clock.monotonic() == 60.0


def test_lasting_errors_are_not_retried(faulty: FaultyStore, clock: ManualClock) -> None:
    def denied() -> StoreError:
        return StoreDenied("no")

    faulty.script = [Fault(method="get", error=denied)]
    with pytest.raises(StoreDenied):
        patient(faulty, clock).get("a")
    assert not clock.waits


def test_deletes_and_conditional_puts_are_sent_once(faulty: FaultyStore, clock: ManualClock) -> None:
    """A late repeat of either could do harm, even if the first was refused."""
    store = patient(faulty, clock)
    faulty.script = [
        Fault(method="delete", calls=frozenset({1})),
        Fault(method="put", calls=frozenset({1}), kind=Kind.LOST),
    ]
    with pytest.raises(StoreUnreachable):
        store.delete(["a"])
    with pytest.raises(StoreUnreachable):
        store.put("new", b"1", only_if_absent=True)
    assert not clock.waits
    with pytest.raises(Conflict):
        store.put("new", b"2", only_if_absent=True)


def test_a_listing_resumes_after_the_last_key(clock: ManualClock) -> None:
    """Each key is listed exactly once, although the listing breaks off after each page."""
    faulty = FaultyStore(MemoryStore())
    for number in range(10):
        faulty.put(f"k/{number}", b"1")

    broken: set[str] = set()

    class Breaking(FaultyStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            for told, info in enumerate(faulty.list(prefix)):
                if told and told % 3 == 0 and info.key not in broken:
                    broken.add(info.key)
                    raise StoreUnreachable("broke off")
                yield info

    store = patient(Breaking(faulty), clock, attempts_max=2)
    assert [info.key for info in store.list("k/")] == [f"k/{number}" for number in range(10)]
    assert len(clock.waits) == len(broken) > 2


@given(attempt=st.integers(1, 100), jitter=st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded(attempt: int, jitter: float) -> None:
    """A wait is never negative and never above its bound, after any number of attempts."""
    policy = RetryPolicy()
    assert 0 <= policy.wait_seconds(attempt, jitter) < policy.wait_seconds_max


def test_retries_are_metered(faulty: FaultyStore, clock: ManualClock) -> None:
    """The meter is inside of retries: bytes that were sent twice count twice."""
    meter = TrafficMeter()
    store = patient(MeteredStore(faulty, meter), clock)
    faulty.script = [
        Fault(method="put", calls=frozenset({1, 2})),
        Fault(method="get", calls=frozenset({1}), kind=Kind.LOST),
        Fault(method="get", calls=frozenset({3}), kind=Kind.DAMAGED),
    ]
    store.put("b", b"x" * 10)
    assert store.get("b") == b"x" * 10
    with pytest.raises(ObjectCorrupt):
        store.get("b", lambda body: body == b"x" * 10)
    store.get_range("b", 2, 3)
    store.head("b")
    store.copy_within("b", "c")
    store.delete(["b"])
    assert list(store.list("c"))
    traffic = meter.traffic
    assert traffic.sent_bytes == 3 * 10
    assert traffic.received_bytes == 10 + 10 + 3
    assert traffic.wire_bytes == 53
    assert traffic.server_side_bytes == 10
    assert traffic.requests == {"put": 3, "get": 4, "head": 1, "copy": 1, "delete": 1, "list": 1}


def test_the_shortest_answer_is_the_round_trip(faulty: FaultyStore) -> None:
    meter, ticks = TrafficMeter(), list[float]()
    store = MeteredStore(faulty, meter, lambda: ticks.pop(0))
    assert meter.answer_seconds == 0

    def took(seconds: float, call: Callable[[], object]) -> float:
        """How far off it is by now, once `call` has taken so long."""
        ticks[:] = [0.0, seconds]
        call()
        return meter.answer_seconds

    assert took(0.9, lambda: store.put("b", b"x")) == pytest.approx(0.9)
    assert took(0.5, lambda: store.get("b")) == pytest.approx(0.5)
    assert took(0.7, lambda: store.get_range("b", 0, 1)) == pytest.approx(0.5)
    assert took(0.4, lambda: list(store.list(""))) == pytest.approx(0.4)
    assert took(0.3, lambda: store.head("b")) == pytest.approx(0.3)


def test_a_failure_is_no_answer(faulty: FaultyStore, clock: ManualClock) -> None:
    """A refused connection is no evidence of a short round trip."""
    meter = TrafficMeter()
    store = MeteredStore(faulty, meter, clock.monotonic)
    faulty.script = [Fault()]
    for call in (store.get, store.head, lambda key: list(store.list(key)), lambda key: store.put(key, b"")):
        with pytest.raises(StoreError):
            call("b")
    assert meter.answer_seconds == 0


def test_a_copy_through_us_is_metered_both_ways() -> None:
    with_zones = ZoneRedundantStore({zone: MemoryStore(zone) for zone in "123"})
    meter = TrafficMeter()
    store = MeteredStore(with_zones, meter)
    store.put("a", b"12345")
    store.copy_within("a", "b")
    with_zones.close()
    assert (meter.traffic.sent_bytes, meter.traffic.received_bytes, meter.traffic.server_side_bytes) == (10, 5, 0)


def test_faults_hit_the_chosen_calls(faulty: FaultyStore) -> None:
    faulty.put("b", b"other")
    faulty.script = [Fault(method="get", key_part="b", calls=frozenset({2}), kind=Kind.DAMAGED)]
    assert [faulty.get(key) for key in ("a", "b", "a", "b", "b")] == [b"body", b"other", b"body", b"nther", b"other"]
    with pytest.raises(ObjectCorrupt):
        faulty.script = [Fault(kind=Kind.DAMAGED)]
        faulty.get("a", lambda body: body == b"body")
    faulty.heal()
    assert faulty.get("a") == b"body"
