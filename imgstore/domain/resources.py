"""The resources of a gallery as plain values. What the catalog keeps and the operations pass on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, Final

from imgstore.domain import names
from imgstore.domain.disks.signed_urls import DiskGrant, DiskState
from imgstore.domain.disks.sources import DiskFormat, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk
from imgstore.domain.identity.sharing import SharingProfile
from imgstore.domain.names import VersionName
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.digests import Digest

NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})

SOFT_DELETE_RETENTION_DAYS: Final = 7
"""For how long a softly deleted version is kept where the gallery does not say: Azure's."""


class StorageAccountType(StrEnum):
    """How a replica is kept, in Azure's spelling."""

    STANDARD_LRS = "Standard_LRS"
    STANDARD_ZRS = "Standard_ZRS"
    PREMIUM_LRS = "Premium_LRS"


class DiskType(StrEnum):
    """What a machine's disk may be kept on, as Azure names it: more kinds than images have."""

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
    """Generalized: machine-specific facts were removed. Specialized: they stand."""

    GENERALIZED = "Generalized"
    SPECIALIZED = "Specialized"


class HyperVGeneration(StrEnum):
    """V1 boots from a BIOS and MBR, V2 from UEFI and GPT."""

    V1 = "V1"
    V2 = "V2"


class ReplicationMode(StrEnum):
    """How a version comes to its replicas."""

    FULL = "Full"
    """Its bytes are copied into its gallery's slots, in every target region."""
    SHALLOW = "Shallow"
    """It stays where its source is: one region, one replica, nothing is copied that is stored here already."""


class DiskKind(StrEnum):
    """What a disk of its own is filed under, by Azure's word for its type."""

    DISK = "disks"
    SNAPSHOT = "snapshots"
    IMAGE = "images"

    @property
    def noun(self) -> str:
        """What people call one."""
        return {DiskKind.DISK: "disk", DiskKind.SNAPSHOT: "snapshot", DiskKind.IMAGE: "managed image"}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class OsProperties:
    """What a resource says of the system on its disk; None is nothing said."""

    os_type: OsType | None = None
    os_state: OsState | None = None
    hyper_v_generation: HyperVGeneration | None = None


NO_OS_PROPERTIES: Final = OsProperties()
"""Nothing said."""


class Architecture(StrEnum):
    """The processor's, in Azure's spelling."""

    X64 = "x64"
    ARM64 = "Arm64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """A range that machines of an image do well in; an end that is None is open."""

    min: int | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchasePlan:
    """What a buyer in the Marketplace agreed to. Kept and shown, never enforced."""

    name: str | None = None
    publisher: str | None = None
    product: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something that an image can do, by name: ``SecurityType`` is ``TrustedLaunchSupported``."""

    name: str
    value: str
    starts_at_version: str | None = None
    """The lowest version that has it; None is all."""


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
    """A gallery: one pool of sameness, keys and collection."""

    uid: str
    subscription: str
    group: str
    """The group's name."""
    name: str
    location: str
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    soft_delete_enabled: bool = False
    """Whether a deleted version can be had back for a while."""
    soft_delete_retention_days: int = SOFT_DELETE_RETENTION_DAYS
    sharing: SharingProfile | None = None
    """Whom it is shared with; None where nothing was ever said of that."""
    pool_uid: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefinition:
    """An image definition: what its versions have in common."""

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
    """Told, not enforced: machines can be made after it."""
    recommended_vcpus: Recommended = Recommended()
    recommended_memory_gib: Recommended = Recommended()
    disallowed_disk_types: tuple[DiskType, ...] = ()
    """What no disk of this image may be kept on."""
    purchase_plan: PurchasePlan | None = None
    features: tuple[Feature, ...] = ()
    allow_update_image: bool = False
    """Whether the features may change."""
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    created_at: datetime

    @property
    def os_properties(self) -> OsProperties:
        """What it says of the system on its versions' disks."""
        return OsProperties(os_type=self.os_type, os_state=self.os_state, hyper_v_generation=self.hyper_v_generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRegion:
    """One region that a version is to be in."""

    name: str
    """The region's key, as in regions.yaml ("westus2")."""
    regional_replica_count: int
    storage_account_type: StorageAccountType
    exclude_from_latest: bool = False

    def as_request(self) -> "TargetRegionRequest":
        """The same, asked for in full."""
        return TargetRegionRequest(
            name=self.name,
            regional_replica_count=self.regional_replica_count,
            storage_account_type=self.storage_account_type,
            exclude_from_latest=self.exclude_from_latest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRegionRequest:
    """A target region as a person asks for it: what is None is as it stands, else takes the version's default."""

    name: str
    """As typed: "West US 2" and "westus2" are the same."""
    regional_replica_count: int | None = None
    storage_account_type: StorageAccountType | None = None
    exclude_from_latest: bool | None = None


class Keep(Enum):
    """Told apart from None where None is a value."""

    KEEP = "as it stands"


KEEP: Final = Keep.KEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionUpdate:
    """What is to change of a version; what is None or `KEEP` stays."""

    target_regions: Sequence[TargetRegionRequest] | None = None
    """All of them."""
    replica_count: int | None = None
    """For the regions that name none; without `target_regions`, for those that have the version's count now."""
    storage_account_type: StorageAccountType | None = None
    """For the regions that name none, those that stand already too."""
    exclude_from_latest: bool | None = None
    end_of_life_at: datetime | Keep | None = KEEP
    """None takes it away."""
    allow_deletion_of_replicated_locations: bool | None = None
    block_deletion_before_end_of_life: bool | None = None
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVersion:
    """An image version: immutable disks, and where they are to be."""

    uid: str
    definition_uid: str
    name: VersionName
    location: str
    """The source region: must be a target region."""
    target_regions: tuple[TargetRegion, ...]
    """In the order of the request."""
    replica_count: int = 1
    replication_mode: ReplicationMode = ReplicationMode.FULL
    exclude_from_latest: bool = False
    end_of_life_at: datetime | None = None
    """Told, and what `block_deletion_before_end_of_life` waits for; machines can be made after it."""
    allow_deletion_of_replicated_locations: bool | None = None
    """False keeps every region that is complete; None was never said, and keeps nothing."""
    block_deletion_before_end_of_life: bool = False
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    disks: tuple[VersionDisk, ...]
    """The OS disk, then the data disks by LUN."""
    published_at: datetime
    provisioning_state: ProvisioningState
    soft_deleted_at: datetime | None = None
    """When it was deleted softly: invisible since, its bytes kept and billed."""
    hard_deletion_at: datetime | None = None
    """When what was deleted softly goes for good."""

    @property
    def is_visible(self) -> bool:
        """Whether it can be shown, listed, built upon and made into disks: neither deleted nor on its way there."""
        return self.provisioning_state is not ProvisioningState.DELETING and self.soft_deleted_at is None

    @property
    def is_shallow(self) -> bool:
        """Whether it has one replica and never another, perhaps in the slot of its source."""
        return self.replication_mode is ReplicationMode.SHALLOW

    @property
    def os_disk(self) -> VersionDisk:
        """The first of its disks."""
        return self.disks[0]

    @property
    def data_disks(self) -> tuple[VersionDisk, ...]:
        """The others, by LUN."""
        return self.disks[1:]

    @property
    def disk_keys(self) -> tuple[str, ...]:
        """Of all its disks, in their order."""
        return tuple(disk.key for disk in self.disks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The scope of sameness. Outlives its gallery until its last manifest goes."""

    uid: str
    fingerprint_key: bytes
    """32 random bytes: the key of the pool's keyed BLAKE3."""
    subscription: str | None = None
    """Whose own it is, for disks that came from no gallery; None is a gallery's."""
    region: str | None = None
    """The region that a subscription's own pool is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotKey:
    """Which slot is meant."""

    pool_uid: str
    region: str
    storage_account_type: StorageAccountType
    ordinal: int
    """From 0."""

    def __str__(self) -> str:
        return f"{self.region}/{self.storage_account_type}/{self.ordinal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One replica's store. Zone and bucket are chosen once and kept (rules.md, rule 16)."""

    uid: str
    key: SlotKey
    zone: str
    """A zone's name in regions.yaml, or "zrs" for the three together."""
    bucket: str

    @property
    def prefix(self) -> str:
        """What every key of the slot starts with, ending in a slash."""
        return f"pools/{self.key.pool_uid}/{self.key.storage_account_type}/replica-{self.key.ordinal}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneGap:
    """Objects of a slot that one of its three zones misses; the other two have them."""

    slot_uid: str
    zone: str
    objects: int
    seen_at: datetime
    """When they were counted; the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One version in one slot."""

    uid: str
    version_uid: str
    slot: Slot
    state: ReplicaState
    error: str | None = None
    """Why the last try failed."""
    bytes_done: int = 0
    """Of this replica's last or present work."""
    bytes_total: int = 0
    completed_at: datetime | None = None
    attempts: int = 0
    """Tries that failed since it was last complete."""
    retry_at: datetime | None = None
    """Workers leave it alone until then, by the database's clock; a person's repeat does not wait."""
    started_at: datetime | None = None
    """When the bytes of its last or present work began to move, by the database's clock."""
    progress_at: datetime | None = None
    """When `bytes_done` was last written down, by the same clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedDisk:
    """A managed disk, a snapshot, or one disk of a managed image: the owner of one manifest in one slot.

    It refers to the manifest of an image version, of another disk, or has its own, taken in from a file.
    """

    uid: str
    kind: DiskKind = DiskKind.DISK
    subscription: str
    group: str
    """The group's name."""
    name: str
    disk_key: str = OS_DISK
    """Of a managed image which disk: "os", "lun-0" and so on. The others are "os"."""
    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    source_version_uid: str | None
    """Of the image version that it, or what it is a copy of, was made from; None where that came from a file."""
    source_reference: str
    """What it was made from: a resource id, or a file's path or URL."""
    source_lun: int | None = None
    """Where an image version is the source, its own or that of what it is a copy of: which data disk; None is the OS disk."""
    source: SourceIdentity | None = None
    """Of the file that it was taken in from."""
    body_key: str
    """The object in the slot that holds the content: its own manifest's, or that of the first owner's."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    replica: int
    """The ordinal of its slot: of the replica that it was given."""
    slot: Slot
    storage_account_type: StorageAccountType
    virtual_bytes: int
    disk_digest: Digest
    """Empty until the disk is taken in."""
    created_at: datetime
    provisioning_state: ProvisioningState
    source_format: DiskFormat
    upload_bytes: int | None = None
    """Of the fixed VHD, footer and all, where one is uploaded; None is any other source."""
    grant: DiskGrant | None = None
    """Who may read it, or write its upload, by URL. One whose time is up is none (`active_grant`)."""
    managed_by: str | None = None
    """The resource id of the machine that it is attached to; such a disk is not deleted."""
    machine_lun: int | None = None
    """Where it is attached: None is the OS disk."""
    extra_properties: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its resource by their paths, shown as they were sent: they change nothing."""

    def in_slot(self, slot: Slot) -> "ManagedDisk":
        """The same in that slot, whose type it has."""
        kind = slot.key.storage_account_type
        return replace(self, slot=slot, replica=slot.key.ordinal, storage_account_type=kind)

    @property
    def awaits_upload(self) -> bool:
        """Whether its bytes are still to come, or to be taken in."""
        return self.upload_bytes is not None and self.provisioning_state is ProvisioningState.CREATING

    def active_grant(self, now: datetime) -> DiskGrant | None:
        """The grant, if it holds now."""
        return self.grant if self.grant is not None and now < self.grant.expires_at else None

    @property
    def disk_state(self) -> DiskState:
        """What it waits for. A grant whose time is up must have been taken off before."""
        if self.awaits_upload:
            return DiskState.READY_TO_UPLOAD if self.grant is None else DiskState.ACTIVE_UPLOAD
        if self.grant is not None:
            return DiskState.ACTIVE_SAS
        return DiskState.UNATTACHED if self.managed_by is None else DiskState.ATTACHED

    @property
    def resource_id(self) -> str:
        """Its id, or that of the managed image that it is part of."""
        return names.compute_id(self.subscription, self.group, self.kind, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """What the catalog knows of one segment of a pool."""

    name: Digest
    blocks: int
    stored_bytes: int
    checksum: str | None
    """The store's own checksum of the object, as the store gave it, prefixed by its algorithm ("CRC32:AAAAAA==")."""
    work_uid: str
    """The ingest that packed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """What the catalog knows of one manifest in one slot."""

    uid: str
    slot_uid: str
    owner_uid: str
    """The uid of a version, or of a disk of its own."""
    disk: str = OS_DISK
    digest: Digest
    """BLAKE3 of the manifest's content: the one that it ends in."""
    body_key: str
    """The object in the slot that holds the content: a managed disk refers to that of its replica."""
    virtual_bytes: int
    object_bytes: int
    """Stored bytes of the object that this row itself put there."""
    disk_digest: Digest
    segment_ids: bytes = field(repr=False)
    """The catalog's ids of its segments, sorted, as packed little-endian u32."""
