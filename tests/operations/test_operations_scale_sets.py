"""Scale sets: whole or not at all, with counts within one over the replicas."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain import names
from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ImageNotAvailable,
    ImgstoreError,
    InvalidInput,
    NotFound,
    PropertyChangeNotAllowed,
)
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.requests import OsProfile, ScaleSetRequest
from imgstore.domain.scale_sets import PlacementPolicy, ScaleSet
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.storage.works import WorkKind
from imgstore.domain.views import MachineView
from imgstore.operations.disks import disks
from imgstore.operations.installation import Installation
from imgstore.operations.machines import machines
from imgstore.operations.scale_sets import change, content, scale_sets
from imgstore.operations.slots.leftovers import run_removals
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, audit, publish_disks

pytest_plugins = ["tests.support.published_gallery"]
REFERENCE = f"{GROUP}/{GALLERY}/{DEFINITION}"
HERE = "southcentralus"
USER = OsProfile(admin_username="azureuser", computer_name="web")


@pytest.fixture
def spread(empty: Installation, tmp_path: Path) -> Installation:
    """With 1.0.0 of two disks in three replicas."""
    os_disk = make_raw(tmp_path / "os.raw", seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)
    data = make_raw(tmp_path / "data.raw", seed=2, virtual_bytes=4 * MIB, content_bytes=MIB)
    publish_disks(empty, os_disk, {0: data}, targets=[f"{HERE}=3"])
    return empty


def create(installation: Installation, capacity: int, name: str = "web", **more: Any) -> ScaleSet:
    values: dict[str, Any] = {"image": REFERENCE, "location": HERE, "profile": USER} | more
    principal = values.pop("principal", ADMIN)
    return scale_sets.create_scale_set(
        installation, principal, ScaleSetRequest(group=GROUP, name=name, capacity=capacity, **values)
    )


def scale(installation: Installation, capacity: int, principal: Principal = ADMIN) -> ScaleSet:
    return scale_sets.scale_scale_set(installation, principal, group=GROUP, name="web", capacity=capacity)


def instances(installation: Installation, name: str = "web") -> list[MachineView]:
    return scale_sets.list_instances(installation, ADMIN, group=GROUP, name=name)


def counts(installation: Installation) -> list[int]:
    """Return the instances of each replica. All disks of an instance must be in one replica."""
    replicas = [{disk.replica for disk in each.disks} for each in instances(installation)]
    assert all(len(each) == 1 for each in replicas)
    counted = Counter(next(iter(each)) for each in replicas)
    return [counted[number] for number in range(3)]


def audit_removed(installation: Installation) -> None:
    """Run the removals that wait for late requests, and check every object and row."""
    run_removals(replace(installation, tuning=replace(installation.tuning, delete_seconds_max=0.0)))
    audit(installation)


def check_whole(installation: Installation, capacity: int) -> None:
    """Check that the set has its instances, each with both disks, and that nothing else is left."""
    found = instances(installation)
    assert len(found) == capacity
    assert {each.machine.provisioning_state for each in found} <= {ProvisioningState.SUCCEEDED}
    assert all(len(each.disks) == 2 for each in found)
    shown = scale_sets.show_scale_set(installation, ADMIN, group=GROUP, name="web")
    assert (shown.capacity, shown.former_capacity, shown.provisioning_state) == (
        capacity,
        None,
        ProvisioningState.SUCCEEDED,
    )
    assert len(disks.list_disks(installation, ADMIN)) == 2 * capacity
    with installation.catalog.reading() as transaction:
        assert [work for work in transaction.works.list_open() if work.kind is WorkKind.DISK] == []
        for each in found:
            for disk in each.disks:
                assert transaction.manifests.of_owner(disk.uid)
    audit_removed(installation)


def check_nothing(installation: Installation) -> None:
    """Check that no set, no instance and no disk is left."""
    assert scale_sets.list_scale_sets(installation, ADMIN) == []
    assert disks.list_disks(installation, ADMIN) == []
    with installation.catalog.reading() as transaction:
        assert [work for work in transaction.works.list_open() if work.kind is WorkKind.DISK] == []
    audit_removed(installation)


def test_instances_are_spread_evenly_and_belong_to_the_set_only(spread: Installation) -> None:
    made = create(spread, 7)
    assert made.source_reference.endswith("/versions/1.0.0")
    assert made.image_reference.endswith(f"/images/{DEFINITION}")
    check_whole(spread, 7)
    assert sorted(counts(spread)) == [2, 2, 3]
    found = instances(spread)
    assert [each.machine.name for each in found] == [f"web_{number}" for number in range(7)]
    assert found[6].machine.computer_name == "web000006"
    assert found[6].machine.resource_id == f"{made.resource_id}/virtualMachines/6"
    assert machines.list_machines(spread, ADMIN) == []
    with pytest.raises(NotFound):
        machines.show_machine(spread, ADMIN, group=GROUP, name="web_0")
    with pytest.raises(Conflict, match="attached"):
        disks.delete_disk(spread, ADMIN, group=GROUP, name=found[0].os_disk.name)
    assert create(spread, 7) == made, "a repeat changes nothing"
    with pytest.raises(PropertyChangeNotAllowed, match=r"sku\.capacity"):
        create(spread, 8)


def test_scale_adds_new_ids_and_removes_the_highest_ids(spread: Installation) -> None:
    create(spread, 4)
    scale(spread, 6)
    check_whole(spread, 6)
    assert sorted(counts(spread)) == [2, 2, 2]
    scale(spread, 3)
    check_whole(spread, 3)
    assert sorted(counts(spread)) == [1, 1, 1]
    scale(spread, 5)
    assert [each.machine.instance_id for each in instances(spread)] == [0, 1, 2, 6, 7]
    scale(spread, 0)
    check_whole(spread, 0)
    scale_sets.delete_scale_set(spread, ADMIN, group=GROUP, name="web")
    check_nothing(spread)


def test_batches_continue_the_round_robin(spread: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "BATCH_INSTANCES", 4)
    create(spread, 11)
    check_whole(spread, 11)
    assert sorted(counts(spread)) == [3, 4, 4]
    scale(spread, 1)
    check_whole(spread, 1)


def test_least_busy_fills_the_replicas_with_the_fewest_disks(spread: Installation) -> None:
    create(spread, 3, placement=PlacementPolicy.LEAST_BUSY)
    scale(spread, 1)  # Two replicas lose their instance.
    (kept,) = instances(spread)
    scale(spread, 3)
    assert counts(spread) == [1, 1, 1]
    assert kept.machine.instance_id == 0


@pytest.mark.parametrize("capacity", [1_001, -1])
def test_capacity_is_checked_before_anything_is_written(spread: Installation, capacity: int) -> None:
    with pytest.raises(InvalidInput, match="1000 instances"):
        create(spread, capacity)
    check_nothing(spread)
    create(spread, 1)
    with pytest.raises(InvalidInput, match="1000 instances"):
        scale(spread, capacity)
    check_whole(spread, 1)


def test_missing_region_leaves_nothing(spread: Installation) -> None:
    with pytest.raises(ImageNotAvailable):
        create(spread, 2, location="westus2")
    check_nothing(spread)


def test_store_that_is_lost_in_the_middle_rolls_the_set_back(
    spread: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "BATCH_INSTANCES", 2)
    batches = 0

    def fail(*arguments: Any, **named: Any) -> None:
        nonlocal batches
        batches += 1
        if batches > 1:
            folder = next(iter(spread.home.rglob("*southcentralus*")))
            os.rename(folder, f"{folder}.lost")
            try:
                make(*arguments, **named)
            finally:
                os.rename(f"{folder}.lost", folder)
        else:
            make(*arguments, **named)

    make = content.make_disks
    monkeypatch.setattr(change, "make_disks", fail)
    with pytest.raises(ImgstoreError):
        create(spread, 6)
    check_nothing(spread)
    batches = -9
    create(spread, 2)
    batches = 0
    with pytest.raises(ImgstoreError):
        scale(spread, 6)
    check_whole(spread, 2)


def test_rights_are_checked_also_for_resumed_calls(spread: Installation) -> None:
    writer = Principal(name="w", grants=(Grant(role=Role.READER, scope=names.group_id(spread.subscription, GROUP)),))
    with pytest.raises(AccessDenied):
        create(spread, 1, principal=writer)
    create(spread, 1)
    with pytest.raises(AccessDenied):
        scale(spread, 2, principal=writer)
    check_whole(spread, 1)


_STEPS = (
    "imgstore.operations.scale_sets.change:_add_batch",
    "imgstore.operations.scale_sets.change:make_disks",
    "imgstore.operations.scale_sets.content:_lease_works",
    "imgstore.operations.scale_sets.content:_complete",
    "imgstore.operations.scale_sets.change:_complete_instances",
    "imgstore.operations.scale_sets.change:_end_change",
    "imgstore.operations.scale_sets.change:remove_instances",
    "imgstore.operations.scale_sets.removal:_remove_disks_of_slot",
)
_KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from imgstore.operations.scale_sets import change, scale_sets
from tests.support.sample_gallery import ADMIN, open_home
home, step, after, capacity = sys.argv[1:]
change.BATCH_INSTANCES = 3
module, name = step.split(":")
module = importlib.import_module(module)
original, left = getattr(module, name), [int(after)]
def killed(*arguments, **named):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(module, name, killed)
with open_home(Path(home)) as installation:
    scale_sets.scale_scale_set(installation, ADMIN, group=%r, name="web", capacity=int(capacity))
"""


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("after", [0, 1])
def test_killed_scale_is_repeated_or_rolled_back(spread: Installation, step: str, after: int) -> None:
    create(spread, 2)
    program = _KILLED % GROUP
    for capacity, then in ((8, 8), (2, 2), (8, 5)):
        subprocess.run(
            [sys.executable, "-c", program, str(spread.home), step, str(after), str(capacity)],
            check=False,
            capture_output=True,
            timeout=60,
        )
        scale(spread, then)
        check_whole(spread, then)
        scale(spread, 8 if then == 8 else 2)
        spreads = counts(spread)
        assert sum(spreads) == (8 if then == 8 else 2)
