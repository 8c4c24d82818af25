"""Opens the disk inside a source, whatever container it is in."""

from pathlib import Path
from typing import Any, Final

from imgstore.domain.disks.sources import ByteSource, DiskFormat, DiskReader
from imgstore.formats.checks import Examination
from imgstore.formats.probe import probe_format
from imgstore.formats.qemu.qemu_formats import examine_converted
from imgstore.formats.qemu.qemu_reader import UNBOUNDED, ConversionBounds, open_converted
from imgstore.formats.raw import RawReader, examine_raw
from imgstore.formats.vhd import DynamicVhdReader, FixedVhdReader, examine_dynamic, examine_fixed

CONVERTED_FORMATS: Final = frozenset({DiskFormat.QCOW2, DiskFormat.VHDX, DiskFormat.VMDK})
"""Read through qemu-img."""


def examine(source: ByteSource, form: DiskFormat) -> Examination[Any]:
    """Our own checks of `form`. The layout's type is the format's own."""
    if form is DiskFormat.VHD_FIXED:
        return examine_fixed(source)
    if form is DiskFormat.VHD_DYNAMIC:
        return examine_dynamic(source)
    if form is DiskFormat.RAW:
        return examine_raw(source)
    return examine_converted(source, form)


def open_disk(
    source: ByteSource,
    *,
    format: DiskFormat | None = None,  # noqa: A002 - the word that a caller reads best
    scratch: Path,
    bounds: ConversionBounds = UNBOUNDED,
) -> DiskReader:
    """The disk in `source`.

    VHD and raw are read where they are. qcow2, VHDX and VMDK are converted below `scratch` into a sparse raw file,
    which the reader's `close` removes. `source` stays the caller's to close, after the reader.

    Args:
        source: the image file.
        format: what it is. None probes: then a file whose format is in doubt is refused.
        scratch: a folder for what must be converted, with room for the disk's data. Made if missing.
        bounds: asked before anything is fetched or converted, and while it is.

    Raises:
        ImageTruncated: the file is shorter than its header promises.
        SafetyCheckFailed: a named safety check failed.
        ImageRefused: it is damaged, or its format in doubt.
        ToolMissing: qcow2, VHDX or VMDK without qemu-img or oslo.utils.
        OutputError: no room below `scratch`.
        StoreError: the source can't be read.
        ImgstoreError: what `bounds` raises.
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
