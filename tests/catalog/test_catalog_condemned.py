"""Condemnations on either engine, and what goes with them."""

from datetime import timedelta

import numpy as np
import pytest
from catalog_values import manifest, segment, settle, slot, uid

from imgstore.catalog import Catalog
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.storage.garbage import Sentence
from imgstore.domain.storage.works import WorkKind

pytest_plugins = ["catalog_fixtures"]

NAMES = [segment(number).name for number in range(3)]


def test_condemned_lifted_and_deleted(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        place = settle(facts).slot
        other = slot(facts, place.key.pool_uid, ordinal=1)
        facts.condemned.add(place.uid, dict.fromkeys(NAMES, 7))
        facts.condemned.add(other.uid, {NAMES[0]: 7})
    with catalog.transaction() as facts:
        first = facts.condemned.list(place.uid)
        assert [(each.name, each.stored_bytes, each.sentence) for each in first] == [
            (name, 7, Sentence.CONDEMNED) for name in sorted(NAMES)
        ]
        facts.condemned.add(place.uid, {NAMES[0]: 8})
        assert facts.condemned.list(place.uid) == first, "the grace began anew"
        until = facts.now() + timedelta(seconds=5)
        facts.condemned.begin_deleting(place.uid, NAMES[:2], token="a", lease_expires_at=until)
        facts.condemned.lift(place.uid, NAMES)
    with catalog.transaction() as facts:
        left = facts.condemned.among(place.uid, NAMES)
        assert {each.name for each in left} == set(NAMES[:2])
        assert {(each.sentence, each.token, each.lease_expires_at) for each in left} == {
            (Sentence.DELETING, "a", until)
        }
        facts.condemned.begin_deleting(place.uid, NAMES[:1], token="b", lease_expires_at=until)
        assert facts.condemned.end_deleting(place.uid, "a") == 1
        assert [each.token for each in facts.condemned.list(place.uid)] == ["b"]
        assert len(facts.condemned.list(other.uid)) == 1


def test_what_is_on_its_way_is_named_too(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        place = settle(facts).slot
        pool = place.key.pool_uid
        other = slot(facts, pool, ordinal=1)
        ids = np.sort(facts.segments.put(pool, [segment(number) for number in range(4)]))
        names = [row.name for row in facts.segments.rows(pool, ids)]
        done = manifest(place.uid, {int(ids[0])})
        facts.manifests.add(done)
        facts.manifests.complete(done.uid)
        facts.manifests.add(manifest(place.uid, {int(ids[1])}, body_key="x"))
        facts.manifests.add(manifest(other.uid, {int(ids[2])}))
        assert facts.manifests.named_in_slot(place.uid).tolist() == ids[:1].tolist()
        assert facts.manifests.named_in_slot(place.uid, complete_only=False).tolist() == ids[:2].tolist()
        assert facts.manifests.named_in_pool(pool).tolist() == ids[:3].tolist()
        assert facts.segments.all_ids(pool).tolist() == ids.tolist()
        assert facts.segments.known(pool, [names[3], segment(9).name]) == {names[3]: int(ids[3])}
        assert facts.segments.work_uids(pool, ids) == {"work"}
        facts.segments.remove(pool, ids[3:])
        assert facts.segments.all_ids(pool).tolist() == ids[:3].tolist()


def test_a_pool_goes_with_its_slots_and_closed_works(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        pool = world.pool.uid
        made = facts.works.open(kind=WorkKind.INGEST, slot_uid=world.slot.uid, owner_uid=uid(), plan={}, pins=[])
        assert facts.galleries.of_pool(pool) == world.gallery
        assert world.pool in facts.pools.list()
    with pytest.raises(Conflict), catalog.transaction() as facts:
        facts.pools.remove(pool)
    with catalog.transaction() as facts:
        facts.works.abandon(made.uid)
        facts.versions.delete(world.version.uid)
        facts.definitions.delete(world.definition.uid)
        facts.galleries.delete(world.gallery.uid)
        assert facts.galleries.of_pool(pool) is None
        facts.pools.remove(pool)
        assert facts.slots.list(pool) == []
        with pytest.raises(NotFound):
            facts.pools.get(pool)
