"""Results of operations, as the command line and the API show them."""

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
    """A definition and the gallery that it is in."""

    gallery: Gallery
    definition: ImageDefinition

    def version_id(self, version: VersionName) -> str:
        """The resource id of one of its versions."""
        gallery = self.gallery
        return names.version_id(gallery.subscription, gallery.group, gallery.name, self.definition.name, version)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version with its replicas and what it is in."""

    version: ImageVersion
    replicas: tuple[Replica, ...]
    """By region and ordinal; none that is being deleted."""
    definition_path: DefinitionPath
    gaps: tuple[ZoneGap, ...] = ()
    """What zones are known to miss of the replicas that lie in three; filled where one version is shown."""
    unreachable_slots: frozenset[str] = frozenset()
    """The uids of the slots whose store does not answer, as far as this host knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedImage:
    """A managed image with its disks."""

    os: ManagedDisk
    data: tuple[ManagedDisk, ...]
    """By LUN, from 0."""

    @property
    def provisioning_state(self) -> ProvisioningState:
        """Succeeded when all of its disks are, else that of the first that is not."""
        states = [each.provisioning_state for each in (self.os, *self.data)]
        return next(
            (state for state in states if state is not ProvisioningState.SUCCEEDED), ProvisioningState.SUCCEEDED
        )

    @property
    def by_key(self) -> Mapping[str, ManagedDisk]:
        """Its disks: "os", "lun-0" and so on."""
        return {each.disk_key: each for each in (self.os, *self.data)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineView:
    """A machine with its disks."""

    machine: Machine
    disks: tuple[ManagedDisk, ...]
    """The OS disk, then by LUN."""

    @property
    def os_disk(self) -> ManagedDisk:
        """The first of them: a machine is made with one, and it is not deleted while it is attached."""
        return self.disks[0]

    @property
    def data_disks(self) -> tuple[ManagedDisk, ...]:
        """The others."""
        return self.disks[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecordView:
    """One as it is seen."""

    resource: NetworkRecord
    machine_id: str | None
    """Of the machine that names it, if one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that was written."""

    path: Path
    format: DiskFormat
    virtual_bytes: int
    """Of the disk, or of the part of it that was asked for."""
    file_bytes: int
    """Apparent size; the file is sparse."""
    disk_digest: Digest
    """Of the whole disk."""
    source: str
    """The resource id that it was made from."""
    replica: int
    """The ordinal of the replica that was read."""
