"""What a request says of a stored disk besides its source: compared with the disk, or kept and shown as it was sent."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import ManagedDisk, StorageAccountType
from imgstore.domain.storage.sizes import GIB

SKU: Final = "sku.name"
"""The path of `DiskDetails.sku`, also among what is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskDetails:
    """Details of a disk, a snapshot or a disk of a managed image."""

    size_gib: int | None = None
    """The size that the disk must have: a part of a GiB counts as one. None is any."""
    size_path: str = "properties.diskSizeGB"
    """Where the request says it."""
    sku: StorageAccountType | None = None
    """The type that the disk is to be shown with. None is the one that it is stored with."""
    sku_path: str = SKU
    zone_resilient: bool | None = None
    """Whether the disk must be stored in three zones. None is either."""
    extra_properties: Mapping[str, Any] | None = None
    """Fields by their paths, which promise nothing. None leaves them as they are."""

    def apply_to(self, disk: ManagedDisk) -> ManagedDisk:
        """The disk with what is kept of the details.

        A locally redundant type says how fast a disk is, which nothing here measures: it is kept. Another type says how
        many zones have the bytes: the disk must be stored so.

        Raises:
            InvalidInput: the disk has another size, or is stored in fewer zones; its target is the path.
        """
        size_gib = -(-disk.virtual_bytes // GIB)
        if self.size_gib not in (None, size_gib):
            raise InvalidInput(
                "A disk has the size of its source: another size is not built.",
                found=f"{self.size_gib} GiB asked, {size_gib} GiB there",
                expected=f"{size_gib}, or none",
                hint="leave the size out",
                target=self.size_path,
            )
        is_zone_resilient = disk.storage_account_type is StorageAccountType.STANDARD_ZRS
        if self.sku is StorageAccountType.STANDARD_ZRS and not is_zone_resilient:
            raise InvalidInput(
                f"The disk would be stored as {disk.storage_account_type}, as its source is.",
                found=f"{self.sku} asked",
                expected=f"{disk.storage_account_type}, or none",
                hint="ask for it in a region where its source is stored as Standard_ZRS",
                target=self.sku_path,
            )
        if self.zone_resilient not in (None, is_zone_resilient):
            raise InvalidInput(
                f"The disks would be stored as {disk.storage_account_type}.",
                found=f"zoneResilient {str(self.zone_resilient).lower()}",
                expected=str(is_zone_resilient).lower(),
                hint="leave zoneResilient out, or name the storage account type",
                target="properties.storageProfile.zoneResilient",
            )
        kept = dict(disk.extra_properties if self.extra_properties is None else self.extra_properties)
        if self.sku is not None:
            kept[SKU] = self.sku.value
        return replace(disk, extra_properties=kept)


NO_DETAILS: Final = DiskDetails()
