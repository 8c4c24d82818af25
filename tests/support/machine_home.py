"""A home with machines that run: commands, kills, and the end of every process that a test started."""

import json
import os
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.effects import Effects
from imgstore.domain.host.private_files import make_private_folder
from imgstore.domain.machine_runs import MachineRun
from imgstore.hypervisor.probe import choose_accelerator
from imgstore.hypervisor.programs import find_qemu
from imgstore.operations.leases import is_dead, this_host
from imgstore.testing.engines import cache_folder
from tests.support.sample_gallery import open_home

DEFINITION: Final = "-g rg -r gallery -i linux"
_PROBE: Final = "kvm-probe.json"
_ROUNDS: Final = 1200
_ROUND_SECONDS: Final = 0.05


def run(home: Path, line: str, exit_code: int = 0) -> str:
    """Run a command in this process. Return standard output, or standard error of a refused command."""
    done = CliRunner().invoke(main, [*shlex.split(line), "--home", str(home)], catch_exceptions=False)
    assert done.exit_code == exit_code, done.output
    return done.stdout if exit_code == 0 else done.stderr


@contextmanager
def keep_machines(home: Path) -> Iterator[Path]:
    """Let machines run in a home. Kill every process of these machines afterwards, also after a failed test."""
    known = cache_folder() / _PROBE  # The probe of KVM takes up to 5 s, once for each boot of the host.
    known.parent.mkdir(parents=True, exist_ok=True)
    choose_accelerator(find_qemu(), known, this_host())
    make_private_folder(home / "machines")
    if known.exists():
        shutil.copy(known, home / "machines" / _PROBE)
    try:
        yield home
    finally:
        while living := find_processes(home):
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def publish(home: Path, disk: Path, *options: str, database: str | None = None) -> None:
    """Make an image version of a disk."""
    catalog = "" if database is None else f" --database {database}"
    for line in (
        "group create -n rg -l southcentralus",
        "sig create -g rg -r gallery -l southcentralus",
        f"sig image-definition create {DEFINITION} --publisher p --offer o --sku s --os-type Linux {' '.join(options)}",
        f"sig image-version create {DEFINITION} -e 1.0.0 --os-vhd-uri {disk}",
    ):
        run(home, line + catalog)


def find_processes(home: Path) -> list[int]:
    """Return the processes of machines of a home: each other process with an open file below ``machines``."""
    below = f"{home}/machines/"
    found = set()
    for each in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(each).startswith(below):
                found.add(int(each.parts[2]))
    return sorted(found - {os.getpid()})


def power(home: Path, name: str = "vm1") -> tuple[str, str | None]:
    """Return the power state of a machine, and the reason."""
    status = json.loads(run(home, f"vm get-instance-view -g rg -n {name}"))["statuses"][-1]
    return status["displayStatus"], status.get("message")


def recorded(home: Path, name: str = "vm1") -> MachineRun:
    """Return the last start of a machine as the catalog has it."""
    with open_home(home) as installation, installation.catalog.reading() as transaction:
        machine = transaction.machines.get(installation.subscription, "rg", name)
        assert machine is not None
        return transaction.machine_runs.by_uid(machine.uid)


def living(run_: MachineRun) -> Sequence[str]:
    """Return the living processes of a run."""
    return [each for each in (run_.supervisor, run_.qemu, *run_.servers) if each is not None and not is_dead(each)]


def pid_of(holder: str | None) -> int:
    """Return the process id of a holder."""
    assert holder is not None
    return int(holder.split("/")[2])


def kill(holder: str | None) -> None:
    """Kill a living process, and wait for its end."""
    assert holder is not None
    assert not is_dead(holder)
    os.kill(pid_of(holder), signal.SIGKILL)
    await_death(holder)


def await_death(holder: str | None) -> None:
    """Wait for the end of a process."""
    effects = Effects()
    for _ in range(_ROUNDS):
        if is_dead(holder):
            return
        effects.wait(_ROUND_SECONDS)
    raise AssertionError(f"{holder} does not end")


def await_state(home: Path, wanted: str, name: str = "vm1") -> str | None:
    """Wait until a machine has a power state. Return the reason."""
    effects = Effects()
    for _ in range(_ROUNDS):
        state, reason = power(home, name)
        if state == wanted:
            return reason
        effects.wait(_ROUND_SECONDS)
    raise AssertionError(f"{state}: {reason}")


def ask_guest(port: int, commands: str) -> str:
    """Run commands in the shell of the guest, and return the output."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as shell:
        shell.sendall(f"{commands}\nexit\n".encode())
        return b"".join(iter(lambda: shell.recv(4096), b"")).decode(errors="replace")
