"""The state of an installation at a glance (`imgstore status`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from imgstore.domain.diagnosis import Finding, Level
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.circuits import CircuitState


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryTotals:
    """The numbers of a gallery's definitions, versions and replicas. Deleted versions do not count."""

    subscription: str
    group: str
    gallery: str
    definitions: int
    versions: int
    soft_deleted: int
    """The number of versions that wait for the end of their retention."""
    replicas: Mapping[ReplicaState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedReplica:
    """A replica that is neither complete nor deleted."""

    subscription: str
    group: str
    gallery: str
    definition: str
    version: str
    region: str
    ordinal: int
    """From 0."""
    state: ReplicaState
    error: str | None
    attempts: int
    """The number of failed attempts."""
    retry_at: datetime | None
    bytes_done: int
    bytes_total: int
    """The stored bytes of the present or last copy. 0 before the first copy."""
    started_at: datetime | None
    progress_at: datetime | None
    """The time of the last progress report."""
    wanted_at: datetime
    """The time of the version's publication."""
    holder: str | None
    """The process that makes the replica under a valid lease."""

    @property
    def image(self) -> str:
        """The version as commands name it: group, gallery, definition and version."""
        return f"{self.group}/{self.gallery}/{self.definition}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """An unfinished replica with its rate and a judgement."""

    replica: UnfinishedReplica
    level: Level
    bytes_per_second: float | None
    """The mean rate of the present copy. None without a copy in progress."""
    remaining: timedelta | None
    """The time until the end of the present copy at this rate."""
    next_step: str | None
    """A command or an action. None if nothing has to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneStatus:
    """The last known state of a zone. A closed circuit means that the zone answers, as far as known."""

    region: str
    zone: str
    state: CircuitState
    since: datetime | None
    """The time of the last change. None without a recorded change."""
    error: str | None
    observers: int
    """The number of hosts for which the circuit is not closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCounts:
    """The numbers of other resources."""

    disks: int
    snapshots: int
    images: int
    machines: int
    running_machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationStatus:
    """The state of an installation. Times are of the clock of the database."""

    now: datetime
    place: str
    """The address of the database, without a password."""
    galleries: Sequence[GalleryTotals]
    counts: ResourceCounts
    replicas: Sequence[ReplicaStatus]
    """The unfinished replicas, the worst first. The number is limited."""
    unfinished: int
    """The number of all unfinished replicas."""
    queued: int
    """The number of replicas that wait for a process."""
    queued_since: datetime | None
    """The publication of the oldest version in the queue. None for an empty queue."""
    zones: Sequence[ZoneStatus]
    findings: Sequence[Finding]
    """The findings about catalog and home, without any request to a store."""

    @property
    def level(self) -> Level:
        """The worst level of all findings and replicas."""
        levels = [*(each.level for each in self.findings), *(each.level for each in self.replicas)]
        if any(each.state is not CircuitState.CLOSED for each in self.zones):
            levels.append(Level.WARNING)
        return max(levels, key=lambda level: level.exit_code, default=Level.OK)
