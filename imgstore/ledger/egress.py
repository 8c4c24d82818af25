"""Ledger rows for transferred bytes (invariants M2 to M8 and M17)."""

from dataclasses import dataclass
from datetime import datetime

from imgstore.ledger.entries import ChargeKind, LedgerRow, Party
from imgstore.ledger.prices import FREE, PriceList, Rate, price_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Stored bytes that moved."""

    key: str
    """The unique key of the ledger row. Adding a row with an existing key has no effect."""
    party: Party
    """The owner of the bytes."""
    source: str
    """The region that supplied the bytes. For an arrival the source region of the version, for any path of the bytes."""
    target: str
    """The region of the replica, or of the slot that should have served the bytes."""
    replica: int
    """The ordinal of the replica in the target region."""
    moved_bytes: int
    """The stored bytes of the segments."""
    time: datetime


def charge_arrival(moved: Transfer, prices: PriceList, *, crossing: bool) -> LedgerRow:
    """Return the row for a complete replica. The key is the uid of the replica row.

    Bytes that are new in the target region are egress, priced by the pair of regions. All other bytes are a copy inside
    a region, with amount 0, so that a statement shows the free copy. Without `crossing`, the replica was copied inside
    the region.
    """
    if crossing and moved.source != moved.target:
        return _row(moved, ChargeKind.EGRESS, prices, prices.egress(moved.source, moved.target, moved.time))
    return _row(moved, ChargeKind.COPY, prices, None)


def charge_cross_region_read(moved: Transfer, prices: PriceList) -> LedgerRow:
    """Return the row for stored bytes that a reader took from another region.

    No store of the reader's region served the bytes. The key has the uid of the reading work and the read range.
    """
    assert moved.source != moved.target, f"{moved.key}: a read inside {moved.source} is free"
    rate = prices.egress(moved.source, moved.target, moved.time)
    return _row(moved, ChargeKind.CROSS_REGION_READ, prices, rate)


def charge_repair(moved: Transfer, prices: PriceList) -> LedgerRow:
    """Return the row for stored bytes that a repair wrote into a slot.

    A repair delivers nothing, and the bytes were paid before.
    """
    return _row(moved, ChargeKind.REPAIR, prices, prices.repair(moved.time))


def _row(moved: Transfer, kind: ChargeKind, prices: PriceList, rate: Rate | None) -> LedgerRow:
    assert moved.moved_bytes >= 0, f"{moved.key}: {moved.moved_bytes} bytes moved"
    unit_price = FREE if rate is None else rate.first_price
    return LedgerRow(
        key=moved.key,
        kind=kind,
        party=moved.party,
        source=moved.source,
        target=moved.target,
        replica=moved.replica,
        delivered_bytes=moved.moved_bytes,
        unit_price=unit_price,
        amount=price_of(moved.moved_bytes, unit_price),
        time=moved.time,
        price_list=prices.number or None,
        meter=None if rate is None else rate.meter,
    )
