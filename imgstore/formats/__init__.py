"""Reads images and writes them: the disk inside a container, whichever container it is.

1. `LocalFile` (or any other `ByteSource`) gives bytes at offsets, and where a file has holes.
2. `probe` tells from the first and last bytes which container they are; a person may name it instead.
3. Each container has pure checks, each with a name. `inspect_image` reports them all; `open_disk` refuses at the first
   that fails. So what is refused is what is reported.
4. Fixed and dynamic VHD and raw files are read here, in place. qcow2, VHDX and VMDK go, after our checks and those of
   oslo.utils, through a confined qemu-img into a sparse raw file that lives as long as its reader.
5. `create_writer` writes a container under a temporary name; `publish` gives it its own, whole or not at all.

Nothing inside an image is ever followed: no path, no URL, no parent.
"""

from imgstore.formats.checks import DISK_BYTES_MAX
from imgstore.formats.files.local_file import LocalFile
from imgstore.formats.files.read_ahead import read_through
from imgstore.formats.inspection import Check, Inspection, inspect_image
from imgstore.formats.open_disk import open_disk
from imgstore.formats.partitions import detect_generation
from imgstore.formats.qemu.qemu_reader import ConversionBounds
from imgstore.formats.writers import WRITABLE_FORMATS, create_writer, fixed_footer, padded_bytes

__all__ = [
    "DISK_BYTES_MAX",
    "WRITABLE_FORMATS",
    "Check",
    "ConversionBounds",
    "Inspection",
    "LocalFile",
    "create_writer",
    "detect_generation",
    "fixed_footer",
    "inspect_image",
    "open_disk",
    "padded_bytes",
    "read_through",
]
