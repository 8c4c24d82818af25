"""Unknown objects: manifests without a row in the catalog, left by a late PUT."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownObject:
    """An unknown object.

    The object protects the named segments from collection until a person removes it (invariant G12).
    """

    slot_uid: str
    key: str
    """The key below the slot."""
    stored_bytes: int
    first_seen_at: datetime
    """The first sighting by a collection or listing, by the clock of the database."""
