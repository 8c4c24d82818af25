"""The statement: what a bill says, recomputed from rows and intervals alone."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import chain
from typing import Final

from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.prices import EXACT, FREE, Prices, price_of
from imgstore.ledger.storage_intervals import byte_microseconds, storage_amount, to_byte_hours

BYTE_HOURS_UNIT: Final = Decimal("1e-6")
AMOUNT_UNIT: Final = Decimal("1e-12")
"""Storage amounts are quotients that do not end. They are rounded here, where they are shown, once a row: to so many
digits that the rows of a thousand years cannot err by a cent together."""

_ROUNDING: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRow:
    """One line of a statement."""

    kind: ChargeKind
    group: str
    gallery: str | None
    definition: str | None
    version: str | None
    disk: str | None
    """The managed disk, where only it names the bytes."""
    source: str | None
    """None for storage: nothing moved."""
    target: str
    """The region that the bytes came to, or lie in."""
    replica: int
    delivered_bytes: int
    """0 for storage."""
    byte_hours: Decimal
    """0 for bytes that moved."""
    unit_price: Decimal
    """Per GB that moved; per GB and month for storage."""
    amount: Decimal
    time: datetime
    """When the bytes arrived; for storage, up to when the row is reckoned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A bill: its rows add up to its total, to the last digit."""

    currency: str
    total: Decimal
    rows: tuple[StatementRow, ...]
    """Sorted by time."""


def make_statement(
    rows: Iterable[LedgerRow], intervals: Iterable[StorageInterval], prices: Prices, *, until: datetime
) -> Statement:
    """The statement of these rows, and of these intervals as far as they lie before `until`.

    Args:
        rows: charges for bytes that moved; all of them are shown.
        intervals: bytes that lay or lie; each owner gets one row a slot.
        prices: gives the currency and the storage prices. What moved keeps the price that it was charged at.
        until: where open intervals are cut.
    """
    moved = list(rows)
    lines = [_moved(row) for row in moved] + [_stored(group, prices, until) for group in _by_owner_and_slot(intervals)]
    lines.sort(key=lambda line: (line.time, line.target, line.replica, line.kind))
    total = _sum(line.amount for line in lines)
    # Once more by another way: bytes summed first and priced after, so that no row holds an amount of its own.
    again = _sum(chain(_priced(moved), (line.amount for line in lines if line.kind is ChargeKind.STORAGE)))
    assert total == again, f"the statement does not balance: its rows add up to {total}, its bytes cost {again}"
    return Statement(currency=prices.currency, total=total, rows=tuple(lines))


def _moved(row: LedgerRow) -> StatementRow:
    return _line(
        row.party,
        kind=row.kind,
        source=row.source,
        target=row.target,
        replica=row.replica,
        delivered_bytes=row.delivered_bytes,
        byte_hours=Decimal(0),
        unit_price=row.unit_price,
        amount=row.amount,
        time=row.time,
    )


def _stored(intervals: list[StorageInterval], prices: Prices, until: datetime) -> StatementRow:
    last = max(intervals, key=lambda interval: interval.opened_at)
    unit_price = prices.storage_per_gb_month(last.storage_account_type)
    weight = sum(byte_microseconds(interval, until) for interval in intervals)
    return _line(
        last.party,
        kind=ChargeKind.STORAGE,
        source=None,
        target=last.region,
        replica=last.replica,
        delivered_bytes=0,
        byte_hours=to_byte_hours(weight).quantize(BYTE_HOURS_UNIT, context=_ROUNDING),
        unit_price=unit_price,
        amount=storage_amount(weight, unit_price).quantize(AMOUNT_UNIT, context=_ROUNDING),
        time=max(min(interval.closed_at or until, until) for interval in intervals),
    )


def _line(
    party: Party,
    *,
    kind: ChargeKind,
    source: str | None,
    target: str,
    replica: int,
    delivered_bytes: int,
    byte_hours: Decimal,
    unit_price: Decimal,
    amount: Decimal,
    time: datetime,
) -> StatementRow:
    return StatementRow(
        kind=kind,
        group=party.group,
        gallery=party.gallery,
        definition=party.definition,
        version=party.version,
        disk=party.disk,
        source=source,
        target=target,
        replica=replica,
        delivered_bytes=delivered_bytes,
        byte_hours=byte_hours,
        unit_price=unit_price,
        amount=amount,
        time=time,
    )


def _by_owner_and_slot(intervals: Iterable[StorageInterval]) -> Iterable[list[StorageInterval]]:
    groups: defaultdict[tuple[str, str], list[StorageInterval]] = defaultdict(list)
    for interval in intervals:
        groups[interval.owner_uid, interval.slot_uid].append(interval)
    return groups.values()


def _priced(rows: Iterable[LedgerRow]) -> Iterable[Decimal]:
    moved_bytes: defaultdict[Decimal, int] = defaultdict(int)
    for row in rows:
        moved_bytes[row.unit_price] += row.delivered_bytes
    return [price_of(count, unit_price) for unit_price, count in moved_bytes.items()]


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = FREE
    for each in amounts:
        total = EXACT.add(total, each)
    return total
