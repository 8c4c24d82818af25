"""Start QEMU, and end processes by their name as a holder."""

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from imgstore.domain.host.private_files import open_private
from imgstore.hypervisor.command_line import Guest, compose_command, inherited_fds
from imgstore.hypervisor.users import RunAs


def listen(path: Path) -> socket.socket:
    """Listen on a unix socket for a single client. Only this user may connect.

    Raises:
        OSError: the socket cannot be created.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def start_qemu(program: str, guest: Guest, user: RunAs, errors: Path) -> subprocess.Popen[bytes]:
    """Start QEMU as a user. The process outlives this process.

    Args:
        program: the path of QEMU.
        guest: the guest. Its descriptors are open in this process.
        user: the user of the process.
        errors: the file for standard error.

    Raises:
        OSError: the process cannot be started.
    """
    is_other = user.uid != os.geteuid()
    with open(errors, "wb", opener=open_private) as output:
        return subprocess.Popen(  # noqa: S603 - the words are composed from checked values
            compose_command(program, guest),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            pass_fds=inherited_fds(guest),
            start_new_session=True,
            cwd="/",
            env={"PATH": os.defpath},
            umask=0o077,
            user=user.uid if is_other else None,
            group=user.gid if is_other else None,
            extra_groups=_groups(guest) if is_other else None,
        )


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process. A process that ended is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _groups(guest: Guest) -> Sequence[int]:
    """Return the groups of the process: the group of ``/dev/kvm`` if the guest uses KVM."""
    return [os.stat("/dev/kvm").st_gid] if guest.accelerator == "kvm" else []
