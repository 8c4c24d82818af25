"""Statements: bills that are computed from ledger rows, intervals and price lists only (invariant M14)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Final

from imgstore.ledger.entries import ChargeKind, LedgerRow, StorageInterval
from imgstore.ledger.months import Month
from imgstore.ledger.prices.currencies import minor_unit
from imgstore.ledger.prices.price_list import EXACT, FREE, PriceLists
from imgstore.ledger.statements.usage import RatedUsage, find_single_price, list_usage, rate_all
from imgstore.ledger.storage.periods import to_byte_hours

BYTE_HOURS_UNIT: Final = Decimal("1e-6")
AMOUNT_UNIT: Final = Decimal("1e-12")
"""Storage amounts are infinite decimal fractions, so each row is rounded once for display.

With this unit, the rounding errors of a thousand years of rows are below a cent in total.
"""
ROUNDING_RULE: Final = "amounts are exact until the total, which is rounded half to even to the minor unit"

ROUNDING: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)


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
    unit_price: Decimal | None
    """Per transferred GB. For storage: per GB and month. None: several tiers with different prices apply."""
    amount: Decimal
    currency: str
    month: str
    """The month in UTC, for example "2026-11"."""
    time: datetime
    """The time of arrival. For storage: the end of the charged time."""
    entries: tuple[str, ...] = ()
    """The entries of the ledger behind the row: the key of a transfer, or the uids of storage intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of all rows in one currency."""

    currency: str
    amount: Decimal
    """The sum of the exact amounts. All digits, or 12 digits after the point if the digits have no end."""
    due: Decimal
    """The sum of the exact amounts, rounded half to even to the minor unit of the currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A bill. Each row and each total is rounded once, so the rows add up to the total up to their own rounding."""

    totals: tuple[Total, ...]
    """By currency. The currency of the newest price list is always present."""
    rows: tuple[StatementRow, ...]
    """Sorted by time."""

    @property
    def currency(self) -> str:
        """The currency of a statement without other currencies."""
        return self._only().currency

    @property
    def total(self) -> Decimal:
        """The total of a statement with one currency, without rounding."""
        return self._only().amount

    def _only(self) -> Total:
        (total,) = self.totals
        return total


def make_statement(
    rows: Iterable[LedgerRow],
    intervals: Iterable[StorageInterval],
    prices: PriceLists,
    *,
    until: datetime,
    month: Month | None = None,
) -> Statement:
    """Return the statement of ledger rows, and of intervals up to `until`.

    Args:
        rows: charges for transferred bytes. The statement shows all rows.
        intervals: storage intervals. Each owner gets a row per slot, month and price.
        prices: all price lists of the installation.
        until: the end of open intervals.
        month: the month of the statement. None for all months.

    Raises:
        InvalidInput: no prices are valid in a month of the rows.
    """
    rated = rate_all(list_usage(rows, intervals, prices, until), prices)
    chosen = [each for each in rated if month is None or each.usage.month == month]
    # Rows of the same time are in the order in which the storage began.
    chosen.sort(key=lambda each: (each.usage.begin, each.usage.lasting_key))
    lines = [_make_row(group) for group in _by_line(chosen).values()]
    lines.sort(key=lambda line: (line.time, line.target, line.replica, line.kind))
    totals = add_totals(chosen, prices.newest.currency)
    return Statement(totals=totals, rows=tuple(lines))


def add_totals(rated: Iterable[RatedUsage], currency: str) -> tuple[Total, ...]:
    """Return the total of each currency of the quantities, and of `currency`, which may have no amount.

    The sums are exact, so all statements of the same quantities have the same totals (invariant M33).
    """
    sums = {currency: Fraction()}
    for each in rated:
        sums[each.currency] = sums.get(each.currency, Fraction()) + each.amount
    return tuple(
        Total(currency=name, amount=to_decimal(amount), due=_round_to_unit(amount, minor_unit(name)))
        for name, amount in sorted(sums.items())
    )


def _round_to_unit(amount: Fraction, unit: Decimal) -> Decimal:
    """Return the amount, rounded half to even to a multiple of `unit`."""
    return EXACT.multiply(Decimal(round(amount / Fraction(unit))), unit)


def _by_line(rated: Iterable[RatedUsage]) -> Mapping[tuple[object, ...], list[RatedUsage]]:
    """Return the rated quantities of each row of the statement. Periods of storage with the same price share a row."""
    groups: defaultdict[tuple[object, ...], list[RatedUsage]] = defaultdict(list)
    for each in rated:
        usage = each.usage
        name = (usage.owner, usage.month, each.currency, each.rate) if usage.owner else (usage.key,)
        groups[name].append(each)
    return groups


def _make_row(rated: list[RatedUsage]) -> StatementRow:
    last = max(rated, key=lambda each: each.usage.end)
    usage, party = last.usage, last.usage.party
    is_storage = usage.kind is ChargeKind.STORAGE
    amount = sum((each.amount for each in rated), Fraction())
    quantity = sum(each.usage.quantity for each in rated)
    return StatementRow(
        kind=usage.kind,
        group=party.group,
        gallery=party.gallery,
        definition=party.definition,
        version=party.version,
        disk=party.disk,
        source=usage.source,
        target=usage.target,
        replica=usage.replica,
        delivered_bytes=0 if is_storage else quantity,
        byte_hours=to_byte_hours(quantity).quantize(BYTE_HOURS_UNIT, context=ROUNDING) if is_storage else FREE,
        unit_price=find_single_price(rated),
        amount=to_decimal(amount).quantize(AMOUNT_UNIT, context=ROUNDING) if is_storage else to_decimal(amount),
        currency=last.currency,
        month=str(usage.month),
        time=usage.end,
        entries=tuple(dict.fromkeys(each.usage.key for each in rated)),
    )


def to_decimal(value: Fraction, unit: Decimal = AMOUNT_UNIT) -> Decimal:
    """Return a value with all digits if the digits have an end, otherwise rounded to a multiple of `unit`."""
    quotient = ROUNDING.divide(Decimal(value.numerator), Decimal(value.denominator))
    return quotient if Fraction(quotient) == value else quotient.quantize(unit, context=ROUNDING)
