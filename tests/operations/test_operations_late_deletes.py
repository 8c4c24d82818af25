"""A DELETE that a store carries out long after its client gave up destroys nothing that was written since (G14)."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import ReplicationFailed, StoreUnreachable
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc import collect
from imgstore.operations.maintenance.scrub import scrub
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import Body
from tests.support.manual_clock import ManualClock
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    audit,
    audit_served,
    create_sample_gallery,
    delete,
    open_home,
    publish,
    retarget,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

SOUTH, EAST = "southcentralus", "eastus"
BOUND_SECONDS = 150.0
"""A request must be sent within 20 s, and ends within 130 s."""


@dataclass
class Network:
    """Holds DELETE requests back while `holds` says so, and delivers them later."""

    holds: Callable[[str], bool] = lambda _key: False
    late: list[tuple[DirectoryStore, list[str]]] = field(default_factory=list)
    folder: str = ""
    """A part of the names of the stores that hold requests back."""

    def deliver(self) -> int:
        late, self.late = self.late, []
        for store, held in late:
            _delete(store, held)
        return sum(len(held) for _, held in late)


_delete = DirectoryStore.delete


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()

    def send(store: DirectoryStore, doomed: Iterable[str]) -> bool:
        every = list(doomed)
        if network.folder in store.name and any(network.holds(key) for key in every):
            network.late.append((store, every))
            raise StoreUnreachable("no answer in time", found="nothing", expected="an answer", hint="none")
        return _delete(store, every)

    monkeypatch.setattr(DirectoryStore, "delete", send)
    return network


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of the database and of this process."""
    clock = ManualClock()
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    return clock


@pytest.fixture
def home(tmp_path: Path, clock: ManualClock) -> Iterator[Installation]:
    effects = Effects(now=clock.now, monotonic=clock.monotonic, wait=clock.wait)
    with open_home(tmp_path / "home", effects=effects, lease_seconds=3_600) as installation:
        create_sample_gallery(installation)
        yield installation


def is_manifest(key: str) -> bool:
    return f"/{object_keys.MANIFESTS}" in key


def test_a_region_that_is_added_again_keeps_its_manifest(
    home: Installation, samples: SampleImages, network: Network, clock: ManualClock, tmp_path: Path
) -> None:
    publish(home, samples.first, targets=[SOUTH, EAST])
    network.holds = is_manifest
    retarget(home, [SOUTH])  # The request hangs; the replica stays Deleting, and the command says so.
    assert network.late
    network.holds = lambda _key: False
    began = clock.monotonic()
    assert states(retarget(home, [SOUTH, EAST]))["eastus/0"] is ReplicaState.COMPLETED
    assert clock.monotonic() - began >= BOUND_SECONDS - 1, "the key was written while the request could still arrive"
    audit(home, collected=True)
    audit_served(home, {"1.0.0": samples.first}, tmp_path)


def test_new_replica_waits_for_a_late_deletion(
    home: Installation, samples: SampleImages, network: Network, clock: ManualClock, tmp_path: Path
) -> None:
    publish(home, samples.first, targets=[SOUTH, EAST])
    network.holds = is_manifest
    retarget(home, [SOUTH])
    network.holds = lambda _key: False
    delivered: list[int] = []

    def wait(seconds: float) -> None:
        clock.wait(seconds)
        if clock.monotonic() >= BOUND_SECONDS - 10 and network.late:
            delivered.append(network.deliver())

    with open_home(home.home, effects=replace(home.effects, wait=wait), lease_seconds=3_600) as other:
        assert states(retarget(other, [SOUTH, EAST]))["eastus/0"] is ReplicaState.COMPLETED
        assert len(delivered) == 1
        audit(other, collected=True)
        audit_served(other, {"1.0.0": samples.first}, tmp_path)


def test_answered_deletion_delays_no_writer(home: Installation, samples: SampleImages, clock: ManualClock) -> None:
    publish(home, samples.first, targets=[SOUTH, EAST])
    retarget(home, [SOUTH])
    retarget(home, [SOUTH, EAST])
    assert clock.waits == []


def test_a_damaged_segment_is_not_sent_again_while_its_delete_may_arrive(
    home: Installation,
    samples: SampleImages,
    network: Network,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A store damages a segment on the way in. The delete of the damaged segment hangs."""
    real = DirectoryStore._write_durably
    damaged: list[str] = []

    def write(store: DirectoryStore, path: str, body: Body, *, only_if_absent: bool) -> os.stat_result:
        if "imgstore-eastus" in path and "segments/" in path and not damaged:
            damaged.append(path)
            body = bytes(body[:-1]) + bytes([body[-1] ^ 1])
        return real(store, path, body, only_if_absent=only_if_absent)

    monkeypatch.setattr(DirectoryStore, "_write_durably", write)
    monkeypatch.setattr(DirectoryStore, "properties", replace(DirectoryStore.properties, verifies_checksum=False))
    network.holds = object_keys.is_segment_key
    with pytest.raises(ReplicationFailed):
        publish(home, samples.first, targets=[SOUTH, EAST])
    assert len(network.late) == 1
    network.holds = lambda _key: False
    began = clock.monotonic()
    publish(home, samples.first, targets=[SOUTH, EAST])
    assert clock.monotonic() - began >= BOUND_SECONDS - 1, "the key was written while the request could still arrive"
    audit(home)
    audit_served(home, {"1.0.0": samples.first}, tmp_path)


def test_copy_in_one_zone_is_not_put_while_its_deletion_may_arrive(
    home: Installation, network: Network, clock: ManualClock, tmp_path: Path
) -> None:
    """Scrub withdraws lone copies. The same bytes are published at once; the late DELETE must not take them."""
    source = make_raw(tmp_path / "s.raw", seed=5, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
    west = ["westus2=1=Standard_ZRS"]
    publish(home, source, "1.0.0", west, location="westus2")
    delete(home, "1.0.0")
    folder = home.home / "regions" / "imgstore-westus2"
    for path in [each for zone in "23" for each in (folder / f"zone-{zone}").rglob("segments/*/*")]:
        path.unlink()
    network.holds = object_keys.is_segment_key
    scrub(home, ADMIN, ScrubRequest())
    assert network.late
    network.holds = lambda _key: False
    with pytest.raises(Exception, match="is deleting segments"):
        publish(home, source, "1.0.1", west, location="westus2")
    network.deliver()
    clock.advance(BOUND_SECONDS)
    publish(home, source, "1.0.1", west, location="westus2")
    assert set(states(show(home, "1.0.1")).values()) == {ReplicaState.COMPLETED}
    audit_served(home, {"1.0.1": source}, tmp_path)
    audit(home)


def test_a_delete_that_one_zone_did_not_answer_blocks_the_keys(
    home: Installation, samples: SampleImages, network: Network, clock: ManualClock, tmp_path: Path
) -> None:
    """Two zones delete at once, and the third zone deletes after the keys could have been written again."""
    zones = ["westus2=1=Standard_ZRS"]
    publish(home, samples.first, targets=[SOUTH, *zones])
    network.holds, network.folder = is_manifest, "zone-2"
    assert list(states(retarget(home, [SOUTH]))) == ["southcentralus/0"], "the delete succeeds"
    assert len(network.late) == 1
    network.holds = lambda _key: False
    began = clock.monotonic()
    delivered: list[int] = []

    def wait(seconds: float) -> None:
        clock.wait(seconds)
        if clock.monotonic() - began >= BOUND_SECONDS - 10 and network.late:
            delivered.append(network.deliver())

    with open_home(home.home, effects=replace(home.effects, wait=wait), lease_seconds=3_600) as other:
        assert ReplicaState.COMPLETED in states(retarget(other, [SOUTH, *zones])).values()
        network.deliver()
        manifests = (home.home / "regions" / "imgstore-westus2").rglob("manifests/**/*")
        assert len(delivered) == 1, "the key was written while the request could still arrive"
        assert len([path for path in manifests if path.is_file()]) == 3
        audit_served(other, {"1.0.0": samples.first}, tmp_path)


def test_a_segment_that_one_zone_may_delete_later_stays_in_deletion(
    home: Installation, network: Network, clock: ManualClock, tmp_path: Path
) -> None:
    """The same bytes are published after gc. The late DELETE of one zone must not take a new copy."""
    source = make_raw(tmp_path / "s.raw", seed=5, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
    west = ["westus2=1=Standard_ZRS"]
    publish(home, source, "1.0.0", west, location="westus2")
    delete(home, "1.0.0")
    network.holds, network.folder = object_keys.is_segment_key, "zone-2"
    collect(home, ADMIN, grace=timedelta(0))
    assert network.late
    network.holds = lambda _key: False
    with open_home(home.home, effects=home.effects, lease_seconds=3_600) as other:  # The first process avoids the zone.
        with pytest.raises(Exception, match="deleting segments"):
            publish(other, source, "1.0.1", west, location="westus2")
        network.deliver()
        clock.advance(BOUND_SECONDS + 300)
        publish(other, source, "1.0.1", west, location="westus2")
    segments = (home.home / "regions" / "imgstore-westus2").rglob("segments/*/*")
    by_zone = Counter(next(part for part in path.parts if part.startswith("zone-")) for path in segments)
    assert len(by_zone) == 3
    assert len(set(by_zone.values())) == 1, by_zone
    audit_served(home, {"1.0.1": source}, tmp_path)
