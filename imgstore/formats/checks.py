"""What a check found. Checks are pure and give findings; opening raises the first that fails, inspecting lists all."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import ImageRefused, ImageTruncated, SafetyCheckFailed
from imgstore.domain.storage.sizes import GIB

DISK_BYTES_MAX: Final = 32_767 * GIB
"""The largest managed disk that Azure has. A header that promises more is a mistake or a bomb."""


Layout = TypeVar("Layout")


class FailureKind(Enum):
    """What a failed check says about the image."""

    DAMAGED = "damaged"
    """The container contradicts itself."""
    TRUNCATED = "truncated"
    """The file ends before what its own header promises."""
    UNSAFE = "unsafe"
    """The image reaches outside itself, or promises sizes that no honest image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one named check."""

    check: str
    """The check's name: what must hold, in words joined by dashes; oslo.utils' own names keep their spelling."""
    passed: bool
    found: str
    """What was there."""
    expected: str
    """What must be there."""
    hint: str
    """What to do if it is not."""
    kind: FailureKind = FailureKind.DAMAGED

    def to_error(self, location: str) -> ImageRefused:
        """The error that this finding, if it failed, is raised as."""
        told = {"found": self.found, "expected": self.expected, "hint": self.hint, "target": location}
        if self.kind is FailureKind.UNSAFE:
            return SafetyCheckFailed(self.check, f"{location} failed the safety check '{self.check}'.", **told)
        refused = ImageTruncated if self.kind is FailureKind.TRUNCATED else ImageRefused
        return refused(f"{location} is refused: the check '{self.check}' failed.", **told)


def raise_first_failed(findings: Iterable[Finding], location: str) -> None:
    """Raise what the first failed finding says.

    Raises:
        ImageTruncated: the file is too short.
        SafetyCheckFailed: it is unsafe.
        ImageRefused: it is damaged.
    """
    for finding in findings:
        if not finding.passed:
            raise finding.to_error(location)


def all_passed(findings: Iterable[Finding]) -> bool:
    """Whether no check failed."""
    return all(finding.passed for finding in findings)


def size_finding(virtual_bytes: int, *, multiple_of: int = 1, bytes_max: int = DISK_BYTES_MAX) -> Finding:
    """Whether a disk's size is one that a disk can have: the first line against header bombs.

    Args:
        virtual_bytes: the size that the container promises.
        multiple_of: the container's own unit, in bytes.
        bytes_max: the most that the container can hold.
    """
    limit = min(bytes_max, DISK_BYTES_MAX)
    unit = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
    return Finding(
        check="virtual-size",
        passed=0 < virtual_bytes <= limit and virtual_bytes % multiple_of == 0,
        found=f"a disk of {virtual_bytes:,} bytes",
        expected=f"1 to {limit:,} bytes{unit}",
        hint="check the image at its origin; a larger disk must be split or shrunk before it is stored",
        kind=FailureKind.UNSAFE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination(Generic[Layout]):
    """An image after its checks."""

    findings: tuple[Finding, ...]
    """In the order in which they were made. After one that makes the rest senseless there are no more."""
    notes: tuple[str, ...] = ()
    """What is odd about the image and harmless."""
    virtual_bytes: int | None = None
    """Size of the disk, where the image told one, even if it is not to be believed."""
    layout: Layout | None = None
    """What a reader needs. None unless all checks passed."""

    def require_layout(self, location: str) -> Layout:
        """The layout of an image that passed.

        Raises:
            ImageRefused: a check failed, in the class that its finding says.
        """
        raise_first_failed(self.findings, location)
        assert self.layout is not None, "no check failed"
        return self.layout


REFETCH_HINT: Final = "fetch or make the image again; `qemu-img check` may tell more"


FLATTEN_HINT: Final = (
    "make it one whole file at its origin (`qemu-img convert -O qcow2`, `vmkfstools -i`) and take that"
)


def make_finding(
    check: str,
    *,
    passed: bool,
    found: str,
    expected: str,
    hint: str = REFETCH_HINT,
    kind: FailureKind = FailureKind.UNSAFE,
) -> Finding:
    """Make a finding about an unsafe image, unless another kind is given."""
    return Finding(check=check, passed=passed, found=found, expected=expected, hint=hint, kind=kind)


def inside_file_finding(check: str, source: ByteSource, what: str, start: int, length: int) -> Finding:
    """Whether a structure lies in the file."""
    return make_finding(
        check,
        passed=start + length <= source.file_bytes,
        found=f"{what} at {start:,} to {start + length:,}",
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
        hint="name the format that the file has with `--source-format`, or fetch it again",
        kind=FailureKind.DAMAGED if complete else FailureKind.TRUNCATED,
    )
