"""Reports of operations: maintenance, benchmarks, verification and principals."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from imgstore.domain.disks.sources import Extent
from imgstore.domain.identity.principals import PrincipalRecord, RoleAssignment, Secret
from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.scrub_passes import ScrubPass, SlotScrubRecord
from imgstore.domain.storage.unknown_objects import UnknownObject


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalDetails:
    """A principal with all secrets and role assignments."""

    identity: PrincipalRecord
    secrets: tuple[Secret, ...] = ()
    assignments: tuple[RoleAssignment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPackReport:
    """A boot pack that was built in a slot."""

    slot: Slot
    blocks: int = 0
    stored_bytes: int = 0
    """The size of the object."""
    problem: str | None = None
    """Why the slot did not get the pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """The plan of a benchmark, with the highest possible cost.

    The highest cost assumes that no block of the disk is known and that no block is compressible.
    """

    group: str
    """The resource group that the benchmark creates and removes. Other groups stay untouched."""
    source: str
    """The region that ingests the disk."""
    targets: tuple[str, ...]
    """The regions that get a copy, one after another."""
    virtual_bytes: int
    data_bytes: int
    """The bytes of the disk outside of holes."""
    egress_bytes_max: int
    egress_price_max: Decimal
    """Stays on the bill, because the bytes were transferred."""
    stored_bytes_max: int
    """The sum over all regions until the removal."""
    storage_price_per_month_max: Decimal
    """The price of a whole month. A benchmark stores the bytes for minutes."""
    currency: str

    @property
    def regions(self) -> tuple[str, ...]:
        """All regions, the source region first."""
        return (self.source, *self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionMeasurements:
    """Measurements of a region."""

    region: str
    replicate_seconds: float | None
    """The time from the update of the version to the complete replica. None in the source region."""
    delivered_bytes: int
    """The billed bytes."""
    placement_seconds: float
    """The median time to create a managed disk from the replica."""
    first_read_seconds: float
    """The time from the creation of a disk until a file contains the first MiB of data."""
    disk_seconds: float
    """The time to write the whole disk to a raw file, with checks and fsync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Measurements of a benchmark."""

    plan: BenchPlan
    upload_seconds: float
    """The time until the version is complete in the source region."""
    regions: tuple[RegionMeasurements, ...]
    """The source region first."""
    removed_objects: int
    """The number of objects of the benchmark that were removed from the stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartSummary:
    """The result of the quickstart, for the last lines of the output and for scripts."""

    group: str
    virtual_bytes: int
    first_delivered_bytes: int
    """The bytes of version 1.0.0 that were delivered to the other two regions together."""
    second_delivered_bytes: int
    """The bytes of version 1.0.1 that were delivered to the other two regions together."""
    whole_copies_bytes: int
    """The bytes that a copy of the whole disk to both regions would transfer."""
    replicas_used: tuple[int, ...]
    """The ordinals of the replicas behind the two disks."""
    identical: bool
    """Whether the exported file equals the source byte for byte.

    For formats other than VHD and raw: whether the disks are equal.
    """
    total: Decimal
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of a comparison between a file and an image."""

    matches: bool
    path: Path
    image: str
    """The resource id of the version."""
    file_disk_digest: Digest
    image_disk_digest: Digest
    file_virtual_bytes: int
    image_virtual_bytes: int
    first_difference: int | None
    """The offset of the first different piece of 4 MiB. None if no piece differs, or if the sizes differ."""


@dataclass(slots=True, kw_only=True)
class WorkerReport:
    """The results of a worker at the end, and the work that is left."""

    completed: int = 0
    """The number of replicas."""
    failed: dict[str, str] = field(default_factory=dict)
    """The last error by the uid of a replica that failed and did not complete later, or of a version without a plan."""
    waiting_for_retry: int = 0
    """The number of failed replicas that wait for the next attempt."""
    next_retry_at: datetime | None = None
    """The time of the earliest of the next attempts."""
    without_source: int = 0
    """The number of versions that were never complete.

    Only `image-version create` can resume such a version from the source.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLoss:
    """The lost ranges of a disk of a version, or of a stored disk."""

    disk_key: str
    virtual_bytes: int
    lost: tuple[Extent, ...]
    """The ranges of the disk in lost segments, merged. The whole disk if the manifest is lost. Empty for an intact disk."""

    @property
    def lost_bytes(self) -> int:
        """The sum of the lost ranges."""
        return sum(each.length for each in self.lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerLoss:
    """A version or stored disk that names a lost object in a slot."""

    resource_id: str
    disks: tuple[DiskLoss, ...]
    """All disks, intact or not: the OS disk, then the data disks by LUN."""


@dataclass(slots=True, kw_only=True)
class SlotScrub:
    """The scrub of a slot: the objects read and the damage found. The scrub updates this value."""

    slot: Slot
    objects: int = 0
    read_bytes: int = 0
    """The bytes of all copies that were read."""
    damaged: set[str] = field(default_factory=set)
    """Keys below the slot of objects that are missing or wrong in at least one copy."""
    repaired: set[str] = field(default_factory=set)
    """The damaged keys that are correct in all copies now."""
    repaired_bytes: int = 0
    """The bytes that other slots supplied."""
    losses: tuple[OwnerLoss, ...] = ()
    """The versions and stored disks that name an unrepaired object. Empty in a dry run."""
    restored: int = 0
    """The number of Degraded replicas that are Completed again."""
    unrestored: tuple[str, ...] = ()
    """The version and the reason, for each replica that was Completed before and is not Completed now."""
    problem: str | None = None
    """The reason why the scrub could not read the slot or a part of the slot."""
    began_at: datetime | None = None
    """The start of the pass, by the clock of the database. None if the scrub belongs to no pass, as a dry run."""
    seconds: float = 0.0
    """The time that this process took."""
    resumed_from: datetime | None = None
    """The start of a pass that an earlier process did not finish. None if this process started the pass."""
    earlier_objects: int = 0
    """The part of `objects` that earlier processes read."""

    @property
    def bytes_per_second(self) -> int:
        """The rate of this process. 0 for a scrub without time or bytes."""
        return round(self.read_bytes / self.seconds) if self.seconds > 0 else 0

    @property
    def unrepaired(self) -> list[str]:
        """The damaged keys that are still wrong, sorted."""
        return sorted(self.damaged - self.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotScrubStatus:
    """The last scrub of a slot."""

    slot: Slot
    last: SlotScrubRecord | None
    """The last finished pass. None before the first pass."""
    running: tuple[ScrubPass, ...]
    """The unfinished passes, of a command or of workers."""
    lost_objects: int
    """The number of objects that no process could repair."""
    losses: tuple[OwnerLoss, ...]
    """The versions and stored disks that name a lost object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReferences:
    """The contents that an unknown object refers to."""

    segments: int = 0
    """The number of segments in the manifest. Garbage collection keeps the segments while the object exists."""
    stored_bytes: int = 0
    """The stored bytes of the segments."""
    body_key: str | None = None
    """The manifest that a reference refers to."""
    problem: str | None = None
    """The reason why the object is not readable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownObjectReport:
    """An unknown object with the decision about a removal."""

    object: UnknownObject
    last_modified: datetime
    """By the clock of the store."""
    known_for: timedelta
    """The time since the first sighting."""
    references: ObjectReferences
    removable_at: datetime
    """The end of the grace period, by the clock of the database."""
    kept_reason: str | None = None
    """The reason to keep the object at any age. None if the object may be removed."""
    removed: bool = False

    @property
    def is_removable(self) -> bool:
        """Whether a removal at this time deletes the object."""
        return self.kept_reason is None and self.removable_at <= self.object.first_seen_at + self.known_for


@dataclass(slots=True, kw_only=True)
class SlotUnknownObjects:
    """The unknown objects of a slot."""

    slot: Slot
    objects: list[UnknownObjectReport] = field(default_factory=list)
    problem: str | None = None
    """The reason why the slot is not readable, or why an object was not removed."""
