"""Writes a disk into a container: fixed VHD, dynamic VHD, raw, and qcow2 through qemu-img.

The file offset of each byte is computed before the first write. `write_at` is therefore a plain `pwrite` from any
thread, in any order, and ranges that are never written stay holes. A pipe or a block device is written in order instead.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, DiskWriter, Extent
from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import BLOCK_BYTES, GIB, MIB, SECTOR_BYTES, ceil_div, round_up
from imgstore.formats.files.atomic_file import PendingFile, translate_errors, write_all
from imgstore.formats.files.ordered_output import OrderedOutput, TargetKind, open_output, target_kind
from imgstore.formats.qemu.qemu_img import find_qemu_img, write_from_raw
from imgstore.formats.vhd_layout import (
    BLOCK_BYTES_DEFAULT,
    DYNAMIC_BYTES_MAX,
    FOOTER_BYTES,
    HEADER_BYTES,
    TYPE_DYNAMIC,
    TYPE_FIXED,
    UNALLOCATED,
    Footer,
    bitmap_bytes,
    is_sound_footer,
    pack_dynamic_header,
    pack_footer,
)

WRITABLE_FORMATS: Final = (DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC, DiskFormat.RAW, DiskFormat.QCOW2)
"""The containers that can be written."""

_STREAM_FORMATS: Final = (DiskFormat.RAW, DiskFormat.VHD_FIXED)
"""The containers whose bytes are known in order: the disk, then a footer."""

_ZEROS_BYTES: Final = 64 * MIB
"""Zeros that are written between two reports."""

_PADDED_TO: Final = {DiskFormat.VHD_FIXED: MIB, DiskFormat.VHD_DYNAMIC: MIB, DiskFormat.QCOW2: SECTOR_BYTES}
"""The unit of `pad`: whole MiB for VHD, because Azure requires that. The 512 bytes that a VHD requires divide a MiB."""


def padded_bytes(virtual_bytes: int, format: DiskFormat) -> int:  # noqa: A002 - as in create_writer
    """Return the size of a disk of `virtual_bytes` after padding for `format`, with zeros at its end.

    The size is rounded up to a MiB for VHD, as Azure requires, and to a sector for qcow2. A raw file holds any size.
    """
    return round_up(virtual_bytes, _PADDED_TO.get(format, 1))


def create_writer(
    path: Path,
    *,
    format: DiskFormat,  # noqa: A002 - the clearest name for callers
    virtual_bytes: int,
    extents: Sequence[Extent],
    disk_digest: bytes,
    container_metadata: ContainerMetadata | None = None,
    overwrite: bool = False,
    pad: bool = False,
) -> DiskWriter:
    """Make a writer of a disk of `virtual_bytes` to `path`. A file appears with `publish`.

    Args:
        path: the path of the new file, a link to the path, standard output, a pipe, or a block device.
        format: a member of `WRITABLE_FORMATS`.
        virtual_bytes: size of the disk. Data for `write_at` may reach beyond the size and is cut there.
        extents: the ranges that will be written. A dynamic VHD has blocks for these ranges only.
        disk_digest: the source of a VHD's unique id.
        container_metadata: the metadata of the disk's first file, with the original footer of a fixed VHD.
        overwrite: whether a file at `path` may be replaced.
        pad: whether the disk may grow to `padded_bytes`.

    Raises:
        InvalidInput: the container can't be written, can't hold this size, or can't be written to this kind of target.
        OutputError: the file exists, the folder is missing, permission or space is missing, or the device is in use.
        ToolMissing: qcow2 without qemu-img.
    """
    container_bytes = padded_bytes(virtual_bytes, format) if pad else virtual_bytes
    kind = target_kind(path)
    _check_target_kind(path, kind, format)
    _check_size(format, virtual_bytes, container_bytes)
    footer = b""
    if format is DiskFormat.VHD_FIXED:
        footer = fixed_footer(container_bytes, container_metadata, disk_digest)
    if kind is not TargetKind.FILE:
        output = open_output(path, kind, container_bytes + len(footer))
        return _OrderedWriter(output, virtual_bytes, container_bytes, footer)
    if format is DiskFormat.QCOW2:
        find_qemu_img()
    pending = PendingFile(path, overwrite=overwrite, read_soon=format is DiskFormat.QCOW2)  # by qemu-img
    try:
        if format is DiskFormat.VHD_DYNAMIC:
            return _DynamicVhdWriter(pending, virtual_bytes, container_bytes, extents, disk_digest)
        if format is DiskFormat.QCOW2:
            return _Qcow2Writer(pending, virtual_bytes, container_bytes, overwrite=overwrite)
        return _FlatWriter(pending, virtual_bytes, container_bytes, footer)
    except BaseException:
        pending.discard()
        raise


def write_in_order(
    writer: DiskWriter,
    pieces: Iterable[tuple[int, bytes | memoryview]],
    virtual_bytes: int,
    on_written: Callable[[int], None],
) -> None:
    """Write a whole disk to a writer that is `in_order`, and report all bytes, zeros included.

    Args:
        writer: the writer.
        pieces: offset and bytes of the verified pieces that are not zero, in order.
        virtual_bytes: the size of the disk.
        on_written: called with the number of written bytes, at least once for 64 MiB.

    Raises:
        OutputError: the target does not take the bytes.
    """
    end = 0
    for offset, data in chain(pieces, [(virtual_bytes, b"")]):
        while end < offset:
            begin, end = end, min(offset, end + _ZEROS_BYTES)
            writer.write_at(end, b"")
            on_written(end - begin)
        writer.write_at(offset, data)
        end = offset + len(data)
        on_written(len(data))


def _check_size(form: DiskFormat, virtual_bytes: int, container_bytes: int) -> None:
    if form not in WRITABLE_FORMATS:
        raise InvalidInput(
            f"A {form.value} file cannot be written.",
            found=form.value,
            expected=", ".join(each.value for each in WRITABLE_FORMATS),
            hint="write qcow2 or raw and convert it (`qemu-img convert`)",
            target="format",
        )
    if form is DiskFormat.VHD_DYNAMIC and container_bytes > DYNAMIC_BYTES_MAX:
        raise InvalidInput(
            "A dynamic VHD cannot hold this disk.",
            found=f"a disk of {container_bytes:,} bytes",
            expected=f"at most {DYNAMIC_BYTES_MAX:,} bytes ({DYNAMIC_BYTES_MAX // GIB:,} GiB)",
            hint="write a fixed VHD (`--format vhd`), raw or qcow2",
            target="format",
        )
    if form is not DiskFormat.RAW and container_bytes % SECTOR_BYTES:
        raise InvalidInput(
            f"A {form.value} file cannot hold this disk.",
            found=f"a disk of {virtual_bytes:,} bytes",
            expected=f"a multiple of {SECTOR_BYTES} bytes",
            hint=f"give `--pad` to make it {padded_bytes(virtual_bytes, form):,} bytes with zeros at the end, "
            "or write raw",
            target="format",
        )


def _check_target_kind(path: Path, kind: TargetKind, form: DiskFormat) -> None:
    if kind is TargetKind.DEVICE and form is not DiskFormat.RAW:
        raise InvalidInput(
            f"A block device takes raw bytes only, and not a {form.value} file.",
            found=f"{path} and the format {form.value}",
            expected="raw: a guest reads the bytes of the device as the disk",
            hint="give `--format raw`, or write a file",
            target="format",
        )
    if kind is TargetKind.STREAM and form not in _STREAM_FORMATS:
        raise InvalidInput(
            f"A {form.value} file cannot be written to a pipe, because its beginning is written last.",
            found=f"{path} and the format {form.value}",
            expected=" or ".join(each.value for each in _STREAM_FORMATS),
            hint="give `--format raw` or `--format vhd`, or write a file",
            target="format",
        )


def fixed_footer(virtual_bytes: int, container_metadata: ContainerMetadata | None, disk_digest: bytes) -> bytes:
    """Return the original footer of the disk if the footer has exactly this size, else a generated footer."""
    kept = (
        container_metadata.footer if container_metadata and container_metadata.format is DiskFormat.VHD_FIXED else b""
    )
    if len(kept) == FOOTER_BYTES and is_sound_footer(kept) and Footer.unpack(kept).current_bytes == virtual_bytes:
        return kept
    return pack_footer(virtual_bytes=virtual_bytes, disk_type=TYPE_FIXED, disk_digest=disk_digest)


class _OrderedWriter:
    """A writer of raw and fixed VHD to a target that takes bytes in order. Gaps become zeros."""

    in_order = True

    def __init__(self, output: OrderedOutput, virtual_bytes: int, container_bytes: int, footer: bytes) -> None:
        self._output = output
        self._virtual_bytes = virtual_bytes
        self._container_bytes = container_bytes
        self._footer = footer

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write zeros up to `offset`, then `data`."""
        assert offset >= self._output.written_bytes, "each range follows the previous range"
        self._output.write_zeros(offset - self._output.written_bytes)
        self._output.write(_clip(data, offset, self._virtual_bytes))

    def read_at(self, offset: int, length: int) -> bytes:
        """Fail: a pipe cannot be read back, and only verified bytes are written."""
        raise NotImplementedError

    def publish(self) -> int:
        """Write zeros up to the end of the disk, then the footer. Wait for the medium of a device."""
        self._output.write_zeros(self._container_bytes - self._output.written_bytes)
        self._output.write(self._footer)
        self._output.finish()
        self._output.close()
        return self._output.written_bytes

    def abandon(self) -> None:
        """Close the target. The written bytes stay."""
        self._output.close()


class _FlatWriter:
    """A writer of raw and fixed VHD: the bytes of the disk at their own offsets, then the footer if any."""

    in_order = False

    def __init__(self, pending: PendingFile, virtual_bytes: int, container_bytes: int, footer: bytes) -> None:
        self._pending = pending
        self._virtual_bytes = virtual_bytes
        self._container_bytes = container_bytes
        self._footer = footer
        with translate_errors(pending.path):
            os.ftruncate(pending.fd, container_bytes + len(footer))

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write `data` at the same offset of the file."""
        self._pending.write(_clip(data, offset, self._virtual_bytes), offset, read_soon=read_soon)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read with a single `pread`."""
        with translate_errors(self._pending.path):
            return os.pread(self._pending.fd, length, offset)

    def publish(self) -> int:
        """Write the footer, then publish the file."""
        with translate_errors(self._pending.path):
            write_all(self._pending.fd, self._footer, self._container_bytes)
        return self._pending.publish()

    def abandon(self) -> None:
        """Remove the temporary file."""
        self._pending.discard()


class _DynamicVhdWriter:
    """A writer of dynamic VHD in blocks of 2 MiB, allocated in disk order for the blocks that the extents touch.

    Each block's data starts at a multiple of 4 KiB in the file, with the bitmap in the sector before. A write of whole
    blocks therefore touches whole pages, and holes stay holes.
    """

    in_order = False
    _BITMAP_BYTES: Final = bitmap_bytes(BLOCK_BYTES_DEFAULT)
    _PITCH_BYTES: Final = round_up(_BITMAP_BYTES + BLOCK_BYTES_DEFAULT, BLOCK_BYTES)
    _TABLE_AT: Final = FOOTER_BYTES + HEADER_BYTES

    def __init__(
        self,
        pending: PendingFile,
        virtual_bytes: int,
        container_bytes: int,
        extents: Sequence[Extent],
        disk_digest: bytes,
    ) -> None:
        self._pending = pending
        self._virtual_bytes = virtual_bytes
        self._footer = pack_footer(virtual_bytes=container_bytes, disk_type=TYPE_DYNAMIC, disk_digest=disk_digest)
        touched = np.zeros(ceil_div(container_bytes, BLOCK_BYTES_DEFAULT), bool)
        for extent in extents:
            touched[extent.offset // BLOCK_BYTES_DEFAULT : ceil_div(extent.end, BLOCK_BYTES_DEFAULT)] = True
        blocks = np.flatnonzero(touched)
        table_end = self._TABLE_AT + round_up(4 * len(touched), SECTOR_BYTES)
        first = round_up(table_end + self._BITMAP_BYTES, BLOCK_BYTES) - self._BITMAP_BYTES
        self._starts = first + np.arange(len(blocks), dtype=np.int64) * self._PITCH_BYTES
        self._bat = np.full(len(touched), UNALLOCATED, np.uint32)
        self._bat[blocks] = self._starts // SECTOR_BYTES
        last = int(self._starts[-1]) + self._BITMAP_BYTES + BLOCK_BYTES_DEFAULT if len(blocks) else table_end
        self._footer_at = last
        with translate_errors(pending.path):
            os.ftruncate(pending.fd, self._footer_at + FOOTER_BYTES)

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write with a `pwrite` for each block."""
        rest = _clip(data, offset, self._virtual_bytes)
        with translate_errors(self._pending.path):
            while rest:
                at, taken = self._place(offset, len(rest))
                if at is not None:
                    self._pending.write(rest[:taken], at, read_soon=read_soon)
                elif any(rest[:taken]):
                    raise InvalidInput(
                        "The writer got data for a part of the disk that was announced to be empty.",
                        found=f"data at {offset:,}",
                        expected="data inside the extents that were given to the writer",
                        hint="this is a bug in imgstore: please report it",
                        target="extents",
                    )
                offset, rest = offset + taken, rest[taken:]

    def read_at(self, offset: int, length: int) -> bytes:
        """Read with a `pread` for each block."""
        parts = []
        end = offset + length
        with translate_errors(self._pending.path):
            while offset < end:
                at, taken = self._place(offset, end - offset)
                parts.append(bytes(taken) if at is None else os.pread(self._pending.fd, taken, at))
                offset += taken
        return b"".join(parts)

    def publish(self) -> int:
        """Write the bitmaps of ones, the table, the header and both footers, then publish the file."""
        fd = self._pending.fd
        ones = b"\xff" * self._BITMAP_BYTES
        header = pack_dynamic_header(table_offset=self._TABLE_AT, table_entries=len(self._bat))
        padding = b"\xff" * (-4 * len(self._bat) % SECTOR_BYTES)
        with translate_errors(self._pending.path):
            for start in self._starts.tolist():
                write_all(fd, ones, start)
            write_all(fd, self._footer + header + self._bat.astype(">u4").tobytes() + padding, 0)
            write_all(fd, self._footer, self._footer_at)
        return self._pending.publish()

    def abandon(self) -> None:
        """Remove the temporary file."""
        self._pending.discard()

    def _place(self, offset: int, length: int) -> tuple[int | None, int]:
        """Return the file offset of `offset` on the disk (None if unallocated) and the length of the rest of its block."""
        block, skip = divmod(offset, BLOCK_BYTES_DEFAULT)
        taken = min(length, BLOCK_BYTES_DEFAULT - skip)
        sector = int(self._bat[block])
        return (None if sector == UNALLOCATED else sector * SECTOR_BYTES + self._BITMAP_BYTES + skip), taken


class _Qcow2Writer:
    """A sparse raw file, which `publish` converts by qemu-img into a second temporary file."""

    in_order = False

    def __init__(self, pending: PendingFile, virtual_bytes: int, container_bytes: int, *, overwrite: bool) -> None:
        self._raw = _FlatWriter(pending, virtual_bytes, container_bytes, b"")
        self._raw_path = pending.temporary
        self._path = pending.path
        self._container_bytes = container_bytes
        self._overwrite = overwrite
        self.write_at = self._raw.write_at
        self.read_at = self._raw.read_at
        self.abandon = self._raw.abandon

    def publish(self) -> int:
        """Convert, publish the converted file, then remove the raw file."""
        target = PendingFile(self._path, overwrite=self._overwrite, read_soon=True)
        try:
            write_from_raw(self._raw_path, DiskFormat.QCOW2, target.temporary, virtual_bytes=self._container_bytes)
            file_bytes = target.publish()
        finally:
            target.discard()
        self._raw.abandon()
        return file_bytes


def _clip(data: bytes | memoryview, offset: int, end: int) -> memoryview:
    """Cut `data` at the end of the disk."""
    return memoryview(data).cast("B")[: max(end - offset, 0)]
