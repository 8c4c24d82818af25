"""Scale sets: a model of equal machines, and the number of machines. An instance is a machine with the uid of a set.

Limits and names are Azure's: https://learn.microsoft.com/azure/virtual-machine-scale-sets/virtual-machine-scale-sets-faq
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from imgstore.domain import names
from imgstore.domain.errors import InvalidInput
from imgstore.domain.machines import SCALE_SET, SIZE, DiskAttachment
from imgstore.domain.resources import HyperVGeneration, OsType
from imgstore.domain.rolling_updates import RollingUpdate
from imgstore.domain.states import ProvisioningState
from imgstore.domain.tags import NO_TAGS

INSTANCES_MAX: Final = 1_000
"""Instances of a set from an image version."""
MANAGED_IMAGE_INSTANCES_MAX: Final = 600
"""Instances of a set from a managed image."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_ID_CHARACTERS: Final = 6
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NO_PROPERTIES: Final[Mapping[str, Any]] = MappingProxyType({})
_NO_ATTACHMENTS: Final[Mapping[str, DiskAttachment]] = MappingProxyType({})


class UpgradeMode(StrEnum):
    """How the instances get a changed model of their set."""

    MANUAL = "Manual"
    AUTOMATIC = "Automatic"
    ROLLING = "Rolling"


class PlacementPolicy(StrEnum):
    """How new instances are distributed over the replicas of a region."""

    ROUND_ROBIN = "round-robin"
    """The next replica of the counter that all disks and machines of the version share."""
    LEAST_BUSY = "least-busy"
    """The replica whose slot has the fewest disks of the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingPolicy:
    """Azure's settings of a rolling update."""

    batch_percent: int = 20
    """Instances of a batch, in percent of all instances."""
    unhealthy_percent_max: int = 20
    """Unhealthy instances of the whole set that still permit the next batch, in percent."""
    unhealthy_updated_percent_max: int = 20
    """Unhealthy instances among the updated instances that still permit the next batch, in percent."""
    pause_seconds: int = 0
    """The wait between two batches."""


DEFAULT_ROLLING: Final = RollingPolicy()
"""Azure's defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSet:
    """A scale set. Its instances are rows of machines with the uid of the set."""

    uid: str
    subscription: str
    group: str
    """The name of the group."""
    name: str
    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    size: str = SIZE
    """Azure's name of a size (`domain/machine_sizes.py`)."""
    capacity: int
    """The number of instances that the set has, or will have after the present change."""
    former_capacity: int | None = None
    """The number of instances before the present change, to which a failed change returns. None without a change."""
    next_instance_id: int = 0
    """The id of the next new instance. Ids are not used again."""
    image_reference: str
    """The image of the request: the resource id of a definition (the latest version), a version or a managed image."""
    source_reference: str
    """The resource id of the image version or managed image of new instances."""
    os_type: OsType | None = None
    hyper_v_generation: HyperVGeneration | None = None
    admin_username: str | None = None
    computer_name_prefix: str | None = None
    upgrade_mode: UpgradeMode = UpgradeMode.MANUAL
    rolling: RollingPolicy = DEFAULT_ROLLING
    placement: PlacementPolicy = PlacementPolicy.ROUND_ROBIN
    allow_remote: bool = False
    """Whether new instances may be made from another region, which is billed (invariant M32)."""
    attachments: Mapping[str, DiskAttachment] = field(default_factory=lambda: _NO_ATTACHMENTS)
    """Settings of the disks of each instance by disk key."""
    extra_properties: Mapping[str, Any] = field(default_factory=lambda: _NO_PROPERTIES)
    """Other fields of the request as JSON by path, shown in responses and never interpreted. No secrets."""
    rolling_update: RollingUpdate | None = None
    """The last rolling update. None before the first update."""
    created_at: datetime
    provisioning_state: ProvisioningState

    @property
    def resource_id(self) -> str:
        """The resource id."""
        return names.compute_id(self.subscription, self.group, SCALE_SET, self.name)

    @property
    def is_from_managed_image(self) -> bool:
        """Whether the instances are copies of a managed image."""
        return names.ComputeId.parse(self.source_reference) is not None

    def instance_name(self, instance_id: int) -> str:
        """Return the name of an instance."""
        return f"{self.name}_{instance_id}"

    def computer_name(self, instance_id: int) -> str | None:
        """Return the computer name of an instance: the prefix and six digits of base 36. None without an OS profile."""
        if self.computer_name_prefix is None:
            return None
        return f"{self.computer_name_prefix}{_base_36(instance_id)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSetLease:
    """The right to change a set until the expiry. Each write of the change compares the token."""

    uid: str
    """The uid of the set."""
    token: int


def check_scale_set_name(name: str) -> str:
    """Return `name` if valid for a scale set. Azure: 64 characters."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "The scale set name is invalid.",
            found=repr(name),
            expected="1 to 64 letters, digits, '_', '-' and '.', starting with a letter or digit",
            hint="choose another name",
            target="vmScaleSetName",
        )
    return name


def check_capacity(capacity: int, *, is_managed_image: bool) -> int:
    """Return `capacity` if a set may have so many instances.

    Raises:
        InvalidInput: the number is negative, or above Azure's limit.
    """
    most = MANAGED_IMAGE_INSTANCES_MAX if is_managed_image else INSTANCES_MAX
    if not 0 <= capacity <= most:
        source = "a managed image" if is_managed_image else "an image version"
        raise InvalidInput(
            f"A scale set from {source} has at most {most} instances.",
            found=f"{capacity} instances",
            expected=f"0 to {most} instances",
            hint="use a lower capacity"
            + (f", or publish the image in a gallery: up to {INSTANCES_MAX} instances" if is_managed_image else ""),
            target="sku.capacity",
        )
    return capacity


def _base_36(number: int) -> str:
    digits = ""
    while number or len(digits) < _ID_CHARACTERS:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
