"""The checks of qcow2, VHDX and VMDK, which qemu-img reads for us: nothing goes there that did not pass them.

Ours come first, so that each refusal has its name without any optional package; then those of oslo.utils
(formats/qemu/oslo_checks.py).

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
    """Our own checks of an image that qemu-img is to read: reads the headers only. Its layout is the disk's size."""
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
