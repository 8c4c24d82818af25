"""Segments with small ids, and manifests as sets of ids."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from catalog_values import POOLED_ENGINES, manifest, segment, settle, slot, uid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.catalog import Catalog
from imgstore.catalog.storage.manifests import pack_ids, unpack_ids
from imgstore.domain.errors import Conflict, NotFound, ObjectNotFound
from imgstore.domain.storage.works import WorkKind

pytest_plugins = ["catalog_fixtures"]


def test_segments_are_added_once(catalog: Catalog) -> None:
    rows = [segment(number) for number in range(5)]
    with catalog.transaction() as transaction:
        pool = settle(transaction).pool.uid
        first = transaction.segments.put(pool, rows[:3])
        again = transaction.segments.put(pool, [rows[4], rows[1], rows[4], rows[0]])
        assert first.dtype == np.uint32
        assert again.tolist() == [again[0], first[1], again[0], first[0]]
        assert len({*first.tolist(), *again.tolist()}) == 4
        assert transaction.segments.put(pool, []).tolist() == []
        # An existing row stays, because the name identifies the content.
        assert transaction.segments.put(pool, [segment(0, stored_bytes=77)]).tolist() == [first[0]]
        assert transaction.segments.rows(pool, first[::-1]) == rows[2::-1]
        assert transaction.segments.ids(pool, [rows[2].name, rows[0].name]).tolist() == [first[2], first[0]]


def test_pools_have_separate_segments(catalog: Catalog) -> None:
    # Invariant S2.
    with catalog.transaction() as transaction:
        mine, other = settle(transaction, "a").pool.uid, settle(transaction, "b").pool.uid
        (number,) = transaction.segments.put(mine, [segment(0)]).tolist()
        with pytest.raises(ObjectNotFound, match=segment(0).name.hex()):
            transaction.segments.ids(other, [segment(0).name])
        with pytest.raises(ObjectNotFound, match=f"the first is {number}"):
            transaction.segments.rows(other, [number])
        with pytest.raises(ObjectNotFound, match="1 of 1 ids"):
            transaction.segments.stored_bytes(other, [number])
        assert transaction.segments.put(other, [segment(0)]).tolist() != [number]


def test_twenty_thousand_segments_are_added_in_batches(catalog: Catalog) -> None:
    """A dense disk of 80 GiB has more segments than a statement has parameters. The second call adds no row."""
    rows = [segment(number) for number in range(20_000)]
    with catalog.transaction() as transaction:
        pool = settle(transaction).pool.uid
        ids = transaction.segments.put(pool, rows)
    with catalog.transaction() as transaction:
        again = transaction.segments.put(pool, rows[::-1])
    assert np.array_equal(ids, again[::-1])
    assert len(np.unique(ids)) == 20_000
    with catalog.reading() as transaction:
        doubled = np.concatenate([ids, ids])
        assert transaction.segments.stored_bytes(pool, doubled) == sum(row.stored_bytes for row in rows)
        assert transaction.segments.rows(pool, ids) == rows
        assert np.array_equal(transaction.segments.ids(pool, [row.name for row in rows]), ids)


def test_ids_are_never_reused(catalog: Catalog) -> None:
    """Otherwise a packed list could name another segment."""
    # Invariant L1.
    with catalog.transaction() as transaction:
        pool = settle(transaction).pool.uid
        (first,) = transaction.segments.put(pool, [segment(0)]).tolist()
        transaction._session.connection.exec_driver_sql(f"DELETE FROM segments WHERE id = {first}")
        assert transaction.segments.put(pool, [segment(1)]).tolist()[0] > first


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_threads_with_the_same_segments_get_the_same_ids(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        pool = settle(transaction).pool.uid

    def bring(shift: int) -> dict[bytes, int]:
        rows = [segment((number + shift) % 300) for number in range(300)]
        with catalog.transaction() as transaction:
            return dict(zip([row.name for row in rows], transaction.segments.put(pool, rows).tolist(), strict=True))

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(bring, range(0, 240, 30)))
    assert all(one == other for one, other in pairwise(seen))


def test_manifests_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        made = manifest(world.slot.uid, {3, 1, 2})
        second = manifest(world.slot.uid, owner_uid=made.owner_uid, disk="lun-0", body_key="other")
        transaction.manifests.add(made)
        transaction.manifests.add(second)
        assert transaction.manifests.by_uid(made.uid) == made
        assert transaction.manifests.find(made.owner_uid, world.slot.uid, "os") == made
        assert transaction.manifests.find(made.owner_uid, world.slot.uid, "lun-1") is None
        assert transaction.manifests.of_owner(made.owner_uid) == [second, made]
        assert transaction.manifests.in_slot(world.slot.uid) == []
        assert not transaction.manifests.is_complete(made.uid)
        for _ in range(2):
            transaction.manifests.complete(made.uid)
        assert transaction.manifests.is_complete(made.uid)
        assert transaction.manifests.in_slot(world.slot.uid) == [made]
        assert transaction.manifests.in_slot(world.slot.uid, complete_only=False) == [second, made]
        assert transaction.manifests.count_body_users(world.slot.uid, made.body_key) == 1
        transaction.manifests.add(manifest(world.slot.uid))
        assert transaction.manifests.count_body_users(world.slot.uid, made.body_key) == 2
        assert (
            transaction.manifests.count_body_users(slot(transaction, world.pool.uid, ordinal=1).uid, made.body_key) == 0
        )
        transaction.manifests.delete(made.uid)
        for missing in (transaction.manifests.by_uid, transaction.manifests.complete, transaction.manifests.delete):
            with pytest.raises(NotFound, match="manifest"):
                missing(made.uid)
    with pytest.raises(Conflict, match="exists already"), catalog.transaction() as transaction:
        transaction.manifests.add(manifest(world.slot.uid, owner_uid=second.owner_uid, disk="lun-0"))


def test_unsorted_ids_are_refused(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        wrong = np.array([2, 1], dtype="<u4").tobytes()
        with pytest.raises(AssertionError, match="not sorted"):
            transaction.manifests.add(manifest(world.slot.uid, segment_ids=wrong))


def test_database_refuses_to_delete_a_pinned_manifest(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        base = manifest(world.slot.uid)
        transaction.manifests.add(base)
        work = transaction.works.open(
            kind=WorkKind.INGEST, slot_uid=world.slot.uid, owner_uid=uid(), plan={}, pins=[base.uid]
        )
        assert transaction.works.is_pinned(base.uid)
    with pytest.raises(Conflict, match="still refers"), catalog.transaction() as transaction:
        transaction.manifests.delete(base.uid)
    with catalog.transaction() as transaction:
        transaction.works.abandon(work.uid)
        assert not transaction.works.is_pinned(base.uid)
        transaction.manifests.delete(base.uid)


@given(st.sets(st.integers(0, 2**32 - 1)))
def test_packed_ids_are_unpacked(ids: set[int]) -> None:
    """``unpack_ids(pack_ids(ids))`` is `ids`, sorted, with four bytes each."""
    assert unpack_ids(pack_ids(ids)).tolist() == sorted(ids)
    assert len(pack_ids(ids)) == 4 * len(ids)


_LISTS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.sets(st.integers(1, 40) | st.just(2**32 - 1), max_size=12)),
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=_LISTS)
def test_segment_ids_are_the_union_of_complete_manifests(
    catalog: Catalog, lists: list[tuple[int, bool, set[int]]]
) -> None:
    """``segment_ids_in_slot`` and ``segment_ids_in_region`` are unions of the ids of complete manifests."""
    # Invariant L2.
    with catalog.transaction() as transaction:
        pool = settle(transaction, f"g{uid().replace('-', '')}").pool.uid
        # Two slots in a region, a slot in another region, and a slot of another pool in the first region.
        stranger = settle(transaction, f"g{uid().replace('-', '')}").slot
        slots = [
            slot(transaction, pool, "westus2", 0),
            slot(transaction, pool, "westus2", 1),
            slot(transaction, pool, "eastus"),
            stranger,
        ]
        for where, complete, ids in lists:
            row = manifest(slots[where].uid, ids)
            transaction.manifests.add(row)
            if complete:
                transaction.manifests.complete(row.uid)

        def union(*places: int) -> list[int]:
            return sorted(set().union(*(ids for where, complete, ids in lists if complete and where in places)))

        for place, its in enumerate(slots):
            assert transaction.manifests.segment_ids_in_slot(its.uid).tolist() == union(place)
        assert transaction.manifests.segment_ids_in_region(pool, "westus2").tolist() == union(0, 1)
        assert transaction.manifests.segment_ids_in_region(pool, "eastus").tolist() == union(2)


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_union_of_many_lists_takes_several_steps(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgstore.catalog.storage.manifests._IDS_AT_ONCE", 10)
    with catalog.transaction() as transaction:
        world = settle(transaction)
        for start in range(0, 300, 3):
            made = manifest(world.slot.uid, set(range(start, start + 7)))
            transaction.manifests.add(made)
            transaction.manifests.complete(made.uid)
        named = transaction.manifests.segment_ids_in_slot(world.slot.uid)
    assert named.dtype == np.uint32
    assert named.tolist() == list(range(304))
