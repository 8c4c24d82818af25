"""How many threads make up for a distance, and how a distance is sounded."""

from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.storage.latency import NEAR_SECONDS, THREADS_MAX, choose_threads, measure_latency
from imgstore.domain.storage.sizes import KIB

WORKERS = st.integers(1, 5)
SECONDS = st.floats(0, 100)


@given(WORKERS, st.floats(0, NEAR_SECONDS, exclude_max=True))
def test_near_by_there_are_no_more(workers: int, seconds: float) -> None:
    assert choose_threads(workers, seconds) == workers


@given(WORKERS, SECONDS, SECONDS)
def test_farther_off_there_are_not_fewer_and_never_too_many(workers: int, one: float, other: float) -> None:
    near, far = sorted((one, other))
    assert workers <= choose_threads(workers, near) <= choose_threads(workers, far) <= THREADS_MAX


def test_a_way_across_an_ocean_is_filled() -> None:
    assert [choose_threads(4, seconds) for seconds in (0.010, 0.025, 0.080)] == [8, 12, 16]


@given(WORKERS, SECONDS)
def test_one_who_allows_no_more_gets_no_more(workers: int, seconds: float) -> None:
    assert choose_threads(workers, seconds, threads_max=1) == workers


def test_the_first_read_may_have_to_connect() -> None:
    ticks, reads = iter([0.0, 0.300, 0.300, 0.380]), list[tuple[int, int]]()

    def read_at(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return bytes(length)

    assert round(measure_latency(read_at, 10 * KIB, lambda: next(ticks)), 3) == 0.080
    assert reads == [(0, 4 * KIB)] * 2


def test_a_short_source_is_sounded_too() -> None:
    assert measure_latency(lambda offset, length: b"short"[offset : offset + length], 5, lambda: 0.0) == 0
