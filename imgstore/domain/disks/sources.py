"""Protocols for disk input and output. A `ByteSource` is a file anywhere, and a `DiskReader` is the disk in a file.

The package `stores` has byte sources over HTTP and S3. The package `formats` has local files and all readers. Neither
package imports the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from imgstore.domain.storage.digests import Digest


class DiskFormat(StrEnum):
    """The formats of disk files. The values are words of the command line."""

    VHD_FIXED = "vhd"
    VHD_DYNAMIC = "vhd-dynamic"
    RAW = "raw"
    QCOW2 = "qcow2"
    VHDX = "vhdx"
    VMDK = "vmdk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A range of bytes that may contain data. Bytes outside of all extents are zero."""

    offset: int
    """The first byte."""
    length: int
    """The number of bytes, at least 1."""

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """The identity of a source. A repeated command compares the identity with the source (invariants W4 and W5)."""

    location: str
    """The resolved path or URL."""
    file_bytes: int
    """The length of the file, not of the disk in the file."""
    stamp: str
    """For a file, mtime in nanoseconds and inode. For an object or URL, the ETag, else Last-Modified."""

    def may_have_content_of(self, other: "SourceIdentity") -> bool:
        """Return whether a read can show the same content: the locations are equal, or both are local files.

        A link to the newest build, and a file in a folder that was moved, have another path with the same bytes.
        """
        return self.location == other.location or (self.location.startswith("/") and other.location.startswith("/"))


class ByteSource(Protocol):
    """A sequence of bytes with reads at any offset. Safe for reads from several threads."""

    @property
    def file_bytes(self) -> int:
        """The length in bytes."""
        ...

    def identity(self) -> SourceIdentity:
        """Return the present identity of the source. Each call asks the source again, to detect changes.

        Raises:
            StoreError: the source is missing or does not answer.
        """
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            ImageTruncated: the source ends before `offset + length`.
            SourceChanged: the source reports that the content has changed since the opening (ETag).
            StoreError: the source does not answer.
        """
        ...

    def extents(self) -> Iterator[Extent]:
        """Return the ranges that may contain data, sorted and disjoint.

        Files use SEEK_DATA. A source without knowledge of holes has a single extent.
        """
        ...

    def close(self) -> None:
        """Release all resources. May be called twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMetadata:
    """The bytes of a disk file outside of the disk. Exports restore the file byte for byte from these bytes."""

    format: DiskFormat
    """The format of the original file."""
    footer: bytes = b""
    """The footer of a fixed VHD (512 bytes), else empty."""


class DiskReader(Protocol):
    """A disk in a file of any format. Safe for reads from several threads."""

    @property
    def virtual_bytes(self) -> int:
        """The size of the disk."""
        ...

    @property
    def container_metadata(self) -> ContainerMetadata:
        """The bytes of the file outside of the disk."""
        ...

    def extents(self) -> Iterator[Extent]:
        """Return the ranges of the disk that may contain data, sorted and disjoint, none beyond `virtual_bytes`."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes of the disk from `offset`. Unallocated bytes are zero.

        Raises:
            ImageRefused: the container is damaged at this range.
            StoreError: the source does not answer.
        """
        ...

    def identity(self) -> SourceIdentity:
        """Return the present identity of the source of the disk. Each call asks the source again."""
        ...

    def close(self) -> None:
        """Release all resources. May be called twice."""
        ...


@runtime_checkable
class PartlyKnownDisk(DiskReader, Protocol):
    """A disk with pieces whose digests are known without a read, because a stored disk has the same pieces."""

    def find_digest(self, index: int) -> Digest | None:
        """Return the digest of the piece at `index`. None if the piece must be read."""
        ...


class DiskWriter(Protocol):
    """A disk that is written into a container. Safe for use from several threads, unless `in_order` is true.

    A file is written at a temporary path: the final path contains no file before `publish`, and `abandon` removes all
    temporary files. Call one of the two at the end.
    """

    in_order: bool
    """Whether the target is a pipe or a block device. Then only verified bytes are written, by one thread, each range
    after the previous range. There is no `read_at`, and `abandon` removes nothing (invariants D5 and P7)."""

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write `data` at `offset` of the disk. Unwritten ranges read as zeros.

        Args:
            offset: the offset in the disk.
            data: the bytes.
            read_soon: the caller will soon read the range with `read_at`.

        Raises:
            OutputError: the file system is full, or the permission is missing.
        """
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return written bytes, with zeros for unwritten ranges. The caller checks a piece before publication."""
        ...

    def publish(self) -> int:
        """Write the rest of the container, call fsync, rename to the final path, and call fsync on the folder.

        Returns:
            The length of the file, or the number of bytes in a pipe or on a device.
        """
        ...

    def abandon(self) -> None:
        """Remove the temporary file. May be called twice. No effect after `publish`."""
        ...
