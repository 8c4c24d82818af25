"""Tests of packing: disk order, runs and locations, and both bounds of the reuse threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segments_golden import noise

from imgstore.segments.codec import HEADER_BYTES
from imgstore.segments.fingerprint_index import ZERO, Locations
from imgstore.segments.fingerprints import Fingerprints, from_bytes
from imgstore.segments.manifest import Runs
from imgstore.segments.packing import Packer, choose_segments_to_repack, locations_of, runs_of, used_blocks

location = st.one_of(
    st.just(int(ZERO)), st.integers(0, 40), st.integers(1000, 1060), st.integers(2**32 - 4096, 2**32 - 3000)
)
stretch = st.tuples(location, st.integers(1, 40))


def join_ranges(stretches: list[tuple[int, int]]) -> Locations:
    """Generate ranges of consecutive locations or of zeros, in sequence, at most a piece."""
    rows: list[int] = []
    for first, count in stretches:
        rows += [first] * count if first == int(ZERO) else range(first, first + count)
    return np.array(rows[:1024], dtype=np.uint32)


@given(st.lists(stretch, max_size=30), st.integers(0, 1 << 20))
def test_locations_of_is_the_inverse_of_runs_of(stretches: list[tuple[int, int]], piece: int) -> None:
    locations = join_ranges(stretches)
    runs = runs_of(piece * 1024, locations)
    blocks, where = locations_of(runs)
    back = np.full(len(locations), ZERO)
    back[blocks - piece * 1024] = where
    assert back.tolist() == locations.tolist()
    ends = runs.block + runs.count
    assert (runs.count >= 1).all()
    assert (runs.at + runs.count <= 1024).all(), "no run crosses a segment"
    assert (runs.block[1:] >= ends[:-1]).all()


@given(st.lists(stretch, max_size=30))
def test_runs_are_as_long_as_possible(stretches: list[tuple[int, int]]) -> None:
    runs = runs_of(0, join_ranges(stretches))
    touching = runs.block[1:] == runs.block[:-1] + runs.count[:-1]
    goes_on = runs.at[1:] == runs.at[:-1] + runs.count[:-1]
    assert not (touching & goes_on & (runs.segment[1:] == runs.segment[:-1])).any()


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=700), max_size=6), st.integers(0, 3))
def test_a_packer_fills_segments_in_order(pieces: list[list[int]], first_number: int) -> None:
    """The emitted blocks equal the given blocks, and each location is right."""
    emitted: list[tuple[int, bytes, bytes]] = []

    def emit(number: int, buffer: memoryview, fingerprints: Fingerprints) -> None:
        emitted.append((number, bytes(buffer[HEADER_BYTES:]), fingerprints.tobytes()))

    packer = Packer(first_number, emit)
    expected, prints, locations = b"", b"", list[int]()
    for indexes in pieces:
        own = from_bytes(b"".join(noise(f"f{n}", 16) for n in indexes))
        locations += packer.add(BLOCKS, np.array(indexes), own).tolist()
        expected += b"".join(BLOCKS[n].tobytes() for n in indexes)
        prints += own.tobytes()
    assert packer.packed_blocks == len(locations)
    assert packer.segments == -(-len(locations) // 1024)
    packer.flush()
    packer.flush()
    assert packer.segments == len(emitted)
    assert [number for number, _, _ in emitted] == list(range(first_number, first_number + len(emitted)))
    assert b"".join(content for _, content, _ in emitted) == expected
    assert b"".join(own for _, _, own in emitted) == prints
    assert all(len(content) == 1024 * 4096 for _, content, _ in emitted[:-1])
    assert locations == list(range(first_number * 1024, first_number * 1024 + len(locations)))


BLOCKS = np.frombuffer(b"".join(n.to_bytes(2, "little") * 2048 for n in range(1, 101)), dtype=np.uint8).reshape(
    100, 4096
)


def test_a_block_used_a_thousand_times_is_used_once() -> None:
    rows = np.arange(1000)
    runs = Runs(block=rows * 2, count=rows * 0 + 1, segment=rows * 0 + 1, at=rows * 0 + 5)
    used = used_blocks(runs, 2, runs_at_once=7)
    assert used.shape == (2, 1024)
    assert np.flatnonzero(used.reshape(-1)).tolist() == [1024 + 5]


def test_new_segments_do_not_count_as_old_segments() -> None:
    runs = Runs(block=np.array([0, 1]), count=np.array([1, 1]), segment=np.array([0, 1]), at=np.array([3, 4]))
    assert np.flatnonzero(used_blocks(runs, 1)).tolist() == [3]


olds = st.lists(
    st.integers(1, 1024).flatmap(lambda blocks: st.tuples(st.integers(0, blocks), st.just(blocks))), max_size=120
)


@given(olds, st.integers(0, 40), st.integers(1, 1024))
def test_both_bounds_hold_after_repacking(old: list[tuple[int, int]], new: int, last: int) -> None:
    """A read decompresses at most 4 times its own blocks. A version names <= 2 x ceil(blocks / 1,024) + 16 segments."""
    used = np.array([each for each, _ in old], dtype=np.int64)
    blocks = np.array([each for _, each in old], dtype=np.int64)
    packed = max(0, new - 1) * 1024 + (last if new else 0)
    content = int(used.sum()) + packed
    chosen = choose_segments_to_repack(used, blocks, new_segments=new, content_blocks=content)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    kept = np.setdiff1d(np.flatnonzero(used), chosen)
    moved = int(used[chosen].sum())
    # The packer continues in the current segment, so new and repacked blocks share segments.
    matches_name = len(kept) + -(-(packed + moved) // 1024)
    assert matches_name <= 2 * -(-content // 1024) + 16
    assert int(blocks[kept].sum()) + packed + moved <= 4 * content
    assert (used[chosen] > 0).all(), "unnamed segments are not repacked"


@given(olds)
def test_only_as_much_as_necessary_is_repacked(old: list[tuple[int, int]]) -> None:
    used = np.array([each for each, _ in old], dtype=np.int64)
    blocks = np.array([each for _, each in old], dtype=np.int64)
    well = bool((used[used > 0] * 4 >= blocks[used > 0]).all())
    few = np.count_nonzero(used) <= 2 * -(-int(used.sum()) // 1024) + 16
    chosen = choose_segments_to_repack(used, blocks, new_segments=0, content_blocks=int(used.sum()))
    assert (len(chosen) == 0) == (well and few)


@pytest.mark.parametrize(("used", "repacked"), [(0, False), (1, True), (255, True), (256, False), (1024, False)])
def test_a_segment_with_a_quarter_in_use_is_not_repacked(used: int, repacked: bool) -> None:
    chosen = choose_segments_to_repack(np.array([used]), np.array([1024]), new_segments=0, content_blocks=used)
    assert chosen.tolist() == ([0] if repacked else [])


def test_many_small_segments_are_joined_up_to_the_bound_only() -> None:
    """A hundred well used segments of ten blocks: the version may name 2 x ceil(1,000 / 1,024) + 16 = 18."""
    whole = np.full(100, 10)
    chosen = choose_segments_to_repack(whole, whole, new_segments=0, content_blocks=1000)
    assert 100 - len(chosen) + 1 == 18


def test_the_least_used_segments_are_repacked_first() -> None:
    used = np.array([1000] + [300] * 20 + [260, 261] * 10)
    chosen = choose_segments_to_repack(used, np.full(len(used), 1024), new_segments=0, content_blocks=int(used.sum()))
    assert 0 < len(chosen) < 21
    assert sorted(used[chosen].tolist()) == sorted(used.tolist())[: len(chosen)]
