"""Bytes that arrived, and the rows that say so (rules.md, rule 21)."""

from datetime import datetime

from imgstore.ledger.entries import ChargeKind, LedgerRow, Party
from imgstore.ledger.prices import FREE, Prices, price_of


def charge_arrival(
    *,
    key: str,
    party: Party,
    source: str,
    target: str,
    replica: int,
    delivered_bytes: int,
    crossing: bool,
    prices: Prices,
    time: datetime,
) -> LedgerRow:
    """The row for a replica that is complete.

    Bytes that are new in the target region are egress, priced by the pair of regions; everything else is a copy inside
    a region, in the ledger at the amount 0 so that a statement shows that it was free.

    Args:
        key: the replica row's uid: adding the row again under it does nothing.
        party: whose bytes they are.
        source: the version's source region, whatever way the bytes really took.
        target: the replica's region.
        replica: the replica's ordinal there.
        delivered_bytes: stored bytes that this replica was the first to bring (egress), or that were copied.
        crossing: False for a replica that was copied inside its region.
        prices: the price list.
        time: when it completed.
    """
    assert delivered_bytes >= 0, f"{key}: {delivered_bytes} bytes delivered"
    pays = crossing and source != target
    unit_price = prices.egress(source, target) if pays else FREE
    return LedgerRow(
        key=key,
        kind=ChargeKind.EGRESS if pays else ChargeKind.COPY,
        party=party,
        source=source,
        target=target,
        replica=replica,
        delivered_bytes=delivered_bytes,
        unit_price=unit_price,
        amount=price_of(delivered_bytes, unit_price),
        time=time,
    )


def charge_cross_region_read(
    *, key: str, party: Party, source: str, target: str, replica: int, moved_bytes: int, prices: Prices, time: datetime
) -> LedgerRow:
    """Return the row for stored bytes that a reader took from another region, since its own region did not serve them.

    Args:
        key: the uid of the reading work with the range that was read: adding the row again under it does nothing.
        party: whose bytes they are.
        source: the region that served them.
        target: the region that should have.
        replica: the ordinal of the replica there.
        moved_bytes: stored bytes of the segments.
        prices: the price list.
        time: when they had been read.
    """
    assert source != target, f"{key}: a read inside {source} is free"
    unit_price = prices.egress(source, target)
    return LedgerRow(
        key=key,
        kind=ChargeKind.CROSS_REGION_READ,
        party=party,
        source=source,
        target=target,
        replica=replica,
        delivered_bytes=moved_bytes,
        unit_price=unit_price,
        amount=price_of(moved_bytes, unit_price),
        time=time,
    )


def charge_repair(
    *, key: str, party: Party, source: str, target: str, replica: int, moved_bytes: int, prices: Prices, time: datetime
) -> LedgerRow:
    """The row for stored bytes that a repair brought into a slot. It is no delivery: those bytes were paid for before.

    Args:
        key: of the repair: adding the row again under it does nothing.
        party: whose bytes they are.
        source: the region that they really came from.
        target: the slot's region.
        replica: the slot's ordinal there.
        moved_bytes: how many.
        prices: the price list.
        time: when they were there.
    """
    return LedgerRow(
        key=key,
        kind=ChargeKind.REPAIR,
        party=party,
        source=source,
        target=target,
        replica=replica,
        delivered_bytes=moved_bytes,
        unit_price=prices.repair,
        amount=price_of(moved_bytes, prices.repair),
        time=time,
    )
