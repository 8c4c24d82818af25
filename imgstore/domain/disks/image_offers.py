"""What an image version offers in one region: all that making disks of it there takes, and no more."""

from dataclasses import dataclass

from imgstore.domain.disks.version_disks import VersionDisk, check_has_disk
from imgstore.domain.resources import DiskType, OsProperties, OsState, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOffer:
    """An image version that is complete in a region.

    It is asked for at every placement, hundreds of times a second: of the eighty columns that gallery, definition and
    version have it needs ten.
    """

    source: str
    """The version's resource id."""
    version_uid: str
    definition: str
    """The definition's name."""
    os_state: OsState
    os_properties: OsProperties
    """What the definition says of the system on it."""
    disallowed_disk_types: tuple[DiskType, ...]
    disks: tuple[VersionDisk, ...]
    """The OS disk, then the data disks by LUN."""
    slots: tuple[Slot, ...]
    """Those of the complete replicas of the region, by ordinal and storage account type; at least one."""

    @property
    def disk_keys(self) -> tuple[str, ...]:
        """Of all its disks, in their order."""
        return tuple(disk.key for disk in self.disks)

    def disk(self, key: str) -> VersionDisk:
        """The disk of that key.

        Raises:
            ImageNotAvailable: it has none.
        """
        check_has_disk(self.disk_keys, key, self.source)
        return next(disk for disk in self.disks if disk.key == key)
