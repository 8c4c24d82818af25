"""Details of a stored disk in a request: conditions on the disk, and fields that imgstore only stores and shows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import ManagedDisk, StorageAccountType
from imgstore.domain.storage.sizes import GIB

SKU: Final = "sku.name"
"""The path of `DiskDetails.sku`, also in `DiskDetails.extra_properties`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskDetails:
    """Details of a disk, a snapshot or a disk of a managed image."""

    size_gib: int | None = None
    """The size that the disk must have, rounded up to GiB. None is any size."""
    size_path: str = "properties.diskSizeGB"
    """The path of the size in the request."""
    sku: StorageAccountType | None = None
    """The type that responses show for the disk. None is the stored type."""
    sku_path: str = SKU
    zone_resilient: bool | None = None
    """Whether the disk must be stored in three zones. None is either."""
    extra_properties: Mapping[str, Any] | None = None
    """Fields by path, without an effect. None keeps the present fields."""

    def apply_to(self, disk: ManagedDisk) -> ManagedDisk:
        """Return the disk with the stored details.

        A locally redundant type only promises a speed, which imgstore does not measure, so the type is stored.
        Standard_ZRS promises three zones, so the disk must be stored in three zones.

        Raises:
            InvalidInput: the disk has another size, or is stored in fewer zones. The target is the path in the request.
        """
        size_gib = -(-disk.virtual_bytes // GIB)
        if self.size_gib not in (None, size_gib):
            raise InvalidInput(
                "A disk always has the size of the source.",
                found=f"a request for {self.size_gib} GiB, a source of {size_gib} GiB",
                expected=f"{size_gib} GiB, or no size",
                hint="omit the size",
                target=self.size_path,
            )
        is_zone_resilient = disk.storage_account_type is StorageAccountType.STANDARD_ZRS
        if self.sku is StorageAccountType.STANDARD_ZRS and not is_zone_resilient:
            raise InvalidInput(
                f"The disk would be stored as {disk.storage_account_type}, like the source.",
                found=f"a request for {self.sku}",
                expected=f"{disk.storage_account_type}, or no type",
                hint="choose a region in which the source is stored as Standard_ZRS",
                target=self.sku_path,
            )
        if self.zone_resilient not in (None, is_zone_resilient):
            raise InvalidInput(
                f"The disks would be stored as {disk.storage_account_type}.",
                found=f"zoneResilient {str(self.zone_resilient).lower()}",
                expected=str(is_zone_resilient).lower(),
                hint="omit zoneResilient, or name the storage account type",
                target="properties.storageProfile.zoneResilient",
            )
        kept = dict(disk.extra_properties if self.extra_properties is None else self.extra_properties)
        if self.sku is not None:
            kept[SKU] = self.sku.value
        return replace(disk, extra_properties=kept)


NO_DETAILS: Final = DiskDetails()
