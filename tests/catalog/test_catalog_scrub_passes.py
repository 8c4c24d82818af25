"""The progress of scrub passes on both engines, until the end of a pass."""

from catalog_values import settle, slot

from imgstore.catalog import Catalog
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
