"""Tests of ingests: every disk is read back byte for byte, after failures too."""

import itertools
import random
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transfer_disks import BLOCK, MIB, PIECE, PREFIX, Disk, Store, assemble, content, disk, ingest_disk, slot, uid

from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import ImageRefused, SourceChanged, StoreError, StoreFull, StoreUnreachable
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import digest_of, disk_digest
from imgstore.domain.storage.latency import THREADS_MAX
from imgstore.domain.storage.sizes import BLOCK_BYTES
from imgstore.segments.manifest import VIRTUAL_BYTES_MAX, Manifest, decode_manifest, piece_bytes
from imgstore.stores import DirectoryStore, ObjectInfo
from imgstore.stores.interface import Body
from imgstore.transfer.ingest import touched_pieces
from imgstore.transfer.ranges import RangeReader
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.segment_cache import SegmentCache
from tests.support.faulty_store import Fault, FaultyStore, Kind, flip_first_bit

many = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])

stretch = st.tuples(
    st.sampled_from([0, 1, 500, 1020, 1024, 2047, 2100]),
    st.integers(1, 40),
    st.sampled_from([-3, 0, 1, 10, 100]),
    st.sampled_from([0, 1]),
)
"""(first block, count, first content, step of content): overlapping ranges share content; step 0 repeats a block."""


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    virtual_bytes = draw(st.sampled_from([1, BLOCK - 1, 5 * BLOCK, PIECE, 2 * PIECE + 100 * BLOCK + 17]))
    blocks: dict[int, int] = {}
    for first, count, number, step in draw(st.lists(stretch, max_size=5)):
        blocks |= {first + place: number + place * step for place in range(count)}
    end = -(-virtual_bytes // BLOCK)
    return Disk(virtual_bytes, {block: number for block, number in blocks.items() if block < end})


def by_ranges(manifest: Manifest, store: Store, scratch: Path, step: int) -> bytes:
    """Read without a cache."""
    reader = RangeReader(manifest, SegmentReader([slot(store)]), SegmentCache(scratch / "none", cache_bytes=0))
    end = manifest.virtual_bytes
    return b"".join(reader.read_at(offset, min(step, end - offset)) for offset in range(0, end, step))


def check(source: Disk, receipt: IngestReceipt, store: Store) -> None:
    """Compare the assembled disk with the source, and the receipt with the slot."""
    manifest = decode_manifest(receipt.data)
    assert assemble(manifest, slot(store)) == source.whole()
    pieces = [
        (index, source.part(index * PIECE, piece_bytes(source.virtual_bytes, index)))
        for index in range(-(-source.virtual_bytes // PIECE))
    ]
    digests = [(index, digest_of(data)) for index, data in pieces if any(data)]
    assert manifest.disk_digest == disk_digest(source.virtual_bytes, digests)
    present = slot(store).list_segments().present
    table = manifest.segments
    assert [each.name for each in receipt.segments] == table.all_names()
    for row, each in enumerate(receipt.segments):
        assert present[each.name] == each.stored_bytes == table.stored_bytes[row]
        assert (each.blocks, each.work_uid) == (table.blocks[row], manifest.works[table.work[row]].uid)
    assert set(manifest.runs.segment.tolist()) == set(range(len(table))), "every named segment is used"


@many
@given(disks(), disks(), disks())
def test_random_disks_are_read_back_byte_for_byte(one: Disk, two: Disk, three: Disk) -> None:
    """The first disk has no base, the second has the first, the third has both."""
    store, manifests = Store(), list[Manifest]()
    # Invariant B7.
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for work, source in enumerate((one, two, three), 1):
            receipt = ingest_disk(source, slot(store), scratch, bases=manifests, work=work)
            assert not receipt.missing
            check(source, receipt, store)
            assert by_ranges(receipt.manifest, store, scratch, 77_777) == source.whole()
            manifests.append(receipt.manifest)
        assert not list(scratch.iterdir()), "no file remains"


def shuffled(seed: int, count: int = 2600, kinds: int = 2300) -> Disk:
    """Make a disk of less than two segments, with repeated blocks, holes and a short last block."""
    random_ = random.Random(seed)
    places = random_.sample(range(3 * 1024 - 1), count)
    return Disk(3 * PIECE - 5, {place: random_.randrange(1, kinds) for place in places})


@pytest.fixture(scope="module")
def first() -> Disk:
    return shuffled(1)


def test_threads_change_nothing(first: Disk, tmp_path: Path) -> None:
    made = [ingest_disk(first, slot(Store()), tmp_path, workers=workers).data for workers in (1, 4)]
    # Invariant I3.
    assert made[0] == made[1]


def test_equal_blocks_are_packed_once_at_any_place(first: Disk, tmp_path: Path) -> None:
    receipt = ingest_disk(first, slot(Store()), tmp_path)
    assert sum(each.blocks for each in receipt.segments) == len(set(first.blocks.values()))
    repeated = disk(*[7] * 2000, 8, 7)
    assert [each.blocks for each in ingest_disk(repeated, slot(Store()), tmp_path).segments] == [2]


def test_a_repeated_ingest_sends_nothing(first: Disk, tmp_path: Path) -> None:
    store = Store()
    receipt = ingest_disk(first, slot(store), tmp_path)
    store.asked.clear()
    again = ingest_disk(first, slot(store), tmp_path)
    assert store.keys("put") == []
    assert again.data == receipt.data
    assert (again.sent_bytes, again.packed_bytes) == (0, receipt.sent_bytes)
    assert all(each.checksum is None for each in again.segments)


class Killed(Exception):
    pass


def dying(after: int) -> Callable[[], None]:
    lock, left = threading.Lock(), [after]

    def check_cancelled() -> None:
        with lock:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

    return check_cancelled


@many
@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.booleans())
def test_a_killed_ingest_resumes(first: Disk, deaths: list[int], over_a_base: bool) -> None:
    """The result equals an uninterrupted ingest, and each segment is sent once in all."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, store, calm = Path(folder), Store(), Store()
        source, bases = first, list[Manifest]()
        if over_a_base:
            for each in (store, calm):
                bases = [ingest_disk(first, slot(each), scratch).manifest]
            source = shuffled(2, kinds=4000)
        expected = ingest_disk(source, slot(calm), scratch, bases=bases, work=2)
        store.asked.clear()
        for after in deaths:
            with suppress(Killed):
                ingest_disk(source, slot(store), scratch, bases=bases, work=2, check_cancelled=dying(after))
        receipt = ingest_disk(source, slot(store), scratch, bases=bases, work=2)
        assert receipt.data == expected.data
        assert slot(store).list_segments() == slot(calm).list_segments()
        assert sorted(store.keys("put")) == sorted(set(store.keys("put")))


@pytest.mark.parametrize(("requests", "got"), [(0, 0), (1, 1)])
def test_no_request_begins_after_cancellation(first: Disk, tmp_path: Path, requests: int, got: int) -> None:
    """No fingerprints of the base are fetched. Without anything to send, the source is not read either."""
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    first.reads.clear()
    store.asked.clear()
    with pytest.raises(Killed):
        ingest_disk(first, slot(store), tmp_path, bases=[base], check_cancelled=dying(requests))
    assert first.reads == []
    assert len(store.keys("get", "fingerprints/")) == got
    assert store.keys("put", "") == []


def test_a_tebibyte_of_holes_stores_nothing(tmp_path: Path) -> None:
    end = (1 << 40) // BLOCK
    source = Disk(1 << 40, {0: 1, end // 2: 2, end - 1: 3})
    store = Store()
    tracemalloc.start()
    try:
        receipt = ingest_disk(source, slot(store), tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [length for _, length in source.reads if length > BLOCK] == [PIECE] * 3
    assert peak < 64 * MIB
    assert len(receipt.data) < 1000
    assert receipt.packed_bytes <= 3 * BLOCK + 16
    with closing(SegmentCache(tmp_path)) as cache:
        reader = RangeReader(receipt.manifest, SegmentReader([slot(store)]), cache)
        assert reader.read_at((1 << 40) - BLOCK, BLOCK) == content(3)
        assert reader.read_at(1 << 30, 100) == bytes(100)


def test_an_empty_disk_is_a_manifest_alone(tmp_path: Path) -> None:
    store, source = Store(), Disk(PIECE + 1, {0: 0, 1024: 0})
    receipt = ingest_disk(source, slot(store), tmp_path)
    assert store.keys("put", "") == []
    assert receipt.segments == ()
    check(source, receipt, store)


def test_moved_bytes_are_the_bytes_of_touched_pieces(tmp_path: Path) -> None:
    source = Disk(2 * PIECE + 100, {3: 1, 1025: 0, 2048: 2})
    moved: list[int] = []
    ingest_disk(source, slot(Store()), tmp_path, on_moved=moved.append)
    assert moved == [PIECE, PIECE, 100]


def test_touched_pieces_are_reported_once() -> None:
    class Extents(Disk):
        def extents(self) -> Iterator[Extent]:
            return iter(
                [Extent(offset=5, length=1), Extent(offset=9, length=PIECE), Extent(offset=5 * PIECE - 1, length=2)]
            )

    assert list(touched_pieces(Extents(9 * PIECE, {}))) == [0, 1, 4, 5]


@pytest.mark.parametrize("size", [0, VIRTUAL_BYTES_MAX + 1])
def test_a_size_beyond_the_limit_of_manifests_is_refused(size: int, tmp_path: Path) -> None:
    source = Disk(size, {0: 1})
    with pytest.raises(ImageRefused):
        ingest_disk(source, slot(Store()), tmp_path)
    # Invariant B8.
    assert source.reads == []


def test_a_source_that_changed_is_never_published(first: Disk, tmp_path: Path) -> None:
    source = Disk(first.virtual_bytes, first.blocks)
    before = source.identity()
    source.stamp = "2"
    with pytest.raises(SourceChanged) as caught:
        ingest_disk(source, slot(Store()), tmp_path, identity=before)
    assert caught.value.status == 409
    assert "stamp 2" in (caught.value.found or "")


def test_a_source_of_high_latency_is_read_by_more_threads(tmp_path: Path) -> None:
    together = threading.Barrier(THREADS_MAX)

    class Far(Disk):
        def read_at(self, offset: int, length: int) -> bytes:
            if length > BLOCK:  # a piece, and no latency probe
                together.wait(timeout=20)
            return super().read_at(offset, length)

    blocks = {number * PIECE // BLOCK: number + 1 for number in range(THREADS_MAX)}
    far = Far(THREADS_MAX * PIECE, blocks)
    seconds = itertools.count(0.0, 1.0)
    taken = ingest_disk(far, slot(Store()), tmp_path, monotonic=lambda: next(seconds))
    assert len(taken.manifest.pieces) == THREADS_MAX


# Stores that fail.


def test_a_full_store_stops_an_ingest(first: Disk, tmp_path: Path) -> None:
    full = StoreFull("No room.", hint="make room")
    store = Store()
    faulty = FaultyStore(store, [Fault(method="put", calls=frozenset({2}), key_part="segments/", error=lambda: full)])
    with pytest.raises(StoreFull):
        ingest_disk(first, slot(faulty), tmp_path, workers=1)
    assert len(store.keys("put")) == 1


def test_the_error_of_the_store_is_raised_while_it_holds_the_body(first: Disk, tmp_path: Path) -> None:
    """The fingerprints are sent from mapped memory, which the traceback of an error may still refer to."""

    class Holding(Store):
        def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
            rest = memoryview(body)[1:]
            if "fingerprints/" in key:
                raise StoreFull("No room.", found=f"{len(rest)} bytes")
            return super().put(key, body, only_if_absent=only_if_absent)

    with pytest.raises(StoreFull):
        ingest_disk(first, slot(Holding()), tmp_path)


def test_a_lost_answer_is_repaired_by_a_repeated_ingest(first: Disk, tmp_path: Path) -> None:
    store = Store()
    faulty = FaultyStore(store, [Fault(method="put", calls=frozenset({3}), kind=Kind.LOST)])
    with pytest.raises(StoreUnreachable):
        ingest_disk(first, slot(faulty), tmp_path)
    check(first, ingest_disk(first, slot(store), tmp_path), store)
    assert len(store.keys("put")) == len(set(store.keys("put")))


def test_a_store_without_checksums_is_read_back(tmp_path: Path) -> None:
    class Trusting(Store):
        properties = FaultyStore(DirectoryStore(tmp_path / "d")).properties.__class__(
            verifies_checksum=False, server_side_copy=False, atomic_create=False
        )

    damaged = FaultyStore(Trusting(), [Fault(method="get", key_part="segments/", kind=Kind.DAMAGED)])
    with pytest.raises(StoreError):
        ingest_disk(disk(1, 2, 3), slot(damaged), tmp_path)
    sound = Trusting()
    receipt = ingest_disk(disk(1, 2, 3), slot(sound), tmp_path)
    assert len(sound.keys("get")) == len(receipt.segments) == 1


def test_ingest_into_a_directory(first: Disk, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    there = slot(DirectoryStore(tmp_path / "store"))
    receipt = ingest_disk(first, there, tmp_path / "scratch")
    assert assemble(receipt.manifest, there) == first.whole()
    again = ingest_disk(first, there, tmp_path / "scratch", bases=[receipt.manifest], work=2)
    assert (again.sent_bytes, again.packed_bytes) == (0, 0)


def test_other_objects_among_the_segments_are_ignored(tmp_path: Path) -> None:
    store = Store()
    for key in ("segments/README", "segments/ab/notes.txt", f"segments/ab/{'0' * 64}", f"segments/00/{'0' * 65}"):
        store.put(PREFIX + key, b"x")
    assert slot(store).list_segments().present == {}
    check(disk(1, 2), ingest_disk(disk(1, 2), slot(store), tmp_path), store)


# Bases.


def key_of(name: bytes) -> str:
    return PREFIX + object_keys.segment_key(name)


def test_a_moved_base_is_not_sent_again(first: Disk, tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    moved = Disk(first.virtual_bytes + 3 * PIECE, {block + 777: number for block, number in first.blocks.items()})
    receipt = ingest_disk(moved, slot(store), tmp_path, bases=[base], work=2)
    assert receipt.packed_bytes == 0
    assert [work.uid for work in receipt.manifest.works] == [uid(1)]
    check(moved, receipt, store)


def test_equal_pieces_take_the_runs_of_the_base_without_look_ups(
    first: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    monkeypatch.setattr("imgstore.transfer.ingest.fingerprint_blocks", None)
    again = ingest_disk(first, slot(store), tmp_path, bases=[base], work=2)
    # Invariant I2.
    assert again.manifest.runs.block.tolist() == base.runs.block.tolist()


def test_a_missing_base_segment_is_packed_again_and_reported(first: Disk, tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    missing = base.segments.name(1)
    store.delete([key_of(missing)])
    receipt = ingest_disk(first, slot(store), tmp_path, bases=[base], work=2)
    assert receipt.missing == {missing}
    # Invariant I13.
    check(first, receipt, store)


def test_a_base_segment_of_another_length_is_missing(first: Disk, tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    store.put(key_of(base.segments.name(0)), b"short")
    receipt = ingest_disk(first, slot(store), tmp_path, bases=[base], work=2)
    assert receipt.missing == {base.segments.name(0)}
    check(first, receipt, store)


@pytest.mark.parametrize("how", ["damaged", "missing", "another's"])
def test_unreadable_fingerprints_are_rebuilt(how: str, first: Disk, tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    key = PREFIX + object_keys.fingerprints_key(uid(1))
    whole = store.get(key)
    store.delete([key])
    if how != "missing":
        store.put(key, flip_first_bit(whole) if how == "damaged" else whole[:16] + bytes(16) + whole[32:])
    store.asked.clear()
    moved = Disk(first.virtual_bytes + PIECE, {block + 7: number for block, number in first.blocks.items()})
    receipt = ingest_disk(moved, slot(store), tmp_path, bases=[base], work=2)
    assert receipt.packed_bytes == 0
    assert len(store.keys("get")) == len(base.segments)
    assert not receipt.missing
    # Invariant B14.
    check(moved, receipt, store)


def damage(store: Store, name: bytes) -> None:
    store.put(key_of(name), flip_first_bit(store.get(key_of(name))))


def test_a_damaged_base_segment_is_found_when_its_fingerprints_are_rebuilt(first: Disk, tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(first, slot(store), tmp_path).manifest
    store.delete([PREFIX + object_keys.fingerprints_key(uid(1))])
    damage(store, base.segments.name(0))
    receipt = ingest_disk(first, slot(store), tmp_path, bases=[base], work=2)
    assert receipt.missing == {base.segments.name(0)}
    check(first, receipt, store)


def test_a_damaged_base_segment_is_not_repacked(tmp_path: Path) -> None:
    """Otherwise a version would fail for ever, because each attempt follows the same plan to the same damage."""
    store = Store()
    base = ingest_disk(disk(*range(1, 2500)), slot(store), tmp_path).manifest
    few = disk(*range(5000, 5100), *range(1, 100), *range(1100, 1200))
    calm = ingest_disk(few, slot(store), tmp_path, bases=[base], work=2)
    assert calm.repacked_blocks == 199
    damage(store, base.segments.name(0))
    receipt = ingest_disk(few, slot(store), tmp_path, bases=[base], work=2)
    assert receipt.missing == {base.segments.name(0)}
    assert receipt.repacked_blocks == 100
    check(few, receipt, store)


def test_several_bases_share_one_numbering(first: Disk, tmp_path: Path) -> None:
    store = Store()
    one = ingest_disk(first, slot(store), tmp_path).manifest
    other = ingest_disk(shuffled(2, kinds=4000), slot(store), tmp_path, bases=[one], work=2).manifest
    third = Disk(2 * first.virtual_bytes, {n: n for n in range(1, 4000)})
    receipt = ingest_disk(third, slot(store), tmp_path, bases=[other, one, other], work=3)
    check(third, receipt, store)
    names = receipt.manifest.segments.all_names()
    assert len(names) == len(set(names))
    known = set(first.blocks.values()) | set(shuffled(2, kinds=4000).blocks.values())
    assert sum(each.blocks for each in receipt.segments if each.work_uid == uid(3)) - receipt.repacked_blocks == len(
        set(range(1, 4000)) - known
    )


def test_a_sampled_base_still_deduplicates_correctly(
    first: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    source = disk(*range(1, 2049))
    base = ingest_disk(source, slot(store), tmp_path).manifest
    from imgstore.segments.fingerprint_index import BaseIndex

    build = BaseIndex.build
    monkeypatch.setattr(BaseIndex, "build", lambda segments, **how: build(segments, **how, entries_max=10))
    moved = disk(*range(4000, 4005), *range(1, 2049))
    receipt = ingest_disk(moved, slot(store), tmp_path, bases=[base], work=2)
    assert sum(each.blocks for each in receipt.segments if each.work_uid == uid(2)) < 50
    check(moved, receipt, store)


def test_a_disk_is_complete_if_the_image_index_discards_its_first_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal blocks are then packed twice, into segments that may have the same name."""
    from imgstore.segments.fingerprint_index import ImageIndex

    monkeypatch.setattr("imgstore.transfer.ingest.ImageIndex", lambda: ImageIndex(entries_max=2))
    store = Store()
    twice = disk(*range(1, 2049), *range(1, 2049))
    check(twice, ingest_disk(twice, slot(store), tmp_path), store)
    assert len(slot(store).list_segments().present) == 2


def test_eight_rebuilds_stay_within_the_reuse_threshold(tmp_path: Path) -> None:
    """Each rebuild has another order of files and a quarter of changed files (invariants I10, I11)."""
    store, random_ = Store(), random.Random(5)
    files = [list(range(begin, begin + 20)) for begin in range(1, 3001, 20)]
    following, bases, repacked = 10_000, list[Manifest](), 0
    for work in range(1, 9):
        random_.shuffle(files)
        source = disk(*(number for file in files for number in file), 0, 0)
        receipt = ingest_disk(source, slot(store), tmp_path, bases=bases[-1:], work=work)
        check(source, receipt, store)
        distinct = len({number for file in files for number in file})
        table = receipt.manifest.segments
        assert int(table.blocks.sum()) <= 4 * distinct
        assert len(table) <= 2 * -(-distinct // 1024) + 16
        repacked += receipt.repacked_blocks
        bases.append(receipt.manifest)
        for file in random_.sample(files, len(files) // 4):
            file[:] = range(following, following + 20)
            following += 20
    assert 0 < repacked < 3000


def test_repacked_blocks_follow_the_new_blocks_in_disk_order(tmp_path: Path) -> None:
    store = Store()
    base = ingest_disk(disk(*range(1, 1025)), slot(store), tmp_path).manifest
    few = disk(500, 7000, 3, 7001, 900, 3)
    asked: list[tuple[Path, int]] = []
    receipt = ingest_disk(
        few,
        slot(store),
        tmp_path,
        bases=[base],
        work=2,
        check_scratch=lambda folder, needed_bytes: asked.append((folder, needed_bytes)),
    )
    assert receipt.repacked_blocks == 3
    assert asked == [(tmp_path, 3 * BLOCK_BYTES)]
    (packed,) = receipt.segments
    expected = b"".join(content(number) for number in (7000, 7001, 500, 3, 900))
    assert bytes(slot(store).segment_blocks(packed.name)) == expected
    assert np.array_equal(receipt.manifest.runs.at, [2, 0, 3, 1, 4, 3])
    check(few, receipt, store)
    # Its fingerprints equal the fingerprints of blocks that were read from the source.
    again = ingest_disk(disk(900, 3, 500, 7001), slot(store), tmp_path, bases=[receipt.manifest], work=3)
    # Invariant I12.
    assert again.packed_bytes == 0
