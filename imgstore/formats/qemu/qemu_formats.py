"""Checks qcow2, VHDX and VMDK images. qemu-img reads only images that passed these checks.

The checks of this package run first, so that each refusal has a name without any optional package. The checks of
oslo.utils follow (formats/qemu/oslo_checks.py).

Sources: QEMU, "docs/interop/qcow2.txt"; Microsoft, [MS-VHDX]; VMware, "Virtual Disk Format 5.0".
"""

from collections.abc import Callable
from typing import Final

from imgstore.domain.disks.sources import ByteSource, DiskFormat
from imgstore.formats.checks import Examination, Finding, all_passed
from imgstore.formats.qemu.qcow2 import examine_qcow2
from imgstore.formats.qemu.vhdx import examine_vhdx
from imgstore.formats.qemu.vmdk import examine_vmdk


def examine_converted(source: ByteSource, form: DiskFormat) -> Examination[int]:
    """Check an image for qemu-img. Reads the headers and tables only. The layout is the size of the disk."""
    findings, virtual_bytes = _EXAMINERS[form](source)
    return Examination(
        findings=findings,
        virtual_bytes=virtual_bytes,
        layout=virtual_bytes if all_passed(findings) else None,
    )


_EXAMINERS: Final[dict[DiskFormat, Callable[[ByteSource], tuple[tuple[Finding, ...], int | None]]]] = {
    DiskFormat.QCOW2: examine_qcow2,
    DiskFormat.VHDX: examine_vhdx,
    DiskFormat.VMDK: examine_vmdk,
}
