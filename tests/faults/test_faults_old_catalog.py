"""Tests of catalogs that are older than their buckets, foreign, deleted or empty: reads work, and nothing is destroyed."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.errors import CatalogOutdated, StoreMismatch
from imgstore.domain.requests import ScrubRequest
from imgstore.operations.disks import disks as disk_operations
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.maintenance.unknown_objects import remove_unknown
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.operations.stores.regions import init_regions
from imgstore.testing.engines import S3Engine
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    audit,
    collect,
    create_sample_gallery,
    delete,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    retarget,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    shutil.copytree(samples.home, tmp_path / "home")
    return tmp_path / "home"


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore")


def contents(home: Path) -> set[Path]:
    return {path for path in (home / "regions").rglob("*") if path.is_file() and ".tmp" not in path.parts}


def aged(home: Path, later: Callable[[Installation], object]) -> None:
    """Run an action, then restore the former catalog as from a backup."""
    shutil.copyfile(home / "catalog.sqlite", home / "backup.sqlite")
    with open_home(home) as installation:
        later(installation)
    shutil.copyfile(home / "catalog.sqlite", home / "newest.sqlite")
    shutil.copyfile(home / "backup.sqlite", home / "catalog.sqlite")


LATER: dict[str, Callable[[Installation, SampleImages], object]] = {
    "a version": lambda installation, samples: publish(installation, samples.second, "1.0.1"),
    "a version of one region": lambda installation, samples: publish(
        installation, samples.second, "1.0.1", ["southcentralus"]
    ),
    "a disk": lambda installation, _: make_disk(installation, "d1", "eastus"),
}

DESTRUCTIVE: dict[str, Callable[[Installation], object]] = {
    "gc": collect,
    "unknown": lambda installation: remove_unknown(installation, ADMIN, grace=timedelta(0)),
    "scrub": lambda installation: scrub(installation, ADMIN, ScrubRequest()),
    "version delete": delete,
    "disk delete": lambda installation: disk_operations.delete_disk(installation, ADMIN, group=GROUP, name="old"),
    "region removal": lambda installation: retarget(installation, ["southcentralus=2", "westus2=1=Standard_ZRS"]),
}


@pytest.mark.parametrize("what", DESTRUCTIVE)
@pytest.mark.parametrize("later", LATER)
def test_nothing_is_destroyed_by_an_older_catalog(
    home: Path, samples: SampleImages, tmp_path: Path, later: str, what: str
) -> None:
    with open_home(home) as installation:
        make_disk(installation, "old", "eastus" if later != "a version of one region" else "southcentralus")
    aged(home, lambda installation: LATER[later](installation, samples))
    before = contents(home)
    with open_home(home) as installation:
        export(installation, tmp_path / "o.raw", "eastus")
        assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
    for _ in range(2):
        with open_home(home) as installation, pytest.raises(CatalogOutdated, match="older than its buckets") as caught:
            DESTRUCTIVE[what](installation)
        assert "checkpoint" in (caught.value.found or "")
        assert "restore the newest backup" in (caught.value.hint or "")
    assert before <= contents(home)


def test_a_create_with_fewer_regions_by_an_older_catalog_changes_nothing(home: Path, samples: SampleImages) -> None:
    aged(home, lambda installation: publish(installation, samples.second, "1.0.1"))
    before = contents(home)
    with open_home(home) as installation:
        standing = show(installation)
        with pytest.raises(CatalogOutdated):
            publish(installation, samples.first, targets=["southcentralus=2", "westus2=1=Standard_ZRS"])
        assert show(installation) == standing
    assert before <= contents(home)


@pytest.mark.parametrize(
    "destroy",
    [
        lambda installation, _: retarget(installation, ["southcentralus"], "2.0.0"),
        lambda installation, samples: publish(installation, samples.second, "2.0.0", ["southcentralus"]),
        lambda installation, _: delete(installation, "2.0.0"),
    ],
    ids=["update", "create", "delete"],
)
def test_a_zone_without_a_replica_of_the_version_shows_it_too(
    home: Path, samples: SampleImages, destroy: Callable[[Installation, SampleImages], object]
) -> None:
    with open_home(home) as installation:
        publish(installation, samples.second, "2.0.0", ["southcentralus", "westus2=1=Standard_ZRS"])
    aged(home, lambda installation: publish(installation, samples.second, "3.0.0", ["eastus"], location="eastus"))
    before = contents(home)
    with open_home(home) as installation:
        standing = show(installation, "2.0.0")
        with pytest.raises(CatalogOutdated):
            destroy(installation, samples)
        assert show(installation, "2.0.0") == standing
    assert before <= contents(home)


def test_the_first_use_of_a_store_is_reported(home: Path, samples: SampleImages, tmp_path: Path) -> None:
    aged(home, lambda installation: publish(installation, samples.second, "1.0.1"))
    run(home, "disk", "create", "-g", "rg", "-n", "d1", "-l", "eastus", "--gallery-image-reference", "rg/g1/ubuntu")
    exported = run(home, "disk", "export", "-g", "rg", "-n", "d1", "--file", str(tmp_path / "o.raw"), "--format", "raw")
    assert exported.exit_code == 0
    assert "older than its buckets" in exported.output
    for words in (["gc", "--yes"], ["scrub"], ["disk", "delete", "-g", "rg", "-n", "d1", "--yes"]):
        refused = run(home, *words)
        assert refused.exit_code == 1
        assert "(CatalogOutdated)" in refused.output


def test_work_by_an_older_catalog_does_not_make_it_look_current(home: Path, samples: SampleImages) -> None:
    """The sequence numbers pass those of the buckets, but their uids differ."""
    aged(home, lambda installation: make_disk(installation, "d1", "eastus"))
    with open_home(home) as installation:
        for number in range(6):
            make_disk(installation, f"e{number}", "eastus")
    with open_home(home) as installation, pytest.raises(CatalogOutdated):
        collect(installation)


def test_a_process_that_runs_while_the_catalog_is_put_back_sees_it_before_it_deletes(
    home: Path, samples: SampleImages
) -> None:
    with open_home(home) as running:
        export(running, home.parent / "o.raw", "eastus")
        with open_home(home) as other:
            make_disk(other, "d1", "eastus")
        with running.catalog.transaction() as transaction:  # As a restored backup has it.
            transaction._session.connection.exec_driver_sql("DELETE FROM checkpoints WHERE sequence > 6")
        with pytest.raises(CatalogOutdated):
            delete(running)


def test_accepted_it_deletes_nothing_that_it_does_not_know(home: Path, samples: SampleImages, tmp_path: Path) -> None:
    """A disk of the lost time refers to the manifest of a known version, which is deleted."""
    aged(
        home,
        lambda installation: (make_disk(installation, "d1", "eastus"), publish(installation, samples.second, "1.0.1")),
    )
    with open_home(home) as installation:
        publish(installation, samples.rebuilt, "1.0.2")
        with pytest.raises(CatalogOutdated):
            delete(installation)
    assert run(home, "regions", "accept-catalog").exit_code == 1
    done = run(home, "regions", "accept-catalog", "--yes")
    assert done.exit_code == 0, done.output
    with open_home(home) as installation:
        delete(installation)
        delete(installation, "1.0.2")
        plan = maintenance_gc.plan_collection(installation, ADMIN, grace=timedelta(0))
        assert sum(len(slot.survey.unknown_manifests) for slot in plan.slots if slot.survey) > 0
        for _ in range(2):
            collect(installation)
        with pytest.raises(CatalogOutdated, match="never removed"):
            remove_unknown(installation, ADMIN, grace=timedelta(0))
        scrub(installation, ADMIN, ScrubRequest())
    # By the catalog that was lost: all that it knew is still there.
    shutil.copyfile(home / "newest.sqlite", home / "catalog.sqlite")
    with open_home(home) as installation:
        export_disk(installation, tmp_path / "d1.raw", "d1")
        export(installation, tmp_path / "v.raw", "eastus", "1.0.1")
    assert compute_sha256(tmp_path / "d1.raw") == compute_sha256(samples.first)
    assert compute_sha256(tmp_path / "v.raw") == compute_sha256(samples.second)


def test_two_catalogs_on_the_same_buckets_find_each_other(home: Path, samples: SampleImages) -> None:
    twin = home.parent / "twin"
    twin.mkdir()
    shutil.copyfile(home / "catalog.sqlite", twin / "catalog.sqlite")
    (twin / "regions").symlink_to(home / "regions")
    with open_home(home) as first, open_home(twin) as second:
        publish(first, samples.second, "1.0.1")
        publish(second, samples.rebuilt, "1.0.1")
        for installation in (first, second):
            with pytest.raises(CatalogOutdated):
                collect(installation)


# -- deleted and empty ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["deleted", "empty"])
def test_no_installation_begins_where_a_catalog_was_lost(home: Path, lost: str) -> None:
    (home / "catalog.sqlite").unlink()
    if lost == "empty":
        (home / "catalog.sqlite").touch()
    before = contents(home)
    for words in (["sig", "list"], ["gc", "--yes"], ["regions", "init"]):
        result = run(home, *words)
        assert result.exit_code == 1
        assert "restore the newest backup of the catalog" in result.output
        assert "of installation" in result.output
    assert contents(home) == before
    assert (home / "catalog.sqlite").exists() is (lost == "empty")
    assert lost == "deleted" or (home / "catalog.sqlite").stat().st_size == 0


@pytest.mark.engine("postgresql")
def test_no_installation_begins_in_an_empty_database_beside_marked_regions(home: Path, postgresql: str) -> None:
    with pytest.raises(StoreMismatch, match="is empty"), open_home(home, database=postgresql):
        pass
    with open_home(home.parent / "other", database=postgresql) as installation:
        create_sample_gallery(installation)


@pytest.mark.engine("minio")
def test_no_installation_begins_on_the_buckets_of_another(tmp_path: Path, minio: S3Engine) -> None:
    minio.make_bucket("imgstore-northeurope")
    environ = {
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "IMGSTORE_NORTHEUROPE_ENDPOINT": minio.endpoint,
    }
    with open_home(tmp_path / "first", environ=environ) as installation:
        init_regions(installation, ADMIN, names=["northeurope"])
        uid = installation.uid
    with pytest.raises(StoreMismatch, match="is empty") as caught, open_home(tmp_path / "second", environ=environ):
        pass
    # Invariant G16.
    assert uid in (caught.value.found or "")


DIES = """
import os, signal, sys
from pathlib import Path
from imgstore.bootstrap import Settings, open_installation
from tests.support.sample_gallery import make_disk
from imgstore.regions import Locator

put = Locator.put_checkpoint

def dying(self, slot, checkpoint):
    if sys.argv[2] == "after":
        put(self, slot, checkpoint)
    os.kill(os.getpid(), signal.SIGKILL)

Locator.put_checkpoint = dying
with open_installation(Settings(home=Path(sys.argv[1]), environ={})) as installation:
    make_disk(installation, "d1", "eastus")
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_checkpoint(home: Path, when: str) -> None:
    """The row is written first, so a kill before or after the checkpoint never makes the catalog look old."""
    subprocess.run([sys.executable, "-c", DIES, str(home), when], check=False)
    with open_home(home) as installation:
        check_catalog_is_current(installation)
        make_disk(installation, "d1", "eastus")
        collect(installation)
        audit(installation)


def test_old_checkpoints_are_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgstore.regions.zones._CHECKPOINTS_MAX", 3)
    with open_home(home) as installation:
        for number in range(9):
            make_disk(installation, f"d{number}", "eastus")
        show(installation)
    assert len(list((home / "regions").glob("imgstore-eastus/zone-1/zone/checkpoints/*"))) <= 4
    with open_home(home) as installation:
        check_catalog_is_current(installation)
