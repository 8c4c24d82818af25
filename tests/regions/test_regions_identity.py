"""Tests of the identity of zones: the catalog decides which store a process uses, not the settings of the process.

The tests run on directories, moto and MinIO. A `Locator` is a process. The locators of an installation share a registry
as the catalog.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from regions_house import LRS, S3_ENGINES, ZRS, House, init_all, on, problems, region_of, slot_of, use

from imgstore.domain.errors import StoreError, StoreMismatch
from imgstore.domain.storage.object_keys import zone_uid_key
from imgstore.domain.storage.zones import ZoneKind
from imgstore.regions import Consent, Locator
from imgstore.regions.format_mark import FormatMark
from imgstore.stores import ObjectStore
from imgstore.stores.interface import StoreProperties
from imgstore.testing.engines import S3Engine


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(home=tmp_path / "home", stack=stack)


@pytest.fixture(params=["directories", *S3_ENGINES])
def used_house(request: pytest.FixtureRequest, house: House) -> House:
    """An installation with used zones: east has an LRS slot, south a ZRS slot, and the catalog knows both."""
    if request.param != "directories":
        on(house, request.getfixturevalue(request.param))
        problems(init_all(house.locator()), none=True)
    locator = house.locator()
    for region, kind in (("east", LRS), ("south", ZRS)):
        slot = slot_of(locator, region, kind)
        use(locator.store(slot), slot)
        for zone in region_of(locator, region).zones:
            house.registry.slots[region, zone.name] = [slot.prefix]
            house.registry.manifests[region, zone.name] = [slot.prefix + "segments/00/x"]
    return house


def folder(house: House, region: str, zone: str) -> Path:
    return house.home / "regions" / f"{house.name}-{region}" / f"zone-{zone}"


def east(locator: Locator) -> object:
    return locator.store(slot_of(locator, "east"))


def report_of(locator: Locator, region: str = "east", zone: str = "1") -> str:
    (found,) = [each for each in locator.check(region_of(locator, region)) if each.zone == zone]
    return found.problem or ""


# -- adoption ---------------------------------------------------------------------------------------------------------


def test_the_first_use_records_a_uid_that_the_zone_holds(used_house: House) -> None:
    records = used_house.registry.records
    assert set(records) == {("east", "1"), ("south", "1"), ("south", "2"), ("south", "3")}
    assert len({record.uid for record in records.values()}) == 4
    locator = used_house.locator()
    for (region, zone), record in records.items():
        (one,) = [each for each in region_of(locator, region).zones if each.name == zone]
        found = [info.key for info in locator._open(region_of(locator, region), one).store.list("zone/")]
        assert found == [zone_uid_key(record.uid)]
        assert record.kind is (ZoneKind.DIRECTORY if one.endpoint is None else ZoneKind.S3)
    before = dict(records)
    east(used_house.locator())
    # Invariant E5.
    assert records == before


def test_a_zone_of_older_code_is_adopted_with_its_content(used_house: House) -> None:
    """The zone has FORMAT and no uid, and the catalog has no record."""
    used_house.registry.is_new = False
    old = used_house.registry.records.pop(("east", "1"))
    locator = used_house.locator()
    zone = locator._open(region_of(locator, "east"), region_of(locator, "east").zones[0])
    zone.store.delete([zone_uid_key(old.uid)])
    east(locator)
    assert used_house.registry.records["east", "1"].uid != old.uid


def test_a_process_that_died_before_the_record_is_followed_by_one_that_records_its_uid(used_house: House) -> None:
    old = used_house.registry.records.pop(("east", "1"))
    east(used_house.locator())
    assert used_house.registry.records["east", "1"] == old


def test_of_two_that_record_at_once_the_first_counts(used_house: House) -> None:
    record = used_house.registry.records["east", "1"]
    registry = used_house.registry

    class Late(type(registry)):  # type: ignore[misc]
        """Finds no record before it adds its own, as one does that looked a moment too early."""

        def find(self, region: str, zone: str) -> None:
            return None

    late = Late(records=registry.records, slots=registry.slots, manifests=registry.manifests)
    locator = used_house.locator(registry=late)
    zone = locator._open(region_of(locator, "east"), region_of(locator, "east").zones[0])
    zone.store.put(zone_uid_key("0"), b"")
    east(locator)
    assert registry.records["east", "1"] == record


# -- another store ----------------------------------------------------------------------------------------------------


def test_an_empty_store_is_refused_where_the_catalog_has_a_record(used_house: House) -> None:
    """A missing mount and a new bucket have this state."""
    empty(used_house, "east", "1")
    for locator in (used_house.locator(), used_house.locator()):
        with pytest.raises(StoreMismatch, match="not the zone 1 of east that this installation uses") as caught:
            east(locator)
        assert "regions init --zone east/1 --replaced" in (caught.value.hint or "")
        assert "not the zone 1 of east" in report_of(locator)
    assert is_empty(used_house, "east", "1")


def test_an_empty_store_is_refused_where_the_catalog_has_content_and_no_record(used_house: House) -> None:
    """This code opens the home for the first time while a zone is not mounted."""
    used_house.registry.is_new = False
    used_house.registry.records.clear()
    empty(used_house, "east", "1")
    locator = used_house.locator()
    with pytest.raises(StoreMismatch, match="no FORMAT object"):
        east(locator)
    assert "no FORMAT object" in report_of(locator)
    assert "no FORMAT object" in problems(locator.init(region_of(locator, "east")))[0]
    assert is_empty(used_house, "east", "1")


def test_a_store_with_a_right_mark_and_other_content_is_not_adopted(used_house: House) -> None:
    """A folder that older code created in place of the bucket has the right FORMAT."""
    used_house.registry.is_new = False
    used_house.registry.records.clear()
    used_house.registry.manifests["east", "1"] = [f"pools/p/Standard_LRS/replica-0/manifests/{n}/os" for n in range(3)]
    locator = used_house.locator()
    with pytest.raises(StoreMismatch, match="does not contain the manifests") as caught:
        east(locator)
    assert "3 of 3 manifests" in (caught.value.found or "")
    assert "does not contain" in report_of(locator)
    assert used_house.registry.records.get(("east", "1")) is None


def test_another_uid_is_refused(used_house: House) -> None:
    record = used_house.registry.records["east", "1"]
    used_house.registry.records["east", "1"] = replace(record, uid="another")
    with pytest.raises(StoreMismatch, match="zone uid") as caught:
        east(used_house.locator())
    assert record.uid in (caught.value.found or "")
    assert "another" in (caught.value.expected or "")


@pytest.mark.engine("minio")
def test_a_directory_in_the_place_of_a_bucket_is_refused(house: House, minio: S3Engine) -> None:
    on(house, minio)
    problems(init_all(house.locator()), none=True)
    locator = house.locator()
    east(locator)
    house.registry.manifests["east", "1"] = ["pools/p/Standard_LRS/replica-0/manifests/v/os"]
    with_s3, house.environ = house.environ, {}
    locator = house.locator()
    with pytest.raises(StoreMismatch, match="is not the store that this installation uses") as caught:
        east(locator)
    assert str(house.home) in (caught.value.found or "")
    assert "s3 http" in (caught.value.expected or "")
    assert "endpoint" in (caught.value.hint or "")
    assert "is not the store" in report_of(locator)
    assert not house.home.exists()
    assert problems(locator.init(region_of(locator, "east"), zones=["1"], consent=Consent.REPAIR))
    house.environ = with_s3
    east(house.locator())


@pytest.mark.engine("minio")
def test_a_region_that_holds_nothing_changes_from_directories_to_buckets_by_init(house: House, minio: S3Engine) -> None:
    east(house.locator())
    on(house, minio)
    with pytest.raises(StoreMismatch, match="is not the store") as caught:
        east(house.locator())
    assert "unset the zone's endpoint" in (caught.value.hint or "")
    problems(init_all(house.locator()), none=True)
    east(house.locator())
    assert house.registry.records["east", "1"].kind is ZoneKind.S3


# -- while it is in use -----------------------------------------------------------------------------------------------


def test_a_folder_that_is_replaced_while_it_is_in_use_is_refused(house: House) -> None:
    """After an unmount, the mount point is another folder."""
    locator = house.locator()
    slot = slot_of(locator, "east")
    store = locator.store(slot)
    use(store, slot)
    place = folder(house, "east", "1")
    place.rename(place.with_name("away"))
    place.mkdir()
    for call in (lambda: store.put(slot.prefix + "works/y", b""), lambda: list(store.list(slot.prefix))):
        with pytest.raises(StoreMismatch, match="not the zone 1 of east"):
            guarded(locator, call)
    assert list(place.iterdir()) == []
    place.rmdir()
    place.with_name("away").rename(place)
    assert locator.store(slot).get(slot.prefix + "segments/00/x") == b"body"


def test_a_folder_that_vanishes_under_a_put_is_not_made_again(house: House) -> None:
    locator = house.locator()
    slot = slot_of(locator, "east")
    store = locator.store(slot)
    use(store, slot)
    shutil.rmtree(folder(house, "east", "1"))
    with pytest.raises(StoreError):
        store.put(slot.prefix + "works/y", b"")
    assert not folder(house, "east", "1").exists()


def guarded(locator: Locator, call: object) -> None:
    """Send a request as operations do, by a store of the locator."""
    east(locator)
    assert callable(call)
    call()


# -- repair -----------------------------------------------------------------------------------------------------------


def test_replaced_takes_the_new_store(used_house: House) -> None:
    record = used_house.registry.records["east", "1"]
    empty(used_house, "east", "1")
    locator = used_house.locator()
    for consent in (Consent.NONE, Consent.REPAIR):
        (report,) = locator.init(region_of(locator, "east"), zones=["1"], consent=consent)
        assert "not the zone 1 of east" in (report.problem or "")
    problems(locator.init(region_of(locator, "east"), zones=["1"], consent=Consent.REPLACED), none=True)
    assert used_house.registry.records["east", "1"].uid != record.uid
    slot = slot_of(locator, "east")
    use(locator.store(slot), slot)
    use(used_house.locator().store(slot), slot)


def test_replaced_never_takes_the_store_of_another_installation(used_house: House) -> None:
    stranger = used_house.locator(installation_uid="other", registry=type(used_house.registry)())
    (report,) = stranger.init(region_of(stranger, "east"), zones=["1"], consent=Consent.REPLACED)
    assert "belongs to something else" in (report.problem or "")
    east(used_house.locator())


@pytest.mark.parametrize("spoil", ["empty", "unreadable", "unmarked"])
def test_one_zone_of_three_counts_as_away_and_is_repaired_from_the_others(used_house: House, spoil: str) -> None:
    record = used_house.registry.records["south", "2"]
    if spoil == "empty":
        empty(used_house, "south", "2")
    else:
        raw = zone_store(used_house, "south", "2")
        raw.delete(["FORMAT"])
        if spoil == "unreadable":
            raw.put("FORMAT", b"\0" * 99)
    locator = used_house.locator()
    slot = slot_of(locator, "south", ZRS)
    assert locator.store(slot).get(slot.prefix + "segments/00/x") == b"body"
    locator.store(slot).put(slot.prefix + "segments/00/y", b"more")
    assert report_of(locator, "south", "2")
    problems(locator.init(region_of(locator, "south")))  # Without the zone's name nothing is mended.
    assert report_of(used_house.locator(), "south", "2")
    problems(locator.init(region_of(locator, "south"), zones=["2"], consent=Consent.REPAIR), none=True)
    assert not report_of(used_house.locator(), "south", "2")
    assert (used_house.registry.records["south", "2"] == record) is (spoil != "empty")
    assert used_house.locator().store(slot).get(slot.prefix + "segments/00/y") == b"more"


def test_two_zones_of_three_that_are_no_zones_refuse_the_region(used_house: House) -> None:
    for zone in "12":
        empty(used_house, "south", zone)
    locator = used_house.locator()
    with pytest.raises(StoreMismatch):
        locator.store(slot_of(locator, "south", ZRS))
    (report,) = locator.init(region_of(locator, "south"), zones=["1"], consent=Consent.REPAIR)
    assert report.problem


def zone_store(house: House, region: str, zone: str) -> ObjectStore:
    locator = house.locator()
    (one,) = [each for each in region_of(locator, region).zones if each.name == zone]
    return locator._open(region_of(locator, region), one).store


def empty(house: House, region: str, zone: str) -> None:
    """Delete all objects of the bucket or folder."""
    store = zone_store(house, region, zone)
    store.delete([info.key for info in store.list("")])
    if not house.environ:
        shutil.rmtree(folder(house, region, zone))
        folder(house, region, zone).mkdir()


def is_empty(house: House, region: str, zone: str) -> bool:
    if not house.environ:
        return not list(folder(house, region, zone).iterdir())
    return not list(zone_store(house, region, zone).list(""))


def test_no_flipped_bit_in_format_gives_another_zone() -> None:
    properties = StoreProperties(verifies_checksum=True, server_side_copy=False, atomic_create=True)
    own = FormatMark(
        installation="0d9c6a3e-5d0c-4b5f-9a53-f6d6c0f0a001", region="westus2", zone="2", properties=properties
    )
    body = own.encode()
    for at, bit in product(range(len(body)), range(8)):
        damaged = bytes([*body[:at], body[at] ^ 1 << bit, *body[at + 1 :]])
        try:
            found = FormatMark.decode(damaged, where="a store", zone="westus2/2")
            own.check(found, where="a store")
        except StoreMismatch as error:
            hint = str(error.hint)
            assert "imgstore regions init --zone westus2/2" in hint or "the version of imgstore" in hint
        else:
            assert found.properties in (None, properties), f"bit {bit} of byte {at}"
