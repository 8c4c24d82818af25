"""Tests of a zone with the wrong store: unmounted, replaced, or selected by the settings of one process."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.errors import ReplicationFailed, StoreMismatch
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.states import ReplicaState
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.maintenance.worker import run_worker
from imgstore.operations.stores.regions import check_regions, init_regions
from imgstore.testing.engines import S3Engine
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    audit,
    audit_served,
    create_sample_gallery,
    make_disk,
    open_home,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

EAST = ["southcentralus", "eastus"]


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    shutil.copytree(samples.home, tmp_path / "home")
    return tmp_path / "home"


def east(home: Path) -> Path:
    return home / "regions" / "imgstore-eastus" / "zone-1"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def run(home: Path, *words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore", env=environ)


@contextmanager
def bound(disk: Path, at: Path) -> Iterator[None]:
    """Mount a file system at a zone's folder during the block."""
    done = subprocess.run(["mount", "--bind", str(disk), str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no right to mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def test_a_zone_that_is_not_mounted_is_refused_and_nothing_is_written_there(
    tmp_path: Path, samples: SampleImages
) -> None:
    home, disk = tmp_path / "home", tmp_path / "disk"
    disk.mkdir()
    east(home).mkdir(parents=True)
    with bound(disk, east(home)), open_home(home) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, "1.0.0", EAST)
    with open_home(home) as installation:
        with pytest.raises(ReplicationFailed, match="region:eastus") as caught:
            publish(installation, samples.second, "1.0.1", EAST)
        assert "not the zone 1 of eastus" in str(caught.value)
        with pytest.raises(StoreMismatch, match="not the zone 1 of eastus"):
            make_disk(installation, "d1", "eastus")
        assert states(show(installation))["eastus/0"] is ReplicaState.COMPLETED, "what is away is not lost"
        (report,) = check_regions(installation, ADMIN, names=["eastus"])
        assert "mount the zone's file system" in (report.problem or "")
    assert run(home, "regions", "check", "eastus").exit_code == 1
    init = run(home, "regions", "init", "eastus")
    assert init.exit_code == 1
    assert "not the zone 1 of eastus" in init.output
    assert list(east(home).iterdir()) == []
    # Invariant E6.
    with bound(disk, east(home)), open_home(home) as installation:
        publish(installation, samples.second, "1.0.1", EAST)
        make_disk(installation, "d1", "eastus")
        audit(installation)


def test_a_zone_that_is_unmounted_under_a_running_process(tmp_path: Path, samples: SampleImages) -> None:
    home, disk = tmp_path / "home", tmp_path / "disk"
    disk.mkdir()
    east(home).mkdir(parents=True)
    with open_home(home) as installation:
        with bound(disk, east(home)):
            create_sample_gallery(installation)
            publish(installation, samples.first, "1.0.0", EAST)
        with pytest.raises(ReplicationFailed, match="region:eastus"):
            publish(installation, samples.second, "1.0.1", EAST)
        with pytest.raises(StoreMismatch):
            make_disk(installation, "d1", "eastus")
        assert states(show(installation))["eastus/0"] is ReplicaState.COMPLETED
        assert list(east(home).iterdir()) == []
    with bound(disk, east(home)), open_home(home) as installation:
        publish(installation, samples.second, "1.0.1", EAST)
        make_disk(installation, "d1", "eastus")
        audit(installation)


@pytest.mark.engine("minio")
def test_a_variable_that_is_not_set_moves_no_region_to_a_folder(
    tmp_path: Path, samples: SampleImages, minio: S3Engine
) -> None:
    home = tmp_path / "home"
    keys = {"AWS_ACCESS_KEY_ID": minio.access_key, "AWS_SECRET_ACCESS_KEY": minio.secret_key}
    bucket = minio.make_bucket("imgstore-eastus")
    environ = {**keys, "IMGSTORE_EASTUS_ENDPOINT": minio.endpoint}
    with open_home(home, environ=environ) as installation:
        init_regions(installation, ADMIN, names=["eastus"])
        create_sample_gallery(installation)
        publish(installation, samples.first, "1.0.0", EAST)
    with open_home(home, environ=keys) as installation:
        with pytest.raises(ReplicationFailed, match="region:eastus"):
            publish(installation, samples.second, "1.0.1", EAST)
        assert "IMGSTORE_EASTUS_ENDPOINT" in str(
            next(each for each in show(installation, "1.0.1").replicas if each.slot.key.region == "eastus").error
        )
    check = run(home, "regions", "check", "eastus", **keys, IMGSTORE_EASTUS_ENDPOINT="")
    assert check.exit_code == 1
    assert minio.endpoint in check.output
    assert not east(home).exists()
    with open_home(home, environ=environ) as installation:
        publish(installation, samples.second, "1.0.1", EAST)
        audit(installation)
    assert bucket == "imgstore-eastus"


def test_a_replaced_store_is_filled_again_from_other_replicas(
    home: Path, samples: SampleImages, tmp_path: Path
) -> None:
    shutil.rmtree(east(home))
    with open_home(home) as installation:
        assert run(home, "regions", "init", "--zone", "eastus/1").exit_code == 1
        assert states(show(installation))["eastus/0"] is ReplicaState.COMPLETED
        done = run(home, "regions", "init", "--zone", "eastus/1", "--replaced")
        assert done.exit_code == 0, done.output
        assert states(show(installation))["eastus/0"] is ReplicaState.DEGRADED
        assert not [each.unrepaired for each in scrub(installation, ADMIN, ScrubRequest()) if each.unrepaired]
        assert set(states(show(installation)).values()) == {ReplicaState.COMPLETED}
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first}, tmp_path)


def test_an_empty_zone_of_three_is_filled_without_a_request(home: Path) -> None:
    """The scrub of the zone is due when an operator has accepted the empty zone, also after a recent scrub."""
    zone = home / "regions" / "imgstore-westus2" / "zone-1"
    with open_home(home) as installation:
        run_worker(installation, ADMIN, once=True)
    before = {path.relative_to(zone) for path in files(zone / "pools")}
    shutil.rmtree(zone)
    assert run(home, "regions", "init", "--zone", "westus2/1").exit_code == 0
    assert files(zone / "pools") == []
    with open_home(home) as installation:
        run_worker(installation, ADMIN, once=True)
        audit(installation)
    assert {path.relative_to(zone) for path in files(zone / "pools")} == before


def test_zones_are_named_clearly(home: Path) -> None:
    for words in (["--zone", "1"], ["--zone", "eastus/9"], ["--replaced"], ["eastus", "--zone", "eastus/1"]):
        result = run(home, "regions", "init", *words)
        assert result.exit_code == 1, result.output
        assert "what to do" in result.output
    assert run(home, "regions", "init", "eastus", "--zone", "1").exit_code == 0


# -- homes of older code ----------------------------------------------------------------------------------------------


def forget_zones(home: Path) -> None:
    """Convert the home to the state of code that recorded no zones."""
    with closing(sqlite3.connect(home / "catalog.sqlite")) as connection:
        connection.execute("DELETE FROM zones")
        connection.execute("UPDATE installation SET records_every_zone = 0")
        connection.commit()
    for folder in (home / "regions").glob("*/zone-*/zone"):
        shutil.rmtree(folder)


def test_a_home_of_older_code_is_adopted(home: Path, samples: SampleImages) -> None:
    forget_zones(home)
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
        audit(installation)
        with installation.catalog.reading() as transaction:
            assert len(transaction.zones.list()) == 7, "all zones with objects of the installation"


def test_a_home_of_older_code_adopts_no_zone_that_is_not_mounted(home: Path, samples: SampleImages) -> None:
    forget_zones(home)
    east(home).rename(east(home).with_name("away"))
    east(home).mkdir()
    with open_home(home) as installation, pytest.raises(ReplicationFailed, match="not the zone 1 of eastus"):
        publish(installation, samples.second, "1.0.1")
    assert files(east(home)) == []
    east(home).rmdir()
    east(home).with_name("away").rename(east(home))
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
        audit(installation)


DIES = """
import os, signal, sys
from pathlib import Path
from imgstore.bootstrap import Settings, open_installation
from imgstore.operations.slots.zone_registry import CatalogZones

add, when = CatalogZones.add, sys.argv[2]

def dying(self, record):
    if when == "after":
        add(self, record)
    os.kill(os.getpid(), signal.SIGKILL)

CatalogZones.add = dying
with open_installation(Settings(home=Path(sys.argv[1]), environ={})) as installation:
    installation.locator.init(installation.regions.get("eastus"))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_the_uid_and_its_record(home: Path, samples: SampleImages, when: str) -> None:
    forget_zones(home)
    done = subprocess.run([sys.executable, "-c", DIES, str(home), when], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    (uid,) = [path.name for path in files(east(home) / "zone" / "uid")]
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
        with installation.catalog.reading() as transaction:
            record = transaction.zones.find("eastus", "1")
        assert record is not None
        assert record.uid == uid
        audit(installation)
