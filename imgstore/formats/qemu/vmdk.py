"""Checks VMDK images before qemu-img reads them.

Source: VMware, "Virtual Disk Format 5.0".
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.storage.sizes import KIB, MIB, SECTOR_BYTES, ceil_div
from imgstore.formats.checks import (
    FLATTEN_HINT,
    FailureKind,
    Finding,
    all_passed,
    inside_file_finding,
    make_finding,
    size_finding,
)
from imgstore.formats.qemu.allocation import vmdk_reach

_HEADER: Final = struct.Struct("<4sIIQQQQIQQQ")


_TYPES: Final = ("monolithicsparse", "streamoptimized")


_AT_END: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The directory offset of a stream-optimized file, which has the real offset in a footer. oslo.utils compares both."""


_COMPRESSED: Final = 1 << 16
"""The flag of files whose grains are compressed."""


_DESCRIPTOR_BYTES_MAX: Final = MIB
"""qemu's own limit."""


_DIRECTORY_ENTRIES_MAX: Final = 32 * MIB
"""qemu's own limit: 512 MiB of grain tables."""


_EXTENT: Final = re.compile(r'(?:rw|rdonly|noaccess) +(\d+) +(\w+) +"([^"/\\]*)"')


_NO_PARENT: Final = "ffffffff"


def examine_vmdk(source: ByteSource) -> tuple[tuple[Finding, ...], int | None]:
    """Check the header and descriptor of a sparse VMDK. Return the findings and the virtual bytes."""
    raw = source.read_at(0, min(_HEADER.size, source.file_bytes))
    sparse = make_finding(
        "sparse-header",
        passed=raw.startswith(b"KDMV") and len(raw) == _HEADER.size,
        found="a text descriptor of a disk in other files" if raw[:1] == b"#" else f"{raw[:4]!r}",
        expected="a single file that holds the whole disk: monolithicSparse or streamOptimized",
        hint=FLATTEN_HINT,
    )
    if not sparse.passed:
        return (sparse,), None
    (
        _, version, flags, capacity, grain, descriptor_at, descriptor_sectors, entries, _, directory_at, _,
    ) = _HEADER.unpack(raw)  # fmt: skip
    virtual_bytes = capacity * SECTOR_BYTES
    descriptor_bytes = descriptor_sectors * SECTOR_BYTES
    directory_entries = ceil_div(capacity, max(grain * entries, 1))
    directory = directory_at * SECTOR_BYTES
    findings: tuple[Finding, ...] = (
        sparse,
        make_finding(
            "known-version",
            passed=version in {1, 2, 3},
            found=f"version {version}",
            expected="version 1, 2 or 3",
            hint=FLATTEN_HINT,
        ),
        # With a capacity of 0, qemu treats the embedded descriptor as the descriptor of a disk in other files.
        size_finding(virtual_bytes, multiple_of=SECTOR_BYTES),
        make_finding(
            "table-sizes",
            passed=entries == 512
            and 8 <= grain <= 128 * KIB
            and grain & (grain - 1) == 0
            and directory_entries <= _DIRECTORY_ENTRIES_MAX,
            found=f"grains of {grain:,} sectors, {entries:,} in a table, {directory_entries:,} tables",
            expected="grains of 4 KiB to 64 MiB, 512 in a table, within qemu's own limits",
        ),
        make_finding(
            "descriptor-size",
            passed=0 < descriptor_bytes <= _DESCRIPTOR_BYTES_MAX,
            found=f"a descriptor of {descriptor_bytes:,} bytes",
            expected="1 byte to 1 MiB, inside the file",
        ),
        inside_file_finding(
            "descriptor-in-file", source, "the descriptor", descriptor_at * SECTOR_BYTES, descriptor_bytes
        ),
    )
    if not all_passed(findings):
        return findings, virtual_bytes
    if directory_at == _AT_END:
        directory = _footer_directory(source)
    findings += (
        make_finding(
            "grain-directory-in-file",
            passed=0 < directory <= source.file_bytes - 4 * directory_entries,
            found=f"the grain directory at {directory:,}"
            if directory
            else "no footer with the offset of the grain directory",
            expected=f"{4 * directory_entries:,} bytes inside the file of {source.file_bytes:,}",
            kind=FailureKind.TRUNCATED,
        ),
    )
    if all_passed(findings):
        reach = vmdk_reach(
            source,
            directory_at=directory,
            capacity_sectors=capacity,
            grain_sectors=grain,
            compressed=bool(flags & _COMPRESSED),
        )
        findings += (inside_file_finding("grains-in-file", source, "grains", 0, reach),)
    text = source.read_at(descriptor_at * SECTOR_BYTES, descriptor_bytes).split(b"\0", 1)[0]
    return (*findings, *_check_descriptor(text.decode("latin-1").lower())), virtual_bytes


def _footer_directory(source: ByteSource) -> int:
    """Return the offset of the grain directory from the footer, a second header in the last but one sector.

    Return 0 if the file has no footer.
    """
    at = max(source.file_bytes - 2 * SECTOR_BYTES, 0)
    raw = source.read_at(at, _HEADER.size)
    directory_at: int = _HEADER.unpack(raw)[9]
    return directory_at * SECTOR_BYTES if raw.startswith(b"KDMV") else 0


def _check_descriptor(text: str) -> Iterator[Finding]:
    """Check the embedded descriptor. Its keys and values ignore case."""
    lines = [line.strip() for line in text.splitlines()]
    fields = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    kind = fields.get("createtype", "").strip('"')
    extents = [line for line in lines if line.startswith(("rw ", "rdonly ", "noaccess "))]
    match = _EXTENT.fullmatch(extents[0]) if len(extents) == 1 else None
    parent = fields.get("parentcid", _NO_PARENT)
    yield make_finding(
        "create-type",
        passed=kind in _TYPES,
        found=repr(kind),
        expected=" or ".join(_TYPES),
        hint=FLATTEN_HINT,
    )
    yield make_finding(
        "no-outside-extents",
        passed=bool(match and match[2] == "sparse"),
        found="; ".join(extents[:4]) or "no extent",
        expected="a single sparse extent: the file itself, without a folder",
        hint=FLATTEN_HINT,
    )
    yield make_finding(
        "no-parent",
        passed=parent == _NO_PARENT and "parentfilenamehint" not in fields,
        found=f"parent CID {parent}",
        expected="no parent (ffffffff)",
        hint=FLATTEN_HINT,
    )
