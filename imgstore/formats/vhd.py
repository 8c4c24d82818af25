"""Reads fixed and dynamic VHD files, after every check that the specification allows.

Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0. vhd_layout.py has the structures.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from imgstore.domain.disks.sources import ByteSource, ContainerMetadata, DiskFormat, Extent, SourceIdentity
from imgstore.domain.storage.sizes import MIB, SECTOR_BYTES, ceil_div
from imgstore.formats.checks import REFETCH_HINT, Examination, FailureKind, Finding, all_passed, size_finding
from imgstore.formats.raw import clip_extents
from imgstore.formats.vhd_layout import (
    DYNAMIC_BYTES_MAX,
    FOOTER_BYTES,
    FOOTER_COOKIE,
    FORMAT_VERSION,
    HEADER_BYTES,
    HEADER_COOKIE,
    TYPE_DIFFERENCING,
    TYPE_DYNAMIC,
    TYPE_FIXED,
    UNALLOCATED,
    DynamicHeader,
    Footer,
    Geometry,
    bitmap_bytes,
    footer_checksum,
    header_checksum,
    is_sound_footer,
    looks_like_footer,
)

_BAT_ENTRIES_MAX: Final = 16 * MIB
"""64 MiB of table: the largest dynamic disk, 2,040 GiB, in blocks of 128 KiB, a sixteenth of the usual size. A larger
table is an attack: a sparse file can promise a table of 16 GiB."""

_TYPE_NAMES: Final = {TYPE_FIXED: "fixed", TYPE_DYNAMIC: "dynamic", TYPE_DIFFERENCING: "differencing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLayout:
    """A fixed VHD that passed its checks."""

    virtual_bytes: int
    footer: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DynamicLayout:
    """A dynamic VHD that passed its checks."""

    virtual_bytes: int
    block_bytes: int
    bitmap_bytes: int
    bat: npt.NDArray[np.uint32]
    """For each block of the disk, the file sector at which the block's bitmap starts, or UNALLOCATED."""


def examine_fixed(source: ByteSource) -> Examination[FixedLayout]:
    """Check a fixed VHD. Reads the last 512 bytes only."""
    raw = read_tail(source)
    findings = _footer_findings(raw, wanted=TYPE_FIXED)
    if len(raw) < FOOTER_BYTES:
        return Examination(findings=findings)
    footer = Footer.unpack(raw)
    if all_passed(findings):
        findings += (_fixed_size_finding(footer.current_bytes, source.file_bytes),)
    return Examination(
        findings=findings,
        notes=_geometry_notes(footer),
        virtual_bytes=footer.current_bytes if looks_like_footer(raw) else None,
        layout=FixedLayout(virtual_bytes=footer.current_bytes, footer=raw) if all_passed(findings) else None,
    )


def examine_dynamic(source: ByteSource) -> Examination[DynamicLayout]:
    """Check a dynamic VHD. Reads both footers, the header and the table, but no block."""
    raw, copy = read_tail(source), source.read_at(0, min(FOOTER_BYTES, source.file_bytes))
    findings = (*_footer_findings(raw, wanted=TYPE_DYNAMIC, copy=copy), _copies_finding(raw, copy))
    footer = next((Footer.unpack(each) for each in (raw, copy) if is_sound_footer(each)), None)
    virtual_bytes = footer.current_bytes if footer else None
    if not footer or not all_passed(findings):
        return Examination(findings=findings, virtual_bytes=virtual_bytes)
    header_findings, header = _examine_header(source, footer)
    findings += header_findings
    layout = None
    if header and all_passed(findings):
        layout = _read_layout(source, footer, header)
        findings += _bat_findings(layout, footer, header, source.file_bytes)
    return Examination(
        findings=findings,
        notes=_geometry_notes(footer),
        virtual_bytes=virtual_bytes,
        layout=layout if all_passed(findings) else None,
    )


def read_tail(source: ByteSource) -> bytes:
    """Read the last 512 bytes, or the whole of a shorter file."""
    length = min(FOOTER_BYTES, source.file_bytes)
    return source.read_at(source.file_bytes - length, length)


def _footer_findings(raw: bytes, *, wanted: int, copy: bytes | None = None) -> tuple[Finding, ...]:
    """Check the footer at the end of the file. The findings end at a failure that makes the rest meaningless.

    `copy` is the footer at offset 0 of a dynamic disk. If the footer at the end is damaged, the findings describe the
    copy.
    """
    copy_note = "" if copy is None else f"; its copy at offset 0 is {'right' if is_sound_footer(copy) else 'not right'}"
    present = _present_finding(raw, copy_note)
    if not present.passed:
        return (present,)
    footer = Footer.unpack(raw)
    return (
        present,
        _equal_finding("footer-checksum", footer.checksum, footer_checksum(raw), copy_note),
        _equal_finding("footer-version", footer.version >> 16, FORMAT_VERSION >> 16),
        Finding(
            check="no-parent",
            passed=footer.disk_type != TYPE_DIFFERENCING,
            found=f"a {_type_name(footer.disk_type)} disk",
            expected="a disk that needs no other file",
            hint="merge the differencing disk into its parent (Hyper-V: Merge-VHD) and use the parent",
            kind=FailureKind.UNSAFE,
        ),
        Finding(
            check="disk-type",
            passed=footer.disk_type == wanted,
            found=f"a {_type_name(footer.disk_type)} disk",
            expected=f"a {_type_name(wanted)} disk",
            hint="name the real format of the file, `vhd` or `vhd-dynamic`, or name no format",
        ),
        size_finding(
            footer.current_bytes,
            multiple_of=SECTOR_BYTES,
            **({"bytes_max": DYNAMIC_BYTES_MAX} if wanted == TYPE_DYNAMIC else {}),
        ),
    )


def _present_finding(raw: bytes, copy_note: str) -> Finding:
    short = raw[1:9] == FOOTER_COOKIE
    damaged = not short and raw[:8] != FOOTER_COOKIE and len(raw) == FOOTER_BYTES and looks_like_footer(raw)
    other = "a footer of 511 bytes" if short else f"{raw[:8]!r} instead of the cookie{copy_note}"
    return Finding(
        check="footer-present",
        passed=raw[:8] == FOOTER_COOKIE and len(raw) == FOOTER_BYTES,
        found="a footer" if raw[:8] == FOOTER_COOKIE else other,
        expected=f"512 bytes that start with {FOOTER_COOKIE.decode()!r} at the end of the file",
        hint="the file is from Virtual PC before 2004: convert it (`qemu-img convert -f vpc -O vpc -o force_size=on`)"
        if short
        else "the file is truncated, its end was overwritten, or it is no VHD: fetch or build it again",
        kind=FailureKind.DAMAGED if short or damaged else FailureKind.TRUNCATED,
    )


def _fixed_size_finding(virtual_bytes: int, file_bytes: int) -> Finding:
    wanted = virtual_bytes + FOOTER_BYTES
    return Finding(
        check="size-matches-file",
        passed=file_bytes == wanted,
        found=f"a file of {file_bytes:,} bytes",
        expected=f"{wanted:,} bytes: the disk of {virtual_bytes:,} and the footer of 512",
        hint="the file is truncated, or the disk was resized without its footer: fetch or build it again",
        kind=FailureKind.TRUNCATED if file_bytes < wanted else FailureKind.DAMAGED,
    )


def _copies_finding(raw: bytes, copy: bytes) -> Finding:
    sound = [name for name, each in (("the end", raw), ("offset 0", copy)) if is_sound_footer(each)]
    states = {0: "neither footer is sound", 1: f"only the footer at {''.join(sound[:1])} is sound"}
    both = "both footers are equal" if raw == copy else "both footers are sound but different"
    return Finding(
        check="footer-copies",
        passed=len(sound) == 2 and raw == copy,
        found=states.get(len(sound), both),
        expected="the footer at the end and its copy at offset 0, equal and sound",
        hint=REFETCH_HINT,
    )


def _examine_header(source: ByteSource, footer: Footer) -> tuple[tuple[Finding, ...], DynamicHeader | None]:
    end = footer.data_offset + HEADER_BYTES
    in_file = Finding(
        check="header-in-file",
        passed=footer.data_offset >= FOOTER_BYTES and end <= source.file_bytes - FOOTER_BYTES,
        found=f"a dynamic header at {footer.data_offset:,}",
        expected=f"between the footers of a file of {source.file_bytes:,} bytes",
        hint=REFETCH_HINT,
        kind=FailureKind.TRUNCATED if end > source.file_bytes else FailureKind.DAMAGED,
    )
    if not in_file.passed:
        return (in_file,), None
    raw = source.read_at(footer.data_offset, HEADER_BYTES)
    header = DynamicHeader.unpack(raw)
    block_bytes = header.block_bytes
    needed = ceil_div(footer.current_bytes, max(block_bytes, 1))
    table_end = header.table_offset + 4 * header.table_entries_max
    return (
        in_file,
        _equal_finding("header-cookie", int.from_bytes(header.cookie), int.from_bytes(HEADER_COOKIE)),
        _equal_finding("header-checksum", header.checksum, header_checksum(raw)),
        _equal_finding("header-version", header.version >> 16, FORMAT_VERSION >> 16),
        Finding(
            check="block-size",
            passed=block_bytes >= SECTOR_BYTES and block_bytes & (block_bytes - 1) == 0,
            found=f"blocks of {block_bytes:,} bytes",
            expected="a power of two, at least 512",
            hint=REFETCH_HINT,
        ),
        Finding(
            check="bat-covers-disk",
            passed=header.table_entries_max >= needed,
            found=f"{header.table_entries_max:,} table entries",
            expected=f"at least {needed:,}, one for each block of the disk",
            hint=REFETCH_HINT,
        ),
        Finding(
            check="bat-size",
            passed=needed <= _BAT_ENTRIES_MAX,
            found=f"a table of {needed:,} blocks",
            expected=f"at most {_BAT_ENTRIES_MAX:,}",
            hint="write the disk again with blocks of 2 MiB (`qemu-img convert -f vpc -O vpc`)",
            kind=FailureKind.UNSAFE,
        ),
        Finding(
            check="bat-table-in-file",
            passed=header.table_offset >= FOOTER_BYTES and table_end <= source.file_bytes - FOOTER_BYTES,
            found=f"the block allocation table at {header.table_offset:,} to {table_end:,}",
            expected=f"between the footers of a file of {source.file_bytes:,} bytes",
            hint=REFETCH_HINT,
            kind=FailureKind.TRUNCATED if table_end > source.file_bytes - FOOTER_BYTES else FailureKind.DAMAGED,
        ),
    ), header


def _read_layout(source: ByteSource, footer: Footer, header: DynamicHeader) -> DynamicLayout:
    blocks = ceil_div(footer.current_bytes, header.block_bytes)
    table = source.read_at(header.table_offset, 4 * blocks)
    return DynamicLayout(
        virtual_bytes=footer.current_bytes,
        block_bytes=header.block_bytes,
        bitmap_bytes=bitmap_bytes(header.block_bytes),
        bat=np.frombuffer(table, ">u4").astype(np.uint32),
    )


def _bat_findings(layout: DynamicLayout, footer: Footer, header: DynamicHeader, file_bytes: int) -> tuple[Finding, ...]:
    """Check that each block is inside the file and overlaps neither the structures nor another block.

    The checks use numpy columns, without a loop over blocks.
    """
    starts = np.sort(layout.bat[layout.bat != UNALLOCATED].astype(np.int64)) * SECTOR_BYTES
    pitch = layout.bitmap_bytes + layout.block_bytes
    first, end = (int(starts[0]), int(starts[-1]) + pitch) if len(starts) else (0, 0)
    beyond = end > file_bytes - FOOTER_BYTES
    structures = (
        (0, FOOTER_BYTES),
        (footer.data_offset, footer.data_offset + HEADER_BYTES),
        (header.table_offset, header.table_offset + 4 * header.table_entries_max),
    )
    on_structure = any(bool(np.any((starts < high) & (starts + pitch > low))) for low, high in structures)
    gaps = np.diff(starts)
    twice, overlapping = int(np.count_nonzero(gaps == 0)), int(np.count_nonzero((gaps > 0) & (gaps < pitch)))
    return (
        Finding(
            check="bat-in-file",
            passed=not beyond and not on_structure,
            found=f"{len(starts):,} blocks at {first:,} to {end:,}" + (", over the header or table" * on_structure),
            expected=f"all before the footer at {file_bytes - FOOTER_BYTES:,}, outside the header and the table",
            hint=REFETCH_HINT,
            kind=FailureKind.TRUNCATED if beyond else FailureKind.DAMAGED,
        ),
        Finding(
            check="bat-unique",
            passed=not twice and not overlapping,
            found=f"{twice:,} table entries used twice, {overlapping:,} blocks that overlap another",
            expected="blocks that do not overlap",
            hint=REFETCH_HINT,
        ),
    )


def _equal_finding(check: str, found: int, expected: int, copy_note: str = "") -> Finding:
    return Finding(
        check=check,
        passed=found == expected,
        found=f"0x{found:08x}{copy_note if found != expected else ''}",
        expected=f"0x{expected:08x}",
        hint=REFETCH_HINT,
    )


def _type_name(disk_type: int) -> str:
    return _TYPE_NAMES.get(disk_type, f"type {disk_type}")


def _geometry_notes(footer: Footer) -> tuple[str, ...]:
    if footer.geometry == Geometry.of(footer.current_bytes) or footer.geometry.bytes == footer.current_bytes:
        return ()
    geometry_bytes, current_bytes = footer.geometry.bytes, footer.current_bytes
    return (
        f"the CHS geometry is {geometry_bytes:,} bytes, the current size {current_bytes:,}; imgstore uses the latter",
    )


class FixedVhdReader:
    """The disk of a fixed VHD: the file without its last 512 bytes."""

    def __init__(self, source: ByteSource, layout: FixedLayout) -> None:
        self._source = source
        self._layout = layout
        self.virtual_bytes = layout.virtual_bytes
        self.container_metadata = ContainerMetadata(format=DiskFormat.VHD_FIXED, footer=layout.footer)

    def extents(self) -> Iterator[Extent]:
        """Return the file's extents, without the footer."""
        return clip_extents(self._source.extents(), self.virtual_bytes)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read the source once."""
        return self._source.read_at(offset, length)

    def identity(self) -> SourceIdentity:
        """Return the identity of the source."""
        return self._source.identity()

    def close(self) -> None:
        """Do nothing: the source belongs to the caller."""


class DynamicVhdReader:
    """The disk of a dynamic VHD, read through its table.

    Allocated blocks are data, whatever the bitmaps say (invariant F6).
    """

    def __init__(self, source: ByteSource, layout: DynamicLayout) -> None:
        self._source = source
        self._layout = layout
        self.virtual_bytes = layout.virtual_bytes
        self.container_metadata = ContainerMetadata(format=DiskFormat.VHD_DYNAMIC)

    def extents(self) -> Iterator[Extent]:
        """Return the allocated blocks, without the holes of the file inside the blocks."""
        return _merge_adjacent(clip_extents(self._allocated_extents(), self.virtual_bytes))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read the source once for each touched allocated block."""
        parts = [self._read_part(*cut) for cut in self._split_by_block(offset, length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def identity(self) -> SourceIdentity:
        """Return the identity of the source."""
        return self._source.identity()

    def close(self) -> None:
        """Do nothing: the source belongs to the caller."""

    def count_stray_sectors(self) -> int:
        """Count the sectors that hold bytes that are not zero although the bit in the bitmap is 0.

        Reads every bitmap, and the data of blocks with a bitmap that is not all ones.
        """
        return sum(self._count_strays(int(block)) for block in np.flatnonzero(self._layout.bat != UNALLOCATED))

    def _data_at(self, block: int) -> int | None:
        """Return the file offset of a block's data, or None for an unallocated block."""
        sector = int(self._layout.bat[block])
        return None if sector == UNALLOCATED else sector * SECTOR_BYTES + self._layout.bitmap_bytes

    def _split_by_block(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Split a range of the disk into (block, offset in the block, length)."""
        block_bytes, end = self._layout.block_bytes, offset + length
        while offset < end:
            block, skip = divmod(offset, block_bytes)
            taken = min(block_bytes - skip, end - offset)
            yield block, skip, taken
            offset += taken

    def _read_part(self, block: int, skip: int, length: int) -> bytes:
        start = self._data_at(block)
        return bytes(length) if start is None else self._source.read_at(start + skip, length)

    def _allocated_extents(self) -> Iterator[Extent]:
        """Return the parts of each allocated block that are no holes of the file, in disk order."""
        layout = self._layout
        holds = _Extents(self._source.extents())
        for block in np.flatnonzero(layout.bat != UNALLOCATED).tolist():
            start = int(layout.bat[block]) * SECTOR_BYTES + layout.bitmap_bytes
            for low, high in holds.within(start, start + layout.block_bytes):
                yield Extent(offset=block * layout.block_bytes + low - start, length=high - low)

    def _count_strays(self, block: int) -> int:
        layout = self._layout
        start = int(layout.bat[block]) * SECTOR_BYTES
        sectors = layout.block_bytes // SECTOR_BYTES
        bitmap = np.frombuffer(self._source.read_at(start, layout.bitmap_bytes), np.uint8)
        absent = np.unpackbits(bitmap)[:sectors] == 0
        if not absent.any():
            return 0
        data = np.frombuffer(self._source.read_at(start + layout.bitmap_bytes, layout.block_bytes), np.uint64)
        return int(np.count_nonzero(absent & data.reshape(sectors, -1).any(axis=1)))


class _Extents:
    """A file's extents as two columns: 16 bytes for each extent."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        starts, ends = array("q"), array("q")
        for extent in extents:
            starts.append(extent.offset)
            ends.append(extent.end)
        self._starts = np.array(starts, np.int64)
        self._ends = np.array(ends, np.int64)

    def within(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Return the parts of [low, high) that extents cover, in order."""
        first = int(np.searchsorted(self._ends, low, "right"))
        last = int(np.searchsorted(self._starts, high, "left"))
        for at in range(first, last):
            yield max(low, int(self._starts[at])), min(high, int(self._ends[at]))


def _merge_adjacent(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Merge adjacent extents."""
    held: Extent | None = None
    for extent in extents:
        if held and held.end == extent.offset:
            held = Extent(offset=held.offset, length=held.length + extent.length)
            continue
        if held:
            yield held
        held = extent
    if held:
        yield held
