"""Requests to operations, as the command line and the API parse them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from imgstore.domain.disks.disk_details import NO_DETAILS, DiskDetails
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import (
    OS_DISK,
    HostCaching,
    check_luns,
)
from imgstore.domain.errors import (
    InvalidInput,
)
from imgstore.domain.machines import (
    MACHINE,
    NO_ATTACHMENT_SETTINGS,
    NO_PROPERTIES,
    DiskAttachment,
)
from imgstore.domain.names import ComputeId, ImageReference, SharedReference, VersionName, parse_image_reference
from imgstore.domain.resources import (
    KEEP,
    NO_OS_PROPERTIES,
    DiskKind,
    DiskType,
    Feature,
    OsProperties,
    OsType,
    PurchasePlan,
    Recommended,
    ReplicationMode,
    StorageAccountType,
    TargetRegionRequest,
    VersionUpdate,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A managed image as it is asked for."""

    group: str
    """The resource group's name; made where it is missing."""
    name: str
    source: str
    """Of the OS disk: a disk or snapshot by name or id, or a file as `DiskRequest.source`.

    Or a machine that was generalized, by name or id: all its disks, at their LUNs.
    """
    data_sources: Sequence[str] = ()
    """Of the data disks, likewise, by LUN from 0."""
    location: str | None = None
    """The region; None is the source's, and for a file the group's."""
    storage_account_type: StorageAccountType | None = None
    """For disks from files; None is Standard_LRS."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    """What is said of the system; the OS disk's source says the rest, and an image that says no state is Generalized."""
    source_format: DiskFormat | None = None
    """What files are; None looks at them."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""
    details: Mapping[str, DiskDetails] = field(default_factory=dict)
    """What else is said of disks, by disk key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OsProfile:
    """What a generalized image is given when a machine is made of it."""

    admin_username: str | None = None
    computer_name: str | None = None
    has_other_fields: bool = False
    """Something else of it was said."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it was said."""
        return self.admin_username is None and self.computer_name is None and not self.has_other_fields


NO_PROFILE: Final = OsProfile()
"""Nothing said."""


_NOTHING_SAID: Final[Mapping[str, HostCaching]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class DataVhd:
    """A data disk, as a file somewhere."""

    lun: int
    uri: str
    """A path, file://, s3:// or https://, of any container that is read."""
    format: DiskFormat | None = None
    """What the file is; None looks at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSnapshot:
    """A data disk that is stored here."""

    lun: int
    source: str
    """A snapshot or managed disk, by name or id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSource:
    """What a version is to be made from: all disks of one resource, or an OS disk and data disks each by itself."""

    os_vhd_uri: str | None = None
    """A file: a path, file://, s3:// or https://."""
    os_snapshot: str | None = None
    """A snapshot or managed disk by name or id."""
    managed_image: str | None = None
    """A managed image by name or id, or an image version by its id: with its data disks."""
    image_version: str | None = None
    """An image version by its id, as rg/gallery/definition/version, or of a shared gallery: with its data disks."""
    virtual_machine: str | None = None
    """A machine by name or id, generalized or not: with its data disks."""
    data_vhds: tuple[DataVhd, ...] = ()
    data_snapshots: tuple[DataSnapshot, ...] = ()

    @property
    def is_single_resource(self) -> bool:
        """Whether one resource says all of the version's disks."""
        return self.os_vhd_uri is None and self.os_snapshot is None

    @property
    def is_image_or_machine(self) -> bool:
        """Whether it is a managed image or a machine: Azure's host caching of data disks is another for these."""
        return self.is_single_resource and self.reference is None

    @property
    def machine(self) -> str | None:
        """The machine that is meant, if it is one: az takes its id for a managed image's too."""
        named = None if self.managed_image is None else ComputeId.parse(self.managed_image)
        is_machine = named is not None and named.kind == MACHINE.lower()
        return self.managed_image if is_machine else self.virtual_machine

    @property
    def reference(self) -> ImageReference | SharedReference | None:
        """The image version that is meant, if it is one."""
        word = self.image_version
        if word is None and self.managed_image is not None and "/versions/" in self.managed_image.lower():
            word = self.managed_image
        return None if word is None else parse_image_reference(word)

    def check(self) -> None:
        """Refuse no source and more than one, and data disks that cannot stand beside it.

        Raises:
            InvalidInput: so it is.
        """
        words = {
            "--os-vhd-uri": self.os_vhd_uri,
            "--os-snapshot": self.os_snapshot,
            "--managed-image": self.managed_image,
            "--image-version": self.image_version,
            "--virtual-machine": self.virtual_machine,
        }
        given = [flag for flag, word in words.items() if word is not None]
        data = {"--data-vhds-uris": self.data_vhds, "--data-snapshots": self.data_snapshots}
        beside = [flag for flag, disks in data.items() if disks]
        if len(given) != 1 or (self.is_single_resource and beside):
            raise InvalidInput(
                "The gallery artifact version source can only be specified either directly under storageProfile or "
                "within individual OS or data disks. One and only one source type (user image, snapshot, disk, virtual "
                "machine) can be provided",
                found=", ".join([*given, *beside]) or "no source",
                expected=f"one of {', '.join(words)}; data disks of their own with the first two alone",
                hint="name one source: of an image all data disks are taken anyway",
                target="properties.storageProfile",
            )
        check_luns([*(each.lun for each in self.data_vhds), *(each.lun for each in self.data_snapshots)])


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRequest:
    """A version as it is asked for."""

    group: str
    """The resource group's name."""
    gallery: str
    definition: str
    version: VersionName
    location: str | None = None
    """The source region; None is the gallery's."""
    target_regions: Sequence[TargetRegionRequest] = ()
    """Where to, all of them; empty is the source region alone, or where a version that stands is."""
    replica_count: int | None = None
    """For the regions that name none; None is 1, or as it stands."""
    storage_account_type: StorageAccountType | None = None
    """For the regions that name none; None is Standard_LRS, or as it stands; of a Shallow version the source's."""
    replication_mode: ReplicationMode | None = None
    """None is Full, or as it stands."""
    exclude_from_latest: bool | None = None
    """None leaves it as it is."""
    end_of_life_at: datetime | None = None
    """None leaves it as it is."""
    allow_deletion_of_replicated_locations: bool | None = None
    """None leaves it as it is."""
    block_deletion_before_end_of_life: bool | None = None
    """None leaves it as it is."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""
    sha256: str | None = None
    """Of the OS disk's file, checked before anything is stored."""
    bases: Sequence[VersionName] = ()
    """Versions to be compared with besides those that are chosen."""
    verify_full: bool = False
    """Read the whole disks back before they are published."""
    host_caching: Mapping[str, HostCaching] = field(default_factory=lambda: _NOTHING_SAID)
    """Of disks, by key; Azure's default, or as it stands, for those that are not there."""

    def as_update(self) -> VersionUpdate:
        """What it asks of a version that stands."""
        return VersionUpdate(
            target_regions=self.target_regions,
            replica_count=self.replica_count,
            storage_account_type=self.storage_account_type,
            exclude_from_latest=self.exclude_from_latest,
            end_of_life_at=KEEP if self.end_of_life_at is None else self.end_of_life_at,
            allow_deletion_of_replicated_locations=self.allow_deletion_of_replicated_locations,
            block_deletion_before_end_of_life=self.block_deletion_before_end_of_life,
            tags=self.tags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRequest:
    """A disk, a snapshot or a disk of a managed image, as it is asked for."""

    kind: DiskKind = DiskKind.DISK
    group: str
    """The resource group's name; made where it is missing."""
    name: str
    disk_key: str = OS_DISK
    source: str
    """A disk or snapshot by name or id, or a path, file://, s3:// or https:// of any container that is read."""
    location: str | None = None
    """The region; None is the source's, and for a file the group's."""
    storage_account_type: StorageAccountType | None = None
    """None is the source's, and for a file Standard_LRS."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    """What is said of the system on it; a copy inherits what is not said."""
    source_format: DiskFormat | None = None
    """What a file is; None looks at it."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""
    details: DiskDetails = NO_DETAILS

    @property
    def display_name(self) -> str:
        """What is to be made, as people know it."""
        return f"{self.kind.noun} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """A disk from an upload, as it is asked for."""

    group: str
    """The resource group's name; made where it is missing."""
    name: str
    location: str | None = None
    """The region; None is the group's."""
    upload_bytes: int
    """Of the fixed VHD that will come, its footer of 512 bytes included."""
    storage_account_type: StorageAccountType | None = None
    """None is Standard_LRS."""
    os_properties: OsProperties = NO_OS_PROPERTIES
    """What is said of the system on it."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""
    details: DiskDetails = NO_DETAILS


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDiskRequest:
    """What is said of one disk of a machine."""

    attachment: DiskAttachment = NO_ATTACHMENT_SETTINGS
    attach: str | None = None
    """A managed disk by name or id, for a data disk; None is one that the image has there."""
    resource_id: str | None = None
    """It is this very disk: said of a machine that stands."""
    size_gib: int | None = None
    """It has this size: disks are not made larger than their image."""
    sku: StorageAccountType | None = None
    """The type that the disk is to be shown with, as `DiskDetails.sku`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRequest:
    """A machine as it is asked for."""

    group: str
    """The resource group's name; made where it is missing."""
    name: str
    location: str | None = None
    """The region; None is that of an attached OS disk, else the group's."""
    image: str | None = None
    """A managed image by name or id, or an image version or definition (its latest) by id or path."""
    attach_os_disk: str | None = None
    """Instead of an image: a managed disk by name or id."""
    attach_data_disks: Sequence[str] = ()
    """Managed disks, at the lowest LUNs that the image leaves."""
    disks: Mapping[str, MachineDiskRequest] = field(default_factory=dict)
    """What is said of single disks, by disk key."""
    replaces_disks: bool = False
    """Those are all data disks that the machine is to have."""
    os_type: OsType | None = None
    """Of an attached OS disk that does not say."""
    size: str | None = None
    """None is `SIZE`, or as it stands."""
    profile: OsProfile = NO_PROFILE
    specialized: bool = False
    """The image is said to be."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""
    extra_properties: Mapping[str, Any] = field(default_factory=lambda: NO_PROPERTIES)
    """As `Machine.extra_properties`; of a machine that stands, what is not named stays."""
    interfaces: Mapping[str, bool] | None = None
    """The ids of network interfaces, and whether each goes with the machine; None leaves them as they are."""
    may_create: bool = True
    """False changes one that stands, and makes none."""

    def without_changes(self) -> "MachineRequest":
        """Return the same request, silent about all that may change of a machine that exists."""
        return replace(
            self, disks={}, replaces_disks=False, size=None, tags=None, extra_properties=NO_PROPERTIES, interfaces=None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionDetails:
    """What a definition may tell besides; None is not said: an existing definition keeps what it has."""

    description: str | None = None
    tags: Mapping[str, str] | None = None
    eula: str | None = None
    privacy_statement_uri: str | None = None
    release_note_uri: str | None = None
    end_of_life_at: datetime | None = None
    recommended_vcpus: Recommended | None = None
    recommended_memory_gib: Recommended | None = None
    disallowed_disk_types: tuple[DiskType, ...] | None = None
    purchase_plan: PurchasePlan | None = None
    features: tuple[Feature, ...] | None = None

    def given_values(self) -> dict[str, Any]:
        """Those that are said, by the name of the definition's field."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _no_pause(_length: int) -> None:
    """Let everything be read as fast as it comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRequest:
    """What is to be read."""

    percent: float = 100.0
    """How many of the segments: the same ones for the same seed. Manifests are all read."""
    seed: int = 0
    region: str | None = None
    """None is every region."""
    dry_run: bool = False
    """Read and tell; change nothing."""
    slot_uid: str | None = None
    """None is every slot."""
    repair_notes_only: bool = False
    """Read only what the zones' repair notes name, and bring the zones up to date."""
    pace: Callable[[int], None] = _no_pause
    """Told the bytes of each object that was read or repaired. It may wait, and may raise KeyboardInterrupt to stop."""
    is_recorded: bool = True
    """Whether the activity log gets a row."""
