"""The number of threads for a latency, and the measurement of the latency."""

from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.storage.latency import NEAR_SECONDS, THREADS_MAX, choose_threads, measure_latency
from imgstore.domain.storage.sizes import KIB

WORKERS = st.integers(1, 5)
SECONDS = st.floats(0, 100)


@given(WORKERS, st.floats(0, NEAR_SECONDS, exclude_max=True))
def test_near_store_needs_no_additional_threads(workers: int, seconds: float) -> None:
    assert choose_threads(workers, seconds) == workers


@given(WORKERS, SECONDS, SECONDS)
def test_thread_count_rises_with_latency_up_to_the_limit(workers: int, one: float, other: float) -> None:
    near, far = sorted((one, other))
    assert workers <= choose_threads(workers, near) <= choose_threads(workers, far) <= THREADS_MAX


def test_high_latency_gets_more_threads() -> None:
    assert [choose_threads(4, seconds) for seconds in (0.010, 0.025, 0.080)] == [8, 12, 16]


@given(WORKERS, SECONDS)
def test_thread_limit_does_not_reduce_the_workers(workers: int, seconds: float) -> None:
    assert choose_threads(workers, seconds, threads_max=1) == workers


def test_connection_time_of_the_first_read_does_not_count() -> None:
    ticks, reads = iter([0.0, 0.300, 0.300, 0.380]), list[tuple[int, int]]()

    def read_at(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return bytes(length)

    assert round(measure_latency(read_at, 10 * KIB, lambda: next(ticks)), 3) == 0.080
    assert reads == [(0, 4 * KIB)] * 2


def test_short_source_is_measured() -> None:
    assert measure_latency(lambda offset, length: b"short"[offset : offset + length], 5, lambda: 0.0) == 0
