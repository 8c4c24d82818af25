"""The catalog's sequence, its zones and its settings, on both engines."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from imgstore.catalog import Catalog
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.zones import ZoneKind, ZoneRecord

pytest_plugins = ["catalog_fixtures"]

RECORD = ZoneRecord(region="eastus", zone="1", uid="u1", kind=ZoneKind.S3, place="s3 http://h/b")


def test_numbers_rise_and_are_given_out_once(catalog: Catalog) -> None:
    def take(_turn: int) -> Checkpoint:
        with catalog.transaction() as facts:
            return facts.sequence.next()

    first = take(0)
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(take, range(20)))
    assert len({each.sequence for each in [first, *others]}) == 21
    assert min(others) > first
    with catalog.reading() as facts:
        assert facts.sequence.last() == max(others).sequence
        assert facts.sequence.unknown([first, *others]) == []
        foreign = [Checkpoint(first.sequence, "another"), Checkpoint(max(others).sequence + 1, first.uid)]
        assert facts.sequence.unknown([*foreign, first]) == foreign


def test_a_checkpoint_is_read_back_from_its_name() -> None:
    checkpoint = Checkpoint(812, "a-b-c")
    assert Checkpoint.parse(checkpoint.name) == checkpoint
    assert Checkpoint(9, "z").name < Checkpoint(10, "a").name
    for name in ("", "812-a", "x" * 20 + "-a", checkpoint.name.partition("-")[0], "0" * 20 + "-"):
        assert Checkpoint.parse(name) is None


def test_the_first_record_of_a_zone_stays_until_it_is_replaced(catalog: Catalog) -> None:
    other = replace(RECORD, uid="u2", kind=ZoneKind.DIRECTORY, place="directory /x")
    with catalog.transaction() as facts:
        assert facts.zones.find("eastus", "1") is None
        assert facts.zones.add(RECORD) == RECORD
        assert facts.zones.add(other) == RECORD
        facts.zones.replace(other)
        assert facts.zones.list() == [other]
        facts.zones.replace(replace(RECORD, zone="2"))
        assert facts.zones.find("eastus", "2") == replace(RECORD, zone="2")


def test_settings_are_replaced_as_a_whole(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        assert facts.settings.all() == {}
        facts.settings.replace({"limits.preset": "azure-2026", "limits.galleries_max": 7})
        facts.settings.replace({"limits.galleries_max": 8})
    with catalog.reading() as facts:
        assert facts.settings.all() == {"limits.galleries_max": 8}


def test_an_outdated_catalog_remembers_the_first_finding_until_it_is_accepted(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        facts.installation.ensure(None)
        assert (facts.installation.get().outdated, facts.installation.get().keeps_unknown) == (None, False)
        facts.installation.mark_outdated("first")
        facts.installation.mark_outdated("second")
        assert facts.installation.get().outdated == "first"
        facts.installation.accept_outdated()
        assert (facts.installation.get().outdated, facts.installation.get().keeps_unknown) == (None, True)
