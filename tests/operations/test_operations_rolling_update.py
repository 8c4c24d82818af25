"""Rolling updates of a scale set: the model, batches, failures, and interrupted updates (V10)."""

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain import names
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.errors import Conflict, InvalidInput, NotFound, WorkLeased
from imgstore.domain.machines import Machine
from imgstore.domain.names import VersionName
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.resources import ManagedDisk, OsType
from imgstore.domain.rolling_updates import BatchSize, InstanceStep, StepState
from imgstore.domain.scale_sets import ScaleSet, UpgradeMode
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.signed_urls import grant_access
from imgstore.operations.disks.uploads import revoke_access
from imgstore.operations.installation import Installation
from imgstore.operations.scale_sets.leases import hold_ready_scale_set
from imgstore.operations.scale_sets.model import ModelChange
from imgstore.operations.scale_sets.rolling_update import RolloutRequest, cancel_rolling_update, show_rolling_update
from imgstore.operations.scale_sets.update import reimage_scale_set, update_instances, update_scale_set
from imgstore.policy.rolling import progress_of
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    audit,
    collect,
    create_definition,
    create_sample_gallery,
    open_home,
    publish,
    publish_disks,
)
from tests.support.scale_sets import make_scale_set

pytest_plugins = ["tests.support.published_gallery"]

HERE = "southcentralus"
SET = "front"
IMAGE = f"{GROUP}/{GALLERY}/{DEFINITION}"


def raw(folder: Path, seed: int) -> Path:
    return make_raw(folder / f"{seed}.raw", seed=seed, virtual_bytes=8 * MIB, content_bytes=MIB)


@pytest.fixture(scope="module")
def two_versions_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions, each with three replicas in a region. Created once."""
    folder = tmp_path_factory.mktemp("versions")
    with open_home(folder / "home") as installation:
        create_sample_gallery(installation)
        for number in (1, 2):
            publish(installation, raw(folder, number), f"{number}.0.0", targets=[f"{HERE}=3"])
    return folder / "home"


@pytest.fixture
def two_versions(tmp_path: Path, two_versions_home: Path) -> Iterator[Installation]:
    """A copy of the home with two versions."""
    shutil.copytree(two_versions_home, tmp_path / "home")
    with open_home(tmp_path / "home") as installation:
        yield installation


def make_set(installation: Installation, capacity: int, **values: Any) -> ScaleSet:
    return make_scale_set(installation, SET, f"{IMAGE}/1.0.0", capacity, region=HERE, **values)


def instances(installation: Installation) -> list[tuple[Machine, list[ManagedDisk]]]:
    with installation.catalog.reading() as transaction:
        scale_set = transaction.scale_sets.get(installation.subscription, GROUP, SET)
        assert scale_set is not None
        found = transaction.machines.list_instances(scale_set.uid)
        return [(each, transaction.disks.list_attached(each.resource_id)) for each in found]


def show_set(installation: Installation) -> ScaleSet:
    with installation.catalog.reading() as transaction:
        found = transaction.scale_sets.get(installation.subscription, GROUP, SET)
    assert found is not None
    return found


def steps_of(installation: Installation) -> Sequence[InstanceStep]:
    update = show_set(installation).rolling_update
    assert update is not None
    return update.steps


def version_id(installation: Installation, version: str) -> str:
    return names.version_id(installation.subscription, GROUP, GALLERY, DEFINITION, VersionName.parse(version))


def update(installation: Installation, image: str | None = f"{IMAGE}/2.0.0", **more: Any) -> ScaleSet:
    mode = more.pop("mode", UpgradeMode.ROLLING)
    batch = more.pop("batch", "2")
    return update_scale_set(
        installation,
        ADMIN,
        group=GROUP,
        name=SET,
        change=ModelChange(image=image, upgrade_mode=mode),
        rollout=RolloutRequest(batch_size=BatchSize.parse(batch), **more),
    )


def check_moved(installation: Installation, version: str = "2.0.0") -> None:
    """Check that each instance has one OS disk of the version, that old disks are gone, and that the replicas are balanced."""
    wanted = version_id(installation, version)
    found = instances(installation)
    assert {each.image_reference for each, _ in found} == {wanted}
    os_disks = [next(disk for disk in disks if disk.machine_lun is None) for _, disks in found]
    assert {each.source_reference for each in os_disks} == {wanted}
    assert {each.provisioning_state for each in os_disks} == {ProvisioningState.SUCCEEDED}
    counts = Counter(each.replica for each in os_disks)
    assert max(counts.values()) - min(counts.values()) <= 1
    with installation.catalog.reading() as transaction:
        attached = sum(len(disks) for _, disks in found)
        assert len(transaction.disks.list(installation.subscription, GROUP)) == attached
    audit(installation)


def test_rolling_update_moves_all_instances_in_batches(two_versions: Installation) -> None:
    make_set(two_versions, 7)
    events: list[ProgressEvent] = []
    with open_home(two_versions.home, events.append) as installation:
        done = update(installation, batch="3")
    assert done.rolling_update is not None
    assert progress_of(done.rolling_update.steps).succeeded == 7
    moved = [each.bytes_done for each in events if each.task == f"scale set {SET}" and each.stage is Stage.MOVED]
    assert moved == [3, 6, 7]
    check_moved(two_versions)


def test_an_update_returns_to_an_earlier_version(two_versions: Installation) -> None:
    make_set(two_versions, 3)
    for version in ("2.0.0", "1.0.0", "2.0.0"):
        update(two_versions, f"{IMAGE}/{version}", batch="100%")
        check_moved(two_versions, version)


def test_manual_mode_changes_the_model_only(two_versions: Installation) -> None:
    make_set(two_versions, 3)
    changed = update(two_versions, mode=UpgradeMode.MANUAL)
    assert changed.source_reference == version_id(two_versions, "2.0.0")
    before = version_id(two_versions, "1.0.0")
    assert {each.image_reference for each, _ in instances(two_versions)} == {before}
    update_instances(two_versions, ADMIN, group=GROUP, name=SET, instance_ids=[1], rollout=RolloutRequest())
    references = [each.image_reference for each, _ in instances(two_versions)]
    assert references == [before, changed.source_reference, before]
    with pytest.raises(NotFound):
        update_instances(two_versions, ADMIN, group=GROUP, name=SET, instance_ids=[9], rollout=RolloutRequest())
    update_instances(two_versions, ADMIN, group=GROUP, name=SET, instance_ids=None, rollout=RolloutRequest())
    check_moved(two_versions)


def test_latest_version_of_a_definition(two_versions: Installation) -> None:
    make_set(two_versions, 2)
    changed = update(two_versions, IMAGE)
    assert changed.image_reference == names.definition_id(two_versions.subscription, GROUP, GALLERY, DEFINITION)
    check_moved(two_versions)


def test_another_image_changes_nothing(two_versions: Installation, tmp_path: Path) -> None:
    make_set(two_versions, 2)
    create_definition(two_versions, "windows", os_type=OsType.WINDOWS)
    publish_disks(two_versions, raw(tmp_path, 3), {0: raw(tmp_path, 4)}, targets=[HERE], definition="windows")
    before = show_set(two_versions)
    with pytest.raises(InvalidInput) as refused:
        update(two_versions, f"{GROUP}/{GALLERY}/windows/1.0.0")
    assert refused.value.error_code == "PropertyChangeNotAllowed"
    assert [each.message.partition(":")[0] for each in refused.value.details] == ["OS type", "data disk at LUN 0"]
    assert show_set(two_versions) == before


def test_a_failed_instance_stops_the_update(two_versions: Installation) -> None:
    """A signed URL of the old OS disk forbids its deletion, so the instance keeps the disk."""
    make_set(two_versions, 5)
    held = instances(two_versions)[1][1][0]
    grant_access(
        two_versions, ADMIN, group=GROUP, name=held.name, level=AccessLevel.READ, duration_seconds=600,
        server_url="https://localhost",
    )  # fmt: skip
    with pytest.raises(Conflict) as stopped:
        update(two_versions)
    assert stopped.value.error_code == "RollingUpgradeFailed"
    assert [each.target for each in stopped.value.details] == ["1"]
    steps = steps_of(two_versions)
    assert [each.state for each in steps] == [StepState.SUCCEEDED, StepState.FAILED, *[StepState.PENDING] * 3]
    assert "shared access signature" in (steps[1].reason or "")
    assert instances(two_versions)[1][1][0].uid == held.uid
    with pytest.raises(Conflict):
        update(two_versions, continues_on_failure=True)
    assert [each.state for each in steps_of(two_versions)].count(StepState.FAILED) == 1
    revoke_access(two_versions, ADMIN, group=GROUP, name=held.name)
    update(two_versions)
    check_moved(two_versions)


def test_a_reimage_replaces_the_disks_of_the_same_version(two_versions: Installation) -> None:
    make_set(two_versions, 3)
    before = [disks[0].uid for _, disks in instances(two_versions)]
    reimage_scale_set(two_versions, ADMIN, group=GROUP, name=SET, instance_ids=[2], rollout=RolloutRequest())
    after = [disks[0].uid for _, disks in instances(two_versions)]
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    reimage_scale_set(two_versions, ADMIN, group=GROUP, name=SET, instance_ids=None, rollout=RolloutRequest())
    assert not {disks[0].uid for _, disks in instances(two_versions)} & {*before, *after}
    audit(two_versions)


_KILLED = """
import os, signal, sys
from pathlib import Path
from imgstore.operations.scale_sets import reimage, rolling_update
from tests.operations.test_operations_rolling_update import update
from tests.support.sample_gallery import open_home

home, module, name, count, when = sys.argv[1:]
module = {"reimage": reimage, "rolling_update": rolling_update}[module]
function, calls = getattr(module, name), [0]

def killed(*args, **more):
    calls[0] += 1
    if calls[0] == int(count) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = function(*args, **more)
    if calls[0] == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(module, name, killed)
with open_home(Path(home)) as installation:
    update(installation)
"""


@pytest.mark.parametrize(
    ("module", "name", "count", "when"),
    [
        ("reimage", "_exchange", 2, "after"),
        pytest.param("rolling_update", "_record_batch", 2, "after", marks=pytest.mark.long),
        pytest.param("reimage", "_add_spare_disks", 1, "after", marks=pytest.mark.long),
        pytest.param("reimage", "_make_disk", 2, "after", marks=pytest.mark.long),
        pytest.param("reimage", "_exchange", 1, "before", marks=pytest.mark.long),
        pytest.param("rolling_update", "_record_outcomes", 1, "before", marks=pytest.mark.long),
        pytest.param("rolling_update", "_record_outcomes", 2, "after", marks=pytest.mark.long),
    ],
)
def test_a_killed_update_resumes(two_versions: Installation, module: str, name: str, count: int, when: str) -> None:
    make_set(two_versions, 5)
    command = [sys.executable, "-c", _KILLED, str(two_versions.home), module, name, str(count), when]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    update(two_versions)
    collect(two_versions)
    check_moved(two_versions)


def test_a_cancelled_update_continues_later(two_versions: Installation) -> None:
    """The cancellation arrives during the first batch."""
    make_set(two_versions, 4)
    notes: list[str] = []

    def cancel(event: ProgressEvent) -> None:
        if event.stage is Stage.NOTE:
            notes.append(event.detail)
        if event.stage is Stage.MOVED and event.task == f"scale set {SET}" and event.bytes_done == 2:
            cancel_rolling_update(two_versions, ADMIN, group=GROUP, name=SET)

    with open_home(two_versions.home, cancel) as installation:
        update(installation)
        with pytest.raises(Conflict, match="no rolling update in progress"):
            cancel_rolling_update(installation, ADMIN, group=GROUP, name=SET)
    states = [each.state for each in steps_of(two_versions)]
    assert states == [StepState.SUCCEEDED] * 4 or StepState.PENDING in states
    update(two_versions)
    check_moved(two_versions)
    _, last = show_rolling_update(two_versions, ADMIN, group=GROUP, name=SET)
    assert not last.is_cancelled


def test_a_set_without_an_update(two_versions: Installation) -> None:
    make_set(two_versions, 1)
    with pytest.raises(NotFound, match="never updated"):
        show_rolling_update(two_versions, ADMIN, group=GROUP, name=SET)


def test_one_process_updates_a_set(two_versions: Installation) -> None:
    make_set(two_versions, 1)
    with hold_ready_scale_set(two_versions, GROUP, SET), pytest.raises(WorkLeased):
        update(two_versions)
    update(two_versions)
