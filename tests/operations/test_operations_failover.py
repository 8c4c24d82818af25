"""Creation of disks and machines when the store of a replica fails, with real servers behind faulty proxies.

A region has three zones on three servers, and a version has two replicas in two of the zones.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import LeaseLost, StoreError
from imgstore.domain.requests import MachineRequest, OsProfile
from imgstore.domain.resources import ManagedDisk, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.circuits import CircuitState
from imgstore.domain.storage.works import WorkKind
from imgstore.operations.disks import placed_disks
from imgstore.operations.installation import Installation
from imgstore.operations.leases import this_host
from imgstore.operations.machines import create as machines_create
from imgstore.operations.slots import works
from imgstore.operations.slots.leftovers import run_removals
from imgstore.operations.slots.references import PlacedDisk, put_disk
from imgstore.operations.stores import regions
from imgstore.operations.stores.readiness import CheckResult, Readiness, check_readiness
from imgstore.regions import health
from imgstore.stores.interface import ObjectInfo
from imgstore.testing.engines import S3Engine
from imgstore.testing.latency_proxy import LatencyProxies, LatencyProxy
from imgstore.transfer.slot_access import SlotAccess
from imgstore.wire.responses.replication import replication_status_json
from imgstore.wire.responses.reports import zone_json
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    audit,
    export,
    make_disk,
    publish,
    publish_disks,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

WEST = "westus2"
TWO = ["westus2=2"]
SUCCEEDED = ProvisioningState.SUCCEEDED


@dataclass(kw_only=True)
class Sites:
    """The scene, and the way to each zone's server."""

    scene: CrashScene
    latency_proxies: dict[str, LatencyProxy]
    stack: ExitStack = field(default_factory=ExitStack)

    def open(self) -> Installation:
        """As another process of this host would."""
        return self.stack.enter_context(self.scene.open())

    def way_of(self, disk: ManagedDisk) -> LatencyProxy:
        return self.latency_proxies[disk.slot.zone]


@pytest.fixture
def sites(
    tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]], latency_proxies: LatencyProxies
) -> Sites:
    made = {str(number): latency_proxies.to(engine) for number, engine in enumerate(minio_cluster(3), start=1)}
    name = tmp_path.name.replace("_", "-")[:40].strip("-")
    scene = create_minio_scene(tmp_path / "scene", [way.engine for way in made.values()], name)
    scene.prepare()
    return Sites(scene=scene, latency_proxies=made)


@pytest.fixture
def west(sites: Sites, samples: SampleImages) -> Iterator[Installation]:
    """1.0.0 has two replicas in westus2."""
    with sites.stack:
        installation = sites.open()
        publish(installation, samples.first, targets=TWO, location=WEST)
        yield installation


def make(installation: Installation, name: str) -> ManagedDisk:
    return make_disk(installation, name, WEST, "1.0.0")


def kill(way: LatencyProxy) -> None:
    way.set_enabled(enabled=False)


def revive(way: LatencyProxy) -> None:
    way.set_enabled(enabled=True)


@pytest.mark.parametrize("fail", [kill, LatencyProxy.hold])
def test_every_create_succeeds_with_one_store_down(
    sites: Sites, west: Installation, fail: Callable[[LatencyProxy], None]
) -> None:
    first, second = make(west, "a"), make(west, "b")
    assert first.slot != second.slot, "round robin"
    fail(sites.way_of(first))
    for number in range(4):
        made = make(west, f"d{number}")
        assert (made.provisioning_state, made.slot) == (SUCCEEDED, second.slot)
    other = sites.open()
    assert make(other, "e").slot == second.slot
    assert other.locator.health.circuit((WEST, first.slot.zone)).state is not CircuitState.CLOSED, "it knew at once"


def test_recovered_store_returns_to_the_round_robin(sites: Sites, west: Installation) -> None:
    first = make(west, "a")
    make(west, "b")
    kill(sites.way_of(first))
    for number in range(5):
        assert make(west, f"d{number}").slot != first.slot
    revive(sites.way_of(first))
    west.locator.health.refresh()
    while west.locator.is_avoided(first.slot):
        west.effects.wait(0.1)
        west.locator.health.refresh()
    used = [make(west, f"e{number}").slot for number in range(6)]
    assert [used.count(slot) for slot in set(used)] == [3, 3], "it does not make up for what it missed"


@pytest.mark.parametrize("fail", [pytest.param(kill, marks=pytest.mark.long), LatencyProxy.hold])
def test_a_slow_store_is_not_dead(sites: Sites, west: Installation, fail: Callable[[LatencyProxy], None]) -> None:
    """If the other store is dead, the slow store is used, and each late answer closes the circuit of the slow store."""
    first, second = make(west, "a"), make(west, "b")
    fail(sites.way_of(first))
    sites.way_of(second).set_round_trip(2.5)
    made = make(west, "c")
    assert (made.provisioning_state, made.slot) == (SUCCEEDED, second.slot)
    while west.locator.health.circuit((WEST, second.slot.zone)).state is not CircuitState.CLOSED:
        west.effects.wait(0.1)  # The command does not wait for the answer of a slow store to the revision.


def test_row_of_an_interrupted_run_is_placed_again(
    sites: Sites, west: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(placed_disks, "put_disk", die)
        with pytest.raises(KeyboardInterrupt):
            make(west, "a")
    with west.catalog.reading() as transaction:
        (left,) = transaction.disks.list(west.subscription, GROUP)
    assert left.provisioning_state is ProvisioningState.CREATING
    kill(sites.way_of(left))
    other = sites.open()
    made = make(other, "a")
    assert (made.uid, made.provisioning_state) == (left.uid, SUCCEEDED)
    assert made.slot != left.slot


def test_objects_of_a_late_request_are_removed(
    sites: Sites, west: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant G12: a manifest without an owner would keep segments forever."""
    first = make(west, "a")
    way = sites.way_of(first)
    make(west, "b")
    real = put_disk

    def put_late(installation: Installation, placed: PlacedDisk, body: bytes) -> ManagedDisk:
        """The manifest arrives, and the answer does not."""
        if placed.disk.slot != first.slot:
            return real(installation, placed, body)
        access = installation.access(placed.disk.slot)
        access.put_manifest(object_keys.manifest_key(placed.disk.uid, OS_DISK), b"late")
        raise StoreError("the answer was lost")

    monkeypatch.setattr(placed_disks, "put_disk", put_late)
    made = make(west, "c")
    assert made.slot != first.slot
    key = first.slot.prefix + object_keys.manifest_key(made.uid, OS_DISK)
    store = west.locator.store(first.slot)
    assert store.head(key).stored_bytes == 4
    with west.catalog.reading() as transaction:
        (removal,) = transaction.works.list_open(first.slot.uid)
        assert (removal.kind, removal.owner_uid) == (WorkKind.REMOVAL, made.uid)
        now = transaction.now()
    assert run_removals(west, first.slot) == 0, "the request may still be under way"
    monkeypatch.setattr(Session, "now", lambda _session: now + timedelta(minutes=3))
    kill(way)
    assert run_removals(west, first.slot) == 0
    revive(way)
    assert run_removals(west, first.slot) == 1
    assert [info.key for info in store.list(key)] == []


@pytest.mark.parametrize("before", ["the first write", "the manifest"])
def test_a_store_that_freezes_before_a_write_is_given_up(
    sites: Sites, west: Installation, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """The disk is made from the other replica. Later effects of the frozen store change nothing (W20)."""
    first, second = make(west, "a"), make(west, "b")
    engine = sites.way_of(first).engine
    ended = SimpleQueue[BaseException | None]()
    real_put_disk, real_put_manifest = put_disk, SlotAccess.put_manifest
    stack = ExitStack()

    def put_watched(installation: Installation, placed: PlacedDisk, body: bytes) -> ManagedDisk:
        if placed.disk.slot != first.slot:
            return real_put_disk(installation, placed, body)
        try:
            if before == "the first write":
                stack.enter_context(engine.freeze())
            made = real_put_disk(installation, placed, body)
        except BaseException as error:
            ended.put(error)
            raise
        ended.put(None)
        return made

    def put_frozen(access: SlotAccess, key: str, data: bytes) -> ObjectInfo:
        if before == "the manifest" and access.prefix == first.slot.prefix:
            stack.enter_context(engine.freeze())
        return real_put_manifest(access, key, data)

    with monkeypatch.context() as patch, stack:
        patch.setattr(placed_disks, "put_disk", put_watched)
        patch.setattr(SlotAccess, "put_manifest", put_frozen)
        made = make(west, "c")
        assert (made.provisioning_state, made.slot) == (SUCCEEDED, second.slot)
        assert ended.empty(), "it was given up, not waited for"
        circuit = west.locator.health.circuit((WEST, first.slot.zone))
        assert (circuit.avoided, circuit.failures) == (True, 0), "late, and not known to fail"
        assert make(west, "d").slot == second.slot
    assert isinstance(ended.get(), LeaseLost)
    with west.catalog.reading() as transaction:
        assert transaction.disks.by_uid(made.uid) == made
        assert transaction.manifests.find(made.uid, first.slot.uid, OS_DISK) is None
        now = transaction.now()
    store, key = west.locator.store(first.slot), first.slot.prefix + object_keys.manifest_key(made.uid, OS_DISK)
    if before == "the manifest":
        assert store.head(key), "it arrived late"
    monkeypatch.setattr(Session, "now", lambda _session: now + timedelta(minutes=3))
    assert run_removals(west, first.slot) == 1
    assert [info.key for info in store.list(key)] == []
    # Invariant W21.
    assert states(show(west)) == {f"{WEST}/0": ReplicaState.COMPLETED, f"{WEST}/1": ReplicaState.COMPLETED}


def test_abandoned_put_that_succeeds_completes_the_disk(
    sites: Sites, west: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the store arrives after the answer of the other replica and before the move of the disk."""
    first = make(west, "a")
    make(west, "b")
    real_put_disk, real_move = put_disk, placed_disks._move
    made_late = threading.Event()
    stack = ExitStack()

    def put_frozen(installation: Installation, placed: PlacedDisk, body: bytes) -> ManagedDisk:
        if placed.disk.slot == first.slot:
            stack.enter_context(sites.way_of(first).engine.freeze())
        made = real_put_disk(installation, placed, body)
        made_late.set()
        return made

    def move_late(installation: Installation, disks: Sequence[PlacedDisk], slot: Slot) -> list[PlacedDisk]:
        stack.close()
        made_late.wait()
        return real_move(installation, disks, slot)

    monkeypatch.setattr(placed_disks, "put_disk", put_frozen)
    monkeypatch.setattr(placed_disks, "_move", move_late)
    with stack:
        made = make(west, "c")
    assert (made.provisioning_state, made.slot) == (SUCCEEDED, first.slot)
    audit(west)


def test_a_store_that_freezes_after_a_disk_is_made_costs_no_time_limit(
    sites: Sites, west: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(west, "a")
    make(west, "b")
    real_remove_marks = works.remove_start_markers
    removed = threading.Event()
    stack = ExitStack()

    def remove_frozen(installation: Installation, slot: Slot, access: SlotAccess) -> None:
        stack.enter_context(sites.way_of(first).engine.freeze())
        real_remove_marks(installation, slot, access)
        removed.set()

    monkeypatch.setattr(works, "remove_start_markers", remove_frozen)
    with stack:
        made = make(west, "c")
        assert (made.provisioning_state, made.slot) == (SUCCEEDED, first.slot)
        circuit = west.locator.health.circuit((WEST, first.slot.zone))
        assert (circuit.avoided, circuit.failures) == (True, 0), "late, and not known to fail"
    removed.wait()
    audit(west)


def test_disks_of_a_machine_move_together(sites: Sites, samples: SampleImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks that were complete before the failure of the store move, too (invariant D3)."""
    with sites.stack:
        west = sites.open()
        publish_disks(west, samples.first, {0: samples.second, 1: samples.rebuilt}, targets=TWO, location=WEST)
        real, made = put_disk, list[ManagedDisk]()

        def put_one_then_fail(installation: Installation, placed: PlacedDisk, body: bytes) -> ManagedDisk:
            if len(made) == 1:
                kill(sites.way_of(made[0]))
            made.append(real(installation, placed, body))
            return made[-1]

        monkeypatch.setattr(placed_disks, "put_disk", put_one_then_fail)
        disks = create_machine(west, "m")
        assert {each.slot.zone for each in disks} != {made[0].slot.zone}
        assert len({each.slot.uid for each in disks}) == 1
        assert {each.provisioning_state for each in disks} == {SUCCEEDED}
        assert len({each.uid for each in disks}) == 3
        with west.catalog.reading() as transaction:
            assert transaction.manifests.find(made[0].uid, made[0].slot.uid, OS_DISK) is None


def create_machine(installation: Installation, name: str) -> Sequence[ManagedDisk]:
    image = f"/subscriptions/{installation.subscription}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
    image += f"/galleries/{GALLERY}/images/{DEFINITION}/versions/1.0.0"
    request = MachineRequest(
        group=GROUP,
        name=name,
        location=WEST,
        image=image,
        profile=OsProfile(admin_username="azureuser"),
    )
    return machines_create.create_machine(installation, ADMIN, request).disks


@pytest.mark.parametrize("damage", [None, b"something else"])
def test_a_missing_or_damaged_manifest_degrades_its_replica_and_another_serves(
    west: Installation, damage: bytes | None
) -> None:
    first, second = make(west, "a"), make(west, "b")
    store, key = west.locator.store(first.slot), first.slot.prefix + first.body_key
    if damage is None:
        store.delete([key])
    else:
        store.put(key, damage)
    for number in range(2):
        assert make(west, f"d{number}").slot == second.slot
    found = states(show(west))
    assert found[f"{WEST}/{first.slot.key.ordinal}"] is ReplicaState.DEGRADED
    assert found[f"{WEST}/{second.slot.key.ordinal}"] is ReplicaState.COMPLETED


def test_creation_fails_if_every_store_is_down(sites: Sites, west: Installation) -> None:
    make(west, "a")
    for way in sites.latency_proxies.values():
        kill(way)
    with pytest.raises(StoreError):
        make(west, "b")
    for way in sites.latency_proxies.values():
        revive(way)
    assert make(west, "b").provisioning_state is SUCCEEDED
    audit(west)


def test_export_by_another_process_does_not_wait_for_a_failed_store(
    sites: Sites, west: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    first = make(west, "a")
    make(west, "b")
    sites.way_of(first).hold()
    make(west, "c")
    make(west, "d")
    other = sites.open()
    before = sites.way_of(first).connections()
    export(other, tmp_path / "out.raw", WEST)
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    assert sites.way_of(first).connections() <= before + 1, "a probe at most"


_PROCESS = """
import json, sys
from pathlib import Path
from imgstore.operations.stores.regions import check_regions
from tests.support.crash_scenes import CrashScene
from tests.support.sample_gallery import ADMIN, make_disk

folder, settings, action = sys.argv[1:]
with CrashScene(folder=Path(folder), settings=json.loads(settings)).open() as installation:
    if action == "create":
        make_disk(installation, "c", "westus2", "1.0.0")
    if action == "check":
        check_regions(installation, ADMIN, names=["westus2"])
    installation.locator.health.refresh()
    print(json.dumps([zone for zone in "123" if installation.locator.health.is_avoided("westus2", zone)]))
"""


def avoided_zones(sites: Sites, action: str) -> list[str]:
    """Return the zones that a process of its own avoids after it has done something."""
    command = [sys.executable, "-c", _PROCESS, str(sites.scene.folder), json.dumps(sites.scene.settings), action]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    zones: list[str] = json.loads(done.stdout)
    return zones


def test_processes_of_a_host_share_observations_of_stores(sites: Sites, west: Installation) -> None:
    """A process without requests knows the observations of the last process."""
    first = make(west, "a")
    make(west, "b")
    assert avoided_zones(sites, "look") == []
    sites.way_of(first).hold()
    assert avoided_zones(sites, "create") == [first.slot.zone]
    assert avoided_zones(sites, "look") == [first.slot.zone]
    sites.way_of(first).release()
    assert avoided_zones(sites, "check") == []
    assert avoided_zones(sites, "look") == []


@pytest.mark.parametrize("fail", [kill, LatencyProxy.hold])
def test_an_export_reads_the_other_replica(
    sites: Sites, west: Installation, samples: SampleImages, tmp_path: Path, fail: Callable[[LatencyProxy], None]
) -> None:
    fail(sites.way_of(make(west, "a")))
    for number in range(2):
        export(west, tmp_path / f"{number}.raw", WEST)
        assert (tmp_path / f"{number}.raw").read_bytes() == samples.first.read_bytes()
    assert set(states(show(west)).values()) == {ReplicaState.COMPLETED}


def test_failed_store_is_shown(sites: Sites, west: Installation) -> None:
    first = make(west, "a")
    assert check_readiness(west) == Readiness(
        database=CheckResult.OK, stores=CheckResult.OK, free_space=CheckResult.OK, worker=CheckResult.MISSING
    )
    kill(sites.way_of(first))
    other = sites.open()
    readiness = check_readiness(other)
    assert (readiness.stores, readiness.ready) == (CheckResult.DEGRADED, True)
    view = show(other)
    status = replication_status_json(
        view.version.target_regions, view.replicas, {}, unreachable_slots=view.unreachable_slots
    )
    (region,) = status["summary"]
    assert region["state"] == "Completed", "its bytes are there"
    assert region["details"] == f"replica {first.replica}: the store does not answer now"
    assert [each["storeAnswers"] for each in region["replicas"]] == [
        each["replica"] != first.replica for each in region["replicas"]
    ]
    circuits = regions.list_circuits(other, ADMIN)[WEST, first.slot.zone]
    assert [(each.observer, each.avoided) for each in circuits] == [(this_host(), True)]
    (report,) = [each for each in regions.check_regions(other, ADMIN, names=[WEST]) if each.zone == first.slot.zone]
    body = zone_json(report, circuits, other.effects.now())
    assert (body["circuit"], body["ready"]) == ("open", False)
    assert "Could not connect" in body["circuits"][0]["lastError"]


def test_server_is_not_ready_without_an_answering_store(
    sites: Sites, west: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.0)
    for way in sites.latency_proxies.values():
        way.hold()
    readiness = check_readiness(west)
    assert (readiness.stores, readiness.ready) == (CheckResult.FAILED, False)
