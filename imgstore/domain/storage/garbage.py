"""Objects that garbage collection has marked for deletion, and the GC state of each object (invariants G4 to G8)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from imgstore.domain.storage.digests import Digest


class GcState(StrEnum):
    """The GC state of an object."""

    MARKED = "Condemned"
    """The object is marked for deletion, and the grace period runs.

    No delete was sent, so a writer may remove the mark. Databases contain the old name "Condemned".
    """
    DELETING = "Deleting"
    """A delete was or may have been sent. No writer uses the object until the row is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionMark:
    """The deletion mark of a segment in a slot."""

    slot_uid: str
    name: Digest
    stored_bytes: int
    """The length in the listing of the store."""
    gc_state: GcState = GcState.MARKED
    since: datetime
    """The start of the grace period: the time when no manifest named the segment, by the clock of the database."""
    since_sequence: int | None = None
    """The catalog's sequence at that time, for the order against works. None for a mark of an older release."""
    token: str | None = None
    """The token of the batch that deletes the segment."""
    lease_expires_at: datetime | None = None
    """The batch may send the delete until this time, by the clock of the database."""
