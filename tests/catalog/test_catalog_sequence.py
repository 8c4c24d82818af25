"""The catalog's sequence, its zones and its settings, on both engines."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from imgstore.catalog import Catalog
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.zones import ZoneKind, ZoneRecord

pytest_plugins = ["catalog_fixtures"]

RECORD = ZoneRecord(region="eastus", zone="1", uid="u1", kind=ZoneKind.S3, place="s3 http://h/b")


def test_numbers_increase_and_are_unique(catalog: Catalog) -> None:
    def take(_turn: int) -> Checkpoint:
        with catalog.transaction() as transaction:
            return transaction.sequence.next()

    first = take(0)
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(take, range(20)))
    assert len({each.sequence for each in [first, *others]}) == 21
    assert min(others) > first
    with catalog.reading() as transaction:
        assert transaction.sequence.last() == max(others).sequence
        assert transaction.sequence.find_unknown([first, *others]) == []
        foreign = [Checkpoint(first.sequence, "another"), Checkpoint(max(others).sequence + 1, first.uid)]
        assert transaction.sequence.find_unknown([*foreign, first]) == foreign


def test_a_checkpoint_is_read_back_from_its_name() -> None:
    checkpoint = Checkpoint(812, "a-b-c")
    assert Checkpoint.parse(checkpoint.name) == checkpoint
    assert Checkpoint(9, "z").name < Checkpoint(10, "a").name
    for name in ("", "812-a", "x" * 20 + "-a", checkpoint.name.partition("-")[0], "0" * 20 + "-"):
        assert Checkpoint.parse(name) is None


def test_the_first_record_of_a_zone_stays_until_it_is_replaced(catalog: Catalog) -> None:
    other = replace(RECORD, uid="u2", kind=ZoneKind.DIRECTORY, place="directory /x")
    with catalog.transaction() as transaction:
        assert transaction.zones.find("eastus", "1") is None
        assert transaction.zones.add(RECORD) == RECORD
        assert transaction.zones.add(other) == RECORD
        transaction.zones.replace(other)
        assert transaction.zones.list() == [other]
        transaction.zones.replace(replace(RECORD, zone="2"))
        assert transaction.zones.find("eastus", "2") == replace(RECORD, zone="2")


def test_settings_are_replaced_as_a_whole(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        assert transaction.settings.all() == {}
        transaction.settings.replace({"limits.preset": "azure-2026", "limits.galleries_max": 7})
        transaction.settings.replace({"limits.galleries_max": 8})
    with catalog.reading() as transaction:
        assert transaction.settings.all() == {"limits.galleries_max": 8}


def test_outdated_catalog_keeps_the_first_evidence_until_it_is_accepted(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        transaction.installation.ensure(None)
        assert (transaction.installation.get().outdated, transaction.installation.get().keeps_unknown) == (None, False)
        transaction.installation.mark_outdated("first")
        transaction.installation.mark_outdated("second")
        assert transaction.installation.get().outdated == "first"
        transaction.installation.accept_outdated()
        assert (transaction.installation.get().outdated, transaction.installation.get().keeps_unknown) == (None, True)
