"""Tests of reads by segment and by range, and of the check before publishing: wrong bytes are never returned."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_disks import (
    PIECE,
    PREFIX,
    Disk,
    Store,
    Target,
    assemble,
    disk,
    ingest_disk,
    slot,
    uid,
)

from imgstore.domain.errors import (
    InvalidInput,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreUnreachable,
)
from imgstore.domain.settings.disk_space import allocated_bytes
from imgstore.domain.storage import object_keys
from imgstore.segments.manifest import Column, Manifest
from imgstore.stores import ObjectStore
from imgstore.transfer.in_order import pieces_in_order
from imgstore.transfer.ranges import RangeReader
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.segment_cache import SegmentCache
from imgstore.transfer.slot_access import SlotAccess, never_cancelled
from imgstore.transfer.spot_check import check_assembly, choose_pieces
from imgstore.transfer.stored_disk import StoredDisk
from tests.support.faulty_store import Fault, FaultyStore, Kind

SOURCE = Disk(
    3 * PIECE - 5,
    {n: n + 1 for n in range(1500)} | {n: n for n in range(2100, 2600)} | {3 * 1024 - 1: 9, 1600: -4},
)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Store]:
    store = Store()
    return ingest_disk(SOURCE, slot(store), tmp_path_factory.mktemp("scratch")).manifest, store


def gather(
    manifest: Manifest, *slots: SlotAccess, only: Column | None = None
) -> tuple[bytes, SegmentReader, list[int]]:
    target = Target(manifest.virtual_bytes)
    reader, moved = SegmentReader(slots), list[int]()
    scatter(manifest, reader, target, workers=3, check_cancelled=never_cancelled, on_moved=moved.append, only=only)
    return bytes(target.data), reader, moved


# By segment.


def test_a_stored_disk_is_whole_when_the_kernel_writes_fewer_bytes(
    taken: tuple[Manifest, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, store = taken
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, memoryview(data)[:1000], offset))
    reader = StoredDisk(
        manifest,
        SegmentReader((slot(store),)),
        location="x",
        digest=manifest.disk_digest,
        scratch=tmp_path,
        workers=2,
        check_cancelled=never_cancelled,
    )
    try:
        assert reader.read_at(0, manifest.virtual_bytes) == SOURCE.whole()
    finally:
        reader.close()


def test_each_segment_is_fetched_once(taken: tuple[Manifest, Store]) -> None:
    manifest, store = taken
    store.asked.clear()
    data, _, moved = gather(manifest, slot(store))
    assert data == SOURCE.whole()
    assert sorted(store.keys("get")) == sorted(
        PREFIX + object_keys.segment_key(name) for name in manifest.segments.all_names()
    )
    assert sum(moved) == manifest.content_bytes - 5


def test_pieces_in_order_are_verified_and_read_each_segment_once(tmp_path: Path) -> None:
    """Invariants D5 and D8. Every piece also uses the first segment."""
    source = Disk(
        20 * PIECE - 5,
        {n: n + 1 for n in range(20 * 1024) if not 3 * 1024 <= n < 5 * 1024} | {n * 1024: 5 for n in range(20)},
    )
    store = Store()
    manifest = ingest_disk(source, slot(store), tmp_path).manifest
    store.asked.clear()
    target = bytearray(manifest.virtual_bytes)

    def fill(store: ObjectStore) -> list[int]:
        reader = SegmentReader([slot(store)])
        offsets = []
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder, closing(SegmentCache(Path(folder))) as cache:
            pieces = pieces_in_order(manifest, reader, cache, workers=3, check_cancelled=never_cancelled)
            for offset, data in pieces:
                target[offset : offset + len(data)] = data
                offsets.append(offset)
        return offsets

    assert fill(store) == [n * PIECE for n in range(20)]
    assert bytes(target) == source.whole()
    assert len(store.keys("get")) == len(manifest.segments)
    damaged = FaultyStore(store, [Fault(method="get", key_part=manifest.segments.name(0).hex(), kind=Kind.DAMAGED)])
    with pytest.raises(ObjectCorrupt):
        fill(damaged)


def test_an_empty_disk_needs_no_request(tmp_path: Path) -> None:
    store = Store()
    manifest = ingest_disk(Disk(100, {}), slot(store), tmp_path).manifest
    store.asked.clear()
    assert gather(manifest, slot(store)) == (bytes(100), gather(manifest, slot(store))[1], [])
    assert store.asked == []


def test_chosen_pieces_only(taken: tuple[Manifest, Store]) -> None:
    manifest, store = taken
    data, _, moved = gather(manifest, slot(store), only=np.array([2]))
    assert data == bytes(2 * PIECE) + SOURCE.part(2 * PIECE, PIECE - 5)
    assert sum(moved) < PIECE


@pytest.mark.parametrize("kind", [Kind.DAMAGED, Kind.REFUSED])
def test_the_second_slot_serves_segments_that_the_first_cannot(taken: tuple[Manifest, Store], kind: Kind) -> None:
    manifest, store = taken
    bad = manifest.segments.name(1)
    first = slot(FaultyStore(store, [Fault(method="get", key_part=bad.hex(), kind=kind)]), "first")
    data, reader, _ = gather(manifest, first, slot(store, "second"))
    assert data == SOURCE.whole()
    (damage,) = reader.damages
    assert (damage.slot.label, damage.name, damage.error.retryable) == ("first", bad, kind is Kind.REFUSED)


def test_without_a_serving_slot_the_error_of_the_first_is_raised(taken: tuple[Manifest, Store]) -> None:
    manifest, store = taken
    dead = FaultyStore(store)
    dead.die()
    reader = SegmentReader([slot(dead, "dead"), slot(Store(), "empty")])
    with pytest.raises(StoreUnreachable):
        reader.blocks(manifest.segments.name(0))
    assert [type(damage.error) for damage in reader.damages] == [StoreUnreachable, ObjectNotFound]


def test_nothing_is_fetched_after_cancellation(taken: tuple[Manifest, Store]) -> None:
    manifest, store = taken

    def check_cancelled() -> None:
        raise InterruptedError

    store.asked.clear()
    with pytest.raises(InterruptedError):
        scatter(
            manifest,
            SegmentReader([slot(store)]),
            Target(manifest.virtual_bytes),
            workers=2,
            check_cancelled=check_cancelled,
            on_moved=lambda _bytes: None,
        )
    assert store.asked == []


# By range.


@contextmanager
def ranges(manifest: Manifest, store: Store, scratch: Path, segments: int) -> Iterator[RangeReader]:
    cache = SegmentCache(scratch, cache_bytes=segments * (PIECE + 4096))
    try:
        yield RangeReader(manifest, SegmentReader([slot(store)]), cache)
    finally:
        cache.close()


@given(data=st.data())
def test_any_range_equals_the_disk(
    taken: tuple[Manifest, Store], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    manifest, store = taken
    with ranges(manifest, store, tmp_path_factory.getbasetemp(), data.draw(st.integers(1, 2))) as reader:
        for _ in range(3):
            offset = data.draw(st.integers(0, reader.virtual_bytes - 1))
            length = min(data.draw(st.integers(1, 9000) | st.just(PIECE)), reader.virtual_bytes - offset)
            assert reader.read_at(offset, length) == SOURCE.part(offset, length)


def test_a_segment_in_the_cache_is_not_fetched_again(taken: tuple[Manifest, Store], tmp_path: Path) -> None:
    manifest, store = taken
    store.asked.clear()
    with ranges(manifest, store, tmp_path, 10) as reader:
        for offset in (0, 5000, 3, 0):
            reader.read_at(offset, 100)
        assert len(store.keys("get")) == 1


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (0, 0), (SOURCE.virtual_bytes, 1), (0, 3 * PIECE), (1 << 60, 1)]
)
def test_a_range_beyond_the_disk_is_refused(
    taken: tuple[Manifest, Store], tmp_path: Path, offset: int, length: int
) -> None:
    with ranges(*taken, tmp_path, 1) as reader, pytest.raises(InvalidInput):
        reader.read_at(offset, length)


# Before publishing.


def mixed(scratch: Path) -> tuple[Manifest, Store]:
    """A base of three pieces, and a disk over this base with a new block in each piece."""
    store = Store()
    base = ingest_disk(disk(*range(1, 3073)), slot(store), scratch).manifest
    numbers = list(range(1, 3073))
    for piece in range(3):
        numbers[piece * 1024 + 5] = 90_000 + piece
    return ingest_disk(disk(*numbers), slot(store), scratch, bases=[base], work=2).manifest, store


def check_disk(manifest: Manifest, store: Store, scratch: Path, *, full: bool = False, work: int = 2) -> None:
    check_assembly(
        manifest,
        SegmentReader([slot(store)]),
        work_uid=uid(work),
        full=full,
        scratch=scratch,
        workers=2,
        check_cancelled=never_cancelled,
    )


def broken(manifest: Manifest, row: int) -> Manifest:
    """Shift a run by a block in its segment."""
    at = manifest.runs.at.copy()
    at[row] += 1 if at[row] < 1000 else -1
    return replace(manifest, runs=replace(manifest.runs, at=at))


def test_a_correct_manifest_passes(tmp_path: Path) -> None:
    manifest, store = mixed(tmp_path)
    check_disk(manifest, store, tmp_path)
    check_disk(manifest, store, tmp_path, full=True)
    assert not list(tmp_path.iterdir())


def test_a_check_stores_only_bytes_that_are_read_back(tmp_path: Path) -> None:
    manifest, store = mixed(tmp_path)
    most_bytes = 0

    def look() -> None:
        nonlocal most_bytes
        most_bytes = max(most_bytes, allocated_bytes(tmp_path))

    reader = SegmentReader([slot(store)])
    check_assembly(manifest, reader, work_uid=uid(2), full=True, scratch=tmp_path, workers=2, check_cancelled=look)
    assert most_bytes == 0, "all blocks of these pieces fit into memory"


def test_a_wrong_run_in_a_mixed_piece_is_found(tmp_path: Path) -> None:
    manifest, store = mixed(tmp_path)
    wrong = broken(manifest, 0)
    assert choose_pieces(wrong, uid(2), full=False).tolist() == [0], "at least one in sixteen"
    with pytest.raises(ObjectCorrupt, match="piece at byte 0 "):
        check_disk(wrong, store, tmp_path)


def test_a_full_check_finds_any_wrong_run(tmp_path: Path) -> None:
    manifest, store = mixed(tmp_path)
    for row in range(len(manifest.runs)):
        if manifest.runs.count[row] < 1024:
            with pytest.raises(ObjectCorrupt):
                check_disk(broken(manifest, row), store, tmp_path, full=True)


def test_a_damaged_base_segment_is_found(tmp_path: Path) -> None:
    manifest, store = mixed(tmp_path)
    key = PREFIX + object_keys.segment_key(manifest.segments.name(0))
    store.put(key, bytes(len(store.get(key))))
    with pytest.raises(ObjectCorrupt):
        check_disk(manifest, store, tmp_path)


def test_one_in_sixteen_mixed_pieces_is_checked(tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(Disk(40 * PIECE, {n * 1024: n + 1 for n in range(40)}), slot(store), tmp_path).manifest
    both = Disk(40 * PIECE, {n * 1024: n + 1 for n in range(40)} | {n * 1024 + 1: 500 + n for n in range(40) if n != 3})
    manifest = ingest_disk(both, slot(store), tmp_path, bases=[base], work=2).manifest
    assert choose_pieces(manifest, uid(2), full=False).tolist() == [0, 17, 33]
    assert len(choose_pieces(manifest, uid(2), full=True)) == 40


def test_pieces_that_are_not_mixed_need_no_check(tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(disk(1, 2, 3), slot(store), tmp_path).manifest
    assert len(choose_pieces(base, uid(1), full=False)) == 0
    again = ingest_disk(disk(3, 2), slot(store), tmp_path, bases=[base], work=2).manifest
    store.asked.clear()
    check_disk(again, store, tmp_path)
    assert store.asked == []
    assert assemble(again, slot(store)) == disk(3, 2).whole()


@pytest.mark.parametrize("error", [StoreError, StoreDenied, StoreFull, StoreMismatch, StoreUnreachable])
def test_a_failing_store_proves_no_damage(taken: tuple[Manifest, Store], error: type[StoreError]) -> None:
    """A missing bucket, or an unreadable answer, proves nothing about a segment (invariants R15, Z10)."""
    manifest, store = taken
    broken_store = FaultyStore(store, [Fault(error=lambda: error("no", found="a reason"))])
    reader = SegmentReader([slot(broken_store)])
    with pytest.raises(error):
        reader.body(manifest.segments.name(0))
    assert [each.is_certain for each in reader.damages] == [False]
