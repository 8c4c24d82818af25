"""Runs of machines: the power state, the host, and the processes of a machine that was started."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

RUN_LEASE_SECONDS: Final = 30.0
"""The time after which other hosts regard the host of a run as lost."""


class PowerState(StrEnum):
    """Azure's power states. A machine without a run is deallocated."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    DEALLOCATED = "deallocated"
    UNKNOWN = "unknown"
    """The host of the run does not renew the lease."""

    @property
    def is_active(self) -> bool:
        """Whether processes of the machine may exist."""
        return self not in (PowerState.STOPPED, PowerState.DEALLOCATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """A TCP port of the host that leads to a port of the guest."""

    address: str = "127.0.0.1"
    host_port: int
    guest_port: int

    def __str__(self) -> str:
        """Return the form of the command line."""
        return f"{self.address}:{self.host_port}:{self.guest_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRun:
    """The last start of a machine. The values change only under the lock of the row."""

    uid: str
    """The uid of the machine."""
    run_uid: str
    """The uid of this start. A process of an earlier start changes nothing."""
    state: PowerState
    host: str
    """The host since its last boot, as `operations.leases.this_host` names the host."""
    folder: str
    """The folder of the sockets on the host."""
    supervisor: str | None = None
    """The process that watches the run, as a holder (`operations.leases.is_dead`)."""
    qemu: str | None = None
    """The QEMU process, as a holder."""
    servers: Sequence[str] = ()
    """The disk servers, as holders."""
    accelerator: str | None = None
    forwards: Sequence[PortForward] = ()
    runs_as: str | None = None
    """The user that the operator named for QEMU."""
    reason: str | None = None
    """The reason for the end of the run."""
    started_at: datetime
    lease_expires_at: datetime

    @property
    def host_name(self) -> str:
        """The name of the host without the boot."""
        return self.host.partition("/")[0]
