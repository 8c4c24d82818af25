"""Tests of slow links: a moving body arrives, however long it takes, and a stalled request ends."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import StoreSilent
from imgstore.stores import MemoryStore, ObjectStore
from imgstore.stores.interface import ObjectInfo
from imgstore.stores.s3.connections import TimeLimits
from imgstore.stores.s3.store import S3Store
from imgstore.stores.wrappers.parallel import ParallelLimit, ParallelLimitedStore
from imgstore.testing.engines import S3Engine
from imgstore.testing.latency_proxy import LatencyProxies, LatencyProxy
from imgstore.testing.store_contract import RawAccess, RawMemoryAccess, StoreContract
from tests.support.manual_clock import ManualClock

BODY = np.random.default_rng(7).bytes(4 << 20)
LIMITS = TimeLimits(read_seconds=1.5, write_seconds=1.5, fixed_seconds=2.0)
"""Far less than a body takes at `SLOW`."""
SLOW = 1_050_000
"""Bytes per second of each connection: four seconds for a body."""


@pytest.fixture
def way(minio: S3Engine, latency_proxies: LatencyProxies) -> LatencyProxy:
    return latency_proxies.to(minio)


@pytest.fixture
def bucket(minio: S3Engine, request: pytest.FixtureRequest) -> str:
    return minio.make_bucket(f"slow-{abs(hash(request.node.name))}")


@pytest.fixture(params=[True, False], ids=["short", "client"])
def store(way: LatencyProxy, bucket: str, request: pytest.FixtureRequest) -> Iterator[S3Store]:
    """The store on the fast path, and on botocore's client."""
    engine = way.engine
    made = S3Store(
        endpoint=engine.endpoint,
        bucket=bucket,
        path_style=True,
        access_key=engine.access_key,
        secret_key=engine.secret_key,
        limits=LIMITS,
    )
    if not request.param:
        made._fast_path = None
    yield made
    made.close()


def test_moving_bodies_arrive(store: S3Store, way: LatencyProxy) -> None:
    way.set_bandwidth(SLOW)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.put(f"body-{number}", memoryview(BODY)), range(4)))
        assert list(pool.map(lambda number: store.get(f"body-{number}"), range(4))) == [BODY] * 4


CALLS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: store.get("a"),
    "head": lambda store: store.head("a"),
    "list": lambda store: list(store.list("")),
    "put": lambda store: store.put("b", b"small"),
    "put a body": lambda store: store.put("b", BODY),
    "delete": lambda store: store.delete(["a"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_stalled_request_ends(store: S3Store, way: LatencyProxy, name: str) -> None:
    store.put("a", b"small")
    way.hold()
    with pytest.raises(StoreSilent):
        CALLS[name](store)
    way.release()
    store.put("a", b"small")


def test_a_delete_keeps_its_limit_whatever_moves(store: S3Store, way: LatencyProxy) -> None:
    """Invariants G6 and G7: a collector knows when a request can no longer arrive."""
    way.set_bandwidth(1000)
    with pytest.raises(StoreSilent):
        store.delete([f"{'x' * 900}/{number}" for number in range(100)])


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 64))
def test_the_limit_stays_in_its_bounds_and_recovers(arrivals: list[bool], most: int) -> None:
    limit = ParallelLimit(bodies=most, bodies_max=most)
    for now, arrived in enumerate(arrivals):
        limit = limit.after_arrival() if arrived else limit.after_timeout(now - 0.5, now, most)
        assert 1 <= limit.bodies <= most
    for _ in range(most * most):
        limit = limit.after_arrival()
    assert limit.bodies == most


def test_bodies_that_time_out_together_halve_the_limit_once() -> None:
    limit = ParallelLimit()
    for number in range(8):
        limit = limit.after_timeout(0.0, 10.0 + number / 10, 8 - number)
    assert limit.bodies == 4
    assert limit.after_timeout(11.0, 20.0, 4).bodies == 2


class Stalling(MemoryStore):
    """A store with a narrow link: a few bodies at a time succeed, and others time out."""

    def __init__(self, clock: ManualClock, carries: int) -> None:
        super().__init__()
        self._clock = clock
        self._carries = carries
        self._running = 0
        self._guard = threading.Lock()
        self.most = 0

    def put(self, key: str, body: object, *, only_if_absent: bool = False) -> ObjectInfo:
        with self._guard:
            self._running += 1
            self.most = max(self.most, self._running)
            crowded = self._running > self._carries
        try:
            if crowded:
                self._clock.advance(30)
                raise StoreSilent("no answer")
            return super().put(key, bytes(body), only_if_absent=only_if_absent)  # type: ignore[call-overload]
        finally:
            with self._guard:
                self._running -= 1


def test_everything_arrives_over_a_link_that_carries_one_body_at_a_time() -> None:
    clock = ManualClock()
    within = Stalling(clock, carries=1)
    store = ParallelLimitedStore(within, clock.monotonic)

    def put(number: int) -> None:
        while True:
            try:
                store.put(f"body-{number}", BODY)
            except StoreSilent:
                continue
            return

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(32)))
    assert len(list(within.list(""))) == 32
    assert store.bodies_limit <= 16


class TestParallel(StoreContract):
    """The wrapper fulfils the contract of stores."""

    @pytest.fixture
    def within(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def store(self, within: MemoryStore) -> ObjectStore:
        return ParallelLimitedStore(within)

    @pytest.fixture
    def raw(self, within: MemoryStore) -> RawAccess:
        return RawMemoryAccess(within)
