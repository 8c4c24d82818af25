"""Ledger rows for transferred bytes (invariants M2 to M8 and M17)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from imgstore.ledger.entries import ChargeKind, LedgerRow, Party
from imgstore.ledger.prices.price_list import FREE, PriceList, Rate, price_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Stored bytes that moved."""

    key: str
    """The unique key of the ledger row. Adding a row with an existing key has no effect."""
    party: Party
    """The owner of the bytes."""
    source: str
    """The region that supplied the bytes. For an arrival on the route `source`: the source region of the version, for any
    path of the bytes."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalPath:
    """The regions that supplied the bytes of a replica on the cheapest route."""

    parent: str
    """The region that the copy was planned from."""
    earlier: str
    """The region of the bytes that earlier runs of the copy stored."""
    served: Mapping[str, int]
    """The stored bytes that each region supplied to the present run."""


def split_arrival(moved: Transfer, path: ArrivalPath) -> list[Transfer]:
    """Return the transfers of an arrival, one for each region that supplied bytes (invariant M5).

    The present run counted its bytes, and the rest is from earlier runs. The first transfer keeps the key of the arrival.
    The keys of the others have the region at the end.
    """
    parts: dict[str, int] = {}
    rest = moved.moved_bytes
    for region, supplied in sorted(path.served.items(), key=lambda each: (-each[1], each[0])):
        parts[region] = min(supplied, rest)
        rest -= parts[region]
    parts[path.earlier] = parts.get(path.earlier, 0) + rest
    supplied_by = [region for region, part in parts.items() if part] or [path.parent]
    return [
        replace(
            moved,
            key=moved.key if not number else f"{moved.key}/{region}",
            source=region,
            moved_bytes=parts.get(region, 0),
        )
        for number, region in enumerate(supplied_by)
    ]


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
