"""Unknown objects: manifests in a slot that the catalog has no row for, left by a PUT that arrived late."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownObject:
    """One of them. It protects the segments that it names from collection until a person removes it (invariant G12)."""

    slot_uid: str
    key: str
    """Below the slot."""
    stored_bytes: int
    first_seen_at: datetime
    """When a collection or listing first saw it without an owner; the database's clock."""
