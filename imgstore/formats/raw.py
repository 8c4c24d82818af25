"""Reads a raw file: the disk itself, of any size."""

from collections.abc import Iterable, Iterator

from imgstore.domain.disks.sources import ByteSource, ContainerMetadata, DiskFormat, Extent, SourceIdentity
from imgstore.formats.checks import Examination, Finding, size_finding


def clip_extents(extents: Iterable[Extent], end: int) -> Iterator[Extent]:
    """Cut `extents` at `end`."""
    for extent in extents:
        if extent.offset >= end:
            return
        yield extent if extent.end <= end else Extent(offset=extent.offset, length=end - extent.offset)


def examine_raw(source: ByteSource) -> Examination[int]:
    """Check a raw file. A raw file has no structure, so nothing in it can be unsafe. The layout is the size."""
    null = Finding(
        check="null",
        passed=True,
        found="a raw disk, which has no header and names no other file",
        expected="nothing",
        hint="",
    )
    findings = (size_finding(source.file_bytes), null)
    size = source.file_bytes
    return Examination(findings=findings, virtual_bytes=size, layout=size if findings[0].passed else None)


class RawReader:
    """The disk of a raw file."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.virtual_bytes = source.file_bytes
        self.container_metadata = ContainerMetadata(format=DiskFormat.RAW)

    def extents(self) -> Iterator[Extent]:
        """Return the extents of the file."""
        return self._source.extents()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read the source once."""
        return self._source.read_at(offset, length)

    def identity(self) -> SourceIdentity:
        """Return the identity of the source."""
        return self._source.identity()

    def close(self) -> None:
        """Do nothing: the source belongs to the caller."""
