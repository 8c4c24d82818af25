"""The entries of the ledger: rows for transferred bytes, and intervals for stored bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from imgstore.domain import names
from imgstore.domain.resources import StorageAccountType


class ChargeKind(StrEnum):
    """The kind of a charge."""

    EGRESS = "egress"
    """Bytes that are new in a target region, priced by the pair of regions."""
    COPY = "copy"
    """Bytes copied inside a region: free, and shown as free."""
    REPAIR = "repair"
    """Bytes from another slot that replace missing or damaged bytes."""
    CROSS_REGION_READ = "cross-region-read"
    """Bytes read from another region, because no store of the reader's region served the bytes.

    The price is the egress price of the pair of regions.
    """
    CORRECTION = "correction"
    """Bytes that an operator adds to a transfer, or takes from the transfer if negative, at the price of the transfer."""
    STORAGE = "storage"
    """Bytes stored in a slot, by time. Only statements have such rows, computed from intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """The owner of bytes by name, so that a statement is readable after the deletion of the resources."""

    subscription: str
    group: str
    gallery: str | None
    definition: str | None
    version: str | None
    disk: str | None = None
    """The managed disk, snapshot or managed image that alone names the bytes."""
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """The tags of the version or stored disk at the time of the entry."""

    @property
    def resource_id(self) -> str:
        """The id of the version, or of the disk that alone names the bytes. The resource may be deleted.

        The ledger does not tell disks from snapshots and managed images, so the id is that of a disk.
        """
        if self.disk is not None:
            return names.disk_id(self.subscription, self.group, self.disk)
        above = (self.gallery or "", self.definition or "")
        return names.version_id(self.subscription, self.group, *above, self.version or "")

    @property
    def resource_name(self) -> str:
        """The last part of the id, with the names above for a version."""
        return "/".join(filter(None, (self.gallery, self.definition, self.version, self.disk)))

    @property
    def path(self) -> str:
        """The names below the subscription, for people."""
        return "/".join(filter(None, (self.group, self.resource_name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A charge for transferred bytes. A row never changes, and further rows correct a row."""

    key: str
    """The unique key. Adding a row with an existing key has no effect. Arrivals have the uid of the replica."""
    kind: ChargeKind
    party: Party
    source: str
    """The region from which the bytes are charged."""
    target: str
    replica: int
    """The ordinal of the replica in the target region."""
    delivered_bytes: int
    unit_price: Decimal
    """The price of the first tier per GB of 10^9 bytes. The statement computes the amount by the price list."""
    amount: Decimal
    """The bytes at `unit_price`. For code before price lists, which are read if `price_list` is None."""
    time: datetime
    price_list: int | None = None
    """The number of the price list. None for a row of code before price lists: `amount` is the price."""
    meter: str | None = None
    """The line of the price list. None for free bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageInterval:
    """A period in which an owner has a constant number of bytes in a slot."""

    uid: str
    party: Party
    owner_uid: str
    """The version or managed disk that first brought the bytes into the slot."""
    slot_uid: str
    region: str
    replica: int
    storage_account_type: StorageAccountType
    stored_bytes: int
    """Distinct bytes of segments, each counted for a single owner of the slot, plus the bytes of the owner's manifest.
    """
    opened_at: datetime
    closed_at: datetime | None = None
    """None for an open interval."""
