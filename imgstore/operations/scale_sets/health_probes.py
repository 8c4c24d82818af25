"""Decide whether a started instance is healthy: by its power state, by a command on the host, or by a TCP port.

A probe repeats until it succeeds, or until the time is over. A probe never raises for an unhealthy instance: it returns the
reason, which the step of the instance records.
"""

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgstore.domain.errors import HostFault
from imgstore.domain.machine_runs import MachineRun, PortForward
from imgstore.domain.machines import Machine
from imgstore.hypervisor.qmp import open_monitor
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import MONITOR, find_run

PROBE_SECONDS: Final = 120.0
"""The default time in which an instance becomes healthy."""

_POLL_SECONDS: Final = 0.5
_CONNECT_SECONDS: Final = 5.0
_OPEN_SECONDS: Final = 1.0
"""The time in which a guest refuses a connection to a closed port."""
_TABLE: Final[dict[str, Any]] = {"command-line": "info usernet"}
"""QEMU's table of connections has no command of its own in QMP."""
_LOOPBACK: Final = "127.0.0.1"
_SHELL: Final = "/bin/sh"
_WORDS_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthProbe:
    """The condition of a healthy instance. Without a command and a port, an instance that runs is healthy."""

    command: str | None = None
    """A command for /bin/sh on this host. The exit code 0 means healthy."""
    guest_port: int | None = None
    """A TCP port of the guest."""
    timeout_seconds: float = PROBE_SECONDS

    def add_forward(self, forwards: Sequence[PortForward]) -> tuple[PortForward, ...]:
        """Return the forwards of an instance, with a forward to the port of the probe."""
        if self.guest_port is None or any(each.guest_port == self.guest_port for each in forwards):
            return tuple(forwards)
        return (*forwards, PortForward(host_port=_find_free_port(), guest_port=self.guest_port))


def await_healthy(installation: Installation, machine: Machine, probe: HealthProbe) -> str | None:
    """Wait until an instance is healthy. Return None, or the reason why the instance is not healthy."""
    effects = installation.effects
    until = effects.monotonic() + probe.timeout_seconds
    while True:
        installation.keeper.check_cancelled()
        with installation.catalog.reading() as transaction:
            run = find_run(transaction, machine)
        if run is None or not run.state.is_active:
            return f"the instance stopped: {'no start is recorded' if run is None else run.reason or run.state}"
        left = until - effects.monotonic()
        reason = _check(machine, run, probe, max(left, _CONNECT_SECONDS))
        if reason is None:
            return None
        if left <= 0:
            return f"not healthy within {probe.timeout_seconds:g} s: {reason}"
        effects.wait(min(_POLL_SECONDS, left))


def _check(machine: Machine, run: MachineRun, probe: HealthProbe, seconds: float) -> str | None:
    if probe.guest_port is not None and (reason := _check_port(run, probe.guest_port)) is not None:
        return reason
    return None if probe.command is None else _run_command(machine, run, probe.command, seconds)


def _check_port(run: MachineRun, guest_port: int) -> str | None:
    """Return None if the guest accepts a connection, else the reason.

    QEMU itself accepts each connection to a forwarded port, also while the guest boots. So its table of connections decides.
    """
    forward = next((each for each in run.forwards if each.guest_port == guest_port), None)
    if forward is None:
        return f"no port of the host leads to port {guest_port}"
    try:
        with socket.create_connection((forward.address, forward.host_port), timeout=_CONNECT_SECONDS) as connection:
            connection.settimeout(_OPEN_SECONDS)
            with suppress(TimeoutError):
                if not connection.recv(1):
                    return f"port {guest_port}: the guest refused the connection"
            with open_monitor(Path(run.folder) / MONITOR, timeout_seconds=_CONNECT_SECONDS) as monitor:
                table = str(monitor.run("human-monitor-command", **_TABLE))
    except HostFault as error:
        return error.message
    except OSError as error:
        return f"port {guest_port}: {error.strerror or error}"
    if any(_is_established(line, forward) for line in table.splitlines()):
        return None
    return f"port {guest_port}: the guest does not answer"


def _is_established(line: str, forward: PortForward) -> bool:
    """Return whether a line of QEMU's table is an established connection: protocol, fd, source, port, guest, port."""
    words = line.split()
    ports = [str(forward.host_port), str(forward.guest_port)]
    return words[:1] == ["TCP[ESTABLISHED]"] and [*words[3:4], *words[5:6]] == ports


def _run_command(machine: Machine, run: MachineRun, command: str, seconds: float) -> str | None:
    """Run the command once. Return None for the exit code 0, else the reason with the last line of the output."""
    names = {
        "IMGSTORE_INSTANCE_NAME": machine.name,
        "IMGSTORE_INSTANCE_ID": str(machine.instance_id),
        **{f"IMGSTORE_PORT_{each.guest_port}": str(each.host_port) for each in run.forwards},
    }
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own command
            [_SHELL, "-c", command],
            env={**os.environ, **names},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the command did not end within {seconds:.0f} s"
    except OSError as error:
        return f"the command did not start: {error.strerror or error}"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    said = f": {lines[-1][:_WORDS_MAX]}" if lines else ""
    return f"the command ended with exit code {done.returncode}{said}"


def _find_free_port() -> int:
    with socket.socket() as listening, suppress(OSError):
        listening.bind((_LOOPBACK, 0))
        return int(listening.getsockname()[1])
    return 0
