"""What the data plane gives back, for an operation to write down."""

from dataclasses import dataclass

from imgstore.domain.storage.digests import Digest
from imgstore.segments.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReceipt:
    """A segment that is confirmed in the slot."""

    name: Digest
    blocks: int
    stored_bytes: int
    checksum: str | None
    """The store's own; None for one that was there already."""
    work_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReceipt:
    """A disk that is in a slot but for its manifest."""

    manifest: Manifest
    data: bytes
    """The manifest, encoded."""
    digest: Digest
    """The one that `data` ends in."""
    segments: tuple[SegmentReceipt, ...]
    """Every segment that the manifest names, in the order of its table."""
    sent_bytes: int
    """Stored bytes of the segments that this run put."""
    packed_bytes: int
    """Stored bytes of the segments that are new with this disk, sent now or by an earlier run of the same work."""
    repacked_blocks: int
    """Blocks that were packed again by the reuse threshold."""
    missing: frozenset[Digest]
    """Segments that a base names and the slot lacks: an incident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReceipt:
    """A replica that is in its slot but for its manifest."""

    sent_bytes: int
    """Stored bytes of the segments that this run put."""
    sent: int
    checksums: dict[Digest, str | None]
    """Of the segments that this run put, the store's own."""
    missing: frozenset[Digest]
    """Segments that the catalog held to be in the target and the store did not have: sent again, an incident."""
