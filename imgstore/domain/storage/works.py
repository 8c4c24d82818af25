"""A work: someone writes into a slot. Its row outlives crashes; its lease does not (rules.md, rules 1 to 5)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from imgstore.domain.states import WorkState
from imgstore.domain.storage.checkpoints import Checkpoint


class WorkKind(StrEnum):
    """What is being written."""

    INGEST = "ingest"
    """A source becomes a version in its source slot, or a file a disk of its own."""
    COPY = "copy"
    """A complete replica becomes another one."""
    DISK = "disk"
    """A replica, a disk or a snapshot becomes another disk in the same slot."""
    EXPORT = "export"
    """A replica or a managed disk is read, into a file or to make a version from. Writes nothing into the slot, so it has
    no object there, and it pins only while its lease runs."""
    REMOVAL = "removal"
    """A version leaves a slot that may be given it again: by one process alone, since a late delete of its manifest would
    hit the next one. Writes nothing into the slot, so it has no object there."""

    @property
    def writes(self) -> bool:
        """Whether what lies in the slot may be on its way there by such a work."""
        return self not in {WorkKind.EXPORT, WorkKind.REMOVAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One work, as the catalog keeps it."""

    uid: str
    kind: WorkKind
    slot_uid: str
    owner_uid: str
    """The version or managed disk that it is for."""
    plan: Mapping[str, Any]
    """JSON: what a repeat must follow (bases, source identity, format, codec and its version)."""
    pins: tuple[str, ...] = ()
    """uids of the manifests that it may refer to: none of them is removed while it is open."""
    state: WorkState = WorkState.OPEN
    opened_at: datetime
    """The database's clock."""
    opened_sequence: int | None = None
    """The catalog's sequence at that time: the order against marks of segments. None for a work of an older imgstore."""
    holder: str | None = None
    """Who has the lease: "host/boot id/pid/start" of a process; None when nobody has."""
    token: int = 0
    """Raised at each take-over; every write of the work is guarded by it."""
    lease_expires_at: datetime | None = None
    """The database's clock. Where nobody has the lease, when it was given back; None where nobody ever had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to go on with a work, until it runs out."""

    work_uid: str
    token: int
    checkpoint: Checkpoint | None = field(default=None, compare=False)
    """What the holder puts into the slot before it writes there; None for a work that writes nothing."""

    @property
    def name(self) -> str:
        """The work's uid and the token: no two leases have the same."""
        return f"{self.work_uid}/{self.token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process of `imgstore worker`, as the catalog knows it."""

    uid: str
    holder: str
    """As `Work.holder`."""
    started_at: datetime
    """The database's clock."""
    seen_at: datetime
    """When it last showed that it lives, by the same clock."""
    works: int
    """Open works that it has leased."""
