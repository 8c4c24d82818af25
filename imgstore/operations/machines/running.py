"""Start, stop and restart machines on this host, and read their consoles."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import Conflict, HostFault, InvalidInput, NotFound
from imgstore.domain.host.private_files import make_private_folder, open_private
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.machine_runs import RUN_LEASE_SECONDS, MachineRun, PortForward, PowerState
from imgstore.domain.machine_sizes import MachineSize, find_size
from imgstore.domain.machines import MACHINE, Machine
from imgstore.domain.names import ImageReference, parse_image_reference
from imgstore.domain.resources import HyperVGeneration
from imgstore.domain.views import MachineView
from imgstore.hypervisor.console_log import read_console
from imgstore.hypervisor.programs import find_firmware, find_qemu
from imgstore.hypervisor.users import choose_user
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.leases import this_host, this_process
from imgstore.operations.machines.machines import check_ready
from imgstore.operations.machines.runs import (
    CONTROL,
    check_same_host,
    end_processes,
    end_replaced_run,
    find_noted_sockets,
    find_run,
    is_over,
    machine_folder,
    make_sockets_folder,
    observe,
    stop_run,
)

STOP_SECONDS: Final = 60.0
"""The time that a guest has for its shutdown."""

_SUPERVISOR: Final = "imgstore.cli.commands.machines.supervisor"
"""The module of the supervisor's process. The command line stands above the operations and opens the installation."""
_ANSWER_SECONDS: Final = 10.0
_DISKS_SECONDS: Final = 120.0
"""The time in which a supervisor starts and ends disk servers."""
_POLL_SECONDS: Final = 0.1
_MIB_PER_GIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """Options of a start."""

    forwards: Sequence[PortForward] = ()
    runs_as: str | None = None
    """The user for QEMU by name or number. None chooses a user (`hypervisor/users.py`)."""


def start_machine(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    request: StartRequest,
    is_permitted: bool = False,
) -> MachineRun:
    """Start a machine on this host. A machine that runs stays unchanged, and gets a missing supervisor.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the machine.
        request: the options of the start.
        is_permitted: whether the start is a part of a permitted creation.

    Raises:
        Conflict: the machine is not ready, is generalized, or runs on another host.
        InvalidInput: the size is unknown, or QEMU has no user.
        ToolMissing: QEMU, or the firmware of the machine, is not installed.
        HostFault: a process of the machine does not start.
    """
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with record_activity(installation, principal, Action.START, scope, is_permitted=is_permitted):
        return start_run(installation, _find(installation, group, name), request)


def start_run(installation: Installation, machine: Machine, request: StartRequest) -> MachineRun:
    """Start a machine on this host, after a check of the rights. Raises the errors of `start_machine`."""
    _check_host(installation, machine, request)
    run = _claim(installation, machine, request)
    if run is not None:
        _start_supervisor(installation, machine, run)
    return _read_run(installation, machine)


def stop_machine(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    deallocate: bool = False,
    shutdown_seconds: float = STOP_SECONDS,
) -> None:
    """Stop a machine of this host. A stopped machine stays unchanged.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the machine.
        deallocate: show the machine as deallocated afterwards. The processes end in both cases.
        shutdown_seconds: the time of the guest for its shutdown. Afterwards, or with 0, the machine is switched off.

    Raises:
        Conflict: the machine runs on another host.
    """
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with record_activity(installation, principal, Action.DEALLOCATE if deallocate else Action.POWER_OFF, scope):
        machine = _find(installation, group, name)
        stop_run(installation, machine, shutdown_seconds=shutdown_seconds, deallocate=deallocate)


def restart_machine(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    shutdown_seconds: float = STOP_SECONDS,
) -> MachineRun:
    """Stop a machine, and start it with the options of the last start.

    Raises:
        Conflict: the machine does not run.
    """
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with record_activity(installation, principal, Action.RESTART, scope):
        return restart_run(installation, _find(installation, group, name), shutdown_seconds=shutdown_seconds)


def restart_run(installation: Installation, machine: Machine, *, shutdown_seconds: float = STOP_SECONDS) -> MachineRun:
    """Stop a machine, and start it with the options of the last start, after a check of the rights.

    Raises:
        Conflict: the machine does not run.
    """
    with installation.catalog.reading() as transaction:
        run = find_run(transaction, machine)
    if run is None or not run.state.is_active:
        raise _not_running_error(machine, run)
    request = StartRequest(forwards=run.forwards, runs_as=run.runs_as)
    stop_run(installation, machine, shutdown_seconds=shutdown_seconds)
    claimed = _claim(installation, machine, request)
    if claimed is not None:
        _start_supervisor(installation, machine, claimed)
    return _read_run(installation, machine)


def show_power(
    installation: Installation, principal: Principal, *, group: str, name: str
) -> tuple[MachineView, MachineRun | None]:
    """Return a machine with its disks, and its observed run. None for a machine that never started."""
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, MACHINE, name))
    with installation.catalog.reading() as transaction:
        machine = lookup.find_machine(transaction, installation.subscription, group, name)
        disks = tuple(transaction.disks.list_attached(machine.resource_id))
        return MachineView(machine=machine, disks=disks), find_run(transaction, machine)


def add_power(installation: Installation, views: Sequence[MachineView]) -> list[tuple[MachineView, MachineRun | None]]:
    """Return machines that the caller has read, each with its observed run."""
    with installation.catalog.reading() as transaction:
        return [(each, find_run(transaction, each.machine)) for each in views]


def read_machine_console(installation: Installation, principal: Principal, *, group: str, name: str) -> bytes:
    """Return the last bytes of the serial console since the last start, at most 1 MiB.

    Raises:
        Conflict: the machine never started, or started on another host.
    """
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, MACHINE, name))
    machine = _find(installation, group, name)
    _console_run(installation, machine)
    return read_console(machine_folder(installation, machine.uid))


def follow_console(
    installation: Installation, principal: Principal, *, group: str, name: str, seconds: float | None = None
) -> Iterator[bytes]:
    """Yield the serial console since the last start, then new bytes, until the machine stops or the time is over.

    Raises:
        Conflict: the machine never started, or started on another host.
    """
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, MACHINE, name))
    return _follow(installation, _find(installation, group, name), seconds)


def _follow(installation: Installation, machine: Machine, seconds: float | None) -> Iterator[bytes]:
    folder, effects = machine_folder(installation, machine.uid), installation.effects
    until = None if seconds is None else effects.monotonic() + seconds
    seen = b""
    while True:
        is_active = _console_run(installation, machine).state.is_active
        text = read_console(folder)
        yield _new_part(seen, text)
        seen = text
        if not is_active or (until is not None and effects.monotonic() > until):
            return
        effects.wait(_POLL_SECONDS)


def await_console(
    installation: Installation, principal: Principal, *, group: str, name: str, pattern: str, seconds: float
) -> None:
    """Wait until a line of the console since the start matches a regular expression.

    Raises:
        InvalidInput: the pattern is invalid.
        HostFault: the machine stopped, or the time is over.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InvalidInput(
            "The pattern for the console is invalid.",
            found=f"{pattern!r}: {error}",
            expected="a regular expression of Python",
            hint="quote special characters with a backslash",
            target="wait-for",
        ) from error
    text = b""
    for piece in follow_console(installation, principal, group=group, name=name, seconds=seconds):
        text += piece
        begin = text.rfind(b"\n") + 1
        if any(expression.search(line) for line in text.decode(errors="replace").splitlines()):
            return
        text = text[begin:]
    _, run = show_power(installation, principal, group=group, name=name)
    is_active = run is not None and run.state.is_active
    raise HostFault(
        "No line of the console matches the pattern.",
        found=f"{seconds:g} s without a match" if is_active or run is None else f"{run.state}: {run.reason}",
        expected=f"a line that matches {pattern!r}",
        hint=f"read the console: `imgstore vm console -g {group} -n {name}`",
        target=name,
    )


def check_machine_host(runs_as: str | None) -> None:
    """Check that this host can run machines.

    Raises:
        ToolMissing: QEMU is not installed.
        InvalidInput: QEMU has no user.
    """
    find_qemu()
    choose_user(runs_as, "")


def reconcile_machines(installation: Installation) -> None:
    """Record the ends of the runs of this host, start missing supervisors of living machines, and end replaced runs."""
    _end_replaced_runs(installation)
    host_name = this_host().partition("/")[0]
    with installation.catalog.reading() as transaction:
        runs = [each for each in transaction.machine_runs.list_of_host(host_name) if each.state.is_active]
    for each in runs:
        with suppress(NotFound):
            with installation.catalog.reading() as transaction:
                machine = transaction.machines.by_uid(each.uid)
            try:
                _reconcile(installation, machine)
            except HostFault as error:
                installation.note(f"virtual machine {machine.name}", f"{error.message} {error.found or ''}".strip())


def _end_replaced_runs(installation: Installation) -> None:
    """End the processes of this host whose runs another host has stopped or replaced after a lost lease."""
    for folder in (installation.home / "machines").glob("*/"):
        noted = find_noted_sockets(folder)
        if noted is None:
            continue
        with installation.catalog.reading() as transaction:
            run = transaction.machine_runs.find(folder.name)
        if run is None or run.folder != noted:
            with installation.catalog.transaction() as transaction:
                with suppress(NotFound):  # The machine was deleted, so no start is in progress.
                    transaction.machines.lock(folder.name)
                run = transaction.machine_runs.find(folder.name)
                if run is None or run.folder != noted:
                    end_replaced_run(installation, folder, noted)
        elif not run.state.is_active and run.host == this_host() and is_over(run.supervisor):
            end_processes(installation, run)


def _reconcile(installation: Installation, machine: Machine) -> None:
    with installation.catalog.reading() as transaction:
        recorded = transaction.machine_runs.find(machine.uid)
        if recorded is None or not recorded.state.is_active or not is_over(recorded.supervisor):
            return
        seen = observe(recorded, transaction.now())
    if not seen.state.is_active:
        if seen.host == this_host():
            end_processes(installation, seen)
        with installation.catalog.transaction() as transaction:
            transaction.machines.lock(machine.uid)
            if transaction.machine_runs.find(machine.uid) == recorded:
                transaction.machine_runs.update(seen)
        return
    _start_supervisor(installation, machine, seen)


def _find(installation: Installation, group: str, name: str) -> Machine:
    with installation.catalog.reading() as transaction:
        return lookup.find_machine(transaction, installation.subscription, group, name)


def _read_run(installation: Installation, machine: Machine) -> MachineRun:
    with installation.catalog.reading() as transaction:
        return transaction.machine_runs.by_uid(machine.uid)


def _check_host(installation: Installation, machine: Machine, request: StartRequest) -> None:
    """Check the programs, the size and the user before anything is written."""
    check_machine_host(request.runs_as)
    if machine.hyper_v_generation is HyperVGeneration.V2:
        find_firmware()
    _check_recommended(installation, machine, find_size(machine.size))


def _check_recommended(installation: Installation, machine: Machine, size: MachineSize) -> None:
    """Report a size outside of the range that the image definition recommends. Azure allows such a size, too."""
    if machine.image_reference is None or names.ComputeId.parse(machine.image_reference) is not None:
        return
    reference = parse_image_reference(machine.image_reference)
    if not isinstance(reference, ImageReference):
        return
    with suppress(NotFound), installation.catalog.reading() as transaction:
        found = lookup.find_referenced_definition(transaction, installation.subscription, reference).definition
        for what, value, wanted in (
            ("vCPUs", size.vcpus, found.recommended_vcpus),
            ("GiB of memory", size.memory_mib / _MIB_PER_GIB, found.recommended_memory_gib),
        ):
            for word, bound in (("least", wanted.min), ("most", wanted.max)):
                if bound is not None and (value < bound if word == "least" else value > bound):
                    installation.note(
                        f"virtual machine {machine.name}",
                        f"{machine.size} has {value:g} {what}, and the image definition recommends at {word} {bound}",
                    )


def _claim(installation: Installation, machine: Machine, request: StartRequest) -> MachineRun | None:
    """Record the start of a run. Return None if the machine runs with a supervisor.

    Raises:
        Conflict: the machine cannot start, or runs on another host.
    """
    with installation.catalog.transaction() as transaction:
        held = transaction.machines.get_for_update(machine.uid)
        check_ready(held)
        if held.generalized:
            raise Conflict(
                f"The virtual machine '{machine.name}' is generalized and cannot start.",
                found="a generalized virtual machine",
                expected="a machine that was not generalized",
                hint="make an image of the machine, and create a machine from the image",
                target=machine.resource_id,
                code="OperationNotAllowed",
            )
        recorded = transaction.machine_runs.find(machine.uid)
        run = None if recorded is None else observe(recorded, transaction.now())
        if run is not None and run.state.is_active:
            check_same_host(machine, run)
            return run if is_over(run.supervisor) else None
        if recorded is not None and recorded.host == this_host():
            end_processes(installation, recorded)  # Disk servers of a run whose supervisor was killed.
        folder = machine_folder(installation, machine.uid)
        noted = find_noted_sockets(folder)
        if noted is not None:
            end_replaced_run(installation, folder, noted)
        now = transaction.now()
        claimed = MachineRun(
            uid=machine.uid,
            run_uid=installation.effects.new_uid(),
            state=PowerState.STARTING,
            host=this_host(),
            folder=_make_folders(installation, machine),
            supervisor=this_process(),
            forwards=tuple(request.forwards),
            runs_as=request.runs_as,
            started_at=now,
            lease_expires_at=now + timedelta(seconds=RUN_LEASE_SECONDS),
        )
        transaction.machine_runs.put(claimed)
        return claimed


def _make_folders(installation: Installation, machine: Machine) -> str:
    """Make the folder of the machine in the home, and a folder with a short path for the sockets."""
    folder = machine_folder(installation, machine.uid)
    make_private_folder(folder)
    return make_sockets_folder(folder)


def _start_supervisor(installation: Installation, machine: Machine, run: MachineRun) -> None:
    """Start the supervisor, and wait until the machine runs.

    Raises:
        HostFault: the machine does not run.
    """
    log = machine_folder(installation, machine.uid) / "supervisor.err"
    with open(log, "wb", opener=open_private) as errors:
        process = subprocess.Popen(  # noqa: S603 - uids only
            [sys.executable, "-m", _SUPERVISOR, machine.uid, run.run_uid],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=dict(installation.child_environ),
        )
    assert process.stdout is not None, "standard output is a pipe"
    with process.stdout as output:
        line = output.readline()
    process.wait()
    try:
        answer = json.loads(line)
    except ValueError:
        answer = {
            "message": "The supervisor of the machine ended.",
            "found": _tail(log) or f"exit status {process.poll()}",
        }
    _raise_answer(answer)


def apply_disks(installation: Installation, machine: Machine) -> None:
    """Let the supervisor of a machine that runs here plug and unplug data disks. Start a missing supervisor.

    Raises:
        HostFault: a disk cannot be plugged or unplugged.
    """
    with installation.catalog.reading() as transaction:
        run = find_run(transaction, machine)
    if run is None or run.state is not PowerState.RUNNING:
        return
    if is_over(run.supervisor):
        _start_supervisor(installation, machine, run)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_DISKS_SECONDS)
            control.connect(str(Path(run.folder) / CONTROL))
            answer = json.loads(control.makefile("rb").readline())
    except (OSError, ValueError) as error:
        with installation.catalog.reading() as transaction:
            run = find_run(transaction, machine)
        if run is None or not run.state.is_active:
            return  # The machine ended, and its next start takes the disks of the catalog.
        raise HostFault(
            "The supervisor of the machine does not answer.",
            found=str(error),
            expected="an answer about the disks",
            hint=f"`imgstore vm start -g {machine.group} -n {machine.name}` starts another supervisor",
            target=machine.resource_id,
        ) from error
    _raise_answer(answer)


def check_disks_changeable(transaction: Transaction, machine: Machine) -> None:
    """Refuse a change of the data disks of a machine that runs on another host, or that is about to start or to stop.

    Raises:
        Conflict: the machine is in such a state.
    """
    run = find_run(transaction, machine)
    if run is None or not run.state.is_active:
        return
    check_same_host(machine, run)
    if run.state is not PowerState.RUNNING:
        raise Conflict(
            f"The virtual machine '{machine.name}' is {run.state}.",
            found=f"power state {run.state}",
            expected="a machine that runs or is stopped",
            hint="repeat the command when the machine has started or stopped",
            target=machine.resource_id,
            code="OperationNotAllowed",
        )


def _raise_answer(answer: dict[str, str | None]) -> None:
    """Raise the error that a supervisor reports.

    Raises:
        HostFault: the answer has a message.
    """
    message = answer.pop("message", None)
    if message is not None:
        raise HostFault(message, **answer)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _console_run(installation: Installation, machine: Machine) -> MachineRun:
    with installation.catalog.reading() as transaction:
        run = find_run(transaction, machine)
    if run is None:
        raise _not_running_error(machine, run)
    if run.host_name != this_host().partition("/")[0]:
        raise Conflict(
            f"The console of the virtual machine '{machine.name}' is on another host.",
            found=f"host {run.host_name}",
            expected="this host",
            hint=f"read the console on host {run.host_name}",
            target=machine.resource_id,
        )
    return run


def _new_part(seen: bytes, text: bytes) -> bytes:
    """Return the bytes after `seen`. The log drops old bytes, so the overlap may begin later."""
    if text.startswith(seen):
        return text[len(seen) :]
    last = seen[-256:]
    at = text.rfind(last)
    return text if at < 0 else text[at + len(last) :]


def _not_running_error(machine: Machine, run: MachineRun | None) -> Conflict:
    return Conflict(
        f"The virtual machine '{machine.name}' does not run.",
        found="a machine that never started" if run is None else f"power state {run.state}: {run.reason or 'stopped'}",
        expected="a running machine",
        hint=f"`imgstore vm start -g {machine.group} -n {machine.name}`",
        target=machine.resource_id,
        code="OperationNotAllowed",
    )
