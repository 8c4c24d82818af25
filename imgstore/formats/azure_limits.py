"""Compares the format and the size of a disk file with Azure's limits.

Sources: "Prepare a Windows VHD or VHDX to upload to Azure", "Information for non-endorsed Linux distributions", and the
documentation of managed disks. Azure takes fixed VHD with a whole number of MiB.
"""

from collections.abc import Iterator
from typing import Final

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.storage.sizes import GIB, MIB, round_up

_BYTES_MIN: Final = 20 * MIB
_BYTES_MAX: Final = 32_767 * GIB
"""`az disk create --for-upload` takes files of 20 MiB + 512 to 32,767 GiB + 512 bytes."""
_OS_BYTES_MAX: Final = 4_095 * GIB
"""The largest OS disk of a virtual machine."""


def refusal_reasons(form: DiskFormat, virtual_bytes: int | None) -> Iterator[str]:
    """List the reasons why Azure would refuse a file.

    Args:
        form: the format of the file.
        virtual_bytes: the size of the disk, or None if unknown.
    """
    if form is not DiskFormat.VHD_FIXED:
        yield f"the format is {form.value}, and Azure takes fixed VHD only (`imgstore disk export --format vhd`)"
    if virtual_bytes is None:
        return
    if virtual_bytes % MIB:
        yield (
            f"the disk's size, {virtual_bytes:,} bytes, is no multiple of 1 MiB "
            f"(`--pad` rounds up to {round_up(virtual_bytes, MIB):,})"
        )
    if not _BYTES_MIN <= virtual_bytes <= _BYTES_MAX:
        yield f"the disk's size, {virtual_bytes:,} bytes, is not between 20 MiB and 32,767 GiB"


def export_warnings(form: DiskFormat, container_bytes: int) -> list[str]:
    """Return warnings about an exported VHD that Azure would refuse. Other formats are not meant for Azure.

    Args:
        form: the format of the file.
        container_bytes: the size of the disk in the file, after padding.
    """
    if form not in (DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC):
        return []
    warnings = [f"WARNING: Azure refuses this VHD: {reason}" for reason in refusal_reasons(form, container_bytes)]
    if _OS_BYTES_MAX < container_bytes <= _BYTES_MAX:
        warnings.append("WARNING: Azure takes this VHD as a data disk only: the limit of an OS disk is 4,095 GiB")
    return warnings
