"""Killed while disks, managed images and versions are made from each other: nothing half visible, nothing sent twice."""

import random
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.geometry import MIB
from imgstore.domain.states import ProvisioningState
from imgstore.operations import images
from imgstore.testing.disks import make_raw, patched
from imgstore.testing.installations import ADMIN, GROUP, collect, content, own_slots
from imgstore.testing.scenes import Scene


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_a_killed_process_is_repeated(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(folder=tmp_path)
    scene.prepare()
    first = make_raw(tmp_path / "first.raw", seed=seed, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
    second = patched(first, tmp_path / "second.raw", seed=seed)
    third = make_raw(tmp_path / "third.raw", seed=seed + 99, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    steps = scene.victim("disk of a file", name="d0", source=str(first))
    struck = 0
    struck += scene.strike("disk of a file", fatal=rng.randrange(8, steps // 2), name="d1", source=str(second))
    image: dict[str, Any] = {"name": "i0", "source": "d1", "data": [str(third), "d0"]}
    struck += scene.strike("image", fatal=rng.randrange(6, steps // 2), **image)
    scene.expected["1.0.0"] = second
    with scene.open() as installation:
        made = images.show_image(installation, ADMIN, group=GROUP, name="i0")
        assert made.provisioning_state is ProvisioningState.SUCCEEDED
        assert [each.part for each in made.data] == ["lun-0", "lun-1"]
    scene.victim("image", name="i1", source="d1", data=[])
    stored: dict[str, Any] = {"source": "i1", "version": "1.0.0", "targets": ["southcentralus", "eastus"]}
    struck += scene.strike("publish stored", fatal=rng.randrange(10, steps // 2), **stored)
    struck += scene.strike("delete image", fatal=rng.randrange(1, 16), name="i0")
    assert struck >= 3
    scene.check()
    scene.victim("delete image", name="i1")
    scene.victim("delete disk", name="d0")
    scene.victim("delete disk", name="d1")
    with scene.open() as installation:
        collect(installation)
        for slot in own_slots(installation):
            left = content(installation, slot)
            assert (left.segments, left.manifests) == ({}, {})
