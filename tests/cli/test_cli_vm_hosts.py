"""Machines of two hosts on one PostgreSQL catalog (V5).

The second host is a UTS namespace with another host name. Its commands, supervisors and QEMU are real processes of this
kernel. Both homes have the same directories as stores.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from imgstore.domain.machine_runs import MachineRun
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.leases import is_dead
from imgstore.operations.machines.running import reconcile_machines
from imgstore.testing.pytest_plugin import require
from tests.support.machine_home import await_death, keep_machines, kill, pid_of, publish, run
from tests.support.sample_gallery import open_home

pytestmark = [
    pytest.mark.long,
    pytest.mark.engine("qemu-system"),
    pytest.mark.engine("postgresql"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a host name of its own"),
]
MACHINE = "-g rg -n vm1"
_OTHER = 'hostname host-b && exec "$0" -m imgstore "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Two homes on one catalog."""

    here: Path
    there: Path
    database: str

    def on_this(self, line: str, exit_code: int = 0) -> str:
        """Run a command on this host."""
        return run(self.here, f"{line} --database {self.database}", exit_code)

    def on_other(self, line: str, exit_code: int = 0) -> str:
        """Run a command on the other host. Return standard output, or standard error of a refused command."""
        words = [*shlex.split(line), "--home", str(self.there), "--database", self.database]
        done = subprocess.run(
            ["unshare", "--uts", "sh", "-c", _OTHER, sys.executable, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout if exit_code == 0 else done.stderr

    def recorded(self) -> MachineRun:
        """Return the run in the catalog."""
        with (
            open_home(self.here, database=self.database) as installation,
            installation.catalog.reading() as transaction,
        ):
            (machine,) = transaction.machines.list(installation.subscription)
            return transaction.machine_runs.by_uid(machine.uid)

    def end_lease(self) -> None:
        """Move the end of the lease to the past, as time does after the loss of a host."""
        with (
            open_home(self.here, database=self.database) as installation,
            installation.catalog.transaction() as transaction,
        ):
            (machine,) = transaction.machines.list(installation.subscription)
            present = transaction.machine_runs.by_uid(machine.uid)
            past = transaction.now() - timedelta(seconds=1)
            transaction.machine_runs.update(replace(present, lease_expires_at=past))

    def reconcile(self) -> None:
        """Do what a server with `--machines` does on this host."""
        with open_home(self.here, database=self.database) as installation:
            reconcile_machines(installation)


@pytest.fixture
def hosts(tmp_path: Path, postgresql: str) -> Iterator[Hosts]:
    """A machine that runs on this host. Its disk has no boot loader."""
    require("qemu-system")
    (tmp_path / "disk.raw").write_bytes(b"no boot loader" + bytes(MIB - 14))
    with ExitStack() as stack:
        here, there = (stack.enter_context(keep_machines(tmp_path / name)) for name in ("here", "there"))
        both = Hosts(here=here, there=there, database=postgresql)
        publish(here, tmp_path / "disk.raw", database=postgresql)
        (there / "regions").symlink_to(here / "regions")
        both.on_this(f"vm create {MACHINE} --image rg/gallery/linux --size Standard_B1ls --admin-username ops")
        both.on_this(f"vm start {MACHINE}")
        yield both


def power_state(view: str) -> str:
    """Return the power state in an instance view."""
    return str(json.loads(view)["statuses"][-1]["displayStatus"])


def test_another_host_takes_a_machine_over_after_the_lease(hosts: Hosts) -> None:
    view, start, stop = (f"vm {words} {MACHINE}" for words in ("get-instance-view", "start", "stop --skip-shutdown"))
    first = hosts.recorded()
    assert power_state(hosts.on_other(view)) == "VM running"
    for line in (start, stop):
        assert f"power state running on host {first.host_name}" in hosts.on_other(line, exit_code=1)
    kill(first.supervisor)
    hosts.end_lease()
    assert power_state(hosts.on_other(view)) == "VM unknown"
    assert "which does not renew the lease" in hosts.on_other(start, exit_code=1)
    hosts.on_other(stop)
    assert power_state(hosts.on_this(view)) == power_state(hosts.on_other(view)) == "VM stopped"
    assert not is_dead(first.qemu)
    hosts.on_other(start)
    second = hosts.recorded()
    assert second.host_name == "host-b"
    assert "on host host-b" in hosts.on_this(start, exit_code=1)
    hosts.reconcile()
    assert all(map(is_dead, (first.qemu, *first.servers))), "the host that came back ends the replaced processes"
    assert not Path(first.folder).exists()
    assert power_state(hosts.on_this(view)) == "VM running"
    hosts.on_other(stop)
    hosts.on_this(start)
    assert hosts.recorded().host_name == first.host_name


def test_a_frozen_supervisor_ends_a_machine_that_another_host_stopped(hosts: Hosts) -> None:
    first = hosts.recorded()
    os.kill(pid_of(first.supervisor), signal.SIGSTOP)
    hosts.end_lease()
    hosts.on_other(f"vm deallocate {MACHINE} --skip-shutdown")
    assert not is_dead(first.qemu)
    os.kill(pid_of(first.supervisor), signal.SIGCONT)
    await_death(first.supervisor)
    assert all(map(is_dead, (first.qemu, *first.servers)))
    ended = hosts.recorded()
    assert (ended.state, ended.reason) == ("deallocated", "the operator regards the host as lost")
