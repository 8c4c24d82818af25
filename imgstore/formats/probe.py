"""Detects the container of a file from its first and last bytes (invariants F9, F10).

A file that begins with a container's signature is that container. Some files are refused: files that look like two
containers, like an unsupported container, or that have the suffix of a container but no signature. A person must then
name the format. A named format is never probed.
"""

from dataclasses import dataclass
from typing import Final

from imgstore.domain.disks.source_urls import redact_location
from imgstore.domain.disks.sources import ByteSource, DiskFormat
from imgstore.domain.errors import ImageRefused, ImageTruncated
from imgstore.formats.checks import FailureKind, Finding
from imgstore.formats.vhd import read_tail
from imgstore.formats.vhd_layout import (
    FOOTER_BYTES,
    FOOTER_COOKIE,
    TYPE_DIFFERENCING,
    TYPE_DYNAMIC,
    Footer,
    looks_like_footer,
)

_HEAD_BYTES: Final = 512

_MAGICS: Final = {
    b"QFI\xfb": DiskFormat.QCOW2,
    b"vhdxfile": DiskFormat.VHDX,
    b"KDMV": DiskFormat.VMDK,
    b"COWD": DiskFormat.VMDK,
    b"# Disk DescriptorFile": DiskFormat.VMDK,
    FOOTER_COOKIE: DiskFormat.VHD_DYNAMIC,
}

_OTHERS: Final = {
    (0, b"QED\0"): "a QED image",
    (0, b"LUKS\xba\xbe"): "a disk encrypted by LUKS",
    (0, b"WithoutFreeSpace"): "a Parallels image",
    (0, b"WithouFreSpacExt"): "a Parallels image",
    (0, b"\x1f\x8b\x08"): "a gzip file",
    (0, b"\xfd7zXZ\0"): "an xz file",
    (0, b"\x28\xb5\x2f\xfd"): "a zstd file",
    (0, b"BZh"): "a bzip2 file",
    (0, b"PK\x03\x04"): "a zip file",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7-Zip file",
    (0x40, b"\x7f\x10\xda\xbe"): "a VirtualBox VDI image",
    (257, b"ustar"): "a tar archive (an OVA is one)",
}
"""Files that people pass by mistake, with contents that are encrypted or compressed."""

_SUFFIXES: Final = {
    ".vhd": "VHD",
    ".vhdx": "VHDX",
    ".qcow2": "qcow2",
    ".vmdk": "VMDK",
    ".vdi": "VDI",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The apparent format of a file, and whether the format is certain."""

    format: DiskFormat
    finding: Finding


def probe(source: ByteSource) -> ProbeResult:
    """Detect the format of `source` from its first and last 512 bytes."""
    head = source.read_at(0, min(_HEAD_BYTES, source.file_bytes))
    tail = read_tail(source)
    candidates = [form for magic, form in _MAGICS.items() if head.startswith(magic)]
    vhd = _vhd_by_footer(tail)
    if vhd and not (vhd in candidates or (tail[1:9] == FOOTER_COOKIE and DiskFormat.VHD_DYNAMIC in candidates)):
        candidates.append(vhd)
    others = [name for (at, magic), name in _OTHERS.items() if head.startswith(magic, at)]
    if candidates == [DiskFormat.VHD_FIXED]:
        others = []  # the footer is at the end, so the disk may begin with any bytes
    doubt = _doubt(candidates, others, _suffix(source))
    form = candidates[0] if candidates else DiskFormat.RAW
    found, kind = doubt or (f"a {form.value} file", FailureKind.DAMAGED)
    return ProbeResult(
        format=form,
        finding=Finding(
            check="one-format",
            passed=doubt is None,
            found=found,
            expected="a file that is a single supported container, or a raw disk that looks like no container",
            hint="unpack or convert the file first, fetch a truncated file again, or name the format with "
            "`--source-format` (vhd, vhd-dynamic, raw, qcow2, vhdx, vmdk)",
            kind=kind,
        ),
    )


def probe_format(source: ByteSource) -> DiskFormat:
    """Return the format of `source`, if the format is certain.

    Raises:
        ImageTruncated: the name says a container, and neither end of the file does.
        ImageRefused: the file looks like several formats, or like an unsupported format.
    """
    probed = probe(source)
    if probed.finding.passed:
        return probed.format
    refused = ImageTruncated if probed.finding.kind is FailureKind.TRUNCATED else ImageRefused
    location = source.identity().location
    raise refused(
        f"{location}: the format is in doubt.",
        found=probed.finding.found,
        expected=probed.finding.expected,
        hint=probed.finding.hint,
        target=location,
    )


def _vhd_by_footer(tail: bytes) -> DiskFormat | None:
    """Detect a VHD by the end of the file, even if the footer is damaged or a byte short.

    Its checks then refuse the file by name.
    """
    if tail[1:9] == FOOTER_COOKIE:
        return DiskFormat.VHD_FIXED
    if len(tail) < FOOTER_BYTES or not looks_like_footer(tail):
        return None
    sparse = Footer.unpack(tail).disk_type in {TYPE_DYNAMIC, TYPE_DIFFERENCING}
    return DiskFormat.VHD_DYNAMIC if sparse else DiskFormat.VHD_FIXED


def _doubt(candidates: list[DiskFormat], others: list[str], suffix: str) -> tuple[str, FailureKind] | None:
    """Return the reason why the format is uncertain, or None."""
    if len(candidates) > 1 or (candidates and others):
        looks = [form.value for form in candidates] + others
        return f"a file that looks like {' and like '.join(looks)}", FailureKind.UNSAFE
    if others:
        return f"a file that looks like {' and like '.join(others)}", FailureKind.DAMAGED
    if not candidates and suffix in _SUFFIXES:
        return f"a file named {suffix} with no {_SUFFIXES[suffix]} header or footer", FailureKind.TRUNCATED
    return None


def _suffix(source: ByteSource) -> str:
    location = redact_location(source.identity().location)
    path = location.partition("://")[2].partition("/")[2] if "://" in location else location
    _, dot, suffix = path.rsplit("/", 1)[-1].lower().rpartition(".")
    return dot + suffix
