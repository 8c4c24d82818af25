"""Cheapest routes on real directories: the bytes take the planned way, the bill names the way, and lost parents heal."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import Slot
from imgstore.domain.settings.replication import ReplicationRoute, ReplicationSettings, read_replication
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import GIGABYTE, MIB
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.worker import run_worker
from imgstore.policy.transfer_rates import measure_rates
from imgstore.policy.worker_queue import WorkerLimits
from imgstore.stores.interface import ObjectStore
from imgstore.wire.responses.forecast import forecast_json
from tests.support.crash_scenes import CrashScene
from tests.support.faulty_store import FaultyStore
from tests.support.forecast_check import check_forecast, predict_create, predict_targets
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    audit,
    charges,
    create_sample_gallery,
    create_version,
    open_home,
    publish,
    request,
    retarget,
    show,
    states,
)

SOURCE, EAST, WEST, NORTH = TARGETS = ["southcentralus", "eastus", "westus2", "northeurope"]
COMPLETED, FAILED, PENDING = ReplicaState.COMPLETED, ReplicaState.FAILED, ReplicaState.PENDING
PRICES = {
    "default": "0.09",
    "pairs": {
        SOURCE: {EAST: "0.02"},
        EAST: {WEST: "0.01", NORTH: "0.03"},
        # The cheapest way to northeurope is three copies long, and so breaks the time rule.
        WEST: {NORTH: "0.005"},
    },
}
CHEAPEST = {(SOURCE, EAST): "0.02", (EAST, WEST): "0.01", (EAST, NORTH): "0.03"}
ROUTED = ReplicationSettings(route=ReplicationRoute.CHEAPEST)


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    """Four regions of one directory each, with prices that make detours cheap."""
    path = tmp_path / "regions.yaml"
    document = {
        "currency": "USD",
        "regions": {
            name: {
                "bucket": f"imgstore-{name}",
                "policy": "LRS",
                "storage_account_types": ["Standard_LRS"],
                "zones": {"1": {}},
            }
            for name in TARGETS
        },
        "prices": {"egress_per_gb": PRICES, "storage_per_gb_month": {"Standard_LRS": "0.05"}},
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def home(tmp_path: Path, regions: Path) -> Iterator[Installation]:
    """A home with cheapest routes."""
    with open_home(tmp_path / "home", regions=regions, replication=ROUTED) as installation:
        create_sample_gallery(installation)
        yield installation


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "1.0.0.raw", seed=1, virtual_bytes=16 * MIB, content_bytes=9 * MIB)


def paid(installation: Installation) -> dict[tuple[str, str], str]:
    """Return the unit price of each charged pair, and check the amounts."""
    rows = [row for row in charges(installation) if row.kind is ChargeKind.EGRESS]
    for row in rows:
        assert row.amount == row.delivered_bytes * row.unit_price / GIGABYTE
    return {(row.source, row.target): str(row.unit_price) for row in rows}


def parents(installation: Installation) -> dict[str, str | None]:
    return {each.slot.key.region: each.parent_region for each in show(installation).replicas}


def store_of(
    installation: Installation, region: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[FaultyStore]]:
    """Put a store that can fail in front of each slot of a region."""
    made: dict[str, FaultyStore] = {}
    real = installation.locator.store

    def store(slot: Slot) -> ObjectStore:
        if slot.key.region != region:
            return real(slot)
        return made.setdefault(slot.uid, FaultyStore(real(slot)))

    monkeypatch.setattr(installation.locator, "store", store)
    return lambda: list(made.values())


def test_bill_equals_the_price_of_the_cheapest_tree(home: Installation, disk: Path) -> None:
    publish(home, disk, targets=TARGETS)
    # Invariants M5, R4 and R19.
    assert paid(home) == CHEAPEST
    assert parents(home) == {SOURCE: None, EAST: SOURCE, WEST: EAST, NORTH: EAST}
    moved = {row.delivered_bytes for row in charges(home)}
    assert len(moved) == 1
    total = sum(row.amount for row in charges(home))
    assert total == moved.pop() * sum(map(Decimal, CHEAPEST.values())) / GIGABYTE
    audit(home)
    with home.catalog.reading() as transaction:
        rates = measure_rates(transaction.replicas.list_timed_transfers())
    assert {(key.source, key.target) for key in rates if key.source is not None} == CHEAPEST.keys()


def test_route_source_charges_from_the_source_and_records_no_parent(tmp_path: Path, regions: Path, disk: Path) -> None:
    with open_home(tmp_path / "home", regions=regions) as installation:
        create_sample_gallery(installation)
        publish(installation, disk, targets=TARGETS)
        assert paid(installation) == {(SOURCE, EAST): "0.02", (SOURCE, WEST): "0.09", (SOURCE, NORTH): "0.09"}
        assert set(parents(installation).values()) == {None}


def test_a_worker_makes_children_after_their_parent(home: Installation, disk: Path) -> None:
    create_version(home, ADMIN, request(targets=TARGETS), os_vhd_uri=str(disk), wait=False)
    report = run_worker(home, ADMIN, once=True, limits=WorkerLimits(replicas=1))
    assert report.completed == 3
    assert paid(home) == CHEAPEST
    audit(home)


def test_forecast_equals_the_bill_and_shows_both_routes(home: Installation, disk: Path) -> None:
    # Invariant M16.
    found = check_forecast(
        home, lambda: predict_create(home, disk, "1.0.0", TARGETS[:3]), lambda: publish(home, disk, targets=TARGETS[:3])
    )
    source, cheapest = found.routes
    assert (source.route, source.is_chosen, set(source.parents.values())) == ("source", False, {SOURCE})
    assert (cheapest.route, cheapest.is_chosen) == ("cheapest", True)
    assert cheapest.parents == {EAST: SOURCE, WEST: EAST}
    assert cheapest.egress == found.egress == sum(row.amount for row in charges(home))
    delivered = found.delivered_bytes // 2
    assert source.egress == delivered * Decimal("0.11") / GIGABYTE
    assert source.estimated_seconds < cheapest.estimated_seconds <= 2 * source.estimated_seconds
    shown = forecast_json(found)["routes"][1]
    assert shown["copies"] == [{"source": SOURCE, "target": EAST}, {"source": EAST, "target": WEST}]
    added = check_forecast(home, lambda: predict_targets(home, TARGETS), lambda: retarget(home, TARGETS))
    assert [each.parents[NORTH] for each in added.routes] == [SOURCE, WEST]
    assert check_forecast(home, lambda: predict_targets(home, TARGETS), lambda: retarget(home, TARGETS)).routes == ()


def test_further_replicas_are_copied_inside_their_region(home: Installation, disk: Path) -> None:
    publish(home, disk, targets=[SOURCE, EAST, f"{WEST}=2"])
    assert paid(home) == {(SOURCE, EAST): "0.02", (EAST, WEST): "0.01"}
    kinds = {(row.target, row.replica): row.kind for row in charges(home)}
    assert kinds[WEST, 1] is ChargeKind.COPY
    audit(home)


def test_added_region_is_copied_from_the_cheapest_finished_region(home: Installation, disk: Path) -> None:
    publish(home, disk, targets=[SOURCE, EAST, WEST])
    retarget(home, TARGETS)
    assert paid(home)[WEST, NORTH] == "0.005"


def test_tiers_count_from_the_sum_of_the_month(tmp_path: Path, regions: Path) -> None:
    """The direct way to westus2 is free for the first version of the month, and then more than the detour.

    The disks are too small to measure rates.
    """
    document = json.loads(regions.read_text())
    tiers = [{"up_to_gb": "0.003", "price": "0"}, {"price": "0.09"}]
    document["prices"]["egress_per_gb"]["pairs"][SOURCE][WEST] = tiers
    regions.write_text(json.dumps(document))
    with open_home(tmp_path / "home", regions=regions, replication=ROUTED) as installation:
        create_sample_gallery(installation)
        for number in range(2):
            disk = make_raw(tmp_path / f"{number}.raw", seed=number, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
            publish(installation, disk, f"1.0.{number}", TARGETS[:3])
        assert parents(installation)[WEST] == SOURCE
        by_target = {each.slot.key.region: each.parent_region for each in show(installation, "1.0.1").replicas}
        assert by_target[WEST] == EAST


def test_children_of_a_failed_parent_get_another_parent(
    home: Installation, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_version(home, ADMIN, request(targets=TARGETS), os_vhd_uri=str(disk), wait=False)
    east = store_of(home, EAST, monkeypatch)
    for each in show(home).replicas:
        home.access(each.slot)
    for store in east():
        store.die()
    report = run_worker(home, ADMIN, once=True)
    assert len(report.failed) == 1
    assert states(show(home)) == {
        f"{SOURCE}/0": COMPLETED, f"{EAST}/0": FAILED, f"{WEST}/0": COMPLETED, f"{NORTH}/0": COMPLETED
    }  # fmt: skip
    assert paid(home) == {(SOURCE, WEST): "0.09", (WEST, NORTH): "0.005"}
    for store in east():
        store.heal()
    publish(home, disk, targets=TARGETS)
    assert paid(home)[SOURCE, EAST] == "0.02"
    audit(home)


def test_parent_with_a_silent_store_is_avoided(home: Installation, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(home, disk, targets=[SOURCE, EAST])
    real = home.locator.is_avoided

    def is_avoided(place: Slot | str) -> bool:
        return (place.key.region if isinstance(place, Slot) else place) == EAST or real(place)

    monkeypatch.setattr(home.locator, "is_avoided", is_avoided)
    retarget(home, TARGETS)
    assert parents(home)[WEST] == SOURCE
    assert paid(home) == {(SOURCE, EAST): "0.02", (SOURCE, WEST): "0.09", (WEST, NORTH): "0.005"}


def test_bytes_that_another_region_served_are_charged_from_that_region(home: Installation, disk: Path) -> None:
    """The parent loses one of its segments, so the source region serves the segment."""
    publish(home, disk, targets=[SOURCE, EAST])
    lost = min((home.home / "regions").glob(f"*{EAST}/**/segments/*/*"))
    lost_bytes = lost.stat().st_size
    lost.unlink()
    retarget(home, [SOURCE, EAST, WEST])
    moved = {(row.source, row.target): row.delivered_bytes for row in charges(home)}
    assert moved[SOURCE, WEST] == lost_bytes
    assert moved[EAST, WEST] == moved[SOURCE, EAST] - lost_bytes
    uid = next(each.uid for each in show(home).replicas if each.slot.key.region == WEST)
    least = min((EAST, SOURCE), key=lambda each: moved[each, WEST])
    # Invariant M4.
    assert {row.key for row in charges(home) if row.target == WEST} == {uid, f"{uid}/{least}"}


@pytest.fixture
def scene(tmp_path: Path, regions: Path, disk: Path) -> CrashScene:
    """A home for processes, with cheapest routes in settings.toml."""
    folder = tmp_path / "scene"
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "settings.toml").write_text('[replication]\nroute = "cheapest"\n')
    scene = CrashScene(folder=folder, settings={"regions": str(regions)}, expected={"1.0.0": disk})
    scene.prepare()
    return scene


PUBLISH: dict[str, Any] = {"version": "1.0.0", "targets": TARGETS}


@pytest.mark.parametrize(
    ("number", "fatal"),
    # A killed process has put the segments of eastus, and not the manifest. An interrupted process ends its requests.
    [(signal.SIGKILL, 75), pytest.param(signal.SIGINT, 40, marks=pytest.mark.long)],
    ids=["killed", "interrupted"],
)
def test_process_that_ends_in_the_copy_to_a_parent_is_resumed(
    scene: CrashScene, disk: Path, number: int, fatal: int
) -> None:
    with scene.open() as installation:
        publish(installation, disk, targets=[SOURCE])
    assert scene.run_job("retarget", fatal=fatal, number=number, version="1.0.0", targets=TARGETS) == 0
    with scene.open() as installation:
        assert states(show(installation))[f"{EAST}/0"] is not COMPLETED
        assert parents(installation) == {SOURCE: None, EAST: SOURCE, WEST: EAST, NORTH: EAST}
        retarget(installation, TARGETS)
        assert paid(installation) == CHEAPEST
    scene.check()


def test_children_of_a_removed_parent_get_another_parent(scene: CrashScene, disk: Path) -> None:
    with scene.open() as installation:
        publish(installation, disk, targets=[SOURCE])
    scene.run_job("retarget", watch="replica Replicating", version="1.0.0", targets=TARGETS)
    with scene.open() as installation:
        assert parents(installation) == {SOURCE: None, EAST: SOURCE, WEST: EAST, NORTH: EAST}
        retarget(installation, [SOURCE, WEST, NORTH])
        assert paid(installation) == {(SOURCE, WEST): "0.09", (WEST, NORTH): "0.005"}


def test_child_is_finished_from_another_region_after_its_parent_is_lost(scene: CrashScene, disk: Path) -> None:
    """A process is killed in the copy to a child, and the store of the parent is lost: both pairs are charged."""
    with scene.open() as installation:
        publish(installation, disk, targets=[SOURCE, EAST])
        slot = next(each.slot for each in show(installation).replicas if each.slot.key.region == EAST)
    scene.run_job("retarget", watch="replica Replicating", version="1.0.0", targets=[SOURCE, EAST, WEST])
    with scene.open() as installation:
        assert parents(installation)[WEST] == EAST
        shutil.rmtree(next((installation.home / "regions").glob(f"*{EAST}/zone-1/{slot.prefix}segments")))
        retarget(installation, [SOURCE, EAST, WEST])
        assert {(row.source, row.target) for row in charges(installation)} >= {(SOURCE, EAST), (SOURCE, WEST)}
        assert states(show(installation))[f"{WEST}/0"] is COMPLETED
        publish(installation, disk, targets=[SOURCE, EAST, WEST])
        audit(installation)


def test_route_is_a_shared_setting(scene: CrashScene) -> None:
    with scene.open() as installation:
        assert installation.replication == ROUTED
        assert replace(installation.replication) == read_replication({"replication": {"route": "cheapest"}}, "x")
    assert read_replication({}, "x").route is ReplicationRoute.SOURCE


@pytest.mark.parametrize(
    ("table", "target"),
    [(3, "replication"), ({"way": 1}, "replication.way"), ({"route": "fastest"}, "replication.route"),
     ({"route": ["source"]}, "replication.route")],
)  # fmt: skip
def test_another_route_is_refused(table: object, target: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_replication({"replication": table}, "settings.toml")
    assert caught.value.target == target
    assert "settings.toml cannot be used" in caught.value.message
