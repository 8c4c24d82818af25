"""Records of virtual machines: attached disks, the generalized state, and secrets for the first start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from imgstore.domain import names
from imgstore.domain.disks.version_disks import HostCaching, default_caching, disk_key
from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import HyperVGeneration, OsProperties, OsState, OsType
from imgstore.domain.states import ProvisioningState
from imgstore.domain.tags import NO_TAGS

MACHINE: Final = "virtualMachines"
"""Azure's name of the resource type."""

SCALE_SET: Final = "virtualMachineScaleSets"
"""Azure's name of the type of scale sets."""

SIZE: Final = "Standard_DS1_v2"
"""The default size of az."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_NAME_IN_DISK_CHARACTERS: Final = 32
"""A disk name has at most 80 characters. The limit leaves space for the suffix and the uid of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskAttachment:
    """Settings of a disk in a machine. None is unset."""

    name: str | None = None
    """The name of a disk that is created for the machine. An attached disk keeps its name."""
    caching: HostCaching | None = None
    deleted_with_machine: bool | None = None
    """Whether the deletion of the machine deletes the disk."""

    def with_defaults(self, defaults: "DiskAttachment") -> "DiskAttachment":
        """Return the settings, with the values of `defaults` for unset settings."""
        return DiskAttachment(
            name=self.name or defaults.name,
            caching=self.caching or defaults.caching,
            deleted_with_machine=(
                defaults.deleted_with_machine if self.deleted_with_machine is None else self.deleted_with_machine
            ),
        )


NO_ATTACHMENT_SETTINGS: Final = DiskAttachment()
"""No setting."""
NO_PROPERTIES: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A virtual machine. The disks are separate rows that name the machine."""

    uid: str
    subscription: str
    group: str
    """The name of the group."""
    name: str
    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    size: str = SIZE
    """Azure's name of a size (`domain/machine_sizes.py`). Only a start depends on the size."""
    image_reference: str | None
    """The resource id of the source image or image version. None if the OS disk is an attached disk."""
    os_type: OsType | None = None
    hyper_v_generation: HyperVGeneration | None = None
    admin_username: str | None = None
    computer_name: str | None = None
    generalized: bool = False
    """Whether machine-specific data was removed from the disks. A managed image requires a generalized machine."""
    attachments: Mapping[str, DiskAttachment] = field(default_factory=lambda: NO_PROPERTIES)
    """Settings of disks by disk key."""
    extra_properties: Mapping[str, Any] = field(default_factory=lambda: NO_PROPERTIES)
    """Other fields of the request as JSON by path, shown in responses and never interpreted.

    The fields contain no secrets.
    """
    created_at: datetime
    provisioning_state: ProvisioningState
    scale_set_uid: str | None = None
    """The scale set of an instance. None for a machine that is no instance (`domain/scale_sets.py`)."""
    instance_id: int | None = None

    @property
    def resource_id(self) -> str:
        """The resource id. The id of an instance has the name of the set, and the name of the instance ends in its number."""
        if self.instance_id is None:
            return names.compute_id(self.subscription, self.group, MACHINE, self.name)
        above = names.compute_id(self.subscription, self.group, SCALE_SET, self.name.rpartition("_")[0])
        return f"{above}/{MACHINE}/{self.instance_id}"

    @property
    def os_properties(self) -> OsProperties:
        """The OS properties of the machine's disks."""
        state = OsState.GENERALIZED if self.generalized else OsState.SPECIALIZED
        return OsProperties(os_type=self.os_type, os_state=state, hyper_v_generation=self.hyper_v_generation)

    def disk_name(self, lun: int | None) -> str:
        """Return the name for a new disk of this machine.

        Without a name in the request, the name contains the uid, so that a later machine of the same name gets other
        names.
        """
        if requested := self.attachment(lun).name:
            return requested
        part = "OsDisk_1" if lun is None else f"DataDisk_{lun}"
        return f"{self.name[:_NAME_IN_DISK_CHARACTERS]}_{part}_{self.uid.replace('-', '')}"

    def attachment(self, lun: int | None) -> DiskAttachment:
        """Return the settings of the data disk at a LUN. None is the OS disk."""
        return self.attachments.get(disk_key(lun), NO_ATTACHMENT_SETTINGS)

    def caching(self, lun: int | None) -> HostCaching:
        """Return the host caching of the data disk at a LUN. None is the OS disk."""
        return self.attachment(lun).caching or default_caching(lun)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSecrets:
    """Values of the OS profile that only the seed of the first start contains."""

    password_hash: str | None = None
    """A hash in the format of crypt(3). The plain password is in no file and no catalog."""
    custom_data: str | None = None
    """Custom data in base64, as Azure's clients send the data."""


NO_SECRETS: Final = MachineSecrets()
"""A machine without a password and custom data."""


def check_machine_name(name: str) -> str:
    """Return `name` if valid for a machine.

    Azure: 64 characters. The computer name of a Windows machine has at most 15 characters.
    """
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
    """Return the lowest LUNs that are not taken."""
    return [lun for lun in range(len(taken) + count) if lun not in taken][:count]
