"""Managed images: an OS disk and data disks by LUN, each a reference or taken in, shown and deleted together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from imgstore.domain import names
from imgstore.domain.access import Action, Principal
from imgstore.domain.resources import UNDECLARED, Declared, DiskKind, ManagedDisk, StorageAccountType
from imgstore.domain.sources import DiskFormat
from imgstore.domain.states import ProvisioningState
from imgstore.domain.version_disks import OS_DISK
from imgstore.operations import disks, finding
from imgstore.operations.groups import permit_group
from imgstore.operations.installation import Installation
from imgstore.operations.making import DiskRequest, make_disks
from imgstore.operations.recording import recorded

_LUN = "lun-"


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
        return {each.part: each for each in (self.os, *self.data)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A managed image as it is asked for."""

    group: str
    """The resource group's name; made where it is missing."""
    name: str
    source: str
    """Of the OS disk: a disk or snapshot by name or id, or a file as `DiskRequest.source`."""
    data_sources: Sequence[str] = ()
    """Of the data disks, likewise, by LUN from 0."""
    location: str | None = None
    """The region; None is the source's, and for a file the group's."""
    storage_account_type: StorageAccountType | None = None
    """For disks from files; None is Standard_LRS."""
    declared: Declared = UNDECLARED
    """What is said of the system; the OS disk's source says the rest, and an image that says no state is Generalized."""
    source_format: DiskFormat | None = None
    """What files are; None looks at them."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""


def create_image(installation: Installation, principal: Principal, request: ImageRequest) -> ManagedImage:
    """Make a managed image. The same command again goes on where it was killed, or does nothing.

    Raises:
        InvalidInput: no such source, one in another region, or one that declares another system.
        ImageRefused: a file is.
        PropertyChangeNotAllowed: it exists, from other sources or in another region.
        StoreError: a file could not be taken in; the same command goes on.
    """
    names.check_disk_name(request.name, DiskKind.IMAGE.noun)
    scope = names.compute_id(installation.subscription, request.group, DiskKind.IMAGE, request.name)
    permit_group(installation, principal, request.group)
    with recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/images/write"):
        data = [(f"{_LUN}{lun}", source) for lun, source in enumerate(request.data_sources)]
        made = make_disks(
            installation,
            principal,
            [
                _part(request, OS_DISK, request.source, request.declared),
                *(_part(request, part, source, UNDECLARED) for part, source in data),
            ],
        )
        return ManagedImage(os=made[0], data=tuple(made[1:]))


def _part(request: ImageRequest, part: str, source: str, declared: Declared) -> DiskRequest:
    return DiskRequest(
        kind=DiskKind.IMAGE,
        group=request.group,
        name=request.name,
        part=part,
        source=source,
        location=request.location,
        storage_account_type=request.storage_account_type,
        declared=declared,
        source_format=request.source_format,
        tags=request.tags,
    )


def show_image(installation: Installation, principal: Principal, *, group: str, name: str) -> ManagedImage:
    """The managed image of that name."""
    found = [each for each in list_images(installation, principal, group=group) if each.os.name.lower() == name.lower()]
    if not found:
        raise finding.no_disk(installation.subscription, group, name, DiskKind.IMAGE)
    return found[0]


def list_images(installation: Installation, principal: Principal, *, group: str | None = None) -> list[ManagedImage]:
    """The managed images of a group, or of the subscription, by name."""
    standing = disks.list_disks(installation, principal, group=group, kind=DiskKind.IMAGE)
    standing.sort(key=lambda each: (each.group.lower(), each.name.lower()))
    return [
        image
        for _, parts in groupby(standing, key=lambda each: (each.group.lower(), each.name.lower()))
        if (image := whole_image(list(parts))) is not None
    ]


def whole_image(parts: Sequence[ManagedDisk]) -> ManagedImage | None:
    """The image that these are the disks of; None without an OS disk."""
    os_disk = next((each for each in parts if each.part == OS_DISK), None)
    if os_disk is None:
        return None
    data = sorted((each for each in parts if each.part != OS_DISK), key=lambda each: int(each.part.removeprefix(_LUN)))
    return ManagedImage(os=os_disk, data=tuple(data))
