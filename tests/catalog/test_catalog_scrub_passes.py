"""The progress of scrub passes on both engines, until the end of a pass."""

from catalog_values import settle, slot, uid

from imgstore.catalog import Catalog
from imgstore.domain.resources import Pool
from imgstore.domain.storage.scrub_passes import ScrubRunner

pytest_plugins = ["catalog_fixtures"]

WORKER, COMMAND = ScrubRunner.WORKER, ScrubRunner.COMMAND


def test_pass_is_kept_until_its_end(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        place = slot(transaction, settle(transaction).pool.uid, "eastus")
        passes = transaction.scrub_passes
        assert passes.find(place.uid, WORKER) is None
        begun = passes.begin(place.uid, WORKER, percent=12.5, seed=2**40)
        other = passes.begin(place.uid, COMMAND, percent=100.0, seed=0)
        assert passes.find(place.uid, WORKER) == begun
        passes.save(begun.uid, "segments/b", {"segments/a": False, "segments/b": False})
        passes.save(begun.uid, "segments/c", {"segments/a": True})
        found = passes.find(place.uid, WORKER)
        assert found is not None
        assert (found.position, found.seed, found.began_at) == ("segments/c", 2**40, begun.began_at)
        assert found.saved_at >= begun.saved_at
        assert found.damaged == {"segments/a": True, "segments/b": False}
        assert passes.find(place.uid, COMMAND) == other
        again = passes.begin(place.uid, WORKER, percent=100.0, seed=1)
        assert passes.find(place.uid, WORKER) == again
        passes.save(begun.uid, "segments/z", {"segments/z": False})
        assert passes.find(place.uid, WORKER) == again, "a pass that has ended saves nothing"
        passes.end_in_slot(place.uid)
        assert passes.find(place.uid, WORKER) is None
        assert passes.find(place.uid, COMMAND) is None


def test_last_scrub_and_lost_objects_end_with_their_pool(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        pool_uid = settle(transaction).pool.uid
        place = slot(transaction, pool_uid, "eastus")
        began = transaction.now()
        scrubs, lost = transaction.slot_scrubs, transaction.lost_objects
        scrubs.record(place.uid, began_at=began, percent=100.0, objects=7)
        (whole,) = scrubs.list()
        scrubs.record(place.uid, began_at=began, percent=5.0, objects=1)
        (sampled,) = scrubs.list()
        assert (sampled.percent, sampled.objects) == (5.0, 1)
        assert sampled.complete_at == whole.complete_at == whole.ended_at
        lost.add(place.uid, ["segments/b", "segments/a"])
        lost.add(place.uid, ["segments/a", "manifests/c/os"])
        lost.remove(place.uid, ["segments/b", "segments/z"])
        assert lost.list(place.uid) == {"segments/a", "manifests/c/os"}
        scrubs.remove(place.uid)
        assert scrubs.list() == []
        scrubs.record(place.uid, began_at=began, percent=100.0, objects=7)
    with catalog.transaction() as transaction:
        free = Pool(uid=uid(), fingerprint_key=bytes(32))
        transaction.pools.add(free)
        other = slot(transaction, free.uid, "eastus")
        transaction.lost_objects.add(other.uid, ["segments/a"])
        transaction.slot_scrubs.record(other.uid, began_at=transaction.now(), percent=100.0, objects=1)
        transaction.pools.remove(other.key.pool_uid)
        assert transaction.lost_objects.list(other.uid) == frozenset()
        assert [each.slot_uid for each in transaction.slot_scrubs.list()] == [place.uid]
