"""A stored disk with the changes of an overlay, as the source of a new disk or version."""

from collections.abc import Iterator

from imgstore.domain.disks.block_device import BlockDevice
from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, Extent, SourceIdentity
from imgstore.domain.storage.digests import Digest
from imgstore.segments.manifest import Manifest
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.overlay import Overlay


class OverlaidDisk:
    """A `PartlyKnownDisk`: pieces without a changed block have the digests of the stored disk."""

    def __init__(
        self, manifest: Manifest, manifest_digest: Digest, base: BlockDevice, overlay: Overlay, location: str
    ) -> None:
        """Put an overlay over a stored disk.

        Args:
            manifest: the stored disk.
            manifest_digest: the digest of the manifest.
            base: the reader of the stored disk.
            overlay: the changes, which nobody writes any more.
            location: the location in the identity.
        """
        self.base_digest = manifest_digest
        """The digest of the manifest of the stored disk, which is a base of the ingest."""
        self._manifest = manifest
        self._device = OverlayDevice(base, overlay)
        self._overlay = overlay
        self._changed = frozenset(overlay.changed_pieces())
        self._location = location

    @property
    def virtual_bytes(self) -> int:
        """The size of the disk."""
        return self._manifest.virtual_bytes

    @property
    def container_metadata(self) -> ContainerMetadata:
        """Return the metadata of a raw file: the footer of the stored disk belongs to other content."""
        return ContainerMetadata(format=DiskFormat.RAW)

    def extents(self) -> Iterator[Extent]:
        """Return the ranges with data."""
        return self._device.extents(0, self.virtual_bytes)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read changed blocks from the overlay, and other bytes from the stored disk."""
        return bytes(self._device.read_at(offset, length))

    def find_digest(self, index: int) -> Digest | None:
        """Return the digest of a piece without a changed block."""
        return None if index in self._changed else self._manifest.pieces.find(index)

    def identity(self) -> SourceIdentity:
        """Return the identity: the stamp is a digest of the stored disk and the changed blocks."""
        stamp = f"{self._manifest.disk_digest.hex()}+{self._overlay.content_digest().hex()}"
        return SourceIdentity(location=self._location, file_bytes=self.virtual_bytes, stamp=stamp)

    def close(self) -> None:
        """Do nothing: the caller closes overlay and stored disk."""
