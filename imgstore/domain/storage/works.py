"""Works and leases. The row of a work outlives a crash, and the lease expires (invariants W1 to W19)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from imgstore.domain.states import WorkState
from imgstore.domain.storage.checkpoints import Checkpoint


class WorkKind(StrEnum):
    """The kind of a work."""

    INGEST = "ingest"
    """Ingest a source as a version in the source slot, or a file as a stored disk."""
    COPY = "copy"
    """Copy a complete replica, or the content of a stored disk, to another slot."""
    DISK = "disk"
    """Create a disk from a replica, a disk or a snapshot in the same slot."""
    EXPORT = "export"
    """Read a replica or a managed disk, into a file or as the source of a version.

    An export writes nothing into the slot and has no start marker. An export pins only during the lease.
    """
    REMOVAL = "removal"
    """Remove a version from a slot that may get the version again.

    A single process removes the version, because a late delete would destroy a new manifest. A removal writes nothing
    into the slot and has no start marker.
    """

    @property
    def writes(self) -> bool:
        """Whether a work of this kind may write into the slot."""
        return self not in {WorkKind.EXPORT, WorkKind.REMOVAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The catalog's record of a work."""

    uid: str
    kind: WorkKind
    slot_uid: str
    owner_uid: str
    """The version or stored disk that the work is for."""
    plan: Mapping[str, Any]
    """JSON that a retry must follow: bases, source identity, format, codec and codec version."""
    pins: tuple[str, ...] = ()
    """The uids of manifests that the work uses. No pinned manifest is removed while the work is open."""
    state: WorkState = WorkState.OPEN
    opened_at: datetime
    """By the clock of the database."""
    opened_sequence: int | None = None
    """The catalog's sequence at that time, for the order against marks of segments.

    None for a work of an older release.
    """
    holder: str | None = None
    """The process with the lease: "host/boot id/pid/start". None is no process."""
    token: int = 0
    """The fencing token. Each takeover increments the token, and each write of the work compares the token."""
    lease_expires_at: datetime | None = None
    """By the clock of the database.

    Without a holder: the time of the release. None if no process ever had the lease.
    """
    bytes_done: int = 0
    """The progress under the present lease."""
    bytes_total: int = 0
    failure: Mapping[str, Any] | None = None
    """The error that ended the last lease, as of `error_to_json`. None after an interruption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to continue a work until the expiry."""

    work_uid: str
    token: int
    checkpoint: Checkpoint | None = field(default=None, compare=False)
    """The checkpoint to write into the zone before the first write. None for a work that writes nothing."""

    @property
    def name(self) -> str:
        """The uid of the work and the token. Each lease has a different name."""
        return f"{self.work_uid}/{self.token}"


WORKER_ALIVE_SECONDS: Final = 60.0
"""A worker without a heartbeat for this time counts as dead. The heartbeat is several times as frequent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The catalog's record of a process of `imgstore worker`."""

    uid: str
    holder: str
    """The process in the notation of `Work.holder`."""
    started_at: datetime
    """By the clock of the database."""
    seen_at: datetime
    """The last sign of life, by the clock of the database."""
    works: int
    """The number of open works with a lease of this worker."""
    code_revision: str | None
    """The revision of the catalog for which the worker's code was made. None for code before revision 0033."""
