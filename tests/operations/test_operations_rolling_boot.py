"""Rolling updates of instances that run: each is stopped, gets a new OS disk, is started again and probed (V9)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_operations_rolling_update import HERE, IMAGE, SET, instances, make_set, show_set, update, version_id

from imgstore.domain.errors import Conflict
from imgstore.domain.machine_runs import PowerState
from imgstore.domain.rolling_updates import StepState
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import find_run, machine_folder
from imgstore.operations.scale_sets.health_probes import HealthProbe
from imgstore.operations.scale_sets.power import start_instances, stop_instances
from imgstore.testing.engines import cache_folder
from imgstore.testing.pytest_plugin import require
from tests.support.boot_disk import SHELL_PORT, find_kernel, make_boot_disk
from tests.support.sample_gallery import ADMIN, GROUP, create_sample_gallery, open_home, publish

pytestmark = [pytest.mark.engine("qemu-system"), pytest.mark.engine("boot-disk"), pytest.mark.long]
CLOSED_PORT = 24


@pytest.fixture
def bootable(tmp_path: Path) -> Iterator[Installation]:
    """A home with two versions of a disk that boots, and a scale set of two instances."""
    require("qemu-system")
    require("boot-disk")
    make_boot_disk(find_kernel(cache_folder()), tmp_path / "boot.raw")
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        for version in ("1.0.0", "2.0.0"):
            publish(installation, tmp_path / "boot.raw", version, targets=[HERE])
        make_set(installation, 2, size="Standard_B1ls")
        try:
            yield installation
        finally:
            stop_instances(installation, ADMIN, group=GROUP, name=SET, instance_ids=None, shutdown_seconds=0.0)


def states(installation: Installation) -> list[PowerState]:
    with installation.catalog.reading() as transaction:
        runs = [find_run(transaction, each) for each, _ in instances(installation)]
    return [PowerState.DEALLOCATED if run is None else run.state for run in runs]


def test_running_instances_are_probed_after_the_update(bootable: Installation) -> None:
    start_instances(bootable, ADMIN, group=GROUP, name=SET, instance_ids=[0])
    changes = machine_folder(bootable, instances(bootable)[0][0].uid) / "os.qcow2"
    before = changes.stat().st_ino
    update(bootable, batch="1", probe=HealthProbe(guest_port=SHELL_PORT, timeout_seconds=300))
    assert states(bootable) == [PowerState.RUNNING, PowerState.DEALLOCATED], "a stopped instance stays stopped"
    assert changes.stat().st_ino != before, "the changes of the guest belonged to the old disk"
    with pytest.raises(Conflict, match="failed: 1") as stopped:
        update(bootable, f"{IMAGE}/1.0.0", batch="1", probe=HealthProbe(guest_port=CLOSED_PORT, timeout_seconds=3))
    assert f"port {CLOSED_PORT}: the guest" in (stopped.value.found or "")
    last = show_set(bootable).rolling_update
    assert last is not None
    assert [each.state for each in last.steps] == [StepState.FAILED, StepState.PENDING]
    assert instances(bootable)[1][0].image_reference == version_id(bootable, "2.0.0")
    command = 'test $IMGSTORE_INSTANCE_ID = 0 && test -n "$IMGSTORE_PORT_23"'
    update(bootable, f"{IMAGE}/1.0.0", batch="1", probe=HealthProbe(command=command, timeout_seconds=30))
    assert states(bootable) == [PowerState.RUNNING, PowerState.DEALLOCATED]
    assert {each.image_reference for each, _ in instances(bootable)} == {version_id(bootable, "1.0.0")}
