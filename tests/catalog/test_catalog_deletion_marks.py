"""Deletion marks on both engines."""

from datetime import timedelta

import numpy as np
import pytest
from catalog_values import manifest, segment, settle, slot, uid

from imgstore.catalog import Catalog
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.storage.garbage import GcState
from imgstore.domain.storage.works import WorkKind

pytest_plugins = ["catalog_fixtures"]

NAMES = [segment(number).name for number in range(3)]


def test_stored_gc_states_keep_their_values() -> None:
    """Catalogs of earlier releases contain these strings."""
    assert [state.value for state in GcState] == ["Condemned", "Deleting"]


def test_segments_are_marked_unmarked_and_deleted(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        place = settle(transaction).slot
        other = slot(transaction, place.key.pool_uid, ordinal=1)
        transaction.deletion_marks.add(place.uid, dict.fromkeys(NAMES, 7))
        transaction.deletion_marks.add(other.uid, {NAMES[0]: 7})
    with catalog.transaction() as transaction:
        first = transaction.deletion_marks.list(place.uid)
        assert [(each.name, each.stored_bytes, each.gc_state) for each in first] == [
            (name, 7, GcState.MARKED) for name in sorted(NAMES)
        ]
        transaction.deletion_marks.add(place.uid, {NAMES[0]: 8})
        assert transaction.deletion_marks.list(place.uid) == first, "the grace began anew"
        until = transaction.now() + timedelta(seconds=5)
        transaction.deletion_marks.begin_deleting(place.uid, NAMES[:2], token="a", lease_expires_at=until)
        transaction.deletion_marks.unmark(place.uid, NAMES)
    with catalog.transaction() as transaction:
        left = transaction.deletion_marks.find(place.uid, NAMES)
        assert {each.name for each in left} == set(NAMES[:2])
        assert {(each.gc_state, each.token, each.lease_expires_at) for each in left} == {(GcState.DELETING, "a", until)}
        transaction.deletion_marks.begin_deleting(place.uid, NAMES[:1], token="b", lease_expires_at=until)
        assert transaction.deletion_marks.end_deleting(place.uid, "a") == 1
        assert [each.token for each in transaction.deletion_marks.list(place.uid)] == ["b"]
        assert len(transaction.deletion_marks.list(other.uid)) == 1


def test_incomplete_manifests_name_segments_of_the_pool(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        place = settle(transaction).slot
        pool = place.key.pool_uid
        other = slot(transaction, pool, ordinal=1)
        ids = np.sort(transaction.segments.put(pool, [segment(number) for number in range(4)]))
        names = [row.name for row in transaction.segments.rows(pool, ids)]
        done = manifest(place.uid, {int(ids[0])})
        transaction.manifests.add(done)
        transaction.manifests.complete(done.uid)
        transaction.manifests.add(manifest(place.uid, {int(ids[1])}, body_key="x"))
        transaction.manifests.add(manifest(other.uid, {int(ids[2])}))
        assert transaction.manifests.segment_ids_in_slot(place.uid).tolist() == ids[:1].tolist()
        assert transaction.manifests.segment_ids_in_slot(place.uid, complete_only=False).tolist() == ids[:2].tolist()
        assert transaction.manifests.segment_ids_in_pool(pool).tolist() == ids[:3].tolist()
        assert transaction.segments.all_ids(pool).tolist() == ids.tolist()
        assert transaction.segments.find_ids(pool, [names[3], segment(9).name]) == {names[3]: int(ids[3])}
        assert transaction.segments.work_uids(pool, ids) == {"work"}
        transaction.segments.remove(pool, ids[3:])
        assert transaction.segments.all_ids(pool).tolist() == ids[:3].tolist()


def test_pool_is_removed_with_its_slots_and_closed_works(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        pool = world.pool.uid
        made = transaction.works.open(kind=WorkKind.INGEST, slot_uid=world.slot.uid, owner_uid=uid(), plan={}, pins=[])
        assert transaction.galleries.find_by_pool(pool) == world.gallery
        assert world.pool in transaction.pools.list()
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.pools.remove(pool)
    with catalog.transaction() as transaction:
        transaction.works.abandon(made.uid)
        transaction.versions.delete(world.version.uid)
        transaction.definitions.delete(world.definition.uid)
        transaction.galleries.delete(world.gallery.uid)
        assert transaction.galleries.find_by_pool(pool) is None
        transaction.pools.remove(pool)
        assert transaction.slots.list(pool) == []
        with pytest.raises(NotFound):
            transaction.pools.get(pool)
