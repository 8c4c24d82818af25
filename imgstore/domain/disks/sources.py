"""The ports through which bytes come in: a `ByteSource` is a file somewhere, a `DiskReader` is the disk inside it.

`stores` gives byte sources over HTTP and S3, `formats` gives local files and every reader; neither knows the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class DiskFormat(StrEnum):
    """The containers that a disk can come in or go out as. The values are the command line's words."""

    VHD_FIXED = "vhd"
    VHD_DYNAMIC = "vhd-dynamic"
    RAW = "raw"
    QCOW2 = "qcow2"
    VHDX = "vhdx"
    VMDK = "vmdk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A range of bytes that may hold data. What no extent covers reads as zeros."""

    offset: int
    """First byte."""
    length: int
    """Number of bytes, at least 1."""

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """What a source is known by, so that a repeat can tell whether it is the same one (rules.md, rule 2)."""

    location: str
    """The path or URL, as resolved."""
    file_bytes: int
    """Length of the file, not of the disk in it."""
    stamp: str
    """mtime in nanoseconds and inode for a file; ETag, else Last-Modified, for an object or a URL."""


class ByteSource(Protocol):
    """A sequence of bytes that can be read at any offset. Safe to read from several threads at once."""

    @property
    def file_bytes(self) -> int:
        """Length of the whole."""
        ...

    def identity(self) -> SourceIdentity:
        """What the source is known by *now*: asked afresh at every call, so a change shows.

        Raises:
            StoreError: it is no longer there or does not answer.
        """
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises:
            ImageTruncated: the source ends before `offset + length`.
            SourceChanged: the source itself tells that it is another one than was opened (ETag).
            StoreError: it does not answer.
        """
        ...

    def extents(self) -> Iterator[Extent]:
        """The ranges that may hold data, sorted and apart: SEEK_DATA for files, one extent where nothing is known."""
        ...

    def close(self) -> None:
        """Give back what the source holds. May be called twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMetadata:
    """What a file holds beside the disk's own bytes, kept so that the file can be given back byte for byte."""

    format: DiskFormat
    """The container that the disk came in."""
    footer: bytes = b""
    """The footer of a fixed VHD (512 bytes), else empty."""


class DiskReader(Protocol):
    """A disk inside some container. Safe to read from several threads at once."""

    @property
    def virtual_bytes(self) -> int:
        """Size of the disk."""
        ...

    @property
    def container_metadata(self) -> ContainerMetadata:
        """What the file holds beside the disk."""
        ...

    def extents(self) -> Iterator[Extent]:
        """The ranges of the disk that may hold data, sorted and apart, none beyond `virtual_bytes`."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the disk from `offset`; zeros where nothing is allocated.

        Raises:
            ImageRefused: the container is damaged there.
            StoreError: the source does not answer.
        """
        ...

    def identity(self) -> SourceIdentity:
        """The identity, asked afresh, of the source that the disk was opened from."""
        ...

    def close(self) -> None:
        """Give back what the reader holds. May be called twice."""
        ...


class DiskWriter(Protocol):
    """A disk being written into a container at a temporary path. Safe to use from several threads at once.

    Nothing is at the final path before `publish`; `abandon` removes every trace. One of the two ends its life.
    """

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Put `data` at `offset` of the disk. Ranges that are never written read as zeros.

        Args:
            offset: where.
            data: what.
            read_soon: `read_at` will be asked for it.

        Raises:
            OutputError: disk full, or no permission.
        """
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """What was written there, zeros elsewhere: lets the caller check a piece before it is published."""
        ...

    def publish(self) -> None:
        """Write what the container needs besides, fsync, give the file its final name, fsync the folder."""
        ...

    def abandon(self) -> None:
        """Remove the temporary file. May be called twice, and after `publish`, where it does nothing."""
        ...
