"""Tests of the bandwidth limit: the mean rate holds for any lengths. The contract is in test_stores_contract.py."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from imgstore.domain.errors import LeaseLost
from imgstore.stores import BandwidthLimitedStore, MemoryStore, TokenBucket
from tests.support.manual_clock import ManualClock


def limited(clock: ManualClock, bytes_per_second: int = 1000) -> BandwidthLimitedStore:
    return BandwidthLimitedStore(MemoryStore(), TokenBucket(bytes_per_second, clock.monotonic), clock.wait)


def test_the_mean_rate_holds_in_both_directions() -> None:
    clock = ManualClock()
    store = limited(clock)
    for number in range(10):
        store.put(f"k{number}", bytes(700))
        assert len(store.get(f"k{number}")) == 700
        assert len(store.get_range(f"k{number}", 100, 300)) == 300
    moved = 10 * (700 + 700 + 300)
    assert moved / 1000 - 2 <= clock.monotonic() <= moved / 1000 + 0.1, (
        "a burst of a second, and the last is not waited for"
    )


def test_a_burst_is_one_second_after_any_idle_time() -> None:
    clock = ManualClock()
    store = limited(clock)
    clock.advance(3600)
    store.put("a", bytes(1000))
    store.put("b", bytes(1000))
    assert clock.waits == []
    store.put("c", b"x")
    assert clock.waits == [pytest.approx(1.0)]


def test_heads_and_lists_are_free() -> None:
    clock = ManualClock()
    store = limited(clock)
    store.put("a", bytes(5000))
    store.head("a")
    assert [info.key for info in store.list("")] == ["a"]
    store.copy_within("a", "b")
    store.delete(["a"])
    assert clock.waits == []


def test_threads_share_a_bucket() -> None:
    clock = ManualClock()
    store = limited(clock, 100)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.put(f"k{number}", bytes(100)), range(40)))
    assert clock.monotonic() >= 40 - 1 - 5, "four at once may each go one ahead"


def test_a_wait_can_be_ended() -> None:
    def lost(_seconds: float) -> None:
        raise LeaseLost("too slow", found="", expected="", hint="")

    store = BandwidthLimitedStore(MemoryStore(), TokenBucket(10, lambda: 0.0), lost)
    store.put("a", bytes(100))
    with pytest.raises(LeaseLost):
        store.get("a")
