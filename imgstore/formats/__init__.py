"""Reads and writes disk images in all supported containers.

1. `LocalFile` (or any other `ByteSource`) reads bytes at offsets and reports the holes of a file.
2. `probe` detects the container from the first and last bytes. A person may name the format instead.
3. Each container has pure, named checks. `inspect_image` reports all checks, and `open_disk` raises the first failed
   check. Both therefore always agree.
4. Fixed VHD, dynamic VHD and raw files are read in place. qcow2, VHDX and VMDK must pass the checks of this package and
   of oslo.utils. Then a confined qemu-img converts the image into a sparse raw file that exists as long as its reader.
5. `create_writer` writes a container under a temporary name. `publish` renames the complete file, or nothing appears.
   A pipe or a block device has no temporary name and is written in order.

Nothing inside an image is ever followed: no path, no URL, no parent (invariant F1).
"""

from imgstore.formats.azure_limits import export_warnings
from imgstore.formats.checks import DISK_BYTES_MAX
from imgstore.formats.files.local_file import LocalFile
from imgstore.formats.files.ordered_output import describe_rest
from imgstore.formats.files.read_ahead import read_through
from imgstore.formats.inspection import Check, Inspection, inspect_image
from imgstore.formats.open_disk import check_disk, open_disk
from imgstore.formats.partitions import detect_generation
from imgstore.formats.qemu.qemu_reader import ConversionBounds
from imgstore.formats.writers import WRITABLE_FORMATS, create_writer, fixed_footer, padded_bytes, write_in_order

__all__ = [
    "DISK_BYTES_MAX",
    "WRITABLE_FORMATS",
    "Check",
    "ConversionBounds",
    "Inspection",
    "LocalFile",
    "check_disk",
    "create_writer",
    "describe_rest",
    "detect_generation",
    "export_warnings",
    "fixed_footer",
    "inspect_image",
    "open_disk",
    "padded_bytes",
    "read_through",
    "write_in_order",
]
