"""Tests that compare the indexes with a dictionary."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segments_golden import noise

from imgstore.segments import fingerprint_index
from imgstore.segments.fingerprint_index import NOWHERE, SAMPLE_STEP, ZERO, BaseIndex, ImageIndex, LocatedFingerprints
from imgstore.segments.fingerprints import Fingerprints, PackedSegment, from_bytes


def fingerprints(numbers: list[int]) -> Fingerprints:
    """Make a fingerprint for each number; 2n and 2n + 1 share their first eight bytes."""
    return from_bytes(b"".join(noise(f"high {n // 2}", 8) + noise(f"low {n}", 8) for n in numbers))


def far(numbers: "range | list[int]") -> Fingerprints:
    """Make a fingerprint for each number, all different in both halves."""
    return from_bytes(b"".join(noise(f"far {n}", 16) for n in numbers))


@given(st.lists(st.integers(0, 9), max_size=30))
def test_equal_fingerprints_map_to_their_first_occurrence(numbers: list[int]) -> None:
    """Fingerprints with an equal half are not equal."""
    firsts, which = fingerprints(numbers).find_distinct()
    assert [numbers[first] for first in firsts] == list(dict.fromkeys(numbers))
    assert [numbers[firsts[each]] for each in which] == numbers


batches = st.lists(st.lists(st.integers(0, 200), max_size=30, unique=True), max_size=12)


@given(batches)
def test_an_image_index_is_a_dictionary(added: list[list[int]]) -> None:
    """Unknown fingerprints are added, like in an ingest. Equal numbers are then found at the first location."""
    image, model, location = ImageIndex(), dict[int, int](), 0
    for numbers in added:
        found = image.find(far(numbers)).tolist()
        assert found == [model.get(number, int(NOWHERE)) for number in numbers]
        new = [number for number in numbers if number not in model]
        image.add(far(new), np.arange(location, location + len(new), dtype=np.uint32))
        model |= {number: location + place for place, number in enumerate(new)}
        location += len(new)


@given(batches)
def test_an_index_never_confuses_two_blocks(added: list[list[int]]) -> None:
    """An equal half may hide a block, which is then packed again. A found location is never wrong."""
    image, model, location = ImageIndex(), dict[int, set[int]](), 0
    for numbers in added:
        for number, found in zip(numbers, image.find(fingerprints(numbers)).tolist(), strict=True):
            assert found == int(NOWHERE) or found in model[number]
        image.add(fingerprints(numbers), np.arange(location, location + len(numbers), dtype=np.uint32))
        for place, number in enumerate(numbers):
            model.setdefault(number, set()).add(location + place)
        location += len(numbers)


@given(st.integers(2, 40), st.lists(st.integers(1, 6), min_size=1, max_size=40))
def test_an_image_index_discards_its_first_entries_first(entries_max: int, sizes: list[int]) -> None:
    image, following = ImageIndex(entries_max), 0
    for size in sizes:
        image.add(far(range(following, following + size)), np.arange(following, following + size, dtype=np.uint32))
        following += size
        found = image.find(far(range(following)))
        kept = np.flatnonzero(found != NOWHERE)
        assert found[kept].tolist() == kept.tolist()
        assert kept.tolist() == list(range(following - len(kept), following)), "the last entries, without a gap"
        # Each generation holds `entries_max` / 2 entries; the last batch may exceed the limit by its size.
        assert len(kept) <= entries_max + 2 * max(sizes)
        assert len(kept) >= min(following, max(1, entries_max // 2))


def test_tiers_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search asks a logarithmic number of tiers, not a tier for each piece."""
    monkeypatch.setattr(fingerprint_index, "_TIER_ENTRIES_MIN", 4)
    image = ImageIndex()
    for number in range(0, 1024, 2):
        image.add(far([number, number + 1]), np.array([number, number + 1], dtype=np.uint32))
    assert len(image._young._tiers) <= 12
    assert image.find(far(range(1024))).tolist() == list(range(1024))


def test_the_filter_rejects_unknown_fingerprints() -> None:
    numbers = np.random.default_rng(1).integers(0, 2**64, 1 << 17, dtype=np.uint64)
    added, others = numbers[: 1 << 16], numbers[1 << 16 :]
    sieve = fingerprint_index._BloomFilter(len(added))
    sieve.add(added)
    assert sieve.passes(added).all()
    assert sieve.passes(others).mean() < 1 / 8


def segment(*numbers: int) -> PackedSegment:
    return PackedSegment(name=noise(str(numbers), 32), fingerprints=far(list(numbers)))


def build_index(scratch: Path, segments: list[tuple[int, PackedSegment]], entries_max: int = 1 << 20) -> BaseIndex:
    entries = sum(len(each.fingerprints) for _, each in segments)
    return BaseIndex.build(iter(segments), entries=entries, scratch=scratch, entries_max=entries_max)


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=20), max_size=6), st.lists(st.integers(0, 120)))
def test_a_base_index_is_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[int]], asked: list[int]
) -> None:
    segments = [(number, segment(*content)) for number, content in enumerate(contents)]
    model: dict[int, int] = {}
    for number, content in enumerate(contents):
        for at, each in enumerate(content):
            model.setdefault(each, number * 1024 + at)
    bases = build_index(tmp_path_factory.getbasetemp(), segments)
    found = bases.find(far(asked), np.arange(len(asked)))
    assert found.tolist() == [model.get(each, int(NOWHERE)) for each in asked]
    bases.close()


def test_a_sampled_index_finds_the_neighbours_of_a_hit(tmp_path: Path) -> None:
    """Each sixteenth block is in memory; the neighbours are reached if the disk keeps their order."""
    bases = build_index(tmp_path, [(0, segment(*range(100))), (1, segment(*range(1000, 1100)))], entries_max=50)
    asked = [*range(5, 60), *range(1003, 1040)]
    found = bases.find(far(asked), np.arange(len(asked)))
    assert found.tolist() == [*range(5, 60), *range(1024 + 3, 1024 + 40)]
    bases.close()


def test_a_sampled_index_misses_blocks_without_an_adjacent_hit(tmp_path: Path) -> None:
    bases = build_index(tmp_path, [(0, segment(*range(100)))], entries_max=50)
    lone = [1, 2, 3]
    assert bases.find(far(lone), np.array([10, 11, 12])).tolist() == [int(NOWHERE)] * 3
    # Adjacent to a hit in the list, but not on the disk.
    assert bases.find(far([16, 17]), np.array([10, 12])).tolist() == [16, int(NOWHERE)]
    # Adjacent on the disk, but another block.
    assert bases.find(far([15, 16, 99]), np.array([9, 10, 11])).tolist() == [15, 16, int(NOWHERE)]
    bases.close()


def test_a_sampled_index_never_steps_into_another_segment(tmp_path: Path) -> None:
    numbers = list(range(1024))
    bases = build_index(tmp_path, [(0, segment(*numbers)), (1, segment(*range(2000, 2020)))], entries_max=50)
    asked = [1022, 1023, 2000, 2001]
    found = bases.find(far([*range(1008, 1024), 2000, 2001]), np.arange(18)).tolist()
    assert found == [*range(1008, 1024), 1024, 1025]
    # 1023 is reached from below, 2000 is a sample itself, and 2100 is unknown.
    assert bases.find(far([*asked[:2], 2100]), np.arange(3)).tolist() == [int(NOWHERE)] * 3
    bases.close()


@given(st.data())
def test_a_sampled_index_is_never_wrong(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    contents = data.draw(st.lists(st.lists(st.integers(0, 80), min_size=1, max_size=64), min_size=2, max_size=4))
    asked = data.draw(st.lists(st.integers(0, 90), max_size=64))
    segments = [(number, segment(*content)) for number, content in enumerate(contents)]
    bases = build_index(tmp_path_factory.getbasetemp(), segments, entries_max=1)
    for each, found in zip(asked, bases.find(far(asked), np.arange(len(asked))).tolist(), strict=True):
        if found != int(NOWHERE):
            number, at = divmod(found, 1024)
            assert contents[number][at] == each
    sampled = {content[at] for content in contents for at in range(0, len(content), SAMPLE_STEP)}
    found = bases.find(far(asked), np.arange(len(asked)))
    assert all(where != NOWHERE for each, where in zip(asked, found, strict=True) if each in sampled)
    bases.close()


def test_locations_after_the_end_of_a_segment_match_nothing(tmp_path: Path) -> None:
    every = LocatedFingerprints(tmp_path)
    every.put(1, far([7]))
    there = np.array([1024, 1025, 2047, 0], dtype=np.uint32)
    assert every.matches(there, far([7, 7, 7, 7])).tolist() == [True, False, False, False]
    every.close()


def test_nowhere_and_zero_are_no_locations() -> None:
    assert NOWHERE > ZERO > np.uint32(fingerprint_index.SEGMENT_NUMBER_MAX * 1024 + 1023)
