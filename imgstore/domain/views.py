"""Results of operations. The command line and the API show these values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgstore.domain import names
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.machines import Machine
from imgstore.domain.names import VersionName
from imgstore.domain.network_records import NetworkRecord
from imgstore.domain.resources import (
    Gallery,
    ImageDefinition,
    ImageVersion,
    ManagedDisk,
    Replica,
    ZoneGap,
)
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.digests import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionPath:
    """A definition and the gallery of the definition."""

    gallery: Gallery
    definition: ImageDefinition

    def version_id(self, version: VersionName) -> str:
        """Return the resource id of a version of this definition."""
        gallery = self.gallery
        return names.version_id(gallery.subscription, gallery.group, gallery.name, self.definition.name, version)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version with the replicas, the definition and the gallery."""

    version: ImageVersion
    replicas: tuple[Replica, ...]
    """Replicas by region and ordinal, except replicas in state Deleting."""
    definition_path: DefinitionPath
    gaps: tuple[ZoneGap, ...] = ()
    """Objects that a zone is known to miss, for replicas in three zones. Empty in lists of versions."""
    unreachable_slots: frozenset[str] = frozenset()
    """The uids of slots with a store that does not answer, in the view of this host."""
    is_idle: bool = False
    """Whether replicas are missing, and no process works on the version or will by itself. False in lists of versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedImage:
    """A managed image with all disks."""

    os: ManagedDisk
    data: tuple[ManagedDisk, ...]
    """Data disks by LUN, from 0."""

    @property
    def provisioning_state(self) -> ProvisioningState:
        """Succeeded if all disks are Succeeded, else the state of the first other disk."""
        states = [each.provisioning_state for each in (self.os, *self.data)]
        return next(
            (state for state in states if state is not ProvisioningState.SUCCEEDED), ProvisioningState.SUCCEEDED
        )

    @property
    def by_key(self) -> Mapping[str, ManagedDisk]:
        """The disks by disk key: "os", "lun-0" and so on."""
        return {each.disk_key: each for each in (self.os, *self.data)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineView:
    """A machine with all disks."""

    machine: Machine
    disks: tuple[ManagedDisk, ...]
    """The OS disk, then the data disks by LUN."""

    @property
    def os_disk(self) -> ManagedDisk:
        """The OS disk. Each machine has an OS disk, because an attached disk cannot be deleted."""
        return self.disks[0]

    @property
    def data_disks(self) -> tuple[ManagedDisk, ...]:
        """The data disks by LUN."""
        return self.disks[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecordView:
    """A network record with the machine that uses the record."""

    resource: NetworkRecord
    machine_id: str | None
    """The resource id of a machine that names the record, else None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that an export wrote."""

    path: Path
    format: DiskFormat
    virtual_bytes: int
    """The size of the disk, or of the requested range."""
    file_bytes: int
    """The apparent size. The file is sparse."""
    disk_digest: Digest
    """The digest of the whole disk."""
    source: str
    """The resource id of the exported version or disk."""
    replica: int
    """The ordinal of the replica that was read."""
