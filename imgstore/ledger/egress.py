"""Ledger rows for transferred bytes (invariants M2 to M8 and M17)."""

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
    """Return the row for a complete replica.

    Bytes that are new in the target region are egress, priced by the pair of regions. All other bytes are a copy inside
    a region, with amount 0, so that a statement shows the free copy.

    Args:
        key: the uid of the replica row. Adding a row with an existing key has no effect.
        party: the owner of the bytes.
        source: the source region of the version, for any real path of the bytes.
        target: the region of the replica.
        replica: the ordinal of the replica in the target region.
        delivered_bytes: the stored bytes that this replica delivered first (egress), or that were copied.
        crossing: False for a replica that was copied inside of the region.
        prices: the price list.
        time: the time of completion.
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
    """Return the row for stored bytes that a reader took from another region.

    No store of the reader's region served the bytes.

    Args:
        key: the uid of the reading work with the read range. Adding a row with an existing key has no effect.
        party: the owner of the bytes.
        source: the region that served the bytes.
        target: the region that should have served the bytes.
        replica: the ordinal of the replica in the target region.
        moved_bytes: the stored bytes of the segments.
        prices: the price list.
        time: the time of the read.
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
    """Return the row for stored bytes that a repair wrote into a slot.

    A repair delivers nothing, and the bytes were paid before.

    Args:
        key: the key of the repair. Adding a row with an existing key has no effect.
        party: the owner of the bytes.
        source: the region that supplied the bytes.
        target: the region of the slot.
        replica: the ordinal of the slot in the target region.
        moved_bytes: the stored bytes.
        prices: the price list.
        time: the time of the repair.
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
