"""Kill the supervisor of a machine beside a new QEMU: the next start works, and no other QEMU is left (V5)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgstore.domain.storage.sizes import MIB
from imgstore.operations.leases import is_dead
from imgstore.testing.pytest_plugin import require
from tests.support.machine_home import (
    await_state,
    find_processes,
    keep_machines,
    pid_of,
    power,
    publish,
    recorded,
    run,
)

pytestmark = [pytest.mark.long, pytest.mark.engine("qemu-system")]
MACHINE = "-g rg -n vm1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a machine whose disk has no boot loader."""
    require("qemu-system")
    folder = tmp_path_factory.mktemp("killed")
    (folder / "disk.raw").write_bytes(b"no boot loader" + bytes(MIB - 14))
    with keep_machines(folder / "home") as home:
        publish(home, folder / "disk.raw")
        run(home, f"vm create {MACHINE} --image rg/gallery/linux --size Standard_B1ls --admin-username ops")
        yield home


def start_and_kill(home: Path, fatal: int) -> None:
    """Start the machine in a process, and kill the supervisor at a step."""
    orders = json.dumps({"home": str(home), "fatal": fatal})
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.start_process", orders],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def find_qemu_processes(home: Path) -> list[int]:
    """Return the QEMU processes of the machine."""
    uid = recorded(home).uid.encode()
    lines = {each: Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0") for each in find_processes(home)}
    return [pid for pid, words in lines.items() if b"qemu-system" in words[0] and any(uid in word for word in words)]


def check_recovery(home: Path) -> None:
    """Check the view after a kill, then start and stop the machine."""
    state, _ = power(home)
    assert state in ("VM running", "VM starting", "VM stopped", "VM deallocated"), state
    if state == "VM running":
        assert not is_dead(recorded(home).qemu)
    run(home, f"vm start {MACHINE}")
    await_state(home, "VM running")
    assert find_qemu_processes(home) == [pid_of(recorded(home).qemu)]
    run(home, f"vm stop {MACHINE} --skip-shutdown")
    assert power(home)[0] == "VM stopped"
    assert find_processes(home) == []


def test_a_supervisor_killed_beside_a_new_qemu_leaves_no_orphan(home: Path) -> None:
    """The QEMU process exists, and the catalog does not know the process."""
    start_and_kill(home, 10)
    assert recorded(home).qemu is None
    assert len(find_qemu_processes(home)) == 1
    check_recovery(home)
