"""Run one machine: start the disk servers and QEMU, keep the console log, renew the lease, and record the end.

The supervisor is a process of its own. QEMU and the disk servers outlive a killed supervisor. The next start, or a server with
`--machines`, then starts another supervisor that adopts the processes.
"""

import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from imgstore.domain.disks.version_disks import OS_DISK, disk_key
from imgstore.domain.errors import HostFault, ImgstoreError
from imgstore.domain.host.private_files import FILE_MODE, open_private
from imgstore.domain.machine_runs import RUN_LEASE_SECONDS, MachineRun, PowerState
from imgstore.domain.machine_sizes import find_size
from imgstore.domain.machines import Machine, MachineSecrets
from imgstore.domain.resources import HyperVGeneration, ManagedDisk
from imgstore.hypervisor.command_line import Drive, Firmware, Forward, Guest
from imgstore.hypervisor.console_log import ConsoleLog, clear_console
from imgstore.hypervisor.launch import listen, start_qemu
from imgstore.hypervisor.probe import choose_accelerator
from imgstore.hypervisor.programs import find_firmware, find_qemu
from imgstore.hypervisor.qmp import Monitor, open_monitor
from imgstore.hypervisor.seed import write_seed
from imgstore.hypervisor.users import RunAs, choose_user
from imgstore.operations.installation import Installation
from imgstore.operations.leases import is_dead, process_name, this_host, this_process
from imgstore.operations.machines.runs import MONITOR, end_processes, is_over, machine_folder
from imgstore.operations.machines.seeds import make_seed
from imgstore.transfer.overlay.journal import OverlayBase
from imgstore.transfer.overlay.qcow2_file import make_qcow2_file

_EVENTS: Final = "events"
"""The socket of the monitor for the supervisor."""
_CONSOLE: Final = "console"
_SERVER_SECONDS: Final = 60.0
"""The time in which a disk server answers."""
_BEAT_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 10.0
_RECEIVE_BYTES: Final = 1 << 16
_ERROR_BYTES: Final = 2000


def supervise(installation: Installation, machine_uid: str, run_uid: str, report: Callable[[], None]) -> None:
    """Start or adopt the processes of a run, and watch until the end.

    Args:
        installation: the installation.
        machine_uid: the uid of the machine.
        run_uid: the uid of the start. Another start that replaced this one ends the supervisor.
        report: called when the machine runs.

    Raises:
        ImgstoreError: the machine cannot run. The reason is recorded.
    """
    with installation.catalog.transaction() as transaction:
        machine = transaction.machines.get_for_update(machine_uid)
        run = transaction.machine_runs.by_uid(machine_uid)
        disks = transaction.disks.list_attached(machine.resource_id)
        secrets = transaction.machine_secrets.find(machine_uid)
        if run.run_uid != run_uid:
            return
        run = replace(run, supervisor=this_process())
        transaction.machine_runs.put(run)
    reason = "the supervisor failed"
    try:
        if is_over(run.qemu):
            run = _start(installation, machine, run, disks, secrets)
        if run.state is PowerState.STARTING:
            run = _record(installation, run, state=PowerState.RUNNING)
        report()
        reason = _watch(installation, run)
    except (ImgstoreError, OSError) as error:
        reason = (
            error.message + (f" ({error.found})" if error.found else "")
            if isinstance(error, ImgstoreError)
            else str(error)
        )
        raise
    finally:
        end_processes(installation, _current(installation, run))
        _record(installation, run, state=PowerState.STOPPED, reason=reason)


def _start(
    installation: Installation,
    machine: Machine,
    run: MachineRun,
    disks: Sequence[ManagedDisk],
    secrets: MachineSecrets,
) -> MachineRun:
    """Start the disk servers, then QEMU, and record each process before the next one starts."""
    folder, sockets = machine_folder(installation, machine.uid), Path(run.folder)
    user = choose_user(run.runs_as, machine.uid)
    size = find_size(machine.size)
    qemu = find_qemu()
    accelerator = choose_accelerator(qemu, folder.parent / "kvm-probe.json", this_host())
    clear_console(folder)
    with ExitStack() as stack:
        servers: list[subprocess.Popen[bytes]] = []
        for each in disks:
            key = disk_key(each.machine_lun)
            servers.append(_start_disk_server(installation, each, sockets / key, folder / f"{key}.err"))
            run = _record(installation, run, servers=[process_name(server.pid) for server in servers])
        for each, server in zip(disks, servers, strict=True):
            key = disk_key(each.machine_lun)
            _await_socket(installation, each, server, sockets / key, folder / f"{key}.err")
            _give(sockets / key, user)
        monitors = [stack.enter_context(listen(sockets / name)) for name in (_EVENTS, MONITOR)]
        console = stack.enter_context(listen(sockets / _CONSOLE))
        seed = make_seed(machine, secrets)
        guest = Guest(
            name=machine.name,
            uid=machine.uid,
            cpus=min(size.vcpus, os.cpu_count() or 1),
            memory_mib=size.memory_mib,
            accelerator=accelerator,
            drives=[_make_drive(stack, each, folder, sockets) for each in disks],
            monitor_fds=[each.fileno() for each in monitors],
            console_fd=console.fileno(),
            seed_fd=None if seed is None else stack.enter_context(_memory_file(write_seed(seed))),
            firmware=_open_firmware(stack, folder) if machine.hyper_v_generation is HyperVGeneration.V2 else None,
            forwards=[
                Forward(address=each.address, host_port=each.host_port, guest_port=each.guest_port)
                for each in run.forwards
            ],
        )
        errors = folder / "qemu.err"
        process = start_qemu(qemu, guest, user, errors)
        run = _record(installation, run, qemu=process_name(process.pid), accelerator=accelerator)
    try:
        with open_monitor(sockets / MONITOR, timeout_seconds=_ANSWER_SECONDS) as monitor:
            monitor.run("query-status")
    except HostFault as error:
        raise HostFault(
            "QEMU ended at the start of the machine.",
            found=_last_words(errors) or error.found,
            expected="a running QEMU process",
            hint="correct the cause, and start the machine again",
            target=machine.resource_id,
        ) from error
    return run


def _make_drive(stack: ExitStack, disk: ManagedDisk, folder: Path, sockets: Path) -> Drive:
    key = disk_key(disk.machine_lun)
    changes = _open_changes(stack, disk, sockets / key, folder / f"{key}.qcow2")
    return Drive(lun=disk.machine_lun, socket=str(sockets / key), changes_fds=changes)


def _start_disk_server(
    installation: Installation, disk: ManagedDisk, address: Path, errors: Path
) -> subprocess.Popen[bytes]:
    """Start the NBD server of a disk, a process of its own."""
    words = ["disk", "attach", "-g", disk.group, "-n", disk.name, "--socket", str(address), "--only-show-errors"]
    with open(errors, "wb", opener=open_private) as output:
        return subprocess.Popen(  # noqa: S603 - a name of a disk has no leading "-"
            [sys.executable, "-m", "imgstore", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
            env=dict(installation.child_environ),
        )


def _open_changes(stack: ExitStack, disk: ManagedDisk, address: Path, path: Path) -> tuple[int, int]:
    """Open the qcow2 file with the blocks that the guest changed. The first start makes the file.

    `imgstore disk commit --qcow2` takes the file. QEMU writes the file itself, so a killed disk server loses no write.
    """
    if not path.exists():
        base = OverlayBase(
            virtual_bytes=disk.virtual_bytes,
            disk_digest=disk.disk_digest,
            location=disk.resource_id,
            disk_key=OS_DISK,
            region=disk.location,
        )
        make_qcow2_file(path, f"nbd+unix:///?socket={quote(str(address))}", base)
        path.chmod(FILE_MODE)
    readable, writable = (stack.enter_context(path.open(mode)) for mode in ("rb", "r+b"))
    return readable.fileno(), writable.fileno()


def _await_socket(
    installation: Installation, disk: ManagedDisk, server: subprocess.Popen[bytes], address: Path, errors: Path
) -> None:
    """Wait until a disk server takes connections.

    Raises:
        HostFault: the server ended, or does not answer in time.
    """
    until = installation.effects.monotonic() + _SERVER_SECONDS
    while installation.effects.monotonic() < until and server.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(address))
            return
        installation.effects.wait(0.02)
    raise HostFault(
        f"The server of the disk '{disk.name}' does not answer.",
        found=_last_words(errors) or f"exit status {server.poll()}",
        expected=f"a connection within {_SERVER_SECONDS:g} s",
        hint=f"see the cause with `imgstore disk attach -g {disk.group} -n {disk.name} --socket /tmp/disk.sock`",
        target=disk.resource_id,
    )


def _open_firmware(stack: ExitStack, folder: Path) -> Firmware:
    """Open the machine's copy of the firmware variables. The first start makes the copy."""
    files, copy = find_firmware(), folder / "variables.fd"
    if not copy.exists():
        temporary = folder / "variables.new"
        with open(temporary, "wb", opener=open_private) as output:
            output.write(files.variables.read_bytes())
        temporary.replace(copy)
    readable, writable = (stack.enter_context(copy.open(mode)) for mode in ("rb", "r+b"))
    return Firmware(code=str(files.code), variables_fds=(readable.fileno(), writable.fileno()))


@contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """Yield a read-only descriptor of a file that no folder contains."""
    written = os.memfd_create("imgstore-seed")
    try:
        os.write(written, content)
        readable = os.open(f"/proc/self/fd/{written}", os.O_RDONLY)
    finally:
        os.close(written)
    try:
        yield readable
    finally:
        os.close(readable)


def _watch(installation: Installation, run: MachineRun) -> str:
    """Keep the console log and the lease until the run ends. Return the reason for the end."""
    sockets, effects = Path(run.folder), installation.effects
    log = ConsoleLog(machine_folder(installation, run.uid))
    reason = "QEMU was killed"
    with ExitStack() as stack:
        stack.callback(log.close)
        selector = stack.enter_context(selectors.DefaultSelector())
        console = stack.enter_context(socket.socket(socket.AF_UNIX))
        console.connect(str(sockets / _CONSOLE))
        selector.register(console, selectors.EVENT_READ)
        monitor = stack.enter_context(open_monitor(sockets / _EVENTS, timeout_seconds=_ANSWER_SECONDS))
        selector.register(monitor, selectors.EVENT_READ)
        renewed = effects.monotonic()
        while True:
            for key, _ in selector.select(_BEAT_SECONDS):
                if key.fileobj is monitor:
                    try:
                        reason = _read_reason(monitor) or reason
                    except HostFault:
                        return reason
                elif data := console.recv(_RECEIVE_BYTES):
                    log.write(data)
                else:
                    selector.unregister(console)
            _reap()
            if run.qemu is not None and is_dead(run.qemu):
                return reason
            for number, each in enumerate(run.servers):
                if is_dead(each):
                    return f"the server of disk {number} ended, so the machine was stopped"
            if effects.monotonic() - renewed > RUN_LEASE_SECONDS / 3:
                renewed = effects.monotonic()
                with installation.catalog.transaction() as transaction:
                    if not transaction.machine_runs.renew(run, RUN_LEASE_SECONDS):
                        return "another start replaced this one"


def _read_reason(monitor: Monitor) -> str | None:
    """Return the reason of a shutdown among the events of QEMU."""
    reasons = {
        "guest-shutdown": "the guest shut down",
        "host-qmp-quit": "the machine was stopped",
        "host-signal": "QEMU was ended by a signal",
        "guest-panic": "the guest panicked",
    }
    for event in monitor.read_events():
        if event["event"] == "SHUTDOWN":
            word = str(event.get("data", {}).get("reason"))
            return reasons.get(word, word)
    return None


def _reap() -> None:
    """Take the exit status of ended children, which are zombies until then."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _record(installation: Installation, run: MachineRun, **changes: object) -> MachineRun:
    """Change the row of a run. A later start keeps its row."""
    with installation.catalog.transaction() as transaction:
        transaction.machines.lock(run.uid)
        present = transaction.machine_runs.find(run.uid)
        if present is None or present.run_uid != run.run_uid:
            return run
        if changes.get("state") is PowerState.RUNNING and present.state is not PowerState.STARTING:
            raise HostFault(
                "The machine was stopped during the start.",
                found=f"power state {present.state}",
                expected="no stop before the end of the start",
                hint="start the machine again",
            )
        changed = replace(present, **changes)  # type: ignore[arg-type]
        transaction.machine_runs.update(changed)
        return changed


def _current(installation: Installation, run: MachineRun) -> MachineRun:
    with installation.catalog.reading() as transaction:
        present = transaction.machine_runs.find(run.uid)
    return present if present is not None and present.run_uid == run.run_uid else run


def _give(path: Path, user: RunAs) -> None:
    """Give a file to the user of QEMU, if this process is root."""
    if os.geteuid() == 0:
        os.chown(path, user.uid, user.gid)
    path.chmod(0o600)


def _last_words(errors: Path) -> str:
    """Return the last line of a file of standard error."""
    try:
        lines = errors.read_bytes()[-_ERROR_BYTES:].decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
