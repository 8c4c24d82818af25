"""Tests of a killed collector: no needed object is deleted, and the next collector completes the work."""

import shutil
from pathlib import Path

import pytest

from imgstore.domain.storage.sizes import MIB
from tests.support.crash_scenes import CrashScene
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    audit,
    audit_collected,
    audit_served,
    collect,
    delete,
    expire_collectors,
    publish,
)

TARGETS = ["southcentralus", "westus2=1=Standard_ZRS"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> CrashScene:
    """Version 1.0.0 exists; 1.0.1 was deleted, and its segments remain."""
    scene = CrashScene(folder=tmp_path_factory.mktemp("collected"))
    scene.prepare()
    for number, version in enumerate(("1.0.0", "1.0.1")):
        scene.expected[version] = make_raw(
            scene.folder / f"{version}.raw", seed=40 + number, virtual_bytes=8 * MIB, content_bytes=5 * MIB
        )
    with scene.open() as installation:
        for version, source in scene.expected.items():
            publish(installation, source, version, TARGETS)
        delete(installation, "1.0.1")
    return scene


def crash_and_repeat(prepared: CrashScene, folder: Path, fatal: int, *, publish_first: bool) -> bool:
    """Kill a collector at a step, then publish its segments again and collect again, in either order."""
    shutil.copytree(prepared.folder, folder)
    scene = CrashScene(folder=folder, expected=dict(prepared.expected))
    took = scene.run_job("gc", fatal=fatal)
    with scene.open() as installation:
        served = folder / "served"
        audit(installation, quiet=False, collected=True)
        audit_served(installation, scene.expected, served)
        expire_collectors(installation)
        if not publish_first:
            collect(installation)
            audit_collected(installation)
        else:
            with installation.catalog.reading() as transaction:
                slots = [slot for pool in transaction.pools.list() for slot in transaction.slots.list(pool.uid)]
                deleting = [each for slot in slots for each in transaction.deletion_marks.list(slot.uid) if each.token]
            if deleting:
                collect(installation)  # Else the publisher would wait for the dead collector's lease to run out.
        publish(installation, scene.expected["1.0.1"], "1.0.1", TARGETS)
        audit_served(installation, scene.expected, served)
        collect(installation)
        audit_collected(installation)
        audit_served(installation, scene.expected, served)
        audit(installation, collected=True)
        with installation.catalog.reading() as transaction:
            slots = [slot for pool in transaction.pools.list() for slot in transaction.slots.list(pool.uid)]
            assert [each for slot in slots for each in transaction.deletion_marks.list(slot.uid)] == []
    shutil.rmtree(folder)
    return took == 0


def test_killed_now_and_then(prepared: CrashScene, tmp_path: Path) -> None:
    """Every seventh step from a place that moves on with the order: opening, condemning, deleting, forgetting."""
    struck = [
        crash_and_repeat(prepared, tmp_path / "x", fatal, publish_first=fatal % 2 == 0) for fatal in range(2, 44, 7)
    ]
    assert sum(struck) >= 4, "most steps lie beyond the end: choose others"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("publish_first", [False, True])
def test_killed_at_every_step(prepared: CrashScene, tmp_path: Path, *, publish_first: bool) -> None:
    # Invariant P5.
    for fatal in range(1, 200):
        if not crash_and_repeat(prepared, tmp_path / "x", fatal, publish_first=publish_first):
            break
    else:
        pytest.fail("200 steps, and still no end")
