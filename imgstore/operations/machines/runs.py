"""Observe the runs of machines on this host, and end their processes.

A run belongs to one host (invariant V5). The supervisor of the run (`operations/machines/supervisor.py`) renews the lease, so other hosts see
a lost host. On its own host, the processes decide: a run is over when QEMU and the supervisor are dead.
"""

import shutil
import signal
import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, HostFault
from imgstore.domain.machine_runs import MachineRun, PowerState
from imgstore.domain.machines import Machine
from imgstore.hypervisor.launch import send_signal
from imgstore.hypervisor.qmp import open_monitor
from imgstore.operations.installation import Installation
from imgstore.operations.leases import is_dead, process_name, this_host

CONTROL: Final = "control"
"""The socket of the supervisor, in the folder of the run. An accepted connection asks for the present disks."""
MONITOR: Final = "monitor"
"""The socket of the monitor for commands, in the folder of the run."""
_ANSWER_SECONDS: Final = 10.0
_END_SECONDS: Final = 10.0
_SUPERVISOR_SECONDS: Final = 30.0
"""The time of a supervisor for the record of the end. A start that is stopped may wait for a disk server."""
_POLL_SECONDS: Final = 0.05
_PROCESSES: Final = Path("/proc")
_SOCKETS: Final = "sockets"
"""A file in the folder of a machine: the path of the folder of the sockets. A start on another host replaces the row alone."""
_SOCKETS_PREFIX: Final = "imgstore-vm-"


def machine_folder(installation: Installation, machine_uid: str) -> Path:
    """Return the folder of a machine in the home: the console log, the firmware variables and the changed blocks."""
    return installation.home / "machines" / machine_uid


def observe(run: MachineRun, now: datetime) -> MachineRun:
    """Return a run as it is now. Processes of this host may have died since the last record.

    Args:
        run: the recorded run.
        now: the time of the database's clock.
    """
    if not run.state.is_active:
        return run
    if run.host_name != socket.gethostname():
        return run if run.lease_expires_at > now else replace(run, state=PowerState.UNKNOWN)
    if run.host != this_host():
        return _end(run, "the host was restarted")
    if is_over(run.qemu) and is_over(run.supervisor):
        return _end(run, "QEMU ended while no supervisor watched")
    return run


def is_over(holder: str | None) -> bool:
    """Return whether a process of a run never started or is dead."""
    return holder is None or is_dead(holder)


def find_run(transaction: Transaction, machine: Machine) -> MachineRun | None:
    """Return the observed run of a machine. None for a machine that never started."""
    run = transaction.machine_runs.find(machine.uid)
    return None if run is None else observe(run, transaction.now())


def check_not_active(transaction: Transaction, machine: Machine, change: str) -> None:
    """Refuse a change of a machine that runs.

    Raises:
        Conflict: the machine runs.
    """
    run = find_run(transaction, machine)
    if run is not None and run.state.is_active:
        raise Conflict(
            f"The virtual machine '{machine.name}' runs: {change} needs a stopped machine.",
            found=f"power state {run.state} on host {run.host_name}",
            expected="a stopped machine",
            hint=f"`imgstore vm stop -g {machine.group} -n {machine.name}` on host {run.host_name}",
            target=machine.resource_id,
            code="OperationNotAllowed",
        )


def stop_run(
    installation: Installation, machine: Machine, *, shutdown_seconds: float = 0.0, deallocate: bool = False
) -> None:
    """End the run of a machine, and record the end. A deallocated machine stays deallocated.

    Raises:
        Conflict: the machine runs on another host, which renews its lease.
    """
    last = PowerState.DEALLOCATED if deallocate else PowerState.STOPPED
    with installation.catalog.transaction() as transaction:
        transaction.machines.lock(machine.uid)
        run = find_run(transaction, machine)
        if run is None or run.state is PowerState.DEALLOCATED:
            return
        if run.state is not PowerState.UNKNOWN and run.state.is_active:
            check_same_host(machine, run)
            run = replace(run, state=PowerState.STOPPING, reason=None)
        transaction.machine_runs.update(run)
    if run.state is PowerState.STOPPING:
        _shut_down(installation, run, shutdown_seconds)
    elif run.host == this_host():
        end_processes(installation, run)
    with installation.catalog.transaction() as transaction:
        transaction.machines.lock(machine.uid)
        present = transaction.machine_runs.find(machine.uid)
        if present is not None and present.run_uid == run.run_uid:
            lost = (
                "the operator regards the host as lost"
                if run.state is PowerState.UNKNOWN
                else "the machine was stopped"
            )
            changed = replace(present, state=last, reason=run.reason or present.reason or lost)
            transaction.machine_runs.update(changed)


def check_same_host(machine: Machine, run: MachineRun) -> None:
    """Refuse a command about a run of another host, or of this host before its last boot.

    Raises:
        Conflict: the run belongs to another host.
    """
    if run.host == this_host():
        return
    is_lost = run.state is PowerState.UNKNOWN
    raise Conflict(
        f"The virtual machine '{machine.name}' belongs to another host.",
        found=f"power state {run.state} on host {run.host_name}"
        + (", which does not renew the lease" if is_lost else ""),
        expected=f"a command on host {run.host_name}, which has the changes of the disks",
        hint=f"`imgstore vm stop -g {machine.group} -n {machine.name}` on host {run.host_name}"
        + (", or here if that host is lost: the changes of the disks stay there" if is_lost else ""),
        target=machine.resource_id,
        code="OperationNotAllowed",
    )


def end_processes(installation: Installation, run: MachineRun) -> None:
    """End QEMU and the disk servers of a run of this host, and remove the folder of the sockets.

    QEMU ends first, so that the disk servers have every write of the guest. A process that a killed supervisor did not record
    has the folder in its command line.
    """
    if not is_over(run.qemu):
        with suppress(HostFault), open_monitor(Path(run.folder) / MONITOR, timeout_seconds=_ANSWER_SECONDS) as monitor:
            monitor.run("quit")
        _end_all(installation, [run.qemu])
    _end_all(installation, [*run.servers, *_find_strays(run.folder)], signal.SIGTERM)
    _remove_sockets(machine_folder(installation, run.uid), run.folder)


def make_sockets_folder(folder: Path) -> str:
    """Make a folder with a short path for the sockets of a run, and note the path in the folder of the machine."""
    sockets = Path(tempfile.mkdtemp(prefix=_SOCKETS_PREFIX))
    sockets.chmod(0o711)  # The user of QEMU connects to the sockets of its own disks.
    (folder / _SOCKETS).write_text(str(sockets), encoding="utf-8")
    return str(sockets)


def find_noted_sockets(folder: Path) -> str | None:
    """Return the sockets folder of the last run on this host that has not ended. None without such a run.

    Args:
        folder: the folder of the machine.
    """
    try:
        noted = (folder / _SOCKETS).read_text(encoding="utf-8")
    except OSError:
        return None
    return noted if Path(noted).name.startswith(_SOCKETS_PREFIX) else None


def end_replaced_run(installation: Installation, folder: Path, sockets: str) -> None:
    """End the processes of a run that a start on another host replaced.

    Args:
        installation: the installation.
        folder: the folder of the machine.
        sockets: the sockets folder of the run.
    """
    _end_all(installation, _find_strays(sockets), signal.SIGTERM)
    _remove_sockets(folder, sockets)


def _remove_sockets(folder: Path, sockets: str) -> None:
    """Remove the sockets folder of an ended run, and the note unless a later run has replaced the note."""
    shutil.rmtree(sockets, ignore_errors=True)
    if find_noted_sockets(folder) == sockets:
        (folder / _SOCKETS).unlink(missing_ok=True)


def await_end(installation: Installation, holders: Iterable[str | None], seconds: float) -> bool:
    """Wait until processes are dead. Return False if a process still lives after the time."""
    waiting = [each for each in holders if each is not None]
    until = installation.effects.monotonic() + seconds
    while not all(map(is_dead, waiting)):
        if installation.effects.monotonic() > until:
            return False
        installation.effects.wait(_POLL_SECONDS)
    return True


def pid_of(holder: str) -> int:
    """Return the process id of a holder."""
    return int(holder.split("/")[2])


def _find_strays(folder: str) -> list[str]:
    """Return the living processes with the sockets folder of a run in their command lines, as holders."""
    found = []
    for each in _PROCESSES.glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if folder.encode() + b"/" in each.read_bytes():
                found.append(process_name(int(each.parent.name)))
    return found


def _shut_down(installation: Installation, run: MachineRun, seconds: float) -> None:
    """Ask the guest to shut down, then end the processes. The supervisor records the end."""
    if seconds > 0 and not is_over(run.qemu):
        with suppress(HostFault), open_monitor(Path(run.folder) / MONITOR, timeout_seconds=_ANSWER_SECONDS) as monitor:
            monitor.run("system_powerdown")
        await_end(installation, [run.qemu], seconds)
    end_processes(installation, run)
    await_end(installation, [run.supervisor], _SUPERVISOR_SECONDS)


def _end_all(installation: Installation, holders: Iterable[str | None], first: signal.Signals | None = None) -> None:
    """Wait for the end of processes. A process that does not end in time is killed."""
    living = [each for each in holders if each is not None and not is_dead(each)]
    if first is not None:
        for each in living:
            send_signal(pid_of(each), first)
    if not await_end(installation, living, _END_SECONDS):
        for each in living:
            if not is_dead(each):
                send_signal(pid_of(each), signal.SIGKILL)
        await_end(installation, living, _END_SECONDS)


def _end(run: MachineRun, reason: str) -> MachineRun:
    return replace(run, state=PowerState.STOPPED, reason=reason)
