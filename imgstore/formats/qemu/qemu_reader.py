"""Reads the disk of a qcow2, VHDX or VMDK image from a sparse raw file that qemu-img wrote."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import ByteSource, ContainerMetadata, DiskFormat, Extent, SourceIdentity
from imgstore.domain.errors import ImageRefused, SafetyCheckFailed
from imgstore.domain.host.private_files import make_private_folder, open_private
from imgstore.domain.settings.disk_space import CheckScratch, allocated_bytes, allow_all_scratch
from imgstore.domain.storage.sizes import GIB
from imgstore.formats.checks import raise_first_failed
from imgstore.formats.files.atomic_file import output_error, write_all
from imgstore.formats.files.local_file import LocalFile
from imgstore.formats.files.read_ahead import read_through
from imgstore.formats.qemu.oslo_checks import oslo_finding
from imgstore.formats.qemu.qemu_formats import examine_converted
from imgstore.formats.qemu.qemu_img import find_qemu_img, read_into_raw

EXPANSION_MAX: Final = 1_032
"""The maximal number of data bytes for each byte of the container: the limit of deflate. A container above that limit
shares clusters or compresses more, and is an attack that fills disks."""
EXPANSION_FREE_BYTES: Final = GIB
"""Data bytes that any container may have."""

_FOLDER_PREFIX: Final = "imgstore-disk-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionBounds:
    """Limits of a conversion, because a small file may hold a very large disk."""

    check_size: Callable[[int], None] = lambda _virtual_bytes: None
    """Called with the size of the disk in the header, before a byte is fetched or written."""
    check_scratch: CheckScratch = allow_all_scratch
    """Called with the output folder, before and during writes."""


UNBOUNDED: Final = ConversionBounds()


class ConvertedReader:
    """A reader of the raw file, with the identity of the original image."""

    def __init__(self, source: ByteSource, form: DiskFormat, folder: Path, raw: LocalFile) -> None:
        self._source = source
        self._folder = folder
        self._raw = raw
        self.virtual_bytes = raw.file_bytes
        self.container_metadata = ContainerMetadata(format=form)

    def extents(self) -> Iterator[Extent]:
        """Return the extents of the raw file."""
        return self._raw.extents()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read the raw file once."""
        return self._raw.read_at(offset, length)

    def identity(self) -> SourceIdentity:
        """Return the identity of the image."""
        return self._source.identity()

    def close(self) -> None:
        """Remove the raw file and its folder. The image belongs to the caller."""
        self._raw.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def open_converted(
    source: ByteSource, form: DiskFormat, scratch: Path, bounds: ConversionBounds = UNBOUNDED
) -> ConvertedReader:
    """Check `source` and convert it in a new folder below `scratch`.

    A source that is no local file is first copied to that folder, and the copy is checked again.

    Raises:
        ImageTruncated: the image is shorter than its header promises.
        SafetyCheckFailed: a named safety check failed.
        ImageRefused: the image is damaged, or qemu-img can't read the image.
        ToolMissing: oslo.utils or qemu-img is missing.
        OutputError: too little space or no permission in `scratch`.
        ImgstoreError: an error of `bounds`.
    """
    virtual_bytes = _check_image(source, form)
    bounds.check_size(virtual_bytes)
    find_qemu_img()  # before the first byte is fetched
    try:
        make_private_folder(scratch)
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=scratch)))
    except OSError as error:
        raise output_error(error, scratch) from error
    try:
        return ConvertedReader(source, form, folder, _convert(source, form, folder, virtual_bytes, bounds))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_image(source: ByteSource, form: DiskFormat) -> int:
    """Run all checks, and return the size of the disk."""
    location = source.identity().location
    virtual_bytes = examine_converted(source, form).require_layout(location)
    raise_first_failed([oslo_finding(source, form)], location)
    return virtual_bytes


def _convert(
    source: ByteSource, form: DiskFormat, folder: Path, virtual_bytes: int, bounds: ConversionBounds
) -> LocalFile:
    if isinstance(source, LocalFile):
        return _convert_local(source, form, folder, virtual_bytes, bounds)
    spool = folder / "image"
    bounds.check_scratch(folder, source.file_bytes)
    _copy_source(source, spool, bounds)
    image = LocalFile(spool)
    try:
        virtual_bytes = _check_image(image, form)
        bounds.check_size(virtual_bytes)
        return _convert_local(image, form, folder, virtual_bytes, bounds)
    finally:
        image.close()
        spool.unlink()


def _convert_local(
    image: LocalFile, form: DiskFormat, folder: Path, virtual_bytes: int, bounds: ConversionBounds
) -> LocalFile:
    raw = folder / "disk.raw"

    def check() -> None:
        bounds.check_scratch(folder, 0)
        _check_expansion(allocated_bytes(raw), image)

    read_into_raw(
        image.path,
        form,
        raw,
        file_bytes=image.file_bytes,
        virtual_bytes=virtual_bytes,
        check=check,
    )
    check()
    disk = LocalFile(raw)
    if disk.file_bytes != virtual_bytes:
        disk.close()
        raise ImageRefused(
            f"qemu-img wrote a disk of another size than the header of {image.path} promises.",
            found=f"{disk.file_bytes:,} bytes",
            expected=f"{virtual_bytes:,} bytes",
            hint="the image changed during the conversion: stop all writes to the image and try again",
            target=str(image.path),
        )
    return disk


def _check_expansion(data_bytes: int, image: LocalFile) -> None:
    most_bytes = EXPANSION_FREE_BYTES + EXPANSION_MAX * image.file_bytes
    if data_bytes > most_bytes:
        raise SafetyCheckFailed(
            "expansion",
            f"The image {image.path} expands to far more data than its file can hold.",
            found=f"{data_bytes:,} bytes of data so far, in a file of {image.file_bytes:,} bytes",
            expected=f"at most {most_bytes:,} bytes: 1 GiB, and {EXPANSION_MAX:,} for each byte of the file",
            hint="use the disk as a raw file or a fixed VHD",
            target=str(image.path),
        )


def _copy_source(source: ByteSource, target: Path, bounds: ConversionBounds) -> None:
    """Make a sparse copy of `source`."""
    try:
        with open(target, "xb", buffering=0, opener=open_private) as file:
            file.truncate(source.file_bytes)
            with closing(read_through(source)) as reads:
                for at, data in reads:
                    bounds.check_scratch(target.parent, len(data))
                    write_all(file.fileno(), data, at)
    except OSError as error:
        raise output_error(error, target) from error
