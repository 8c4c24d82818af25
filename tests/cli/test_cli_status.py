"""``imgstore status`` on real homes: galleries, unfinished replicas, zones, and the exit code for monitoring."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.diagnosis import Level
from imgstore.domain.errors import AccessDenied, ImgstoreError
from imgstore.domain.identity.access import Principal
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.states import ReplicaState
from imgstore.domain.status import InstallationStatus, UnfinishedReplica
from imgstore.domain.storage.circuits import CircuitState, ZoneHealth
from imgstore.operations.diagnosis.status import read_status
from imgstore.policy.replica_status import judge_replicas
from imgstore.policy.zone_status import join_circuits
from tests.support.mounted_folder import mount_small
from tests.support.sample_gallery import ADMIN, SampleImages, all_slots, delete, export, make_disk, open_home, publish

pytest_plugins = ["tests.support.published_gallery"]

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    shutil.copytree(samples.home, tmp_path / "home")
    return tmp_path / "home"


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["status", "--home", str(home), *words], prog_name="imgstore")


def state(home: Path, code: int, *words: str) -> dict[str, Any]:
    result = run(home, "-o", "json", *words)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_totals_of_each_gallery_and_what_needs_attention(home: Path, samples: SampleImages) -> None:
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
        publish(installation, samples.second, "1.0.2", ["southcentralus"])
        delete(installation, "1.0.2")
        make_disk(installation, "d1", "eastus", "1.0.1")
    found = state(home, 1)
    assert found["galleries"] == [
        found["galleries"][0] | {"resourceGroup": "rg", "gallery": "g1", "definitions": 1, "versions": 2}
    ]
    assert found["galleries"][0]["replicas"]["Completed"] == 6
    assert (found["disks"], found["unfinishedReplicas"], found["queuedReplicas"]) == (1, 0, 0)
    assert {each["circuit"] for each in found["zones"]} == {"closed"}
    text = run(home).stdout
    assert "replicas: all are complete" in text
    assert "next step: imgstore worker" in text
    assert "Completed" in run(home, "-o", "table").stdout


def test_a_failed_region_is_an_error_with_its_reason(tmp_path: Path, home: Path, samples: SampleImages) -> None:
    with mount_small(home / "regions/imgstore-northeurope", "3m"):
        with open_home(home) as installation, pytest.raises(ImgstoreError):
            publish(installation, samples.second, "1.0.1", ["southcentralus", "northeurope"])
        found = state(home, 2)
        (replica,) = found["replicas"]
        assert (replica["image"], replica["region"], replica["state"]) == (
            "rg/g1/ubuntu/1.0.1",
            "northeurope",
            "Failed",
        )
        assert "space" in replica["error"]
        assert "imgstore worker" in replica["nextStep"]
        assert found["galleries"][0]["replicas"]["Failed"] == 1
        assert "error    rg/g1/ubuntu/1.0.1  northeurope/0  Failed" in run(home).stdout
        hidden = run(home, "--max-replicas", "0").stdout
        assert "... and 1 more: imgstore status --max-replicas 1" in hidden


def test_a_running_copy_shows_bytes_and_rate(home: Path, samples: SampleImages) -> None:
    """Look at a running copy from inside its progress report, as another terminal would."""
    seen: list[dict[str, Any]] = []

    def look(event: ProgressEvent) -> None:
        if event.stage is Stage.MOVED and "eastus" in event.task and not seen:
            answer = subprocess.run(
                [sys.executable, "-m", "imgstore", "status", "--home", str(home), "-o", "json"],
                capture_output=True,
                text=True,
                check=False,
            )
            seen.extend(each for each in json.loads(answer.stdout)["replicas"] if each["region"] == "eastus")

    with open_home(home, look) as installation:
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
    (replica,) = seen
    assert (replica["state"], replica["level"]) == ("Replicating", "ok")
    assert replica["holder"]
    assert replica["bytesTotal"] > 0


def test_a_degraded_replica_names_the_repair(home: Path, tmp_path: Path) -> None:
    with open_home(home) as installation:
        slot = next(each for each in all_slots(installation) if each.key.region == "eastus")
        store = installation.locator.store(slot)
        key = next(each.key for each in store.list(slot.prefix) if "/segments/" in each.key)
        store.put(key, b"rotten")
        export(installation, tmp_path / "out.raw", "eastus")  # The reader finds the damage, and reads elsewhere.
    (replica,) = state(home, 2)["replicas"]
    assert (replica["state"], replica["nextStep"]) == ("Degraded", "imgstore scrub --region eastus")


def test_a_stranger_is_refused(home: Path) -> None:
    stranger = Principal(uid="s", name="s", tenant="t")
    with open_home(home) as installation, pytest.raises(AccessDenied):
        read_status(installation, stranger)


def test_no_store_is_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_home(home) as installation:
        monkeypatch.setattr(installation.locator, "store", lambda *_: pytest.fail("a store was asked"))
        assert isinstance(read_status(installation, ADMIN), InstallationStatus)


def replica(**more: Any) -> UnfinishedReplica:
    values: dict[str, Any] = {
        "subscription": "s",
        "group": "rg",
        "gallery": "g",
        "definition": "d",
        "version": "1.0.0",
        "region": "eastus",
        "ordinal": 0,
        "state": ReplicaState.REPLICATING,
        "error": None,
        "attempts": 0,
        "retry_at": None,
        "bytes_done": 50,
        "bytes_total": 200,
        "started_at": NOW - timedelta(seconds=10),
        "progress_at": NOW,
        "wanted_at": NOW - timedelta(minutes=5),
        "holder": "host/1",
    }
    return UnfinishedReplica(**values | more)


def test_rate_and_remaining_time_follow_from_the_reports() -> None:
    (found,) = judge_replicas([replica()], now=NOW, living_workers=["w"])
    assert (found.bytes_per_second, found.remaining, found.level) == (5.0, timedelta(seconds=30), Level.OK)


@pytest.mark.parametrize(
    ("given", "workers", "level", "step"),
    [
        ({"progress_at": NOW - timedelta(minutes=3)}, ["w"], Level.WARNING, "look at the process host/1"),
        ({"holder": None}, ["w"], Level.OK, None),
        ({"holder": None}, [], Level.WARNING, "imgstore worker"),
        ({"state": ReplicaState.PENDING, "holder": None}, [], Level.WARNING, "imgstore worker"),
        ({"state": ReplicaState.FAILED, "holder": None}, [], Level.ERROR, "repeat `imgstore sig image-version"),
        ({"state": ReplicaState.FAILED, "retry_at": NOW + timedelta(minutes=4)}, ["w"], Level.ERROR, "in 4 min"),
        ({"state": ReplicaState.DEGRADED}, ["w"], Level.ERROR, "imgstore scrub --region eastus"),
    ],
)
def test_each_state_has_a_next_step(given: dict[str, Any], workers: list[str], level: Level, step: str | None) -> None:
    (found,) = judge_replicas([replica(**given)], now=NOW, living_workers=workers)
    assert found.level is level
    assert (found.next_step is None) if step is None else (step in (found.next_step or ""))


def test_the_longest_outage_of_all_hosts_speaks_for_a_zone() -> None:
    def circuit(observer: str, state: CircuitState, seconds: float) -> ZoneHealth:
        return ZoneHealth(
            region="eastus",
            zone="1",
            observer=observer,
            state=state,
            since_seconds=seconds,
            failures=1,
            probe_seconds=1,
            open_seconds=1,
            error=observer,
        )

    circuits = [
        circuit("a", CircuitState.OPEN, 10),
        circuit("b", CircuitState.HALF_OPEN, 90),
        circuit("c", CircuitState.CLOSED, 900),
    ]
    first, second = join_circuits({("westus2", "1")}, circuits, NOW)
    assert (first.state, first.error, first.observers) == (CircuitState.HALF_OPEN, "b", 2)
    assert first.since == NOW - timedelta(seconds=90)
    assert (second.state, second.since, second.observers) == (CircuitState.CLOSED, None, 0)
