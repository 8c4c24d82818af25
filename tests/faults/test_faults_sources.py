"""Tests of kills while disks, managed images and versions are created from each other."""

import random
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.machines import images, machines
from tests.support.crash_scenes import CrashScene
from tests.support.sample_disks import make_raw, patch_disk
from tests.support.sample_gallery import ADMIN, GROUP, collect, content, own_slots


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_a_killed_process_is_repeated(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scene = CrashScene(folder=tmp_path)
    scene.prepare()
    first = make_raw(tmp_path / "first.raw", seed=seed, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
    second = patch_disk(first, tmp_path / "second.raw", seed=seed)
    third = make_raw(tmp_path / "third.raw", seed=seed + 99, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    steps = scene.run_job("disk of a file", name="d0", source=str(first))
    struck = 0
    struck += scene.crash_and_repeat(
        "disk of a file", fatal=rng.randrange(8, steps // 2), name="d1", source=str(second)
    )
    image: dict[str, Any] = {"name": "i0", "source": "d1", "data": [str(third), "d0"]}
    struck += scene.crash_and_repeat("image", fatal=rng.randrange(6, steps // 2), **image)
    scene.expected["1.0.0"] = second
    with scene.open() as installation:
        made = images.show_image(installation, ADMIN, group=GROUP, name="i0")
        assert made.provisioning_state is ProvisioningState.SUCCEEDED
        assert [each.disk_key for each in made.data] == ["lun-0", "lun-1"]
    scene.run_job("image", name="i1", source="d1", data=[])
    stored: dict[str, Any] = {"source": "i1", "version": "1.0.0", "targets": ["southcentralus", "eastus"]}
    struck += scene.crash_and_repeat("publish stored", fatal=rng.randrange(10, steps // 2), **stored)
    struck += scene.crash_and_repeat("delete image", fatal=rng.randrange(1, 16), name="i0")
    assert struck >= 3
    scene.check()
    scene.run_job("delete image", name="i1")
    scene.run_job("delete disk", name="d0")
    scene.run_job("delete disk", name="d1")
    with scene.open() as installation:
        collect(installation)
        for slot in own_slots(installation):
            left = content(installation, slot)
            assert (left.segments, left.manifests) == ({}, {})


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_a_machine_is_made_whole_by_the_repeat(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scene = CrashScene(folder=tmp_path)
    scene.prepare()
    raw = make_raw(tmp_path / "os.raw", seed=seed, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    data = make_raw(tmp_path / "data.raw", seed=seed + 99, virtual_bytes=4 * MIB, content_bytes=MIB)
    scene.expected.update({"1.0.0": raw, "1.0.0/lun-3": data})
    scene.run_job("publish", source=str(raw), data={"3": str(data)}, targets=["southcentralus=2"])
    asked: dict[str, Any] = {"name": "vm1", "location": "southcentralus", "image": f"{GROUP}/g1/ubuntu"}
    fatals = rng.sample(range(4, 40), 3)
    for number, fatal in enumerate(fatals):
        scene.crash_and_repeat("machine", fatal=fatal, machine=asked | {"name": f"vm{number}"})
    with scene.open() as installation:
        made = machines.list_machines(installation, ADMIN)
        assert [[disk.machine_lun for disk in each.disks] for each in made] == [[None, 3]] * 3
        assert [{disk.replica for disk in each.disks} for each in made] == [{0}, {1}, {0}], "one turn each"
        assert {each.machine.provisioning_state for each in made} == {ProvisioningState.SUCCEEDED}
    scene.run_job("machine", fatal=14, machine=asked | {"name": "vm9"})  # Between its disks.
    scene.crash_and_repeat("delete machine", fatal=rng.randrange(1, 12), name="vm9")
    scene.crash_and_repeat("delete machine", fatal=rng.randrange(1, 8), name="vm0")
    scene.check()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_a_shallow_version_is_whole_or_not_at_all(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scene = CrashScene(folder=tmp_path)
    scene.prepare()
    raw = make_raw(tmp_path / "os.raw", seed=seed, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    data = make_raw(tmp_path / "data.raw", seed=seed + 99, virtual_bytes=4 * MIB, content_bytes=MIB)
    scene.run_job("image", name="i1", source=str(raw), data=[str(data)])
    stored: dict[str, Any] = {"source": "i1", "targets": ["southcentralus"], "mode": "Shallow"}
    struck = 0
    for number, fatal in enumerate(rng.sample(range(4, 30), 3)):
        version = f"1.{number}.0"
        scene.expected.update({version: raw, f"{version}/lun-0": data})
        struck += scene.crash_and_repeat("publish stored", fatal=fatal, version=version, **stored)
    assert struck
    scene.run_job("delete image", name="i1")
    with scene.open() as installation:
        collect(installation)
    scene.check()
    scene.crash_and_repeat("delete", fatal=rng.randrange(1, 8), version="1.0.0")
    scene.check()
