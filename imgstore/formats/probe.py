"""Detects the container of a file from its first and last bytes (invariants B8, F9, F10).

A file that begins with a container's signature is that container. Some files are refused: files that look like two
containers, files that are no disk (`formats.non_disks`), and files that have the suffix of a container but no signature.
A person must then name the format. A named format is never probed.
"""

from dataclasses import dataclass
from typing import Final

from imgstore.domain.disks.source_urls import redact_location
from imgstore.domain.disks.sources import ByteSource, DiskFormat
from imgstore.domain.errors import ImageRefused, ImageTruncated
from imgstore.formats.checks import FailureKind, Finding
from imgstore.formats.non_disks import HEAD_BYTES, NonDisk, match_signature, recognize_non_disk
from imgstore.formats.vhd import read_tail
from imgstore.formats.vhd_layout import (
    FOOTER_BYTES,
    FOOTER_COOKIE,
    TYPE_DIFFERENCING,
    TYPE_DYNAMIC,
    Footer,
    looks_like_footer,
)

_MAGICS: Final = {
    b"QFI\xfb": DiskFormat.QCOW2,
    b"vhdxfile": DiskFormat.VHDX,
    b"KDMV": DiskFormat.VMDK,
    b"COWD": DiskFormat.VMDK,
    b"# Disk DescriptorFile": DiskFormat.VMDK,
    FOOTER_COOKIE: DiskFormat.VHD_DYNAMIC,
}

_ONE_FORMAT: Final = "one-format"
_IS_A_DISK: Final = "is-a-disk"
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
    """Detect the format of `source` from its first 4 KiB and its last 512 bytes."""
    head = source.read_at(0, min(HEAD_BYTES, source.file_bytes))
    tail = read_tail(source)
    candidates = [form for magic, form in _MAGICS.items() if head.startswith(magic)]
    vhd = _vhd_by_footer(tail)
    if vhd and not (vhd in candidates or (tail[1:9] == FOOTER_COOKIE and DiskFormat.VHD_DYNAMIC in candidates)):
        candidates.append(vhd)
    if not candidates:
        non_disk = recognize_non_disk(head, tail, source.file_bytes)
    elif candidates == [DiskFormat.VHD_FIXED]:
        non_disk = None  # The footer is at the end, so the disk may begin with any bytes.
    else:
        non_disk = match_signature(head, tail)
    form = candidates[0] if candidates else DiskFormat.RAW
    return ProbeResult(format=form, finding=_finding(candidates, non_disk, _suffix(source)))


def probe_format(source: ByteSource) -> DiskFormat:
    """Return the format of `source`, if the format is certain.

    Raises:
        ImageTruncated: the name says a container, and neither end of the file does.
        ImageRefused: the file looks like several formats, or is no disk.
    """
    probed = probe(source)
    finding = probed.finding
    if finding.passed:
        return probed.format
    location = source.identity().location
    parts = {"found": finding.found, "expected": finding.expected, "hint": finding.hint, "target": location}
    if finding.check == _IS_A_DISK:
        raise ImageRefused(f"{location} is not a disk.", **parts)
    refused = ImageTruncated if finding.kind is FailureKind.TRUNCATED else ImageRefused
    raise refused(f"{location}: the format is in doubt.", **parts)


def _finding(candidates: list[DiskFormat], non_disk: NonDisk | None, suffix: str) -> Finding:
    """Decide whether the format is certain."""
    if non_disk is not None and not candidates:
        return Finding(
            check=_IS_A_DISK,
            passed=False,
            found=non_disk.name,
            expected="a disk: raw, VHD, VHDX, qcow2 or VMDK",
            hint=f"{non_disk.hint}. If the bytes are a disk in any case, add `--source-format raw` (for data disks "
            "`--data-vhds-formats raw`)",
        )
    looks = [form.value for form in candidates] + ([non_disk.name] if non_disk else [])
    found, kind = f"a {looks[0] if looks else DiskFormat.RAW.value} file", FailureKind.DAMAGED
    passed = len(looks) < 2
    if not passed:
        found, kind = f"a file that looks like {' and like '.join(looks)}", FailureKind.UNSAFE
    elif not candidates and suffix in _SUFFIXES:
        passed, kind = False, FailureKind.TRUNCATED
        found = f"a file named {suffix} with no {_SUFFIXES[suffix]} header or footer"
    return Finding(
        check=_ONE_FORMAT,
        passed=passed,
        found=found,
        expected="a file that is a single supported container, or a raw disk that looks like no container",
        hint="unpack or convert the file first, fetch a truncated file again, or name the format with "
        "`--source-format` (vhd, vhd-dynamic, raw, qcow2, vhdx, vmdk)",
        kind=kind,
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


def _suffix(source: ByteSource) -> str:
    location = redact_location(source.identity().location)
    path = location.partition("://")[2].partition("/")[2] if "://" in location else location
    _, dot, suffix = path.rsplit("/", 1)[-1].lower().rpartition(".")
    return dot + suffix
