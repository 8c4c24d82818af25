"""Tests of the locator on directories, moto and MinIO. The owner of a zone is checked before any read or write."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from regions_house import DOCUMENT, LRS, S3_ENGINES, ZRS, House, init_all, on, problems, region_of, slot_of, use

from imgstore.domain.errors import InvalidInput, StoreError, StoreMismatch, StoreUnreachable
from imgstore.domain.resources import StorageAccountType
from imgstore.regions import ALL_ZONES
from imgstore.regions.regions_file import parse_regions
from imgstore.testing.engines import S3Engine


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(home=tmp_path / "home", stack=stack)


@pytest.fixture(params=S3_ENGINES)
def s3_house(request: pytest.FixtureRequest, house: House) -> House:
    return on(house, request.getfixturevalue(request.param))


@pytest.fixture(params=["directories", *S3_ENGINES])
def ready_house(request: pytest.FixtureRequest, house: House) -> House:
    """An installation with usable zones: embedded ones unchanged, others prepared by `init`."""
    if request.param == "directories":
        return house
    on(house, request.getfixturevalue(request.param))
    problems(init_all(house.locator()), none=True)
    return house


def buckets_of(engine: S3Engine, name: str) -> set[str]:
    client = engine.client()
    try:
        found = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    finally:
        client.close()
    return {bucket for bucket in found if bucket.startswith(name + "-")}


# -- placement --------------------------------------------------------------------------------------------------------


def test_replicas_cycle_through_the_zones(house: House) -> None:
    locator = house.locator()
    first = [slot_of(locator, "south", ordinal=ordinal) for ordinal in range(6)]
    assert sorted(slot.zone for slot in first[:3]) == ["1", "2", "3"]
    assert [slot.zone for slot in first[:3]] == [slot.zone for slot in first[3:]]
    assert {slot.bucket for slot in first} == {f"{house.name}-south"}
    assert {slot_of(locator, "south", pool=f"pool-{number}").zone for number in range(30)} == {"1", "2", "3"}
    assert slot_of(locator, "south", ZRS).zone == ALL_ZONES
    assert slot_of(locator, "east", ordinal=7).zone == "1"
    # Pinned: a slot that was never written down must fall in the same place after any upgrade.
    assert [slot.zone for slot in first[:3]] == ["1", "2", "3"]


def test_on_the_shared_endpoint_the_bucket_names_the_zone(house: House) -> None:
    house.environ["IMGSTORE_S3_ENDPOINT"] = "http://127.0.0.1:1"
    locator = house.locator()
    slot = slot_of(locator, "south")
    assert slot.bucket == f"{house.name}-south-z{slot.zone}"
    assert slot_of(locator, "south", ZRS).bucket == f"{house.name}-south"


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LRS, ZRS])
def test_a_store_is_made_once_and_works(ready_house: House, kind: StorageAccountType) -> None:
    locator = ready_house.locator()
    slot = slot_of(locator, "south", kind)
    store = locator.store(slot)
    use(store, slot)
    assert locator.store(replace(slot, uid="another")) is store
    assert ready_house.locator().store(slot).get(slot.prefix + "segments/00/x") == b"body"


def test_embedded_zones_are_folders_made_at_first_use(house: House) -> None:
    locator = house.locator()
    reports = locator.check(region_of(locator, "south"))
    assert not house.home.exists()
    assert [(each.reachable, each.bucket_exists, each.marked, each.problem) for each in reports] == [
        (True, False, False, None)
    ] * 3
    slot = slot_of(locator, "south")
    use(locator.store(slot), slot)
    folder = house.home / "regions" / f"{house.name}-south" / f"zone-{slot.zone}"
    assert (folder / slot.prefix / "segments/00/x").read_bytes() == b"body"
    assert json.loads((folder / "FORMAT").read_text()) == {
        "installation": "installation-1",
        "region": "south",
        "zone": slot.zone,
        "layout": 1,
        "properties": {"verifies_checksum": True, "server_side_copy": False, "atomic_create": True},
    }
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [each.marked for each in locator.check(region_of(locator, "south"))].count(True) == 1


def test_the_zones_of_zrs_hold_the_object_three_times(house: House) -> None:
    locator = house.locator()
    slot = slot_of(locator, "south", ZRS)
    use(locator.store(slot), slot)
    folder = house.home / "regions" / f"{house.name}-south"
    bodies = [(folder / f"zone-{zone}" / slot.prefix / "segments/00/x").read_bytes() for zone in "123"]
    # Invariant S10.
    assert bodies == [b"body"] * 3


def test_bytes_are_counted_by_region(ready_house: House) -> None:
    locator = ready_house.locator()
    slot = slot_of(locator, "east")
    store = locator.store(slot)
    before = locator.traffic()["east"]
    store.put(slot.prefix + "works/x", b"12345")
    store.get(slot.prefix + "works/x")
    after = locator.traffic()["east"]
    assert (after.sent_bytes - before.sent_bytes, after.received_bytes - before.received_bytes) == (5, 5)
    assert locator.meter("East").traffic == after
    assert locator.traffic()["south"].wire_bytes == 0


def test_boto3_is_not_loaded_for_directories(tmp_path: Path) -> None:
    """boto3 takes 0.3 s to load, which every command would need."""
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from imgstore.domain.effects import Effects\n"
        "from imgstore.regions import Locator, load_regions\n"
        f"regions = load_regions(None, {{}})\n"
        "from regions_house import MemoryRegistry\n"
        f"locator = Locator(regions, home=Path({str(tmp_path)!r}), installation_uid='i', environ={{}}, effects=Effects(),\n"
        "    registry=MemoryRegistry())\n"
        "reports = locator.init(regions.get('westus2'))\n"
        "assert all(report.marked for report in reports), reports\n"
        "sys.exit('boto3' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- whose a zone is --------------------------------------------------------------------------------------------------


def told_in_place(mark: dict[str, Any], body: bytes | None = None, **changes: Any) -> bytes:
    return body or json.dumps({**mark, **changes}).encode()


MISMATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "installation": ({"installation": "other"}, "found: installation other"),
    "region": ({"region": "south"}, "found: region south"),
    "zone": ({"zone": "9"}, "found: zone 9"),
    "layout": ({"layout": 2}, "found: layout 2"),
    "no JSON": ({"body": b"<html>"}, "can't be read"),
    "no mark": ({"body": b"[]"}, "can't be read"),
    "half a mark": ({"body": b'{"installation": "installation-1"}'}, "can't be read"),
    "no text": ({"body": b"\xff\xfe{}"}, "can't be read"),
    "no end of lists": ({"body": b"[" * 100_000}, "can't be read"),
    "an endless layout": (
        {"body": b'{"installation": "i", "region": "r", "zone": "1", "layout": 1e999}'},
        "can't be read",
    ),
    "unknown promises": ({"properties": {"x": 1}}, "can't be read"),
}


@pytest.mark.parametrize("change", MISMATCHES)
def test_a_zone_of_another_mark_is_refused(house: House, change: str) -> None:
    spoil, told = MISMATCHES[change]
    slot = slot_of(house.locator(), "east")
    store = house.locator().store(slot)
    store.put("FORMAT", told_in_place(json.loads(store.get("FORMAT")), **spoil))
    locator = house.locator()
    with pytest.raises(StoreMismatch, match=told):
        locator.store(slot)
    (report,) = locator.check(region_of(locator, "east"))
    assert (report.bucket_exists, report.marked) == (True, False)
    assert told in str(report.problem)
    assert "\n" not in str(report.problem)
    (again,) = locator.init(region_of(locator, "east"))
    assert told in str(again.problem)


def test_another_installation_is_refused_in_every_way(ready_house: House) -> None:
    locator = ready_house.locator()
    for kind in (LRS, ZRS):
        locator.store(slot_of(locator, "south", kind))
    stranger = ready_house.locator(installation_uid="installation-2")
    for kind in (LRS, ZRS):
        with pytest.raises(StoreMismatch, match="found: installation installation-1"):
            stranger.store(slot_of(stranger, "south", kind))
    assert len(problems(stranger.init(region_of(stranger, "south")))) == 3


def test_a_foreign_folder_stays_unchanged(house: House) -> None:
    locator = house.locator()
    slot = slot_of(locator, "east")
    folder = house.home / "regions" / f"{house.name}-east" / "zone-1"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(StoreMismatch, match=r"no FORMAT object, but 'thesis.txt'"):
        locator.store(slot)
    (report,) = locator.check(region_of(locator, "east"))
    assert "no FORMAT object, but 'thesis.txt'" in str(report.problem)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_slot_stays_in_its_recorded_zone(house: House) -> None:
    locator = house.locator()
    slot = slot_of(locator, "south")
    for wrong in (
        replace(slot, bucket="elsewhere"),
        replace(slot, zone="4"),
        replace(slot, zone=ALL_ZONES, bucket="e"),
    ):
        with pytest.raises(StoreMismatch, match=r"is in a zone or bucket that"):
            locator.store(wrong)
    east = replace(slot_of(locator, "east"), zone=ALL_ZONES)
    with pytest.raises(StoreMismatch, match="region east of policy LRS"):
        locator.store(east)
    with pytest.raises(InvalidInput, match="'west' is not known"):
        locator.store(replace(slot, key=replace(slot.key, region="west")))


# -- buckets ----------------------------------------------------------------------------------------------------------


def engine_of(request: pytest.FixtureRequest) -> S3Engine:
    engine: S3Engine = request.getfixturevalue(request.node.callspec.params["s3_house"])
    return engine


def test_only_init_creates_buckets(s3_house: House, request: pytest.FixtureRequest) -> None:
    engine = engine_of(request)
    locator = s3_house.locator()
    for kind in (LRS, ZRS):
        with pytest.raises(StoreError, match="run `imgstore regions init`"):
            locator.store(slot_of(locator, "south", kind))
    reports = locator.check(region_of(locator, "south"))
    assert [(each.reachable, each.bucket_exists, each.marked) for each in reports] == [(True, False, False)] * 3
    assert all("`imgstore regions init`" in problem for problem in problems(reports))
    assert buckets_of(engine, s3_house.name) == set()

    reports = init_all(locator)
    problems(reports, none=True)
    assert buckets_of(engine, s3_house.name) == {
        *(f"{s3_house.name}-south-z{zone}" for zone in "123"),
        f"{s3_house.name}-east-z1",
    }
    assert all(each.marked and each.bucket_exists and each.properties for each in reports)
    assert problems(locator.check(region_of(locator, "south"))) == []
    # Invariant E3.
    use(locator.store(slot_of(locator, "south")), slot_of(locator, "south"))


def test_init_may_be_repeated(s3_house: House) -> None:
    first = init_all(s3_house.locator())
    locator = s3_house.locator()
    slot = slot_of(locator, "east")
    use(locator.store(slot), slot)
    assert init_all(s3_house.locator()) == first
    store = s3_house.locator().store(slot)
    (record,) = [each for each in s3_house.registry.records.values() if each.region == "east"]
    assert [info.key for info in store.list("")] == ["FORMAT", slot.prefix + "segments/00/x", f"zone/uid/{record.uid}"]


def test_probed_properties_are_stored_in_the_mark(s3_house: House, request: pytest.FixtureRequest) -> None:
    """MinIO verifies checksums and moto does not. The mark records the result for later processes."""
    init_all(s3_house.locator())
    locator = s3_house.locator()
    properties = locator.store(slot_of(locator, "east")).properties
    assert properties.verifies_checksum == (request.node.callspec.params["s3_house"] == "minio")
    (report,) = locator.check(region_of(locator, "east"))
    assert report.properties == properties


def test_a_foreign_bucket_stays_unchanged(s3_house: House, request: pytest.FixtureRequest) -> None:
    engine = engine_of(request)
    bucket = engine.make_bucket(f"{s3_house.name}-east-z1")
    client = engine.client()
    try:
        client.put_object(Bucket=bucket, Key="thesis.txt", Body=b"mine")
        locator = s3_house.locator()
        (report,) = locator.init(region_of(locator, "east"))
        assert "no FORMAT object, but 'thesis.txt'" in str(report.problem)
        assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["thesis.txt"]
    finally:
        client.close()
    with pytest.raises(StoreError, match="was not prepared"):
        locator.store(slot_of(locator, "east"))


def test_a_zone_that_does_not_answer(house: House, minio: S3Engine) -> None:
    """Two zones are enough for ZRS. The third is reported, and checked before its next use."""
    on(house, minio)
    problems(init_all(house.locator()), none=True)
    house.environ["SOUTH_1"] = "http://127.0.0.1:1"
    locator = house.locator()
    south = region_of(locator, "south")
    first, *others = locator.check(south)
    assert (first.reachable, first.bucket_exists) == (False, False)
    assert problems(others) == []
    slot = slot_of(locator, "south", ZRS)
    use(locator.store(slot), slot)
    lrs = next(slot for slot in (slot_of(locator, "south", ordinal=each) for each in range(3)) if slot.zone == "1")
    with pytest.raises(StoreUnreachable):
        locator.store(lrs)


def test_a_recovered_wrong_zone_is_never_written(house: House, minio: S3Engine) -> None:
    """The zone did not answer at first, and belongs to another installation after the recovery."""
    on(house, minio)
    problems(init_all(house.locator()), none=True)
    locator = house.locator()
    slot = slot_of(locator, "south", ZRS)
    door = locator._open(region_of(locator, "south"), region_of(locator, "south").zones[0])
    admit, door.guarded._admit = door.guarded._admit, unreachable
    store = locator.store(slot)
    door.store.put("FORMAT", b'{"installation": "other", "region": "south", "zone": "1", "layout": 1}')
    door.guarded._admit = admit
    use(store, slot)
    assert not [info.key for info in door.store.list("pools/")]


def unreachable() -> None:
    raise StoreUnreachable("away", found="nothing", expected="an answer", hint="wait")


def test_check_reports_a_missing_profile(house: House) -> None:
    text = DOCUMENT.format(name=house.name).replace('zones: {"1": {}}', 'zones: {"1": {profile: nobody-has-this}}')
    house.environ["IMGSTORE_S3_ENDPOINT"] = "http://127.0.0.1:1"
    locator = house.locator(regions=parse_regions(text.encode(), house.environ, path="regions.yaml"))
    (report,) = locator.check(region_of(locator, "east"))
    assert "nobody-has-this" in str(report.problem)


def test_check_reports_wrong_credentials(house: House, minio: S3Engine) -> None:
    on(house, minio).environ["AWS_SECRET_ACCESS_KEY"] = "wrong-secret"
    locator = house.locator()
    (report,) = locator.init(region_of(locator, "east"))
    assert report.reachable
    assert "refuses the credentials" in str(report.problem)
