"""Opens the disk inside a source, in any supported container."""

from pathlib import Path
from typing import Any, Final

from imgstore.domain.disks.sources import ByteSource, DiskFormat, DiskReader
from imgstore.formats.checks import Examination, raise_first_failed
from imgstore.formats.probe import probe_format
from imgstore.formats.qemu.qemu_formats import examine_converted
from imgstore.formats.qemu.qemu_reader import UNBOUNDED, ConversionBounds, open_converted
from imgstore.formats.raw import RawReader, examine_raw
from imgstore.formats.vhd import DynamicVhdReader, FixedVhdReader, examine_dynamic, examine_fixed

CONVERTED_FORMATS: Final = frozenset({DiskFormat.QCOW2, DiskFormat.VHDX, DiskFormat.VMDK})
"""The formats that are read through qemu-img."""


def examine(source: ByteSource, form: DiskFormat) -> Examination[Any]:
    """Run the checks of this package for `form`. The type of the layout depends on the format."""
    if form is DiskFormat.VHD_FIXED:
        return examine_fixed(source)
    if form is DiskFormat.VHD_DYNAMIC:
        return examine_dynamic(source)
    if form is DiskFormat.RAW:
        return examine_raw(source)
    return examine_converted(source, form)


def check_disk(source: ByteSource, form: DiskFormat | None) -> int | None:
    """Check the format and the header of an image, without a conversion. Errors are as in `open_disk`.

    Args:
        source: the image file.
        form: the format of the file; None detects the format.

    Returns:
        The size of the disk in bytes, if the image states a size.
    """
    examination = examine(source, form or probe_format(source))
    raise_first_failed(examination.findings, source.identity().location)
    return examination.virtual_bytes


def open_disk(
    source: ByteSource,
    *,
    format: DiskFormat | None = None,  # noqa: A002 - the clearest name for callers
    scratch: Path,
    bounds: ConversionBounds = UNBOUNDED,
) -> DiskReader:
    """Open the disk in `source`.

    VHD and raw files are read in place. qcow2, VHDX and VMDK are converted below `scratch` into a sparse raw file,
    which the reader's `close` removes. The caller closes `source` after the reader.

    Args:
        source: the image file.
        format: the format of the file. None detects the format, and refuses a file in doubt.
        scratch: a folder for converted disks, with enough space for the disk's data. The folder is created if missing.
        bounds: checks before and during each fetch or conversion.

    Raises:
        ImageTruncated: the file is shorter than its header promises.
        SafetyCheckFailed: a named safety check failed.
        ImageRefused: the image is damaged, or its format is in doubt.
        ToolMissing: qcow2, VHDX or VMDK without qemu-img or oslo.utils.
        OutputError: too little space below `scratch`.
        StoreError: the source can't be read.
        ImgstoreError: an error of `bounds`.
    """
    form = format or probe_format(source)
    if form in CONVERTED_FORMATS:
        return open_converted(source, form, scratch, bounds)
    location = source.identity().location
    if form is DiskFormat.VHD_FIXED:
        return FixedVhdReader(source, examine_fixed(source).require_layout(location))
    if form is DiskFormat.VHD_DYNAMIC:
        return DynamicVhdReader(source, examine_dynamic(source).require_layout(location))
    examine_raw(source).require_layout(location)
    return RawReader(source)
