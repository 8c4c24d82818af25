"""Reads ahead of a client that reads a disk in order: what is fetched, and when nothing is fetched."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from imgstore.domain.names import ImageReference
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_image
from imgstore.operations.disks.read_ahead import CACHE_BYTES_MIN, SEGMENTS_AHEAD, ReadAhead
from imgstore.operations.installation import Installation
from imgstore.segments.manifest import Runs
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, open_home, publish

pytest_plugins = ["tests.support.published_gallery"]

REFERENCE = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0")
SEGMENTS = 40


class Fetches:
    """Records fetches, and can hold the fetches."""

    def __init__(self) -> None:
        self.segments: list[int] = []
        self.is_useful = True
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, segment: int) -> bool:
        self.gate.wait()
        self.segments.append(segment)
        return self.is_useful


@pytest.fixture
def fetches() -> Fetches:
    return Fetches()


@contextmanager
def reading(fetches: Fetches, order: list[int]) -> Iterator[ReadAhead]:
    """Read ahead of a disk with a run for each segment, in an order. All begun fetches have ended after the block."""
    numbers = np.arange(len(order), dtype=np.int64)
    runs = Runs(block=numbers * 1024, count=numbers * 0 + 1024, segment=np.array(order, dtype=np.int64), at=numbers * 0)
    ahead = ReadAhead(runs, fetches.fetch)
    try:
        yield ahead
        ahead.wait()
    finally:
        fetches.gate.set()
        ahead.close()


def test_the_next_segments_follow_three_segments_in_order(fetches: Fetches) -> None:
    order = [7, 3, 9, 1, 8, 2, 6, 0, 5, 4]
    with reading(fetches, order) as ahead:
        ahead.note_read(7)
        ahead.note_read(3)
        ahead.wait()
        assert fetches.segments == []
        ahead.note_read(9)
    assert sorted(fetches.segments) == sorted(order[3 : 3 + SEGMENTS_AHEAD])


def test_reads_in_another_order_fetch_nothing(fetches: Fetches) -> None:
    with reading(fetches, list(range(SEGMENTS))) as ahead:
        for segment in [*range(0, SEGMENTS, 2), *range(SEGMENTS - 1, 0, -2)][::-1]:
            ahead.note_read(segment)
    backwards = Fetches()
    with reading(backwards, list(range(SEGMENTS))) as ahead:
        for segment in range(0, SEGMENTS, 2):
            ahead.note_read(segment)
    assert backwards.segments == []


def test_the_waiting_fetches_are_bounded(fetches: Fetches) -> None:
    fetches.gate.clear()
    with reading(fetches, list(range(SEGMENTS))) as ahead:
        for segment in range(SEGMENTS):
            ahead.note_read(segment)
        fetches.gate.set()
    assert len(fetches.segments) == 2 * SEGMENTS_AHEAD


def test_a_fetch_that_is_of_no_use_is_the_last(fetches: Fetches) -> None:
    fetches.is_useful = False
    with reading(fetches, list(range(SEGMENTS))) as ahead:
        for segment in range(3):
            ahead.note_read(segment)
        ahead.wait()
        before = len(fetches.segments)
        for segment in range(3, SEGMENTS):
            ahead.note_read(segment)
    assert len(fetches.segments) == before <= SEGMENTS_AHEAD


@pytest.fixture
def large(empty: Installation, tmp_path: Path) -> Path:
    """1.0.0 has a disk of 40 MiB of random data: ten segments."""
    raw = tmp_path / "large.raw"
    raw.write_bytes(random.Random(3).randbytes(40 * MIB))
    publish(empty, raw, targets=["southcentralus", "eastus"])
    return raw


def read_start(opened: LazyDisk, source: bytes, segments: int = 3) -> None:
    for offset in range(0, segments * 4 * MIB, MIB):
        assert opened.read_at(offset, MIB) == source[offset : offset + MIB]


def away(zone: Path) -> Callable[[], object]:
    zone.rename(zone.with_name("away"))
    return lambda: zone.with_name("away").rename(zone)


def test_a_reader_in_order_finds_the_next_segments_in_the_cache(empty: Installation, large: Path) -> None:
    source = large.read_bytes()
    with open_lazy_image(empty, ADMIN, reference=REFERENCE) as opened:
        read_start(opened, source)
        opened.read_ahead.wait()
        at = 12 * MIB
        assert opened.read_cached(at, 3 * MIB) == source[at : at + 3 * MIB]
        assert bytes(opened.read_at(0, len(source))) == source
        assert opened.fetched_bytes == sum(opened.reads.stored_bytes.values()), "each segment is fetched once"


def test_a_small_cache_is_not_filled_ahead(empty: Installation, large: Path) -> None:
    with (
        open_home(empty.home, environ={"IMGSTORE_CACHE_BYTES": str(CACHE_BYTES_MIN - 1)}) as small,
        open_lazy_image(small, ADMIN, reference=REFERENCE) as opened,
    ):
        read_start(opened, large.read_bytes())
        opened.read_ahead.wait()
        assert opened.read_cached(13 * MIB, 4096) is None


def test_nothing_is_fetched_ahead_from_another_region(empty: Installation, large: Path) -> None:
    with open_lazy_image(empty, ADMIN, reference=REFERENCE, location="eastus") as opened:
        bring_back = away(empty.home / "regions" / "imgstore-eastus" / "zone-1")
        read_start(opened, large.read_bytes())
        opened.read_ahead.wait()
        assert empty.locator.is_avoided(opened.pinned.slot)
        assert opened.read_cached(13 * MIB, 4096) is None
        bring_back()
