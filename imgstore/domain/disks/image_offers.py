"""The data of an image version in a region that the creation of disks needs."""

from dataclasses import dataclass

from imgstore.domain.disks.version_disks import VersionDisk, check_has_disk
from imgstore.domain.resources import DiskType, OsProperties, OsState, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOffer:
    """An image version that is complete in a region.

    Each placement reads an offer, hundreds of times per second. An offer has ten of the eighty columns of gallery,
    definition and version.
    """

    source: str
    """The resource id of the version."""
    version_uid: str
    definition: str
    """The name of the definition."""
    os_state: OsState
    os_properties: OsProperties
    """The OS properties of the definition."""
    disallowed_disk_types: tuple[DiskType, ...]
    disks: tuple[VersionDisk, ...]
    """The OS disk, then the data disks by LUN."""
    slots: tuple[Slot, ...]
    """The slots of the complete replicas in the region, by ordinal and storage account type. At least one slot."""

    @property
    def disk_keys(self) -> tuple[str, ...]:
        """The keys of all disks, in order."""
        return tuple(disk.key for disk in self.disks)

    def disk(self, key: str) -> VersionDisk:
        """Return the disk with a disk key.

        Raises:
            ImageNotAvailable: the version has no such disk.
        """
        check_has_disk(self.disk_keys, key, self.source)
        return next(disk for disk in self.disks if disk.key == key)
