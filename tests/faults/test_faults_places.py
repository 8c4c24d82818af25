"""Tests of stores that do not answer, full disks, refusing folders, and lost zones and regions.

An embedded zone is made unavailable by a link to itself in place of its folder: every access fails, as on a broken
volume. Each failure must be reported, leave no partial result, affect no other store, and allow a repeat.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import (
    ImageNotAvailable,
    InvalidInput,
    OutputError,
    ReplicationFailed,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks import export as disks_export
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.stores.regions import init_regions
from imgstore.stores.wrappers import retry
from imgstore.testing import engines
from tests.support.crash_scenes import create_minio_scene
from tests.support.mounted_folder import mount_small
from tests.support.sample_disks import compute_sha256, make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    collect,
    create_sample_gallery,
    delete,
    export,
    make_disk,
    open_home,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

Cluster = Callable[[int], tuple[engines.S3Engine, ...]]

COMPLETED, FAILED = ReplicaState.COMPLETED, ReplicaState.FAILED


@contextmanager
def down(home: Path, region: str, *zones: str) -> Iterator[None]:
    """Make the named zones of a region unavailable during the block."""
    folders = [home / "regions" / f"imgstore-{region}" / f"zone-{zone}" for zone in zones]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        folder.rename(folder.with_name(f"{folder.name}-away"))
        folder.symlink_to(folder)
    try:
        yield
    finally:
        for folder in folders:
            folder.unlink()
            folder.with_name(f"{folder.name}-away").rename(folder)


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    shutil.copytree(samples.home, tmp_path / "home")
    return tmp_path / "home"


# -- zones and regions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["1", "2", "3"])
def test_zrs_continues_with_one_zone_lost(home: Path, samples: SampleImages, tmp_path: Path, zone: str) -> None:
    with down(home, "westus2", zone), open_home(home) as installation:
        export(installation, tmp_path / "o.raw", "westus2")
        assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
        view = publish(installation, samples.second, "1.0.1")
        assert states(view)["westus2/0"] is COMPLETED
        make_disk(installation, "d1", "westus2")
    with open_home(home) as installation:
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
        audit(installation)


def test_zrs_with_two_zones_lost_is_refused_and_heals(home: Path, samples: SampleImages, tmp_path: Path) -> None:
    with down(home, "westus2", "1", "3"), open_home(home) as installation:
        with pytest.raises(ReplicationFailed, match=r"region:westus2.*Too few zones"):
            publish(installation, samples.second, "1.0.1")
        view = show(installation, "1.0.1")
        assert states(view)["westus2/0"] is FAILED
        assert {state for place, state in states(view).items() if place != "westus2/0"} == {COMPLETED}
        assert view.version.provisioning_state is ProvisioningState.FAILED
        with pytest.raises(ImageNotAvailable):
            make_disk(installation, "d1", "westus2", "1.0.1")
        assert not [row for row in charges(installation) if (row.party.version, row.target) == ("1.0.1", "westus2")]
    with open_home(home) as installation:
        view = publish(installation, samples.second, "1.0.1")
        assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)


@pytest.mark.parametrize(("first", "then"), list(itertools.permutations("123", 2)))
@pytest.mark.parametrize("targets", [["westus2=1=Standard_ZRS"], ["southcentralus", "westus2=1=Standard_ZRS"]])
def test_zones_that_are_away_one_after_another_degrade_no_replica(
    tmp_path: Path, samples: SampleImages, targets: list[str], first: str, then: str
) -> None:
    """A zone that missed the first version and a zone that is away for the second one deny nothing (invariant Z10)."""
    home = tmp_path / "home"
    location = targets[0].split("=")[0]
    with open_home(home) as installation:
        create_sample_gallery(installation)
    with down(home, "westus2", first), open_home(home) as installation:
        publish(installation, samples.first, "1.0.0", targets, location=location)
    with down(home, "westus2", then), open_home(home) as installation:
        publish(installation, samples.second, "1.0.1", targets, location=location)
        assert set(states(show(installation, "1.0.0")).values()) == {COMPLETED}
        scrubbed = scrub(installation, ADMIN, ScrubRequest())
        assert not [each.unrepaired for each in scrubbed if each.unrepaired]
        assert set(states(show(installation, "1.0.0")).values()) == {COMPLETED}
        collect(installation)
    with open_home(home) as installation:
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
        audit(installation)


def test_an_operator_can_make_the_folder_of_a_lost_zone_again(
    home: Path, samples: SampleImages, tmp_path: Path
) -> None:
    """Until then it counts as away, and nothing is written where it is perhaps only not mounted."""
    folder = home / "regions" / "imgstore-westus2" / "zone-2"
    shutil.rmtree(folder)
    with open_home(home) as installation:
        export(installation, tmp_path / "o.raw", "westus2")
        assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
        publish(installation, samples.second, "1.0.1")
        assert not folder.exists()
        (report,) = init_regions(installation, ADMIN, zone="westus2/2")
        assert report.problem is None
        assert not [each.unrepaired for each in scrub(installation, ADMIN, ScrubRequest()) if each.unrepaired]
        audit(installation)


def test_a_lost_region_fails_alone_and_heals(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
    with down(tmp_path / "home", "eastus", "1"), open_home(tmp_path / "home") as installation:
        with pytest.raises(ReplicationFailed, match="region:eastus") as caught:
            publish(installation, samples.first)
        assert caught.value.error_code == "ReplicationJobsFailed"
        view = show(installation)
        failed = next(each for each in view.replicas if each.slot.key.region == "eastus")
        assert failed.state is FAILED
        assert failed.error
        for region in ("southcentralus", "westus2"):
            export(installation, tmp_path / "o.raw", region)
            assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first), region
        assert [row.target for row in charges(installation) if row.target == "eastus"] == []
    with open_home(tmp_path / "home") as installation:
        view = publish(installation, samples.first)
        assert set(states(view).values()) == {COMPLETED}
        assert all(each.error is None for each in view.replicas)
        audit(installation)


def test_a_lost_region_hides_no_other(home: Path, samples: SampleImages, tmp_path: Path) -> None:
    """A region is lost after completion. The other regions serve and supply a new region, in a process without history."""
    with down(home, "eastus", "1"), open_home(home) as installation:
        for region in ("southcentralus", "westus2"):
            export(installation, tmp_path / "o.raw", region)
            assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
        make_disk(installation, "d1", "westus2")
        assert states(show(installation))["eastus/0"] is COMPLETED, "a zone that does not answer is no damage"


def test_the_region_that_is_lost_is_read_from_another(home: Path, samples: SampleImages, tmp_path: Path) -> None:
    with down(home, "eastus", "1"), open_home(home) as installation:
        export(installation, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)


def test_a_version_is_ingested_by_any_zone_of_its_region(tmp_path: Path, samples: SampleImages) -> None:
    """The zone of replica 0 is down: replica 1 is created first, and replica 0 is copied from it later."""
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus=2"])
        zone = next(slot.zone for slot in all_slots(installation) if slot.key.ordinal == 0)
    with down(tmp_path / "home", "southcentralus", zone), open_home(tmp_path / "home") as installation:
        with pytest.raises(ReplicationFailed, match="region:southcentralus"):
            publish(installation, samples.second, "1.0.1", ["southcentralus=2", "eastus"])
        view = show(installation, "1.0.1")
        assert states(view) == {"southcentralus/0": FAILED, "southcentralus/1": COMPLETED, "eastus/0": COMPLETED}
        export(installation, tmp_path / "o.raw", "eastus", "1.0.1")
    with open_home(tmp_path / "home") as installation:
        publish(installation, samples.second, "1.0.1", ["southcentralus=2", "eastus"])
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)


def test_each_replica_of_a_lost_region_is_tried_and_the_command_ends(tmp_path: Path, samples: SampleImages) -> None:
    """The second replica has its turn once the first failed: a look that forgets the failure would go on for ever."""
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
    with down(tmp_path / "home", "eastus", "1"), open_home(tmp_path / "home") as installation:
        with pytest.raises(ReplicationFailed, match="region:eastus"):
            publish(installation, samples.first, targets=["southcentralus", "eastus=3"])
        view = show(installation)
        assert states(view) == {"southcentralus/0": COMPLETED} | {f"eastus/{each}": FAILED for each in range(3)}
    with open_home(tmp_path / "home") as installation:
        publish(installation, samples.first, targets=["southcentralus", "eastus=3"])
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first}, tmp_path)


def test_the_source_region_lost_leaves_nothing_usable(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
    with down(tmp_path / "home", "eastus", "1"), open_home(tmp_path / "home") as installation:
        with pytest.raises(StoreError) as caught:
            publish(installation, samples.first, targets=["eastus", "westus2"], location="eastus")
        assert caught.value.hint
        view = show(installation)
        assert COMPLETED not in states(view).values()
        assert charges(installation) == []
    with open_home(tmp_path / "home") as installation:
        publish(installation, samples.first, targets=["eastus", "westus2"], location="eastus")
        audit(installation)


# -- no room ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 12 MiB."""
    with mount_small(tmp_path / "small", "12m") as place:
        yield place


def test_a_full_home(small: Path, tmp_path: Path) -> None:
    """The store's disk is full during an ingest. After space is freed, the same command resumes."""
    source = make_raw(tmp_path / "disk.raw", seed=4, virtual_bytes=32 * MIB, content_bytes=20 * MIB)
    with open_home(small / "home", database=f"sqlite:///{tmp_path}/catalog.sqlite") as installation:
        create_sample_gallery(installation)
        with pytest.raises(StoreFull) as caught:
            publish(installation, source, targets=["eastus"], location="eastus")
        assert "space" in (caught.value.hint or "")
        assert states(show(installation)) == {"eastus/0": FAILED}
        assert "space" in (show(installation).replicas[0].error or "")
        audit(installation, quiet=False)
        subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
        publish(installation, source, targets=["eastus"], location="eastus")
        audit(installation)
        export(installation, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(source)


def test_a_home_and_catalog_on_a_full_disk(small: Path, tmp_path: Path) -> None:
    source = make_raw(tmp_path / "disk.raw", seed=4, virtual_bytes=32 * MIB, content_bytes=20 * MIB)
    with open_home(small / "home") as installation:
        create_sample_gallery(installation)
        with pytest.raises(StoreFull) as caught:
            publish(installation, source, targets=["eastus"], location="eastus")
        assert "space" in str(caught.value)
    subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
    with open_home(small / "home") as installation:
        publish(installation, source, targets=["eastus"], location="eastus")
        audit(installation)


@pytest.mark.parametrize("form", [DiskFormat.RAW, DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC])
def test_an_export_to_a_full_disk_leaves_no_file(small: Path, tmp_path: Path, form: DiskFormat) -> None:
    source = make_raw(tmp_path / "disk.raw", seed=4, virtual_bytes=32 * MIB, content_bytes=20 * MIB)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, source, targets=["southcentralus"])
        make_disk(installation, "d1")
        with pytest.raises(OutputError) as caught:
            disks_export.export_disk(installation, ADMIN, group=GROUP, name="d1", path=small / "d1.img", format=form)
        assert "No space left" in (caught.value.found or "")
        assert list(small.iterdir()) == []
        assert set(states(show(installation)).values()) == {COMPLETED}, "a full target is no damage of the source"
        audit(installation)


# -- no permission ----------------------------------------------------------------------------------------------------


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Refuse new names in the folder during the block, also for root."""
    if os.geteuid():
        folder.chmod(0o500)
    elif subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and this file system knows no immutable folders")
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o700)
        else:
            subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_store_without_permission_fails_by_name_and_others_continue(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first)
        delete(installation)
        zone = tmp_path / "home" / "regions" / "imgstore-eastus" / "zone-1"
        other = make_raw(tmp_path / "other.raw", seed=66)
        with unwritable(zone / ".tmp"):
            with pytest.raises(ReplicationFailed, match="region:eastus"):
                publish(installation, other)
            failed = next(each for each in show(installation).replicas if each.slot.key.region == "eastus")
            assert "refuses access" in (failed.error or "")
        publish(installation, other)
        audit(installation)


def test_the_source_regions_store_without_permission(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["eastus"], location="eastus")
        zone = tmp_path / "home" / "regions" / "imgstore-eastus" / "zone-1"
        other = make_raw(tmp_path / "other.raw", seed=66)
        with unwritable(zone / ".tmp"), pytest.raises(StoreDenied) as caught:
            publish(installation, other, "2.0.0", ["eastus"], location="eastus")
        assert caught.value.hint
        assert states(show(installation, "2.0.0")) == {"eastus/0": FAILED}
        publish(installation, other, "2.0.0", ["eastus"], location="eastus")
        audit(installation)


def test_an_export_without_permission(home: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with open_home(home) as installation, unwritable(tmp_path / "out"):
        with pytest.raises(OutputError) as caught:
            export(installation, tmp_path / "out" / "o.raw")
        assert caught.value.hint
        audit(installation)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_home_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    with (
        unwritable(tmp_path / "closed"),
        pytest.raises((InvalidInput, StoreDenied)) as caught,
        open_home(tmp_path / "closed" / "home"),
    ):
        pass
    assert caught.value.hint


# -- a server that stops ----------------------------------------------------------------------------------------------


class Servers:
    """MinIO processes that can be stopped and restarted at the same address over the same data."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._stacks = [ExitStack() for _ in range(count)]
        self.engines = [self._start(number) for number in range(count)]

    def stop(self, number: int) -> None:
        self._stacks[number].close()

    def resume(self, number: int) -> None:
        self._start(number, port=urlsplit(self.engines[number].endpoint).port)

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()

    def _start(self, number: int, port: int | None = None) -> engines.S3Engine:
        started = engines.start_minio(self._folder / f"minio-{number}", port=port)
        return self._stacks[number].enter_context(started)


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    engines.find_minio_program()
    # Retries have tests of its own (tests/stores): here it would only make the run longer.
    monkeypatch.setattr(retry, "RetryPolicy", partial(retry.RetryPolicy, attempts_max=2))
    running = Servers(tmp_path / "engines", 3)
    yield running
    running.close()


@pytest.mark.engine("minio")
def test_a_minio_that_stops_fails_its_region_alone_and_heals(
    tmp_path: Path, samples: SampleImages, servers: Servers
) -> None:
    """The server of eastus, and of one zone of westus2, is gone; then that of the source region; then all are back."""
    scene = create_minio_scene(tmp_path / "scene", servers.engines, "stops")
    scene.prepare()
    servers.stop(1)
    with scene.open() as installation:
        with pytest.raises(ReplicationFailed, match="region:eastus"):
            publish(installation, samples.first)
        wanted = {"southcentralus/0": COMPLETED, "southcentralus/1": COMPLETED, "westus2/0": COMPLETED}
        assert states(show(installation)) == wanted | {"eastus/0": FAILED}
        export(installation, tmp_path / "o.raw", "westus2")
        assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
    servers.resume(1)
    servers.stop(0)
    with scene.open() as installation:
        export(installation, tmp_path / "o.raw", "southcentralus")
        assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
        with pytest.raises(StoreUnreachable) as caught:
            publish(installation, samples.second, "1.0.1")
        assert caught.value.hint
        assert COMPLETED not in states(show(installation, "1.0.1")).values()
    servers.resume(0)
    with scene.open() as installation:
        publish(installation, samples.first)
        publish(installation, samples.second, "1.0.1")
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
