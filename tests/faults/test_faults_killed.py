"""Tests of commands killed at a random step and repeated: no partial result, no loss, no byte sent or charged twice.

``tests/support/crash_process.py`` defines the steps. A seed in the test's name selects the fatal steps.
"""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.replication.targets import remove_all_surplus_replicas
from imgstore.testing.engines import S3Engine
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.sample_disks import make_raw, patch_disk
from tests.support.sample_gallery import TARGETS, show, states

Cluster = Callable[[int], tuple[S3Engine, ...]]

SEEDS = range(1, 2)
LONG_SEEDS = range(100, 130)


def play(scene: CrashScene, seed: int) -> None:
    """Publish, replicate, make a disk, export and delete: each command is killed once and repeated."""
    rng = random.Random(seed)
    scene.prepare()
    folder = scene.folder

    def disk(version: str, number: int) -> str:
        path = make_raw(folder / f"{version}.raw", seed=seed + number, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
        scene.expected[version] = path
        return str(path)

    steps = scene.run_job("publish", source=disk("1.0.0", 1000), version="1.0.0", targets=TARGETS)
    struck = 0
    # Early: while the source is taken in. Later: while it is copied. A third, small one: around the catalog's commits.
    for number, (first, last) in enumerate(((0.02, 0.3), (0.3, 0.98)), start=1):
        version = f"1.0.{number}"
        fatal = int(steps * rng.uniform(first, last))
        struck += scene.crash_and_repeat(
            "publish", fatal=fatal, source=disk(version, number), version=version, targets=TARGETS
        )
    scene.expected["1.0.3"] = patch_disk(scene.expected["1.0.2"], folder / "1.0.3.raw", seed=seed)
    small: dict[str, Any] = {"source": str(scene.expected["1.0.3"]), "version": "1.0.3", "targets": TARGETS}
    struck += scene.crash_and_repeat("publish", fatal=rng.randrange(20, 200), **small)
    for number in range(2):
        location = rng.choice(("southcentralus", "westus2", "eastus"))
        named: dict[str, Any] = {"name": f"d{number}", "location": location, "version": f"1.0.{number + 1}"}
        struck += scene.crash_and_repeat("disk", fatal=rng.randrange(4, 30), **named)
    path = str(folder / "out" / "export.raw")
    struck += scene.crash_and_repeat(
        "export", fatal=rng.randrange(8, 40), path=path, location="westus2", version="1.0.2"
    )
    assert Path(path).read_bytes() == scene.expected["1.0.2"].read_bytes()
    moved = ["southcentralus=1", "northeurope"] if "regions" not in scene.settings else ["southcentralus=3", "eastus"]
    struck += scene.crash_and_repeat("retarget", fatal=rng.randrange(6, 120), targets=moved, version="1.0.2")
    struck += scene.crash_and_repeat("delete", fatal=rng.randrange(2, 30), version="1.0.1")
    struck += scene.crash_and_repeat("delete disk", fatal=rng.randrange(1, 20), name="d0")
    scene.check()
    assert struck >= 5, "most steps lie beyond the end: choose others"


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_on_directories(tmp_path: Path, seed: int) -> None:
    # Invariant I17.
    play(CrashScene(folder=tmp_path), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_on_minio(tmp_path: Path, minio_cluster: Cluster, seed: int) -> None:
    play(create_minio_scene(tmp_path, minio_cluster(3), f"killed-{seed}"), seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_killed_on_directories_for_long(tmp_path: Path, seed: int) -> None:
    play(CrashScene(folder=tmp_path), seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_killed_on_minio_for_long(tmp_path: Path, minio_cluster: Cluster, seed: int) -> None:
    play(create_minio_scene(tmp_path, minio_cluster(3), f"killed-{seed}"), seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("seed", LONG_SEEDS[:10])
def test_killed_on_postgresql_for_long(tmp_path: Path, postgresql: str, seed: int) -> None:
    play(CrashScene(folder=tmp_path, settings={"database": postgresql}), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_while_target_regions_change(tmp_path: Path, seed: int) -> None:
    """A region is replaced, with kills at some of the steps; the same command then converges."""
    retargeted(tmp_path, random.Random(seed), strikes=3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_while_target_regions_change_for_long(tmp_path: Path) -> None:
    retargeted(tmp_path, random.Random(9), strikes=120)


def retargeted(folder: Path, rng: random.Random, *, strikes: int) -> None:
    scene = CrashScene(folder=folder)
    scene.prepare()
    one = make_raw(folder / "1.0.0.raw", seed=8, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    here, there = ["southcentralus=2", "eastus"], ["southcentralus=1", "westus2=2=Standard_ZRS"]
    steps = 0
    for number in range(strikes + 1):
        # Another version each time: of a region that was left and comes again, nothing would be sent.
        version = f"1.0.{number}"
        scene.expected[version] = one if number == 0 else patch_disk(one, folder / f"{version}.raw", seed=number)
        scene.run_job("publish", source=str(scene.expected[version]), version=version, targets=here)
        orders: dict[str, Any] = {"version": version, "targets": there}
        if number == 0:
            scene.run_job("disk", name="d0", location="eastus", version=version)
            steps = scene.run_job("retarget", **orders)
        else:
            fatal = 1 + (steps - 1) * number // strikes - rng.randrange(max(1, steps // strikes))
            scene.crash_and_repeat("retarget", fatal=max(1, fatal), **orders)
        with scene.open() as installation:
            view = show(installation, version)
            assert set(states(view).values()) == {ReplicaState.COMPLETED}
            assert {each.slot.key.region for each in view.replicas} == {"southcentralus", "westus2"}
            assert len(view.replicas) == 3
            assert remove_all_surplus_replicas(installation) == []
    scene.check()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_small_commands_killed_at_every_step(tmp_path: Path) -> None:
    """Disks and versions are created and deleted, with a kill at each step in turn."""
    scene = CrashScene(folder=tmp_path)
    scene.prepare()
    one = make_raw(tmp_path / "1.0.0.raw", seed=8, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    scene.expected["1.0.0"] = one
    scene.run_job("publish", source=str(one), version="1.0.0", targets=TARGETS)
    # Invariant P4.
    for fatal in range(1, 200):
        scene.expected["1.0.1"] = patch_disk(one, tmp_path / f"{fatal}.raw", seed=fatal)
        scene.run_job("publish", source=str(scene.expected["1.0.1"]), version="1.0.1", targets=TARGETS)
        made: dict[str, Any] = {"name": "d1", "location": "westus2", "version": "1.0.1"}
        struck = scene.crash_and_repeat("disk", fatal=fatal, **made)
        struck |= scene.crash_and_repeat("delete", fatal=fatal, version="1.0.1")
        struck |= scene.crash_and_repeat("delete disk", fatal=fatal, name="d1")
        if not struck:
            break
    else:
        pytest.fail("200 steps, and still no end")


def test_killed_between_the_disks_of_a_version(tmp_path: Path) -> None:
    """Each version has a data disk. After kills at all parts of the ingest, a repeat resumes and completes the version."""
    data_disks(tmp_path, strikes=3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_between_the_disks_of_a_version_for_long(tmp_path: Path) -> None:
    data_disks(tmp_path, strikes=120)


def data_disks(folder: Path, *, strikes: int) -> None:
    scene = CrashScene(folder=folder)
    scene.prepare()
    targets = ["southcentralus=1", "eastus"]

    def orders(number: int) -> dict[str, Any]:
        version = f"1.0.{number}"
        os_disk, data = folder / f"{version}.raw", folder / f"{version}-data.raw"
        make_raw(os_disk, seed=2 * number, virtual_bytes=10 * MIB, content_bytes=3 * MIB)
        make_raw(data, seed=2 * number + 1, virtual_bytes=12 * MIB, content_bytes=3 * MIB)
        scene.expected.update({version: os_disk, f"{version}/lun-3": data})
        return {"source": str(os_disk), "data": {"3": str(data)}, "version": version, "targets": targets}

    scene.run_job("publish", **orders(0))  # The first use of the regions takes further steps.
    steps = scene.run_job("publish", **orders(strikes + 1))
    struck = [
        scene.crash_and_repeat("publish", fatal=1 + (2 * number - 1) * steps // (2 * strikes), **orders(number))
        for number in range(1, strikes + 1)
    ]
    assert all(struck)
    made: dict[str, Any] = {"name": "d1", "location": "eastus", "version": "1.0.1", "lun": 3}
    assert scene.crash_and_repeat("disk", fatal=12, **made)
    assert scene.crash_and_repeat("delete", fatal=9, version="1.0.1")
    assert scene.crash_and_repeat("delete disk", fatal=5, name="d1")
    scene.check()


def test_interrupted_and_repeated(tmp_path: Path) -> None:
    """Ctrl-C during ingest, copy and export."""
    scene = CrashScene(folder=tmp_path)
    scene.prepare()
    scene.expected["1.0.0"] = make_raw(tmp_path / "1.0.0.raw", seed=8, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
    orders: dict[str, Any] = {"source": str(scene.expected["1.0.0"]), "version": "1.0.0", "targets": TARGETS}
    struck = [scene.crash_and_repeat("publish", fatal=fatal, number=signal.SIGINT, **orders) for fatal in (45,)]
    scene.expected["1.0.1"] = make_raw(tmp_path / "1.0.1.raw", seed=9, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
    orders = {"source": str(scene.expected["1.0.1"]), "version": "1.0.1", "targets": TARGETS}
    struck.append(scene.crash_and_repeat("publish", fatal=150, number=signal.SIGINT, **orders))
    path = str(tmp_path / "out" / "export.raw")
    export: dict[str, Any] = {"path": path, "location": "eastus", "version": "1.0.1"}
    struck.append(scene.crash_and_repeat("export", fatal=20, number=signal.SIGINT, **export))
    scene.check()
    assert all(struck)


def test_interrupted_export_leaves_no_file(tmp_path: Path) -> None:
    """Ctrl-C removes the temporary file at once, before any repeat."""
    scene = CrashScene(folder=tmp_path)
    scene.prepare()
    scene.expected["1.0.0"] = make_raw(tmp_path / "1.0.0.raw", seed=8, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
    scene.run_job("publish", source=str(scene.expected["1.0.0"]), version="1.0.0", targets=["southcentralus"])
    path = str(tmp_path / "out" / "export.raw")
    took = scene.run_job(
        "export", fatal=20, number=signal.SIGINT, path=path, location="southcentralus", version="1.0.0"
    )
    assert took == 0
    assert list((tmp_path / "out").iterdir()) == []
    with scene.open() as installation, installation.catalog.reading() as transaction:
        assert transaction.works.list_open() == [], "the interrupted export kept its pin"
