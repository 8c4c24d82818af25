"""Reports of operations: maintenance, benchmarks, verification and principals."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from imgstore.domain.identity.principals import PrincipalRecord, RoleAssignment, Secret
from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.unknown_objects import UnknownObject


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalDetails:
    """A principal with what belongs to it."""

    identity: PrincipalRecord
    secrets: tuple[Secret, ...] = ()
    assignments: tuple[RoleAssignment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What a bench would do, and the most that it can cost: not one block of the disk known or compressible."""

    group: str
    """The resource group that it makes and removes; nobody else's is touched."""
    source: str
    """The region that the disk goes into."""
    targets: tuple[str, ...]
    """The regions that it is copied to, one after another."""
    virtual_bytes: int
    data_bytes: int
    """What of the disk's file is no hole."""
    egress_bytes_max: int
    egress_price_max: Decimal
    """Stays on the bill: it was moved."""
    stored_bytes_max: int
    """In all regions together, until it is removed."""
    storage_price_per_month_max: Decimal
    """If they were left there; they lie for minutes."""
    currency: str

    @property
    def regions(self) -> tuple[str, ...]:
        """All of them, the source first."""
        return (self.source, *self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionMeasurements:
    """One region's figures."""

    region: str
    replicate_seconds: float | None
    """From the update that named the region until its replica was complete; None in the source region."""
    delivered_bytes: int
    """As billed."""
    placement_seconds: float
    """To make a managed disk from the replica: the median of several."""
    first_read_seconds: float
    """From then until the first MiB of data is in a file."""
    disk_seconds: float
    """To write the whole disk into a raw file, checked and synced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What was measured."""

    plan: BenchPlan
    upload_seconds: float
    """Until the version was complete in the source region."""
    regions: tuple[RegionMeasurements, ...]
    """The source region first."""
    removed_objects: int
    """Objects that the bench left in the regions' stores and that are gone again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartSummary:
    """What came out, for the last lines and for scripts."""

    group: str
    virtual_bytes: int
    first_delivered_bytes: int
    """To both other regions together, for 1.0.0."""
    second_delivered_bytes: int
    """The same for 1.0.1."""
    whole_copies_bytes: int
    """What copying the whole disk to both regions would have moved."""
    replicas_used: tuple[int, ...]
    """Ordinals that the two disks were given."""
    identical: bool
    """The exported file is byte for byte the source (for a container other than VHD or raw: the same disk)."""
    total: Decimal
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came out."""

    matches: bool
    path: Path
    image: str
    """The version's resource id."""
    file_disk_digest: Digest
    image_disk_digest: Digest
    file_virtual_bytes: int
    image_virtual_bytes: int
    first_difference: int | None
    """Offset of the first piece of 4 MiB that differs; None where none does, or the sizes differ."""


@dataclass(slots=True, kw_only=True)
class WorkerReport:
    """What a worker did, and what it left, when it ended."""

    completed: int = 0
    """Replicas."""
    failed: dict[str, str] = field(default_factory=dict)
    """The last error of each replica that failed and did not come about later, by uid."""
    waiting_for_retry: int = 0
    """Failed replicas that wait for their next try."""
    next_retry_at: datetime | None = None
    """When the first of these is due."""
    without_source: int = 0
    """Versions that never were complete: only `image-version create`, which has the source file, can resume them."""


@dataclass(slots=True, kw_only=True)
class SlotScrub:
    """One slot: what was read, and what was wrong. Filled as the scrub goes."""

    slot: Slot
    objects: int = 0
    read_bytes: int = 0
    """Of every copy that was read."""
    damaged: set[str] = field(default_factory=set)
    """Keys below the slot of what was missing or wrong somewhere."""
    repaired: set[str] = field(default_factory=set)
    """Of these, what is right everywhere now."""
    repaired_bytes: int = 0
    """That other slots gave."""
    restored: int = 0
    """Replicas that were Degraded and are Completed again."""
    unrestored: tuple[str, ...] = ()
    """Of each replica that was Completed once and is not now: its version, and why."""
    problem: str | None = None
    """Why the slot, or a part of it, could not be looked at."""

    @property
    def unrepaired(self) -> list[str]:
        """What remains wrong."""
        return sorted(self.damaged - self.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReferences:
    """What an unknown object names."""

    segments: int = 0
    """Segments that a manifest names: none of them is collected while it is there."""
    stored_bytes: int = 0
    """Of these."""
    body_key: str | None = None
    """The manifest that a reference refers to."""
    problem: str | None = None
    """Why it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownObjectReport:
    """One unknown object, and what becomes of it."""

    object: UnknownObject
    last_modified: datetime
    """The store's clock."""
    known_for: timedelta
    """Since it was first seen."""
    references: ObjectReferences
    removable_at: datetime
    """When its grace ends; the database's clock."""
    kept_reason: str | None = None
    """Why it stays, whatever its age."""
    removed: bool = False

    @property
    def is_removable(self) -> bool:
        """Whether a removal takes it now."""
        return self.kept_reason is None and self.removable_at <= self.object.first_seen_at + self.known_for


@dataclass(slots=True, kw_only=True)
class SlotUnknownObjects:
    """The unknown objects of one slot."""

    slot: Slot
    objects: list[UnknownObjectReport] = field(default_factory=list)
    problem: str | None = None
    """Why the slot could not be looked at, or why something stayed."""
