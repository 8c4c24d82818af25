"""Results of the data plane, which operations record in the catalog."""

from dataclasses import dataclass

from imgstore.domain.resources import SegmentRow
from imgstore.domain.storage.digests import Digest
from imgstore.segments.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReceipt:
    """A disk that is complete in a slot, except for its manifest."""

    manifest: Manifest
    data: bytes
    """The manifest, encoded."""
    digest: Digest
    """The digest at the end of `data`."""
    segments: tuple[SegmentRow, ...]
    """Every segment that the manifest names, in the order of its table. The checksum of a segment that already existed
    is None."""
    sent_bytes: int
    """Stored bytes of the segments that this run sent."""
    packed_bytes: int
    """Stored bytes of this disk's new segments, sent now or by an earlier run of the same work."""
    repacked_blocks: int
    """Blocks that were packed again because of the reuse threshold."""
    missing: frozenset[Digest]
    """Segments that a base names and the slot does not have: an incident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReceipt:
    """A replica that is complete in its slot, except for its manifest."""

    sent_bytes: int
    """Stored bytes of the segments that this run sent."""
    sent: int
    checksums: dict[Digest, str | None]
    """The store's checksums of the segments that this run sent."""
    missing: frozenset[Digest]
    """Segments that the catalog recorded in the target and the store did not have. The run sent them again: an
    incident."""
