"""What the ledger is made of: rows for bytes that moved, intervals for bytes that lie."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from imgstore.domain.resources import StorageAccountType


class ChargeKind(StrEnum):
    """What a row is for."""

    EGRESS = "egress"
    """Bytes new in a target region, priced by the pair of regions."""
    COPY = "copy"
    """Bytes copied inside a region: free, shown as such."""
    REPAIR = "repair"
    """Bytes that were brought from another slot in place of missing or damaged ones."""
    CROSS_REGION_READ = "cross-region-read"
    """Bytes that were read from another region because no store of the reader's own region served them: egress, priced
    by the pair of regions."""
    STORAGE = "storage"
    """Bytes that lie in a slot, by time. Such rows exist in statements only, made from intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Whose bytes they are, by name, so that a statement can be read after the resources are gone."""

    subscription: str
    group: str
    gallery: str | None
    definition: str | None
    version: str | None
    disk: str | None = None
    """The managed disk, snapshot or managed image that alone names the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One charge for bytes that moved. Never changed; corrected by further rows."""

    key: str
    """Unique: adding a row under a key that is there already does nothing. The replica's uid for arrivals."""
    kind: ChargeKind
    party: Party
    source: str
    """The region that the bytes are reckoned from."""
    target: str
    replica: int
    """Ordinal of the replica in the target region."""
    delivered_bytes: int
    unit_price: Decimal
    """Per GB of 10^9 bytes, in the installation's currency."""
    amount: Decimal
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageInterval:
    """So many bytes lay in one slot for one owner, from when to when."""

    uid: str
    party: Party
    owner_uid: str
    """The version or managed disk that brought the bytes into the slot."""
    slot_uid: str
    region: str
    replica: int
    storage_account_type: StorageAccountType
    stored_bytes: int
    """Distinct bytes of segments, each counted for one owner of the slot only, and of the owner's manifest."""
    opened_at: datetime
    closed_at: datetime | None = None
    """None while they lie there still."""
