"""Tests of copies: only missing segments, never damaged segments, and no request after a failure."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transfer_disks import PREFIX, Store, assemble, disk, ingest_disk, slot

from imgstore.domain.errors import LeaseLost, ObjectCorrupt, ObjectNotFound, StoreUnreachable
from imgstore.domain.storage import object_keys
from imgstore.segments.manifest import Manifest
from imgstore.stores.interface import Accept
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.copy import CopyOrder, copy_segments, plan_segments
from imgstore.transfer.receipts import CopyReceipt
from tests.support.faulty_store import Fault, FaultyStore, Kind, flip_first_bit

SOURCE = disk(*range(1, 5 * 1024))


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Store]:
    store = Store()
    return ingest_disk(SOURCE, slot(store), tmp_path_factory.mktemp("scratch")).manifest, store


def sizes(manifest: Manifest) -> dict[bytes, int]:
    return dict(zip(manifest.segments.all_names(), manifest.segments.stored_bytes.tolist(), strict=True))


def order(manifest: Manifest, source: Any, target: Any, **changed: Any) -> CopyOrder:
    made = CopyOrder(
        sources=[slot(source, "source")],
        target=slot(target, "target"),
        segments=sizes(manifest),
        unrecorded=frozenset(sizes(manifest)),
        target_objects=0,
    )
    return replace(made, **changed)


def run_copy(made: CopyOrder, workers: int = 4) -> CopyReceipt:
    return copy_segments(made, *plan_segments(made), workers=workers)


def with_some(manifest: Manifest, source: Store, count: int) -> Store:
    target = Store()
    for name in manifest.segments.all_names()[:count]:
        target.put(key(name), source.get(key(name)))
    target.asked.clear()
    return target


def key(name: bytes) -> str:
    return PREFIX + object_keys.segment_key(name)


def test_an_empty_slot_gets_every_segment(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    target, moved = Store(), list[int]()
    receipt = run_copy(order(manifest, source, target, on_moved=moved.append))
    assert assemble(manifest, slot(target)) == SOURCE.whole()
    assert (receipt.sent, receipt.sent_bytes) == (len(manifest.segments), manifest.stored_bytes)
    assert sum(moved) == manifest.stored_bytes
    assert receipt.checksums == {name: target.head(key(name)).checksum for name in sizes(manifest)}
    assert receipt.missing == frozenset()


@pytest.mark.parametrize(
    ("target_objects", "asked"), [(0, "list"), (999, "list"), (3999, "list"), (4000, "head"), (10_000, "head")]
)
def test_the_cheaper_listing_is_used(taken: tuple[Manifest, Store], target_objects: int, asked: str) -> None:
    """Five HEAD requests, or a listing with a request for each thousand objects. Both see the same segments."""
    manifest, source = taken
    names = manifest.segments.all_names()
    target = with_some(manifest, source, 2)
    # Invariant R2.
    for unrecorded in (frozenset(names), frozenset(names[2:]), frozenset()):
        target.asked.clear()
        absent, missing = plan_segments(
            order(manifest, source, target, unrecorded=unrecorded, target_objects=target_objects)
        )
        assert {method for method, _ in target.asked} == {asked}
        assert absent == {name: sizes(manifest)[name] for name in names[2:]}
        assert missing == frozenset(names[2:]) - unrecorded


@pytest.mark.parametrize("target_objects", [0, 10_000])
def test_a_segment_of_another_length_is_absent(taken: tuple[Manifest, Store], target_objects: int) -> None:
    manifest, source = taken
    target = with_some(manifest, source, 5)
    short = manifest.segments.name(3)
    target.put(key(short), b"short")
    found = plan_segments(order(manifest, source, target, unrecorded=frozenset(), target_objects=target_objects))
    assert found == ({short: sizes(manifest)[short]}, frozenset({short}))


def test_a_degraded_target_is_read(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    target = with_some(manifest, source, 4)
    bad = manifest.segments.name(2)
    target.put(key(bad), flip_first_bit(target.get(key(bad))))
    made = order(manifest, source, target, unrecorded=frozenset(), target_objects=5, is_degraded=True)
    absent, _ = plan_segments(made)
    assert set(absent) == {bad, manifest.segments.name(4)}
    run_copy(made)
    assert assemble(manifest, slot(target)) == SOURCE.whole()


def test_a_degraded_target_is_read_by_several_threads(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    workers = len(manifest.segments)
    together = threading.Barrier(workers)

    class Far(Store):
        def get(self, key: str, accept: Accept | None = None) -> bytes:
            together.wait(timeout=20)
            return super().get(key, accept)

    target = Far()
    for name, body in ((each, source.get(key(each))) for each in sizes(manifest)):
        target.put(key(name), body)
    made = order(manifest, source, target, unrecorded=frozenset(), target_objects=workers, is_degraded=True)
    assert plan_segments(made, workers=workers) == ({}, frozenset())


def test_a_degraded_target_is_not_read_after_cancellation(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    target, left = with_some(manifest, source, 4), [2]

    def check_cancelled() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise LeaseLost("Lost.", hint="none")

    target.asked.clear()
    made = order(
        manifest,
        source,
        target,
        unrecorded=frozenset(),
        target_objects=5,
        is_degraded=True,
        check_cancelled=check_cancelled,
    )
    with pytest.raises(LeaseLost):
        plan_segments(made, workers=1)
    assert len(target.keys("get")) == 2


def test_only_what_is_missing_is_sent_after_a_failure(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    target = Store()
    faulty = FaultyStore(target, [Fault(method="put", calls=frozenset({3}))])
    with pytest.raises(StoreUnreachable):
        run_copy(order(manifest, source, faulty), workers=1)
    sent = len(target.keys("put"))
    assert sent == 2
    receipt = run_copy(order(manifest, source, target))
    assert receipt.sent == len(manifest.segments) - sent
    assert len(target.keys("put")) == len(set(target.keys("put"))) == len(manifest.segments)


def test_a_damaged_source_is_never_copied(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    bad = manifest.segments.name(1)
    damaged = FaultyStore(source, [Fault(method="get", key_part=bad.hex(), kind=Kind.DAMAGED)])
    target = Store()
    made = order(manifest, damaged, target)
    with pytest.raises(ObjectCorrupt):
        run_copy(made)
    assert key(bad) not in target.keys("put")
    # Invariant C1.
    assert [(damage.slot.label, damage.name) for damage in made.damages] == [("source", bad)]


def test_another_source_replaces_a_damaged_source(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    bad = manifest.segments.name(1)
    damaged = FaultyStore(source, [Fault(method="get", key_part=bad.hex(), kind=Kind.DAMAGED)])
    target = Store()
    sources = [slot(damaged, "one"), slot(Store(), "empty"), slot(source, "three")]
    made = order(manifest, source, target, sources=sources)
    run_copy(made)
    assert assemble(manifest, slot(target)) == SOURCE.whole()
    assert [(damage.slot.label, type(damage.error)) for damage in made.damages] == [
        ("one", ObjectCorrupt),
        ("empty", ObjectNotFound),
    ]


def test_no_request_begins_after_cancellation(taken: tuple[Manifest, Store]) -> None:
    manifest, source = taken
    source.asked.clear()
    target = Store()

    def check_cancelled() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_copy(order(manifest, source, target, check_cancelled=check_cancelled))
    assert source.asked == []
    # Invariant W18.
    assert target.keys("put") == []


def test_a_manifest_is_read_back(taken: tuple[Manifest, Store], tmp_path: Path) -> None:
    store = Store()
    receipt = ingest_disk(disk(1), slot(store), tmp_path)
    slot(store).put_manifest("manifests/v/os", receipt.data)
    assert slot(store).get_manifest("manifests/v/os", receipt.digest).disk_digest == receipt.manifest.disk_digest
    with pytest.raises(ObjectCorrupt):
        slot(store).get_manifest("manifests/v/os", bytes(32))
    lossy = FaultyStore(store, [Fault(method="get", key_part="manifests/", kind=Kind.DAMAGED)])
    # Invariant R3.
    with pytest.raises(ObjectCorrupt):
        slot(lossy).put_manifest("manifests/v/os", receipt.data)


# Threads, bounded.


def raising(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_the_first_error_stops_all_calls() -> None:
    """Queued calls do not begin, later calls are refused, and the block raises the error."""
    first, gate, begun, waiting = ValueError("first"), threading.Event(), list[int](), list[Future[None]]()

    def fail() -> None:
        gate.wait(10)
        raise first

    with pytest.raises(ValueError, match="first"), BoundedPool(1, 5, "test") as pool:
        pool.submit(fail)
        waiting = [pool.submit(begun.append, number) for number in range(3)]
        gate.set()
        while True:
            pool.submit(begun.append, 99)
    assert begun == []
    assert all(future.cancelled() or future.exception() is first for future in waiting)


def test_an_error_without_another_submit_is_raised_at_the_end() -> None:
    with pytest.raises(ValueError, match="late"), BoundedPool(2, 2, "test") as pool:
        pool.submit(raising(ValueError("late")))


def test_leaving_by_an_error_drops_queued_calls() -> None:
    gate, begun = threading.Event(), list[int]()
    with pytest.raises(KeyError), BoundedPool(1, 5, "test") as pool:
        pool.submit(gate.wait, 10)
        waiting = [pool.submit(begun.append, number) for number in range(3)]
        waiting[-1].add_done_callback(lambda _future: gate.set())
        raise KeyError
    assert begun == []


def test_submit_waits_for_a_free_place() -> None:
    gate, lock = threading.Event(), threading.Lock()
    at_work, most, submitted, full = 0, 0, 0, threading.Event()

    def call() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        gate.wait(10)
        with lock:
            at_work -= 1

    def submit_all() -> None:
        nonlocal submitted
        with BoundedPool(2, 3, "test") as pool:
            for _ in range(8):
                pool.submit(call)
                submitted += 1
                if submitted == 3:
                    full.set()

    thread = threading.Thread(target=submit_all)
    thread.start()
    assert full.wait(10)
    thread.join(0.05)
    assert submitted == 3
    gate.set()
    thread.join(10)
    assert (submitted, most) == (8, 2)


def test_results_are_returned() -> None:
    with BoundedPool(2, 2, "test") as pool:
        futures = [pool.submit(pow, 2, number) for number in range(10)]
    assert [future.result() for future in futures] == [2**number for number in range(10)]
