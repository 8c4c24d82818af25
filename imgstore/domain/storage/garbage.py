"""Objects that a garbage collection has marked for deletion, and their GC state (invariant G7)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from imgstore.domain.storage.digests import Digest


class GcState(StrEnum):
    """How far it has come."""

    MARKED = "Condemned"
    """Noticed; the grace runs. No delete was ever sent, so a writer may lift it."""
    DELETING = "Deleting"
    """A delete was, or may have been, sent: nobody builds on the object until the row is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionMark:
    """One segment of one slot."""

    slot_uid: str
    name: Digest
    stored_bytes: int
    """As the store listed it."""
    gc_state: GcState = GcState.MARKED
    since: datetime
    """When it was found that nothing names it; the database's clock. The grace counts from here."""
    since_sequence: int | None = None
    """The catalog's sequence at that time: the order against works. None for a mark of an older imgstore."""
    token: str | None = None
    """Of the batch that deletes it."""
    lease_expires_at: datetime | None = None
    """Until when that batch may send its delete; the database's clock."""
