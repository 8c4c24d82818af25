"""The disk of a qcow2, VHDX or VMDK image: converted by qemu-img into a sparse raw file, and read from there."""

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
from imgstore.domain.private_files import make_private_folder, open_private
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
"""Bytes of data that one byte of a container may unpack to: what deflate can do at most. A container whose clusters share
their place in the file, or are packed tighter, is made to fill disks."""
EXPANSION_FREE_BYTES: Final = GIB
"""Data that any container may have."""

_FOLDER_PREFIX: Final = "imgstore-disk-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionBounds:
    """What decides whether a container is converted: a small file may hold a very large disk."""

    check_size: Callable[[int], None] = lambda _virtual_bytes: None
    """Called with the size of the disk that the header promises, before a byte is fetched or written."""
    check_scratch: CheckScratch = allow_all_scratch
    """Called with the folder that is written to, before and while that is done."""


UNBOUNDED: Final = ConversionBounds()


class ConvertedReader:
    """A reader over the raw file, known by the identity of the image that it was made from."""

    def __init__(self, source: ByteSource, form: DiskFormat, folder: Path, raw: LocalFile) -> None:
        self._source = source
        self._folder = folder
        self._raw = raw
        self.virtual_bytes = raw.file_bytes
        self.container_metadata = ContainerMetadata(format=form)

    def extents(self) -> Iterator[Extent]:
        """The raw file's own."""
        return self._raw.extents()

    def read_at(self, offset: int, length: int) -> bytes:
        """One read of the raw file."""
        return self._raw.read_at(offset, length)

    def identity(self) -> SourceIdentity:
        """The image's."""
        return self._source.identity()

    def close(self) -> None:
        """Remove the raw file and its folder. The image is the caller's."""
        self._raw.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def open_converted(
    source: ByteSource, form: DiskFormat, scratch: Path, bounds: ConversionBounds = UNBOUNDED
) -> ConvertedReader:
    """Check `source` and convert it, in a folder of its own below `scratch`.

    A source that is no local file is spooled there first, and checked once more as it lies there.

    Raises:
        ImageTruncated: it is shorter than its header promises.
        SafetyCheckFailed: a named safety check failed.
        ImageRefused: it is damaged, or qemu-img can't read it.
        ToolMissing: no oslo.utils, or no qemu-img.
        OutputError: no room or no permission in `scratch`.
        ImgstoreError: what `bounds` raises.
    """
    virtual_bytes = _checked(source, form)
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


def _checked(source: ByteSource, form: DiskFormat) -> int:
    """The size of the disk, if no check fails."""
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
    _spool(source, spool, bounds)
    image = LocalFile(spool)
    try:
        virtual_bytes = _checked(image, form)
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
            f"qemu-img wrote another disk than {image.path} promises.",
            found=f"{disk.file_bytes:,} bytes",
            expected=f"{virtual_bytes:,} bytes",
            hint="the image changed while it was read: leave it alone and try again",
            target=str(image.path),
        )
    return disk


def _check_expansion(data_bytes: int, image: LocalFile) -> None:
    most_bytes = EXPANSION_FREE_BYTES + EXPANSION_MAX * image.file_bytes
    if data_bytes > most_bytes:
        raise SafetyCheckFailed(
            "expansion",
            f"The image {image.path} unpacks to far more than it holds.",
            found=f"{data_bytes:,} bytes of data so far, in a file of {image.file_bytes:,} bytes",
            expected=f"at most {most_bytes:,} bytes: 1 GiB, and {EXPANSION_MAX:,} for each byte of the file",
            hint="take the disk as a raw file or a fixed VHD",
            target=str(image.path),
        )


def _spool(source: ByteSource, target: Path, bounds: ConversionBounds) -> None:
    """A sparse copy of `source`."""
    try:
        with open(target, "xb", buffering=0, opener=open_private) as file:
            file.truncate(source.file_bytes)
            with closing(read_through(source)) as reads:
                for at, data in reads:
                    bounds.check_scratch(target.parent, len(data))
                    write_all(file.fileno(), data, at)
    except OSError as error:
        raise output_error(error, target) from error
