"""Requests to operations. The command line and the API parse each input into a request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from imgstore.domain.disks.disk_details import NO_DETAILS, DiskDetails
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import (
    OS_DISK,
    HostCaching,
    check_luns,
)
from imgstore.domain.errors import InvalidInput
from imgstore.domain.machines import (
    MACHINE,
    NO_ATTACHMENT_SETTINGS,
    NO_PROPERTIES,
    NO_SECRETS,
    DiskAttachment,
    MachineSecrets,
)
from imgstore.domain.names import ComputeId, ImageReference, SharedReference, VersionName, parse_image_reference
from imgstore.domain.resources import (
    NO_OS_PROPERTIES,
    DiskKind,
    DiskType,
    Feature,
    OsProperties,
    OsType,
    PurchasePlan,
    RecommendedRange,
    ReplicationMode,
    StorageAccountType,
    VersionUpdate,
)
from imgstore.domain.scale_sets import DEFAULT_ROLLING, PlacementPolicy, RollingPolicy, UpgradeMode
from imgstore.domain.storage.scrub_passes import ScrubRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A request to create a managed image."""

    group: str
    """The name of the resource group. A missing group is created."""
    name: str
    source: str
    """The source of the OS disk: a disk or snapshot by name or id, or a file as in `DiskRequest.source`.

    A generalized machine is also a source, by name or id. The image then contains all disks of the machine, at the same
    LUNs.
    """
    data_sources: Sequence[str] = ()
    """The sources of the data disks, in the same notation. The first data disk has LUN 0."""
    location: str | None = None
    """The region. None is the region of the source, or of the group if the source is a file."""
    storage_account_type: StorageAccountType | None = None
    """The type for disks from files. None is Standard_LRS."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    """OS properties from the request. The source of the OS disk supplies missing properties.

    An image without an OS state is Generalized.
    """
    source_format: DiskFormat | None = None
    """The format of the files. None detects the format."""
    tags: Mapping[str, str] | None = None
    """None keeps the present tags."""
    details: Mapping[str, DiskDetails] = field(default_factory=dict)
    """Further details of disks, by disk key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OsProfile:
    """Settings of the operating system for a machine from a generalized image."""

    admin_username: str | None = None
    computer_name: str | None = None
    has_fields: bool = False
    """Whether the request contains an OS profile with at least one field, stored or not."""

    @property
    def is_empty(self) -> bool:
        """Whether the request contains no OS profile."""
        return self.admin_username is None and self.computer_name is None and not self.has_fields


NO_PROFILE: Final = OsProfile()
"""A request without an OS profile."""


_DEFAULT_CACHING: Final[Mapping[str, HostCaching]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class DataVhd:
    """A data disk from a file."""

    lun: int
    uri: str
    """A path, or a URL with file://, s3:// or https://. The file has any supported format."""
    format: DiskFormat | None = None
    """The format of the file. None detects the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSnapshot:
    """A data disk from a disk or snapshot of the gallery."""

    lun: int
    source: str
    """A snapshot or managed disk, by name or id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSource:
    """The source of a version: one resource with all disks, or an OS disk and separate data disks."""

    os_vhd_uri: str | None = None
    """A file: a path, or a URL with file://, s3:// or https://."""
    os_snapshot: str | None = None
    """A snapshot or managed disk, by name or id."""
    managed_image: str | None = None
    """A managed image by name or id, or an image version by id, with all data disks."""
    image_version: str | None = None
    """An image version with all data disks: by id, or as rg/gallery/definition/version.

    The id may begin with /SharedGalleries or /CommunityGalleries.
    """
    virtual_machine: str | None = None
    """A machine by name or id, generalized or specialized, with all data disks."""
    os_vhd_format: DiskFormat | None = None
    """The format of the file of the OS disk. None detects the format."""
    data_vhds: tuple[DataVhd, ...] = ()
    data_snapshots: tuple[DataSnapshot, ...] = ()

    @property
    def is_single_resource(self) -> bool:
        """Whether a single resource supplies all disks of the version."""
        return self.os_vhd_uri is None and self.os_snapshot is None

    @property
    def is_image_or_machine(self) -> bool:
        """Whether the source is a managed image or a machine.

        Azure has another default for the host caching of the data disks.
        """
        return self.is_single_resource and self.reference is None

    @property
    def machine(self) -> str | None:
        """The name or id of a source machine, else None.

        The command az also passes the id of a machine as a managed image.
        """
        named = None if self.managed_image is None else ComputeId.parse(self.managed_image)
        is_machine = named is not None and named.kind == MACHINE.lower()
        return self.managed_image if is_machine else self.virtual_machine

    @property
    def reference(self) -> ImageReference | SharedReference | None:
        """The reference of a source version, else None."""
        word = self.image_version
        if word is None and self.managed_image is not None and "/versions/" in self.managed_image.lower():
            word = self.managed_image
        return None if word is None else parse_image_reference(word)

    def check(self) -> None:
        """Reject a request without exactly one source, or with data disks that do not fit the source.

        Raises:
            InvalidInput: the number of sources is not 1, an image or machine has separate data disks, or a LUN is
                invalid.
        """
        values = {
            "--os-vhd-uri": self.os_vhd_uri,
            "--os-snapshot": self.os_snapshot,
            "--managed-image": self.managed_image,
            "--image-version": self.image_version,
            "--virtual-machine": self.virtual_machine,
        }
        sources = [flag for flag, value in values.items() if value is not None]
        data = {"--data-vhds-uris": self.data_vhds, "--data-snapshots": self.data_snapshots}
        data_flags = [flag for flag, disks in data.items() if disks]
        if len(sources) != 1 or (self.is_single_resource and data_flags):
            raise InvalidInput(
                "The gallery artifact version source can only be specified either directly under storageProfile or "
                "within individual OS or data disks. One and only one source type (user image, snapshot, disk, virtual "
                "machine) can be provided",
                found=", ".join([*sources, *data_flags]) or "no source",
                expected=f"one of {', '.join(values)}; separate data disks only with the first two",
                hint="name a single source; an image or a machine supplies all data disks",
                target="properties.storageProfile",
            )
        check_luns([*(each.lun for each in self.data_vhds), *(each.lun for each in self.data_snapshots)])


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRequest(VersionUpdate):
    """A request to create an image version, or to change an existing version.

    A property that may change and is not requested has its default in a new version. Without target regions, the source
    region is the only target of a new version.
    """

    group: str
    """The name of the resource group."""
    gallery: str
    definition: str
    version: VersionName
    source: VersionSource = VersionSource()
    """The disks of the version."""
    location: str | None = None
    """The source region. None is the region of the gallery."""
    replication_mode: ReplicationMode | None = None
    """None is Full, or the mode of an existing version. A Shallow version has the storage account type of the source."""
    sha256: str | None = None
    """The SHA-256 of the file of the OS disk. The digest is compared before the first write."""
    bases: Sequence[VersionName] = ()
    """Additional versions for deduplication. The ingest also chooses bases by rule (invariant I7)."""
    verify_full: bool = False
    """Read all disks back and compare all pieces before publication."""
    host_caching: Mapping[str, HostCaching] = field(default_factory=lambda: _DEFAULT_CACHING)
    """Host caching by disk key. A missing disk has the default of Azure, or keeps the present value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDisk:
    """The properties of a disk to create, apart from its source."""

    kind: DiskKind = DiskKind.DISK
    group: str
    """The name of the resource group. A missing group is created."""
    name: str
    location: str | None = None
    """The region. None is the region of a source disk, else of the existing disk, else of the group."""
    storage_account_type: StorageAccountType | None = None
    """None is the type of a source disk, or Standard_LRS."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    """OS properties from the request. A copy inherits missing properties from the source."""
    tags: Mapping[str, str] | None = None
    """None keeps the present tags."""
    details: DiskDetails = NO_DETAILS
    allow_remote: bool = False
    """Whether content that the region does not have may be copied from another region, which is billed."""

    @property
    def display_name(self) -> str:
        """The kind and the name of the new resource, for messages."""
        return f"{self.kind.noun} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRequest(NewDisk):
    """A request to create a disk, a snapshot or a disk of a managed image, from a disk, a snapshot or a file."""

    disk_key: str = OS_DISK
    source: str
    """A disk or snapshot by name or id, or a path, or a URL with file://, s3:// or https://.

    A file has any supported format.
    """
    source_format: DiskFormat | None = None
    """The format of a file. None detects the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest(NewDisk):
    """A request to create a disk from an upload."""

    upload_bytes: int
    """The length of the fixed VHD, including the footer of 512 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOfImageRequest(NewDisk):
    """A request to create a disk from an image version, which supplies the type and the OS properties."""

    reference: ImageReference | SharedReference
    """The image. Without a version, the latest version that is complete in the region."""
    lun: int | None = None
    """The LUN of a data disk of the image. None is the OS disk."""


NewDiskRequest: TypeAlias = DiskOfImageRequest | UploadRequest | DiskRequest
"""A request for a disk: from an image, for an upload, or from a disk, a snapshot or a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTarget:
    """The file of an export. The field names are parameters of the exporting functions."""

    path: Path
    format: DiskFormat
    overwrite: bool
    """Replace an existing file."""
    pad: bool
    """Add zeros at the end of a disk whose size a VHD cannot represent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDiskRequest:
    """A request for a single disk of a machine."""

    attachment: DiskAttachment = NO_ATTACHMENT_SETTINGS
    attach: str | None = None
    """A managed disk to attach as a data disk, by name or id. None is the disk of the image at this LUN."""
    resource_id: str | None = None
    """The id that the disk must have. A request for an existing machine may contain the id."""
    size_gib: int | None = None
    """The size that the disk must have. A disk is never larger than the disk of the image."""
    sku: StorageAccountType | None = None
    """The type that responses show for the disk, as in `DiskDetails.sku`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRequest:
    """A request to create a machine, or to change an existing machine."""

    group: str
    """The name of the resource group. A missing group is created."""
    name: str
    location: str | None = None
    """The region. None is the region of an attached OS disk, else of the group."""
    image: str | None = None
    """A managed image by name or id, or an image version or definition by id or path.

    A definition means the latest version.
    """
    attach_os_disk: str | None = None
    """A managed disk by name or id, in place of an image."""
    attach_data_disks: Sequence[str] = ()
    """Managed disks. Each gets the lowest LUN without a disk of the image."""
    disks: Mapping[str, MachineDiskRequest] = field(default_factory=dict)
    """Requests for single disks, by disk key."""
    replaces_disks: bool = False
    """Whether `disks` names all data disks of the machine."""
    os_type: OsType | None = None
    """The type for an attached OS disk without an OS type."""
    size: str | None = None
    """None is `SIZE`, or the size of an existing machine."""
    profile: OsProfile = NO_PROFILE
    secrets: MachineSecrets = NO_SECRETS
    """Values of the OS profile for the first start of a new machine."""
    specialized: bool = False
    """Whether the request calls the image specialized."""
    tags: Mapping[str, str] | None = None
    """None keeps the present tags."""
    extra_properties: Mapping[str, Any] = field(default_factory=lambda: NO_PROPERTIES)
    """Fields as in `Machine.extra_properties`. An existing machine keeps fields that the request does not contain."""
    interfaces: Mapping[str, bool] | None = None
    """Ids of network interfaces. The value is True if the deletion of the machine deletes the interface.

    None keeps the present interfaces.
    """
    may_create: bool = True
    """False changes an existing machine only, and never creates a machine."""

    def without_changes(self) -> "MachineRequest":
        """Return the request without values that may change an existing machine."""
        return replace(
            self, disks={}, replaces_disks=False, size=None, tags=None, extra_properties=NO_PROPERTIES, interfaces=None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSetRequest:
    """A request to create a scale set. A repeated request resumes an interrupted creation."""

    group: str
    """The name of the resource group. A missing group is created."""
    name: str
    image: str
    """As in `MachineRequest`."""
    capacity: int = 2
    """The number of instances. The default is the one of az."""
    location: str | None = None
    """The region. None is the region of the group."""
    size: str | None = None
    profile: OsProfile = NO_PROFILE
    """The computer name is the prefix of the computer names of instances."""
    secrets: MachineSecrets = NO_SECRETS
    tags: Mapping[str, str] | None = None
    upgrade_mode: UpgradeMode = UpgradeMode.MANUAL
    rolling: RollingPolicy = DEFAULT_ROLLING
    placement: PlacementPolicy = PlacementPolicy.ROUND_ROBIN
    allow_remote: bool = False
    """Whether the disks may be copied from another region, which is billed (invariant M32)."""
    attachments: Mapping[str, DiskAttachment] = field(default_factory=dict)
    """Settings of the disks of each instance by disk key."""
    extra_properties: Mapping[str, Any] = field(default_factory=lambda: NO_PROPERTIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionDetails:
    """Optional properties of a definition. None keeps the value of an existing definition."""

    description: str | None = None
    tags: Mapping[str, str] | None = None
    eula: str | None = None
    privacy_statement_uri: str | None = None
    release_note_uri: str | None = None
    end_of_life_at: datetime | None = None
    recommended_vcpus: RecommendedRange | None = None
    recommended_memory_gib: RecommendedRange | None = None
    disallowed_disk_types: tuple[DiskType, ...] | None = None
    purchase_plan: PurchasePlan | None = None
    features: tuple[Feature, ...] | None = None

    def given_values(self) -> dict[str, Any]:
        """Return the properties that are not None, by field name of the definition."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _no_pause(_length: int) -> None:
    """Do not limit the rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRequest:
    """The scope of a scrub."""

    percent: float = 100.0
    """The share of the segments to read. An equal seed selects equal segments. The scrub reads all manifests."""
    seed: int = 0
    region: str | None = None
    """None is all regions."""
    dry_run: bool = False
    """Read and report, and change nothing."""
    slot_uid: str | None = None
    """None is all slots."""
    repair_notes_only: bool = False
    """Read only objects with a repair note in a zone, and update the zones."""
    pace: Callable[[int], None] = _no_pause
    """Called with the bytes of each object after a read or a repair. The function may wait.

    The function may raise KeyboardInterrupt to stop the scrub.
    """
    bytes_per_second_max: int = 0
    """The limit for reads and repairs of this scrub, in addition to `pace`. 0 is no limit."""
    is_recorded: bool = True
    """Whether the scrub adds a row to the activity log."""
    runner: ScrubRunner = ScrubRunner.COMMAND
    """The runner of the interrupted passes that the scrub resumes."""
    takes_any_seed: bool = False
    """Whether the scrub also resumes a pass with another seed."""
    from_start: bool = False
    """Resume no pass, and read all slots from the start."""
