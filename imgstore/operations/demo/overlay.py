"""A disk with a few changed ranges, for a changed disk that is published without a write to the real disk."""

from collections.abc import Iterator, Mapping

from imgstore.domain.disks.sources import ContainerMetadata, DiskReader, Extent, SourceIdentity
from imgstore.domain.storage.digests import digest_of


class Overlay:
    """A `DiskReader` that reads `changes` in place of the ranges of the disk below. The disk below is only read."""

    def __init__(self, below: DiskReader, changes: Mapping[int, bytes]) -> None:
        """Replace ranges of a disk.

        Args:
            below: the disk; stays the caller's.
            changes: bytes by offset; each range inside an extent of the disk, none overlapping another.
        """
        self._below = below
        self._changes = dict(sorted(changes.items()))
        told = b"".join(offset.to_bytes(8, "little") + data for offset, data in self._changes.items())
        self._stamp = digest_of(told).hex()

    @property
    def virtual_bytes(self) -> int:
        """Return the value of the disk below."""
        return self._below.virtual_bytes

    @property
    def container_metadata(self) -> ContainerMetadata:
        """Return the value of the disk below."""
        return self._below.container_metadata

    def extents(self) -> Iterator[Extent]:
        """Return the extents of the disk below. Each change is inside an extent."""
        return self._below.extents()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read the disk below with the changes."""
        data = bytearray(self._below.read_at(offset, length))
        for at, change in self._changes.items():
            begin, end = max(at, offset), min(at + len(change), offset + length)
            if begin < end:
                data[begin - offset : end - offset] = change[begin - at : end - at]
        return bytes(data)

    def identity(self) -> SourceIdentity:
        """Return an identity of the disk below and the changes."""
        below = self._below.identity()
        return SourceIdentity(
            location=f"{below.location}#overlay",
            file_bytes=below.file_bytes,
            stamp=f"{below.stamp}+{self._stamp}",
        )

    def close(self) -> None:
        """Do nothing: the caller closes the disk below."""
