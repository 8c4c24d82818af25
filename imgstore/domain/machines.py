"""Machines as records: which disks are attached to what, and whether it was generalized. Nothing here boots."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from imgstore.domain import names
from imgstore.domain.disks.version_disks import HostCaching, default_caching, disk_key
from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import NO_TAGS, HyperVGeneration, OsProperties, OsState, OsType
from imgstore.domain.states import ProvisioningState

MACHINE: Final = "virtualMachines"
"""Azure's word for the type."""

SIZE: Final = "Standard_DS1_v2"
"""az's, where nobody says."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_NAME_IN_DISK_CHARACTERS: Final = 32
"""A disk's name has 80 characters: room for the longest tail, and for what tells two machines apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskAttachment:
    """How a machine has a disk. What nobody said is None."""

    name: str | None = None
    """What the disk is called that is made for it; an attached one has its own name."""
    caching: HostCaching | None = None
    deleted_with_machine: bool | None = None
    """Whether the disk goes when the machine is deleted, instead of staying."""

    def over(self, other: "DiskAttachment") -> "DiskAttachment":
        """What this says, and `other` where this says nothing."""
        return DiskAttachment(
            name=self.name or other.name,
            caching=self.caching or other.caching,
            deleted_with_machine=(
                other.deleted_with_machine if self.deleted_with_machine is None else self.deleted_with_machine
            ),
        )


NO_ATTACHMENT_SETTINGS: Final = DiskAttachment()
"""Nothing said."""
NO_PROPERTIES: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A virtual machine. Its disks are rows of their own that name it."""

    uid: str
    subscription: str
    group: str
    """The group's name."""
    name: str
    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    size: str = SIZE
    """Azure's name of a size. Kept and shown; nothing here depends on it."""
    image_reference: str | None
    """The resource id of the image version or managed image that its disks were made from; None has attached disks."""
    os_type: OsType | None = None
    hyper_v_generation: HyperVGeneration | None = None
    admin_username: str | None = None
    computer_name: str | None = None
    generalized: bool = False
    """Whether machine-specific facts were removed from its disks: from then on images are made from it."""
    attachments: Mapping[str, DiskAttachment] = field(default_factory=lambda: NO_PROPERTIES)
    """How it has its disks, by disk key, where anything was said of one."""
    extra_properties: Mapping[str, Any] = field(default_factory=lambda: NO_PROPERTIES)
    """What else was said of it, as JSON by path: kept for the answer, and never looked into. No secrets are among it."""
    created_at: datetime
    provisioning_state: ProvisioningState

    @property
    def resource_id(self) -> str:
        """Its id."""
        return names.compute_id(self.subscription, self.group, MACHINE, self.name)

    @property
    def os_properties(self) -> OsProperties:
        """What it says of the system on its disks."""
        state = OsState.GENERALIZED if self.generalized else OsState.SPECIALIZED
        return OsProperties(os_type=self.os_type, os_state=state, hyper_v_generation=self.hyper_v_generation)

    def disk_name(self, lun: int | None) -> str:
        """What a disk is called that is made for it; unsaid, one that a machine of the same name that comes later has not."""
        if said := self.attachment(lun).name:
            return said
        part = "OsDisk_1" if lun is None else f"DataDisk_{lun}"
        return f"{self.name[:_NAME_IN_DISK_CHARACTERS]}_{part}_{self.uid.replace('-', '')}"

    def attachment(self, lun: int | None) -> DiskAttachment:
        """How it has the data disk at a LUN; None is its OS disk."""
        return self.attachments.get(disk_key(lun), NO_ATTACHMENT_SETTINGS)

    def caching(self, lun: int | None) -> HostCaching:
        """How its host caches that disk."""
        return self.attachment(lun).caching or default_caching(lun)


def check_machine_name(name: str) -> str:
    """`name`, if a machine may be called so (Azure: 64 characters, of Windows 15 as its computer name)."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "The virtual machine name is invalid.",
            found=repr(name),
            expected="1 to 64 letters, digits, '_', '-' and '.', starting with a letter or digit",
            hint="choose another name",
            target="vmName",
        )
    return name


def free_luns(taken: set[int], count: int) -> list[int]:
    """The lowest LUNs that are not taken."""
    return [lun for lun in range(len(taken) + count) if lun not in taken][:count]
