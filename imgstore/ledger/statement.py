"""Statements: bills that are computed from ledger rows and intervals only (invariant M14)."""

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
"""Storage amounts are infinite decimal fractions, so each row is rounded once for display.

With this unit, the rounding errors of a thousand years of rows are below a cent in total.
"""

_ROUNDING: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRow:
    """A row of a statement."""

    kind: ChargeKind
    group: str
    gallery: str | None
    definition: str | None
    version: str | None
    disk: str | None
    """The managed disk, if the disk alone names the bytes."""
    source: str | None
    """None for storage, because no bytes moved."""
    target: str
    """The region of arrival or storage."""
    replica: int
    delivered_bytes: int
    """0 for storage."""
    byte_hours: Decimal
    """0 for transferred bytes."""
    unit_price: Decimal
    """Per transferred GB. For storage: per GB and month."""
    amount: Decimal
    time: datetime
    """The time of arrival. For storage: the end of the charged time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A bill. The rows add up to the total exactly."""

    currency: str
    total: Decimal
    rows: tuple[StatementRow, ...]
    """Sorted by time."""


def make_statement(
    rows: Iterable[LedgerRow], intervals: Iterable[StorageInterval], prices: Prices, *, until: datetime
) -> Statement:
    """Return the statement of ledger rows, and of intervals up to `until`.

    Args:
        rows: charges for transferred bytes. The statement shows all rows.
        intervals: storage intervals. Each owner gets one row per slot.
        prices: the currency and the storage prices. Transfers keep the price of the charge.
        until: the end of open intervals.
    """
    transfers = list(rows)
    lines = [_transfer_row(row) for row in transfers] + [
        _storage_row(group, prices, until) for group in _by_owner_and_slot(intervals)
    ]
    lines.sort(key=lambda line: (line.time, line.target, line.replica, line.kind))
    total = _sum(line.amount for line in lines)
    # Check the total by another method, which sums the bytes by price and ignores the amounts of the rows.
    expected = _sum(
        chain(_transfer_amounts(transfers), (line.amount for line in lines if line.kind is ChargeKind.STORAGE))
    )
    assert total == expected, f"the statement does not balance: the rows add up to {total}, the bytes cost {expected}"
    return Statement(currency=prices.currency, total=total, rows=tuple(lines))


def _transfer_row(row: LedgerRow) -> StatementRow:
    return _statement_row(
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


def _storage_row(intervals: list[StorageInterval], prices: Prices, until: datetime) -> StatementRow:
    last = max(intervals, key=lambda interval: interval.opened_at)
    unit_price = prices.storage_per_gb_month(last.storage_account_type)
    weight = sum(byte_microseconds(interval, until) for interval in intervals)
    return _statement_row(
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


def _statement_row(
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


def _transfer_amounts(rows: Iterable[LedgerRow]) -> Iterable[Decimal]:
    moved_bytes: defaultdict[Decimal, int] = defaultdict(int)
    for row in rows:
        moved_bytes[row.unit_price] += row.delivered_bytes
    return [price_of(count, unit_price) for unit_price, count in moved_bytes.items()]


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = FREE
    for each in amounts:
        total = EXACT.add(total, each)
    return total
