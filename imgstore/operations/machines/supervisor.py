"""Run one machine: start the disk servers and QEMU, keep the console log, renew the lease, and record the end.

The supervisor is a process of its own. QEMU and the disk servers outlive a killed supervisor. The next start, or a server with
`--machines`, then starts another supervisor that adopts the processes.
"""

import json
import os
import selectors
import signal
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
from imgstore.domain.errors import HostFault, ImgstoreError, error_parts
from imgstore.domain.host.private_files import FILE_MODE, make_private_folder, open_private
from imgstore.domain.machine_runs import RUN_LEASE_SECONDS, MachineRun, PowerState
from imgstore.domain.machine_sizes import find_size
from imgstore.domain.machines import Machine, MachineSecrets
from imgstore.domain.resources import HyperVGeneration, ManagedDisk
from imgstore.hypervisor.command_line import Drive, Firmware, Forward, Guest
from imgstore.hypervisor.console_log import ConsoleLog, clear_console
from imgstore.hypervisor.hot_plug import list_plugged, plug, unplug
from imgstore.hypervisor.launch import listen, send_signal, start_qemu
from imgstore.hypervisor.probe import choose_accelerator
from imgstore.hypervisor.programs import find_firmware, find_qemu
from imgstore.hypervisor.qmp import open_monitor
from imgstore.hypervisor.seed import write_seed
from imgstore.hypervisor.users import RunAs, choose_user
from imgstore.operations.disks.changed_blocks import find_changes
from imgstore.operations.installation import Installation
from imgstore.operations.leases import is_dead, process_name, this_host, this_process
from imgstore.operations.machines.runs import (
    CONTROL,
    MONITOR,
    await_end,
    end_processes,
    is_over,
    machine_folder,
    pid_of,
)
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
        with ExitStack() as stack:
            reason = _Watch(installation, machine, run, stack).watch(report)
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
            drives=[_make_drive(installation, stack, each, folder, sockets) for each in disks],
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


def _make_drive(installation: Installation, stack: ExitStack, disk: ManagedDisk, folder: Path, sockets: Path) -> Drive:
    path = folder / f"{OS_DISK}.qcow2"
    if disk.machine_lun is not None:
        path = find_changes(installation.home, disk.uid)
        make_private_folder(path.parent)
    key = disk_key(disk.machine_lun)
    changes = _open_changes(stack, disk, sockets / key, path)
    return Drive(lun=disk.machine_lun, uid=disk.uid, socket=str(sockets / key), changes_fds=changes)


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


class _Watch:
    """The watch over the processes of one run."""

    def __init__(self, installation: Installation, machine: Machine, run: MachineRun, stack: ExitStack) -> None:
        """Connect to the console and to the monitor, and listen for commands.

        Raises:
            HostFault: QEMU does not answer.
            OSError: a socket cannot be opened.
        """
        self._installation = installation
        self._machine = machine
        self._run = run
        self._sockets = Path(run.folder)
        self._reason = "QEMU was killed"
        self._pause: str | None = None
        """The reason why the guest waits."""
        self._continued = 0.0
        self._log = ConsoleLog(machine_folder(installation, run.uid))
        stack.callback(self._log.close)
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._console = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._console.connect(str(self._sockets / _CONSOLE))
        self._monitor = stack.enter_context(open_monitor(self._sockets / _EVENTS, timeout_seconds=_ANSWER_SECONDS))
        (self._sockets / CONTROL).unlink(missing_ok=True)  # Of a killed supervisor.
        self._control = stack.enter_context(listen(self._sockets / CONTROL))
        for each in (self._console, self._monitor, self._control):
            self._selector.register(each, selectors.EVENT_READ)

    def watch(self, report: Callable[[], None]) -> str:
        """Keep the console log, the disks and the lease until the run ends. Return the reason for the end."""
        effects = self._installation.effects
        with suppress(ImgstoreError):  # A killed supervisor may have left a change of the disks.
            self._change_disks()
        report()
        renewed = effects.monotonic()
        while True:
            for key, _ in self._selector.select(_BEAT_SECONDS):
                if key.fileobj is self._control:
                    self._answer()
                elif key.fileobj is self._monitor:
                    try:
                        self._read_events()
                    except HostFault:
                        return self._reason
                elif data := self._console.recv(_RECEIVE_BYTES):
                    with suppress(OSError):  # A full disk loses a part of the log, and does not end the machine.
                        self._log.write(data)
                else:
                    self._selector.unregister(self._console)
            if self._monitor.events:  # Events that came before the answer of a command.
                self._read_events()
            if self._pause != self._run.reason or self._pause is not None:
                self._continue()
            _reap()
            if self._run.qemu is not None and is_dead(self._run.qemu):
                return self._reason
            for number, each in enumerate(self._run.servers):
                if is_dead(each):
                    return f"the server of disk {number} ended, so the machine was stopped"
            if effects.monotonic() - renewed > RUN_LEASE_SECONDS / 3:
                renewed = effects.monotonic()
                with suppress(ImgstoreError):  # A catalog that does not answer does not end a machine.
                    if not self._renew():
                        return "another start or a stop on another host replaced this run"
                    self._change_disks()

    def _renew(self) -> bool:
        with self._installation.catalog.transaction() as transaction:
            return transaction.machine_runs.renew(self._run, RUN_LEASE_SECONDS)

    def _answer(self) -> None:
        """Change the disks for a command, and answer with one line: an empty object, or the parts of an error."""
        connection, _ = self._control.accept()
        with connection, suppress(OSError):
            try:
                self._change_disks()
                answer: dict[str, str | None] = {}
            except ImgstoreError as error:
                answer = error_parts(error)
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _read_events(self) -> None:
        """Remember the reason of a shutdown or of a pause among the events of QEMU.

        Raises:
            HostFault: QEMU ended.
        """
        for event in self._monitor.read_events():
            data = event.get("data", {})
            if event["event"] == "SHUTDOWN":
                word = str(data.get("reason"))
                self._reason = _REASONS.get(word, word)
            elif event["event"] == "BLOCK_IO_ERROR" and data.get("action") == "stop":
                self._pause = f"paused: no space on the host for the changes of disk {data.get('node-name')}"

    def _continue(self) -> None:
        """Record the reason of a pause, and try each second to continue (V8). QEMU repeats the refused write."""
        now = self._installation.effects.monotonic()
        if now - self._continued < _BEAT_SECONDS:
            return
        self._continued = now
        with suppress(HostFault):  # QEMU ended.
            if self._pause is not None and self._monitor.run("query-status")["status"] == "running":
                self._pause = None
            if self._pause is not None:
                self._monitor.run("cont")
        if self._run.reason != self._pause:
            with suppress(ImgstoreError):  # The catalog may be on the full disk.
                self._run = _record(self._installation, self._run, reason=self._pause)

    def _change_disks(self) -> None:
        """Plug and unplug data disks, so that the guest has the disks of the catalog.

        Raises:
            ImgstoreError: a disk server does not start, or QEMU refuses a change.
        """
        with self._installation.catalog.reading() as transaction:
            attached = transaction.disks.list_attached(self._machine.resource_id)
        wanted = {each.machine_lun: each for each in attached if each.machine_lun is not None}
        plugged = list_plugged(self._monitor)
        for lun, uid in plugged.items():
            if lun not in wanted or wanted[lun].uid != uid:
                unplug(self._monitor, lun, uid)
                self._end_server(self._sockets / disk_key(lun))
        for lun, disk in wanted.items():
            if plugged.get(lun) != disk.uid:
                self._plug(disk)

    def _plug(self, disk: ManagedDisk) -> None:
        key = disk_key(disk.machine_lun)
        address, folder = self._sockets / key, machine_folder(self._installation, self._machine.uid)
        self._end_server(address)  # Of a change that was interrupted.
        server = _start_disk_server(self._installation, disk, address, folder / f"{key}.err")
        holder = process_name(server.pid)
        self._record_servers([*self._run.servers, holder])
        try:
            _await_socket(self._installation, disk, server, address, folder / f"{key}.err")
            _give(address, choose_user(self._run.runs_as, self._machine.uid))
            with ExitStack() as stack:
                plug(self._monitor, _make_drive(self._installation, stack, disk, folder, self._sockets))
        except OSError as error:
            self._end_server(address, holder)
            raise HostFault(
                f"The disk '{disk.name}' cannot be prepared for the machine.",
                found=str(error),
                expected="a file for the changed blocks, and a socket",
                hint="correct the cause, and repeat the command",
                target=disk.resource_id,
            ) from error
        except ImgstoreError:
            self._end_server(address, holder)
            raise

    def _end_server(self, address: Path, holder: str | None = None) -> None:
        """End the server of a disk, if there is one, and wait.

        Args:
            address: the socket of the server.
            holder: the server, which may have ended.
        """
        serving = [each for each in self._run.servers if each == holder or _serves(each, address)]
        if not serving:
            return
        self._record_servers([each for each in self._run.servers if each not in serving])
        for each in serving:
            send_signal(pid_of(each), signal.SIGTERM)
            while not await_end(self._installation, [each], _BEAT_SECONDS):
                _reap()
        with suppress(OSError):  # A killed server leaves the socket.
            address.unlink()

    def _record_servers(self, servers: list[str]) -> None:
        self._run = _record(self._installation, self._run, servers=servers)


_REASONS: Final = {
    "guest-shutdown": "the guest shut down",
    "host-qmp-quit": "the machine was stopped",
    "host-signal": "QEMU was ended by a signal",
    "guest-panic": "the guest panicked",
}
"""The reasons of a shutdown by QEMU's names."""


def _serves(holder: str, address: Path) -> bool:
    """Return whether a process has the address of a disk in its command line."""
    with suppress(OSError):
        return os.fsencode(address) in Path(f"/proc/{pid_of(holder)}/cmdline").read_bytes().split(b"\0")
    return False


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
        if changes.get("state") is PowerState.STOPPED and not present.state.is_active:
            return present  # A stop recorded the end, also on another host.
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
