"""``imgstore vm start``, ``stop``, ``deallocate``, ``restart``, ``console`` and ``get-instance-view``."""

import re
import sys
from typing import Any, Final

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Command
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.machine_runs import PortForward
from imgstore.operations.machines import running
from imgstore.wire.json_text import Json
from imgstore.wire.responses.machines import instance_view_json, run_json

_TABLE = columns(
    Name="name", PowerState="powerState", Host="host", Accelerator="accelerator", Forwards="forwards", Reason="reason"
)
_START_EXAMPLE: Final = """
imgstore vm start -g rg -n vm1 --forward 2222:22
imgstore vm start -g rg -n vm1 --wait-for 'login:' --timeout 300
"""
_CONSOLE_EXAMPLE: Final = """
imgstore vm console -g rg -n vm1
imgstore vm console -g rg -n vm1 --follow
"""
_FORWARD: Final = re.compile(r"(?:(\d{1,3}(?:\.\d{1,3}){3}):)?(\d{1,5}):(\d{1,5})")
_PORTS: Final = range(1, 65536)


class _Forward(click.ParamType[PortForward]):
    """A forwarded port: [ADDRESS:]HOST_PORT:GUEST_PORT."""

    name = "forward"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PortForward:
        """Read the text. Refuse other texts."""
        found = _FORWARD.fullmatch(value)
        if found is None or int(found[2]) not in _PORTS or int(found[3]) not in _PORTS:
            self.fail(f"{value!r} is not [ADDRESS:]HOST_PORT:GUEST_PORT, such as 2222:22.", param, ctx)
        return PortForward(address=found[1] or "127.0.0.1", host_port=int(found[2]), guest_port=int(found[3]))


_wait_options = (
    click.option(
        "--wait-for", metavar="REGEX", help="Wait until a line of the console matches this regular expression."
    ),
    options.fraction(
        "--timeout", least=1.0, default=600.0, unit="SECONDS", text="Time limit of --wait-for. Default: 600."
    ),
)
_stop_options = (
    click.option("--skip-shutdown", is_flag=True, help="Switch the machine off, without a shutdown of the guest."),
    options.fraction(
        "--shutdown-seconds",
        least=1.0,
        default=running.STOP_SECONDS,
        unit="SECONDS",
        text="Time of the guest for its shutdown, before the machine is switched off. Default: 60.",
    ),
)


@click.command(cls=Command, table=_TABLE, example=_START_EXAMPLE)
@options.resource_in_group("virtual machine")
@click.option(
    "--forward",
    "forwards",
    type=_Forward(),
    multiple=True,
    metavar="[ADDRESS:]HOST:GUEST",
    help="Forward a TCP port of this host to a port of the guest. Default address: 127.0.0.1. Repeatable.",
)
@click.option(
    "--runas",
    "runs_as",
    metavar="USER",
    help="User for QEMU, by name or number. Default as root: an unprivileged user without a name for each machine.",
)
@options.together(*_wait_options)
def start(
    session: Session,
    group: str,
    name: str,
    forwards: tuple[PortForward, ...],
    runs_as: str | None,
    wait_for: str | None,
    timeout: float,
) -> Json:
    """Start a machine on this host, with disks that are read from the stores on demand.

    The guest has no network to the host or to other networks. Forwarded ports lead into the guest. A machine that runs stays
    unchanged.
    """
    request = running.StartRequest(forwards=forwards, runs_as=runs_as)
    run = session.run(running.start_machine, group=group, name=name, request=request)
    if wait_for is not None:
        session.run(running.await_console, group=group, name=name, pattern=wait_for, seconds=timeout)
    return run_json(name, run)


@click.command(cls=Command, example="imgstore vm stop -g rg -n vm1")
@options.resource_in_group("virtual machine")
@options.together(*_stop_options)
def stop(session: Session, group: str, name: str, *, skip_shutdown: bool, shutdown_seconds: float) -> None:
    """Stop a machine. The guest gets time for its shutdown, and is then switched off."""
    seconds = 0.0 if skip_shutdown else shutdown_seconds
    session.run(running.stop_machine, group=group, name=name, shutdown_seconds=seconds)


@click.command(cls=Command, example="imgstore vm deallocate -g rg -n vm1")
@options.resource_in_group("virtual machine")
@options.together(*_stop_options)
def deallocate(session: Session, group: str, name: str, *, skip_shutdown: bool, shutdown_seconds: float) -> None:
    """Stop a machine, and show the machine as deallocated. The disks and the changed blocks stay."""
    seconds = 0.0 if skip_shutdown else shutdown_seconds
    session.run(running.stop_machine, group=group, name=name, shutdown_seconds=seconds, deallocate=True)


@click.command(cls=Command, table=_TABLE, example="imgstore vm restart -g rg -n vm1")
@options.resource_in_group("virtual machine")
@options.together(*_stop_options)
@options.together(*_wait_options)
def restart(
    session: Session,
    group: str,
    name: str,
    *,
    skip_shutdown: bool,
    shutdown_seconds: float,
    wait_for: str | None,
    timeout: float,
) -> Json:
    """Stop a running machine, and start the machine with the options of the last start."""
    seconds = 0.0 if skip_shutdown else shutdown_seconds
    run = session.run(running.restart_machine, group=group, name=name, shutdown_seconds=seconds)
    if wait_for is not None:
        session.run(running.await_console, group=group, name=name, pattern=wait_for, seconds=timeout)
    return run_json(name, run)


@click.command(cls=Command, example=_CONSOLE_EXAMPLE)
@options.resource_in_group("virtual machine")
@click.option("--follow", is_flag=True, help="Print new output until the machine stops.")
def console(session: Session, group: str, name: str, *, follow: bool) -> None:
    """Print the serial console since the last start of a machine, at most the last MiB."""
    output = sys.stdout.buffer
    if not follow:
        output.write(session.run(running.read_machine_console, group=group, name=name))
        return
    for piece in session.run(running.follow_console, group=group, name=name):
        output.write(piece)
        output.flush()


@click.command(
    "get-instance-view",
    cls=Command,
    table=columns(Code="code", Status="displayStatus"),
    example="imgstore vm get-instance-view -g rg -n vm1",
)
@options.resource_in_group("virtual machine")
def get_instance_view(session: Session, group: str, name: str) -> Json:
    """Show the power state and the states of the disks of a machine."""
    view, run = session.run(running.show_power, group=group, name=name)
    return instance_view_json(view, run)
