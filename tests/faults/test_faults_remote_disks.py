"""A disk from another region is killed at a random step and repeated: each byte is sent, charged and stored once (M32)."""

import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import StoreFull
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.what_if.disks import forecast_image_disk
from imgstore.testing.engines import S3Engine
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.mounted_folder import mount_small
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    audit,
    audit_served,
    charges,
    create_sample_gallery,
    make_disk,
    open_home,
    publish,
    reference,
)

pytest_plugins = ["tests.support.published_gallery"]

Cluster = Callable[[int], tuple[S3Engine, ...]]


def kill_disks(scene: CrashScene, rng: random.Random, *, strikes: int) -> None:
    """Make a disk of a version that is new in westus2, and kill the process once for each part of its steps."""
    scene.prepare()
    steps = struck = 0
    for number in range(strikes + 2):
        version = f"1.0.{number}"
        # Other content each time, so that each creation has the same number of steps.
        source = make_raw(scene.folder / f"{version}.raw", seed=number, virtual_bytes=16 * MIB, content_bytes=5 * MIB)
        scene.expected[version] = source
        disk: dict[str, Any] = {
            "name": f"d{number}",
            "location": "westus2",
            "version": version,
            "allow_remote": True,
        }
        with scene.open() as installation:
            publish(installation, source, version, ["southcentralus", "eastus"])
            request = DiskOfImageRequest(
                group=GROUP, name=disk["name"], location="westus2", reference=reference(version), allow_remote=True
            )
            found = forecast_image_disk(installation, ADMIN, request)
        if number < 2:  # The first creation also prepares the region.
            steps = scene.run_job("disk", **disk)
        else:
            begin, end = (steps * each // strikes for each in (number - 2, number - 1))
            struck += scene.crash_and_repeat("disk", fatal=rng.randrange(begin, end) + 1, **disk)
        with scene.open() as installation:
            rows = [row for row in charges(installation) if row.party.disk == disk["name"]]
        assert {row.kind for row in rows} == {ChargeKind.EGRESS}
        assert sum(row.delivered_bytes for row in rows) == found.delivered_bytes > 0
    scene.check()
    assert struck >= strikes // 2, "most steps lie beyond the end"


def test_killed_on_minio(tmp_path: Path, minio_cluster: Cluster) -> None:
    kill_disks(create_minio_scene(tmp_path, minio_cluster(3), "remote-disks"), random.Random(1), strikes=2)


def test_source_that_freezes_in_the_middle_is_replaced(
    tmp_path: Path, minio_cluster: Cluster, samples: SampleImages
) -> None:
    """The server of the cheapest region stops after the first segment. The bytes of each region have an entry."""
    engines = minio_cluster(3)
    prices = {"eastus": {"westus2": 0.01}}
    # The target has no zone on the frozen server.
    scene = create_minio_scene(tmp_path, engines, "remote-frozen", zoned=False, egress_pairs=prices)
    scene.prepare()
    scene.expected["1.0.0"] = samples.first
    with scene.open() as installation:
        publish(installation, samples.first, targets=["southcentralus", "eastus"])
    with ExitStack() as frozen:
        once = iter([engines[1]])

        def freeze(event: ProgressEvent) -> None:
            if event.task == "disk d0" and event.stage is Stage.MOVED:
                for engine in once:
                    frozen.enter_context(engine.freeze())

        with scene.open(freeze) as installation:
            single = replace(installation, tuning=replace(installation.tuning, copy_workers=1))
            make_disk(single, "d0", "westus2", "1.0.0", allow_remote=True)
            rows = [row for row in charges(installation) if row.party.disk == "d0"]
    assert {(row.source, str(row.unit_price)) for row in rows} <= {("eastus", "0.01"), ("southcentralus", "0.02")}
    assert "southcentralus" in {row.source for row in rows}
    scene.check()


def test_full_target_is_reported_and_the_same_command_resumes(tmp_path: Path, samples: SampleImages) -> None:
    (tmp_path / "home" / "regions").mkdir(parents=True)
    with (
        mount_small(tmp_path / "home" / "regions" / "imgstore-northeurope", "5m") as small,
        open_home(tmp_path / "home") as installation,
    ):
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus"])
        with pytest.raises(StoreFull) as caught:
            make_disk(installation, "d0", "northeurope", "1.0.0", allow_remote=True)
        assert "space" in (caught.value.hint or "")
        audit(installation, quiet=False)
        assert {row.target for row in charges(installation)} == set()
        subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
        make_disk(installation, "d0", "northeurope", "1.0.0", allow_remote=True)
        (tmp_path / "served").mkdir()
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first}, tmp_path / "served")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_on_minio_for_long(tmp_path: Path, minio_cluster: Cluster) -> None:
    kill_disks(create_minio_scene(tmp_path, minio_cluster(3), "remote-disks-long"), random.Random(2), strikes=25)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_on_directories_for_long(tmp_path: Path) -> None:
    kill_disks(CrashScene(folder=tmp_path), random.Random(3), strikes=25)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.engine("postgresql")
def test_killed_on_postgresql_for_long(tmp_path: Path, postgresql: str) -> None:
    kill_disks(CrashScene(folder=tmp_path, settings={"database": postgresql}), random.Random(4), strikes=20)
