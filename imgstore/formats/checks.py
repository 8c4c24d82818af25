"""Findings of checks. `open_disk` raises the first failed finding, and `inspect_image` lists all findings.

Checks are pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import ImageRefused, ImageTruncated, SafetyCheckFailed
from imgstore.domain.storage.sizes import GIB

DISK_BYTES_MAX: Final = 32_767 * GIB
"""The size of Azure's largest managed disk. A larger size in a header is a mistake or an attack."""


Layout = TypeVar("Layout")


class FailureKind(Enum):
    """The fault of an image that fails a check."""

    DAMAGED = "damaged"
    """The container contradicts itself."""
    TRUNCATED = "truncated"
    """The file is shorter than its header promises."""
    UNSAFE = "unsafe"
    """The image refers to other files, or promises sizes that no honest image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of a named check."""

    check: str
    """The name of the check: the required property, words joined by dashes. Names of oslo.utils keep their spelling."""
    passed: bool
    found: str
    """The found state."""
    expected: str
    """The required state."""
    hint: str
    """The advice for a failed check."""
    kind: FailureKind = FailureKind.DAMAGED

    def to_error(self, location: str) -> ImageRefused:
        """Return the error that reports this finding as a failure."""
        parts = {"found": self.found, "expected": self.expected, "hint": self.hint, "target": location}
        if self.kind is FailureKind.UNSAFE:
            return SafetyCheckFailed(self.check, f"{location} failed the safety check '{self.check}'.", **parts)
        refused = ImageTruncated if self.kind is FailureKind.TRUNCATED else ImageRefused
        return refused(f"{location} is refused: the check '{self.check}' failed.", **parts)


def raise_first_failed(findings: Iterable[Finding], location: str) -> None:
    """Raise the error of the first failed finding.

    Raises:
        ImageTruncated: the file is too short.
        SafetyCheckFailed: the image is unsafe.
        ImageRefused: the image is damaged.
    """
    for finding in findings:
        if not finding.passed:
            raise finding.to_error(location)


def all_passed(findings: Iterable[Finding]) -> bool:
    """Return whether no check failed."""
    return all(finding.passed for finding in findings)


def size_finding(virtual_bytes: int, *, multiple_of: int = 1, bytes_max: int = DISK_BYTES_MAX) -> Finding:
    """Check that a disk may have this size: the first defence against headers with huge sizes.

    Args:
        virtual_bytes: the size that the container promises.
        multiple_of: the container's own unit, in bytes.
        bytes_max: the largest size that the container can hold.
    """
    limit = min(bytes_max, DISK_BYTES_MAX)
    unit = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
    return Finding(
        check="virtual-size",
        passed=0 < virtual_bytes <= limit and virtual_bytes % multiple_of == 0,
        found=f"a disk of {virtual_bytes:,} bytes",
        expected=f"1 to {limit:,} bytes{unit}",
        hint="check the image at its origin; split or shrink a larger disk before you store it",
        kind=FailureKind.UNSAFE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination(Generic[Layout]):
    """The results of all checks of an image."""

    findings: tuple[Finding, ...]
    """The findings in the order of the checks. A failure that makes further checks useless is the last finding."""
    notes: tuple[str, ...] = ()
    """Unusual but harmless properties of the image."""
    virtual_bytes: int | None = None
    """Size of the disk as the image states, if it states any size. The value may be wrong if a check failed."""
    layout: Layout | None = None
    """The values that a reader needs. None unless all checks passed."""

    def require_layout(self, location: str) -> Layout:
        """Return the layout of an image that passed all checks.

        Raises:
            ImageRefused: a check failed; the class of the error depends on the finding.
        """
        raise_first_failed(self.findings, location)
        assert self.layout is not None, "no check failed"
        return self.layout


REFETCH_HINT: Final = "fetch or build the image again; `qemu-img check` may show details"


FLATTEN_HINT: Final = "convert the image at its origin to a single file (`qemu-img convert -O qcow2`, `vmkfstools -i`)"


def make_finding(
    check: str,
    *,
    passed: bool,
    found: str,
    expected: str,
    hint: str = REFETCH_HINT,
    kind: FailureKind = FailureKind.UNSAFE,
) -> Finding:
    """Make a finding, which is about an unsafe image unless `kind` says otherwise."""
    return Finding(check=check, passed=passed, found=found, expected=expected, hint=hint, kind=kind)


def inside_file_finding(check: str, source: ByteSource, structure: str, start: int, length: int) -> Finding:
    """Check that a structure is inside the file."""
    return make_finding(
        check,
        passed=start + length <= source.file_bytes,
        found=f"{structure} at {start:,} to {start + length:,}",
        expected=f"inside the file of {source.file_bytes:,} bytes",
        kind=FailureKind.TRUNCATED,
    )


def header_finding(raw: bytes, header_bytes: int, magic: bytes) -> Finding:
    """Check that a header is complete and begins with its magic number."""
    complete = len(raw) == header_bytes
    return make_finding(
        "header",
        passed=complete and raw.startswith(magic),
        found=f"{len(raw)} bytes that start with {raw[:8]!r}",
        expected=f"a header of {header_bytes} bytes that starts with {magic!r}",
        hint="name the real format of the file with `--source-format`, or fetch the file again",
        kind=FailureKind.DAMAGED if complete else FailureKind.TRUNCATED,
    )
