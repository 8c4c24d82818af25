"""Test the fair pool: a caller holds at most a quarter, callers are served round robin, queues are bounded."""

import threading

import pytest

from imgstore.api.http.fair_pool import CallerQueueFull, FairPool, FairQueue, PoolLimits, PoolQueueFull


def taken(queue: FairQueue[str]) -> list[str]:
    """Return all jobs that may run now."""
    found = []
    while (next_one := queue.take()) is not None:
        found.append(next_one[1])
    return found


def test_one_caller_holds_at_most_a_quarter() -> None:
    queue: FairQueue[str] = FairQueue(PoolLimits(threads=16))
    for number in range(40):
        queue.put("a", f"a{number}")
    assert taken(queue) == ["a0", "a1", "a2", "a3"]
    queue.finish("a")
    # Invariant H8.
    assert taken(queue) == ["a4"]


def test_callers_are_served_round_robin() -> None:
    queue: FairQueue[str] = FairQueue(PoolLimits(threads=16))
    for number in range(3):
        queue.put("a", f"a{number}")
    queue.put("b", "b0")
    queue.put("c", "c0")
    assert taken(queue) == ["a0", "b0", "c0", "a1", "a2"]


def test_small_pool_gives_each_caller_one_thread() -> None:
    assert PoolLimits(threads=3).share == 1
    assert PoolLimits(threads=32).share == 8


def test_queues_are_bounded() -> None:
    queue: FairQueue[str] = FairQueue(PoolLimits(threads=4, queued_per_caller_max=2, queued_max=3))
    queue.put("a", "a0")
    queue.put("a", "a1")
    with pytest.raises(CallerQueueFull) as refused:
        queue.put("a", "a2")
    assert (refused.value.status, refused.value.retry_after_seconds) == (429, 2)
    queue.put("b", "b0")
    with pytest.raises(PoolQueueFull) as busy:
        queue.put("c", "c0")
    assert busy.value.status == 503
    queue.put("c", "accepted earlier", bounded=False)
    assert queue.clear() == ["a0", "a1", "b0", "accepted earlier"]
    assert queue.take() is None


def test_pool_serves_other_callers_while_one_share_is_blocked() -> None:
    pool = FairPool(PoolLimits(threads=8), "test")
    release, running = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        running.release()
        release.wait()

    blocked = [pool.submit("a", block) for _ in range(20)]
    assert all(running.acquire(timeout=60) for _ in range(2))
    assert [pool.submit("b", lambda: threading.current_thread().name).result(60)[:4] for _ in range(20)] == [
        "test"
    ] * 20
    assert not running.acquire(blocking=False), "the share of a pool of 8 is 2"
    release.set()
    assert [each.result(60) for each in blocked] == [None] * 20
    assert pool.close(60)


def test_error_of_a_job_goes_to_the_future_and_the_thread_continues() -> None:
    pool = FairPool(PoolLimits(threads=1), "test")

    def fail() -> None:
        raise KeyboardInterrupt

    assert isinstance(pool.submit("a", fail).exception(60), KeyboardInterrupt)
    assert pool.submit("a", lambda: 7).result(60) == 7
    assert pool.close(60)


def test_closed_pool_abandons_a_hanging_job() -> None:
    pool = FairPool(PoolLimits(threads=4), "test")
    release, running = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        release.wait()

    hanging, waiting = pool.submit("a", hang), pool.submit("a", lambda: None)
    assert running.wait(60)
    assert not pool.close(0)
    assert isinstance(waiting.exception(60), PoolQueueFull)
    with pytest.raises(PoolQueueFull):
        pool.submit("b", lambda: None)
    release.set()
    assert hanging.result(60) is None
    assert pool.close(60)
