"""The resources of a gallery as plain values. The catalog stores the values, and operations pass the values on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final, Self

from imgstore.domain import names
from imgstore.domain.disks.signed_urls import DiskGrant, DiskState
from imgstore.domain.disks.sources import DiskFormat, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk
from imgstore.domain.identity.sharing import SharingProfile
from imgstore.domain.names import VersionName
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.digests import Digest
from imgstore.domain.tags import NO_TAGS

SOFT_DELETE_RETENTION_DAYS: Final = 7
"""The default retention of soft-deleted versions, as in Azure."""


class StorageAccountType(StrEnum):
    """The storage account type of a replica, in Azure's spelling."""

    STANDARD_LRS = "Standard_LRS"
    STANDARD_ZRS = "Standard_ZRS"
    PREMIUM_LRS = "Premium_LRS"


class DiskType(StrEnum):
    """The storage type of a machine's disk, in Azure's spelling. Images have fewer types."""

    STANDARD_LRS = "Standard_LRS"
    STANDARD_ZRS = "Standard_ZRS"
    STANDARD_SSD_LRS = "StandardSSD_LRS"
    STANDARD_SSD_ZRS = "StandardSSD_ZRS"
    PREMIUM_LRS = "Premium_LRS"
    PREMIUM_ZRS = "Premium_ZRS"
    PREMIUM_V2_LRS = "PremiumV2_LRS"
    ULTRA_SSD_LRS = "UltraSSD_LRS"


class OsType(StrEnum):
    """The family of the operating system."""

    LINUX = "Linux"
    WINDOWS = "Windows"


class OsState(StrEnum):
    """Whether machine-specific data was removed from the system: Generalized means removed, Specialized means kept."""

    GENERALIZED = "Generalized"
    SPECIALIZED = "Specialized"


class HyperVGeneration(StrEnum):
    """V1 boots from a BIOS and MBR, V2 from UEFI and GPT."""

    V1 = "V1"
    V2 = "V2"


class ReplicationMode(StrEnum):
    """The storage of a version's replicas."""

    FULL = "Full"
    """Replicas are copies in the slots of the gallery, in each target region."""
    SHALLOW = "Shallow"
    """The only replica is in the slot of the source. Stored bytes are not copied (invariant R13)."""


class DiskKind(StrEnum):
    """The kind of a stored disk. The values are Azure's resource types."""

    DISK = "disks"
    SNAPSHOT = "snapshots"
    IMAGE = "images"

    @property
    def noun(self) -> str:
        """The kind in words, for messages."""
        return {DiskKind.DISK: "disk", DiskKind.SNAPSHOT: "snapshot", DiskKind.IMAGE: "managed image"}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class OsProperties:
    """Properties of the operating system on a disk. None is unknown."""

    os_type: OsType | None = None
    os_state: OsState | None = None
    hyper_v_generation: HyperVGeneration | None = None


NO_OS_PROPERTIES: Final = OsProperties()
"""No known property."""


class Architecture(StrEnum):
    """The architecture of the processor, in Azure's spelling."""

    X64 = "x64"
    ARM64 = "Arm64"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendedRange:
    """A recommended range for machines from an image. None is no bound."""

    min: int | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchasePlan:
    """The purchase plan of a Marketplace image. Each machine from the image names the plan (`policy/purchase_plan.py`)."""

    name: str | None = None
    publisher: str | None = None
    product: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A named feature of an image: ``SecurityType`` is ``TrustedLaunchSupported``."""

    name: str
    value: str
    starts_at_version: str | None = None
    """The lowest version with the feature. None is all versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A resource group."""

    uid: str
    subscription: str
    name: str
    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """A gallery. Each gallery has a pool for deduplication, for the fingerprint key and for garbage collection."""

    uid: str
    subscription: str
    group: str
    """The name of the group."""
    name: str
    location: str
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    soft_delete_enabled: bool = False
    """Whether a deleted version can be restored during the retention."""
    soft_delete_retention_days: int = SOFT_DELETE_RETENTION_DAYS
    sharing: SharingProfile | None = None
    """The sharing profile. None if no request ever set a profile."""
    pool_uid: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefinition:
    """An image definition: the common properties of the versions."""

    uid: str
    gallery_uid: str
    name: str
    location: str
    publisher: str
    offer: str
    sku: str
    os_type: OsType
    os_state: OsState = OsState.GENERALIZED
    hyper_v_generation: HyperVGeneration = HyperVGeneration.V1
    architecture: Architecture = Architecture.X64
    description: str | None = None
    eula: str | None = None
    privacy_statement_uri: str | None = None
    release_note_uri: str | None = None
    end_of_life_at: datetime | None = None
    """Shown and not enforced. Machines can be created after this time."""
    recommended_vcpus: RecommendedRange = RecommendedRange()
    recommended_memory_gib: RecommendedRange = RecommendedRange()
    disallowed_disk_types: tuple[DiskType, ...] = ()
    """Types that no disk of this image may have."""
    purchase_plan: PurchasePlan | None = None
    features: tuple[Feature, ...] = ()
    allow_update_image: bool = False
    """Whether the features may change."""
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    created_at: datetime

    @property
    def os_properties(self) -> OsProperties:
        """The OS properties of the disks of all versions."""
        return OsProperties(os_type=self.os_type, os_state=self.os_state, hyper_v_generation=self.hyper_v_generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRegion:
    """A target region of a version."""

    name: str
    """The region's key, as in regions.yaml ("westus2")."""
    regional_replica_count: int
    storage_account_type: StorageAccountType
    exclude_from_latest: bool = False

    def as_request(self) -> "TargetRegionRequest":
        """Return a request with all values of this target region."""
        return TargetRegionRequest(
            name=self.name,
            regional_replica_count=self.regional_replica_count,
            storage_account_type=self.storage_account_type,
            exclude_from_latest=self.exclude_from_latest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRegionRequest:
    """A target region in a request.

    None keeps the value of the existing target, else takes the default of the version.
    """

    name: str
    """The name as typed. "West US 2" and "westus2" are equal."""
    regional_replica_count: int | None = None
    storage_account_type: StorageAccountType | None = None
    exclude_from_latest: bool | None = None


class Keep(Enum):
    """The marker for an unchanged property, if None is a value of the property."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionUpdate:
    """Changes to a version. None or `KEEP` keeps the present value."""

    target_regions: Sequence[TargetRegionRequest] | None = None
    """All target regions."""
    replica_count: int | None = None
    """The count for regions without a count.

    Without `target_regions`: for all regions that have the version's present count.
    """
    storage_account_type: StorageAccountType | None = None
    """The type for regions without a type, including existing target regions."""
    exclude_from_latest: bool | None = None
    end_of_life_at: datetime | Keep | None = KEEP
    """None removes the date."""
    allow_deletion_of_replicated_locations: bool | None = None
    block_deletion_before_end_of_life: bool | None = None
    tags: Mapping[str, str] | None = None

    @property
    def new_end_of_life_at(self) -> datetime | None:
        """The end of life of a version that has none yet."""
        return None if self.end_of_life_at is KEEP else self.end_of_life_at

    def without_changes(self) -> Self:
        """Return the request without properties of an existing version that may change."""
        unchanged: dict[str, Any] = {each.name: each.default for each in fields(VersionUpdate)}
        return replace(self, **unchanged)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVersion:
    """An image version: immutable disks and desired target regions."""

    uid: str
    definition_uid: str
    name: VersionName
    location: str
    """The source region, which is always a target region."""
    target_regions: tuple[TargetRegion, ...]
    """In the order of the request."""
    replica_count: int = 1
    replication_mode: ReplicationMode = ReplicationMode.FULL
    exclude_from_latest: bool = False
    end_of_life_at: datetime | None = None
    """Shown, and used by `block_deletion_before_end_of_life`. Machines can be created after this time."""
    allow_deletion_of_replicated_locations: bool | None = None
    """False forbids the removal of complete regions. None was never set, and permits the removal."""
    block_deletion_before_end_of_life: bool = False
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    disks: tuple[VersionDisk, ...]
    """The OS disk, then the data disks by LUN."""
    published_at: datetime
    provisioning_state: ProvisioningState
    soft_deleted_at: datetime | None = None
    """The time of the soft deletion. The version is invisible since then, and the bytes are stored and billed."""
    hard_deletion_at: datetime | None = None
    """The time of the final deletion of a soft-deleted version."""

    @property
    def is_visible(self) -> bool:
        """Whether operations may show the version and use the disks: the version is neither deleted nor in deletion."""
        return self.provisioning_state is not ProvisioningState.DELETING and self.soft_deleted_at is None

    @property
    def is_shallow(self) -> bool:
        """Whether the version has a single replica for ever, possibly in the slot of the source."""
        return self.replication_mode is ReplicationMode.SHALLOW

    @property
    def os_disk(self) -> VersionDisk:
        """The first disk."""
        return self.disks[0]

    @property
    def data_disks(self) -> tuple[VersionDisk, ...]:
        """The other disks, by LUN."""
        return self.disks[1:]

    @property
    def disk_keys(self) -> tuple[str, ...]:
        """The keys of all disks, in order."""
        return tuple(disk.key for disk in self.disks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The scope of deduplication.

    A pool exists until the last manifest is removed, also after the deletion of the gallery.
    """

    uid: str
    fingerprint_key: bytes
    """32 random bytes: the key of the pool's keyed BLAKE3."""
    subscription: str | None = None
    """The subscription, for a pool of disks without a gallery. None is the pool of a gallery."""
    region: str | None = None
    """The region of the pool of a subscription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotKey:
    """The unique key of a slot."""

    pool_uid: str
    region: str
    storage_account_type: StorageAccountType
    ordinal: int
    """From 0."""

    def __str__(self) -> str:
        return f"{self.region}/{self.storage_account_type}/{self.ordinal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The store of a replica. Zone and bucket are chosen once (invariant S5)."""

    uid: str
    key: SlotKey
    zone: str
    """The name of a zone in regions.yaml, or "zrs" for all three zones together."""
    bucket: str

    @property
    def prefix(self) -> str:
        """The prefix of all keys in the slot, with a slash at the end."""
        return f"pools/{self.key.pool_uid}/{self.key.storage_account_type}/replica-{self.key.ordinal}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneGap:
    """Objects of a slot that are missing in one of three zones. The other two zones contain the objects."""

    slot_uid: str
    zone: str
    objects: int
    seen_at: datetime
    """The time of the count, by the clock of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A version in a slot."""

    uid: str
    version_uid: str
    slot: Slot
    state: ReplicaState
    error: str | None = None
    """The reason of the last failure."""
    bytes_done: int = 0
    """The bytes of the last or present work of this replica."""
    bytes_total: int = 0
    completed_at: datetime | None = None
    attempts: int = 0
    """The number of failed attempts since the replica was last complete."""
    retry_at: datetime | None = None
    """Workers wait until this time, by the clock of the database. A repeated command does not wait."""
    started_at: datetime | None = None
    """The start of the transfer in the last or present work, by the clock of the database."""
    progress_at: datetime | None = None
    """The time of the last update of `bytes_done`, by the clock of the database."""
    parent_region: str | None = None
    """The region that the cheapest route copies from (`replication.route`). None for the route `source`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedDisk:
    """A managed disk, a snapshot, or a disk of a managed image: the owner of a manifest in a slot.

    The manifest is a reference to the manifest of a version or of another disk, or a separate manifest from an ingest.
    """

    uid: str
    kind: DiskKind = DiskKind.DISK
    subscription: str
    group: str
    """The name of the group."""
    name: str
    disk_key: str = OS_DISK
    """The disk of a managed image: "os", "lun-0" and so on. Other disks have "os"."""
    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    source_version_uid: str | None
    """The uid of the image version at the start of the chain of copies. None if the chain starts with a file."""
    source_reference: str
    """The source: a resource id, or the path or URL of a file."""
    source_lun: int | None = None
    """The LUN of the disk in the image version at the start of the chain of copies. None is the OS disk."""
    source: SourceIdentity | None = None
    """The identity of the ingested file."""
    body_key: str
    """The object in the slot with the content: the disk's own manifest, or the manifest of the first owner."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    replica: int
    """The ordinal of the slot, which is the ordinal of the selected replica."""
    slot: Slot
    storage_account_type: StorageAccountType
    virtual_bytes: int
    disk_digest: Digest
    """Empty until the ingest completes."""
    created_at: datetime
    provisioning_state: ProvisioningState
    source_format: DiskFormat
    upload_bytes: int | None = None
    """The length of an uploaded fixed VHD with the footer. None is a disk from another source."""
    grant: DiskGrant | None = None
    """The grant of signed URLs for reading the disk or for writing the upload. An expired grant has no effect.

    The method `active_grant` omits an expired grant.
    """
    managed_by: str | None = None
    """The resource id of the machine with this disk. An attached disk cannot be deleted."""
    machine_lun: int | None = None
    """The LUN in the machine. None is the OS disk."""
    extra_properties: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the resource by path. Responses show the fields as sent, and the fields have no other effect."""

    def in_slot(self, slot: Slot) -> "ManagedDisk":
        """Return the disk in another slot, with the storage account type of that slot."""
        kind = slot.key.storage_account_type
        return replace(self, slot=slot, replica=slot.key.ordinal, storage_account_type=kind)

    @property
    def awaits_upload(self) -> bool:
        """Whether the upload or the ingest of the upload is not complete."""
        return self.upload_bytes is not None and self.provisioning_state is ProvisioningState.CREATING

    def active_grant(self, now: datetime) -> DiskGrant | None:
        """Return the grant, or None if the grant has expired at `now`."""
        return self.grant if self.grant is not None and now < self.grant.expires_at else None

    @property
    def disk_state(self) -> DiskState:
        """The state in Azure's words. The caller must remove an expired grant before."""
        if self.awaits_upload:
            return DiskState.READY_TO_UPLOAD if self.grant is None else DiskState.ACTIVE_UPLOAD
        if self.grant is not None:
            return DiskState.ACTIVE_SAS
        return DiskState.UNATTACHED if self.managed_by is None else DiskState.ATTACHED

    @property
    def resource_id(self) -> str:
        """The id of the disk, or of the managed image that contains the disk."""
        return names.compute_id(self.subscription, self.group, self.kind, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """The catalog's record of a segment of a pool."""

    name: Digest
    blocks: int
    stored_bytes: int
    checksum: str | None
    """The checksum of the object by the store, prefixed by the algorithm ("CRC32:AAAAAA==")."""
    work_uid: str
    """The work that packed the segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """The catalog's record of a manifest in a slot."""

    uid: str
    slot_uid: str
    owner_uid: str
    """The uid of a version or of a stored disk."""
    disk: str = OS_DISK
    digest: Digest
    """The BLAKE3 of the manifest's content, equal to the last 32 bytes of the manifest."""
    body_key: str
    """The object in the slot with the content. A managed disk refers to the object of the selected replica."""
    virtual_bytes: int
    object_bytes: int
    """The stored bytes of the objects for which this row accounts: a manifest or a reference.

    A reference also accounts for the manifest that it names, if the row of the manifest was removed.
    """
    disk_digest: Digest
    segment_ids: bytes = field(repr=False)
    """The catalog's ids of the segments: sorted, packed as little-endian u32."""
