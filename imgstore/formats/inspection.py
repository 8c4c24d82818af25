"""Describes an image: its format, the results of all safety checks, and whether Azure would accept the image."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imgstore.domain.disks.sources import ByteSource, DiskFormat
from imgstore.domain.errors import ImageRefused, ToolMissing
from imgstore.domain.resources import HyperVGeneration
from imgstore.formats.azure_limits import refusal_reasons
from imgstore.formats.checks import Finding, all_passed
from imgstore.formats.open_disk import CONVERTED_FORMATS, examine, open_disk
from imgstore.formats.partitions import detect_generation
from imgstore.formats.probe import probe
from imgstore.formats.qemu.oslo_checks import oslo_finding
from imgstore.formats.vhd import DynamicVhdReader


class Check(NamedTuple):
    """The result of a safety check."""

    name: str
    passed: bool
    detail: str
    """The found state. For a failed check also the expected state and a hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A description of an image."""

    location: str
    """Path or URL."""
    format: DiskFormat
    """The named or detected format. If the check 'one-format' failed, the format is a guess."""
    virtual_bytes: int | None
    """Size of the disk; None if the image states no size."""
    file_bytes: int
    data_bytes: int | None
    """The bytes of the disk that may hold data (the sum of the extents); None if the disk could not be opened."""
    azure_ready: bool
    """Whether Azure would accept the file without conversion."""
    azure_reasons: tuple[str, ...]
    """The reasons against acceptance."""
    generation: HyperVGeneration | None
    """The generation by the partition table; None if the table could not be read."""
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """Unusual but harmless properties."""


def inspect_image(source: ByteSource, *, format: DiskFormat | None = None, scratch: Path) -> Inspection:  # noqa: A002 - as in open_disk
    """Inspect `source` by every check. A damaged image is reported, not raised.

    Args:
        source: the image file.
        format: the format of the file; None detects the format.
        scratch: the folder for the conversion of qcow2, VHDX or VMDK, which counts the data and reads the partition
            table.

    Raises:
        StoreError: the source can't be read.
        OutputError: too little space below `scratch`.
    """
    findings: tuple[Finding, ...] = ()
    form = format
    if form is None:
        probed = probe(source)
        form, findings = probed.format, (probed.finding,)
    examined = examine(source, form)
    findings += examined.findings
    notes = list(examined.notes)
    data_bytes, generation = None, None
    try:
        if form in CONVERTED_FORMATS and all_passed(findings):
            findings += (oslo_finding(source, form),)
        if all_passed(findings):
            data_bytes, generation = _look_inside(source, form, scratch, notes)
    except ToolMissing as missing:
        notes.append(f"incomplete inspection: {missing.message} What to do: {missing.hint}")
    except ImageRefused as refused:
        findings += (_conversion_finding(refused),)
    reasons = tuple(_azure_reasons(form, examined.virtual_bytes, findings))
    return Inspection(
        location=source.identity().location,
        format=form,
        virtual_bytes=examined.virtual_bytes,
        file_bytes=source.file_bytes,
        data_bytes=data_bytes,
        azure_ready=not reasons,
        azure_reasons=reasons,
        generation=generation,
        checks=tuple(_to_check(finding) for finding in findings),
        notes=tuple(notes),
    )


def _look_inside(
    source: ByteSource, form: DiskFormat, scratch: Path, notes: list[str]
) -> tuple[int, HyperVGeneration | None]:
    """Count the data bytes and detect the generation. Unusual properties of the blocks are added to `notes`."""
    reader = open_disk(source, format=form, scratch=scratch)
    try:
        if isinstance(reader, DynamicVhdReader) and (strays := reader.count_stray_sectors()):
            notes.append(
                f"{strays:,} sectors hold data although their bitmap says they are absent; allocated blocks are read "
                "as data, like qemu-img does"
            )
        generation = detect_generation(reader)
        if generation is None:
            notes.append("the protective MBR announces a GPT that is missing, so the generation is unknown")
        return sum(extent.length for extent in reader.extents()), generation
    finally:
        reader.close()


def _azure_reasons(form: DiskFormat, virtual_bytes: int | None, findings: tuple[Finding, ...]) -> Iterator[str]:
    """List the reasons why Azure would not accept the file."""
    yield from (f"the check '{finding.check}' failed" for finding in findings if not finding.passed)
    yield from refusal_reasons(form, virtual_bytes)


def _conversion_finding(refused: ImageRefused) -> Finding:
    """Make the finding of an image that qemu-img refuses."""
    return Finding(
        check="qemu-img-reads-it",
        passed=False,
        found=refused.found or refused.message,
        expected=refused.expected or "",
        hint=refused.hint or "",
    )


def _to_check(finding: Finding) -> Check:
    if finding.passed:
        return Check(finding.check, passed=True, detail=finding.found)
    detail = f"found: {finding.found}; expected: {finding.expected}; what to do: {finding.hint}"
    return Check(finding.check, passed=False, detail=detail)
