"""Statements: bills that are computed from ledger rows, intervals and price lists only (invariant M14)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from imgstore.domain.resources import StorageAccountType
from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.currencies import minor_unit
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.months import Month
from imgstore.ledger.prices import EXACT, FREE, PriceLists, Rate, flat, price_of
from imgstore.ledger.rating import GB_MONTH, rate_quantity, split_by_tiers
from imgstore.ledger.storage_intervals import cut_interval, microseconds_between, to_byte_hours

BYTE_HOURS_UNIT: Final = Decimal("1e-6")
AMOUNT_UNIT: Final = Decimal("1e-12")
"""Storage amounts are infinite decimal fractions, so each row is rounded once for display.

With this unit, the rounding errors of a thousand years of rows are below a cent in total.
"""
ROUNDING_RULE: Final = "amounts are exact until the total, which is rounded half to even to the minor unit"

_ROUNDING: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A quantity with one price list and one meter: an entry of the ledger, or a period of a storage interval."""

    key: str
    """The key of the entry, or the uid of the interval."""
    kind: ChargeKind
    party: Party
    owner: tuple[str, str] | None = None
    """The owner and the slot, for storage."""
    source: str | None
    """None for storage, because no bytes moved."""
    target: str
    """The region of arrival or storage."""
    replica: int
    storage_account_type: StorageAccountType | None = None
    """None for transferred bytes."""
    begin: datetime
    end: datetime
    """The time of a transfer, or the end of the period of storage."""
    quantity: int
    """Bytes, or bytes times microseconds for storage."""
    price_list: int
    meter: str | None
    """None for a fixed price."""
    unit_price: Decimal | None = None
    """The fixed price of free bytes, and of a row of code before price lists. None: the tiers of the meter apply."""

    @property
    def month(self) -> Month:
        """The month that is billed."""
        return Month.of(self.begin)

    @property
    def units(self) -> Fraction:
        """The quantity in GB, or in GB-months for storage."""
        return Fraction(self.quantity, GB_MONTH if self.kind is ChargeKind.STORAGE else GIGABYTE)


class RatedUsage(NamedTuple):
    """A quantity with its amount."""

    usage: Usage
    rate: Rate
    before: Fraction
    """The sum of the month before the quantity, in GB or GB-months."""
    amount: Fraction
    currency: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of all rows in one currency."""

    currency: str
    amount: Decimal
    """The sum without rounding."""
    due: Decimal
    """The sum, rounded half to even to the minor unit of the currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A bill. The rows of a currency add up to its total exactly."""

    totals: tuple[Total, ...]
    """By currency. The currency of the newest price list is always present."""
    rows: tuple[StatementRow, ...]
    """Sorted by time."""

    @property
    def rounding(self) -> str:
        """The rule of rounding, for people."""
        return ROUNDING_RULE

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
    lines = [_make_row(group) for group in _by_line(chosen).values()]
    lines.sort(key=lambda line: (line.time, line.target, line.replica, line.kind))
    currencies = {prices.newest.currency: FREE}
    for line in lines:
        currencies[line.currency] = EXACT.add(currencies.get(line.currency, FREE), line.amount)
    totals = [Total(currency=name, amount=amount, due=_round_due(amount, name)) for name, amount in currencies.items()]
    return Statement(totals=tuple(sorted(totals, key=lambda total: total.currency)), rows=tuple(lines))


def list_usage(
    rows: Iterable[LedgerRow], intervals: Iterable[StorageInterval], prices: PriceLists, until: datetime
) -> list[Usage]:
    """Return the usage of ledger rows, and of intervals up to `until`, cut where the month or the price changes."""
    usage = [_transfer_usage(row) for row in rows]
    borders = prices.borders()
    for each in intervals:
        for begin, end in cut_interval(each, borders, until):
            in_force = prices.at(begin)
            usage.append(
                Usage(
                    key=each.uid,
                    kind=ChargeKind.STORAGE,
                    party=each.party,
                    owner=(each.owner_uid, each.slot_uid),
                    source=None,
                    target=each.region,
                    replica=each.replica,
                    storage_account_type=each.storage_account_type,
                    begin=begin,
                    end=end,
                    quantity=each.stored_bytes * microseconds_between(begin, end),
                    price_list=in_force.number,
                    meter=in_force.storage(each.storage_account_type, begin).meter,
                )
            )
    return usage


def rate_all(usage: Iterable[Usage], prices: PriceLists) -> list[RatedUsage]:
    """Return all quantities with their amounts, in the order in which tiers are used up (invariant M18).

    The order is that of the ends and keys, within the month, the subscription, the currency and the meter. A later
    quantity never changes the amount of an earlier one.
    """
    sums: defaultdict[tuple[str, Month, str, str], Fraction] = defaultdict(Fraction)
    rated = []
    for each in sorted(usage, key=lambda one: (one.end, one.key, one.begin)):
        in_force = prices.by_number(each.price_list)
        rate = _find_rate(each, prices)
        name = (each.party.subscription.casefold(), each.month, in_force.currency, rate.meter)
        before = sums[name]
        rated.append(RatedUsage(each, rate, before, rate_quantity(rate, before, each.units), in_force.currency))
        sums[name] = before + each.units
    _check_balance(rated, sums)
    return rated


def _find_rate(usage: Usage, prices: PriceLists) -> Rate:
    if usage.unit_price is not None:
        return Rate(meter=f"fixed/{usage.unit_price}", tiers=flat(usage.unit_price))
    in_force = prices.by_number(usage.price_list)
    if usage.storage_account_type is not None:
        return in_force.storage(usage.storage_account_type, usage.begin)
    if usage.kind is ChargeKind.REPAIR:
        return in_force.repair(usage.begin)
    assert usage.source is not None, f"{usage.key}: a transfer has a source"
    return in_force.egress(usage.source, usage.target, usage.begin)


def _check_balance(rated: Iterable[RatedUsage], sums: Mapping[tuple[str, Month, str, str], Fraction]) -> None:
    """Check the amounts by another method: the price of each month's sum, for meters with one rate in the month."""
    amounts: defaultdict[tuple[str, Month, str, str], Fraction] = defaultdict(Fraction)
    rates: defaultdict[tuple[str, Month, str, str], set[Rate]] = defaultdict(set)
    for each in rated:
        name = (each.usage.party.subscription.casefold(), each.usage.month, each.currency, each.rate.meter)
        amounts[name] += each.amount
        rates[name].add(each.rate)
    for name, used in rates.items():
        if len(used) == 1:
            expected = rate_quantity(next(iter(used)), Fraction(0), sums[name])
            assert amounts[name] == expected, (
                f"the statement does not balance: {name} adds up to {amounts[name]}, the month costs {expected}"
            )


def _transfer_usage(row: LedgerRow) -> Usage:
    cost = price_of(row.delivered_bytes, row.unit_price)
    assert row.amount == cost, f"{row.key} does not balance: the amount is {row.amount}, the bytes cost {cost}"
    is_fixed = row.price_list is None or row.meter is None
    return Usage(
        key=row.key,
        kind=row.kind,
        party=row.party,
        source=row.source,
        target=row.target,
        replica=row.replica,
        begin=row.time,
        end=row.time,
        quantity=row.delivered_bytes,
        price_list=row.price_list or 1,
        meter=row.meter,
        unit_price=row.unit_price if is_fixed else None,
    )


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
    used = {part.tier.unit_price for each in rated for part in split_by_tiers(each.rate, each.before, each.usage.units)}
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
        byte_hours=to_byte_hours(quantity).quantize(BYTE_HOURS_UNIT, context=_ROUNDING) if is_storage else FREE,
        unit_price=next(iter(used)) if len(used) == 1 else None,
        amount=_to_decimal(amount),
        currency=last.currency,
        month=str(usage.month),
        time=usage.end,
    )


def _to_decimal(amount: Fraction) -> Decimal:
    """Return an amount with all digits if it has an end, otherwise rounded to `AMOUNT_UNIT`."""
    quotient = _ROUNDING.divide(Decimal(amount.numerator), Decimal(amount.denominator))
    return quotient if Fraction(quotient) == amount else quotient.quantize(AMOUNT_UNIT, context=_ROUNDING)


def _round_due(amount: Decimal, currency: str) -> Decimal:
    return amount.quantize(minor_unit(currency), context=_ROUNDING)
