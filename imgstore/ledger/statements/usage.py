"""Usage: quantities with one price list and one meter, and their amounts by tiers (invariants M18 and M19)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from imgstore.domain.resources import StorageAccountType
from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.months import Month, day_begins
from imgstore.ledger.prices.price_list import PriceLists, Rate, flat, price_of
from imgstore.ledger.prices.rating import GB_MONTH, TierPart, rate_quantity, split_by_tiers
from imgstore.ledger.storage.periods import cut_interval, microseconds_between

_SumName: TypeAlias = tuple[str, Month, str, str]
"""(subscription, month, currency, meter): the quantities with one name use up the same tiers."""


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
    def lasting_key(self) -> str:
        """The owner and the slot of storage, or the key of a transfer. Settled storage has another uid (M27)."""
        return "/".join(self.owner or [self.key])

    @property
    def order(self) -> tuple[datetime, str, datetime]:
        """The order in which quantities use up tiers. Settled storage keeps its place (invariant M18).

        Quantities of one instant have the order of their keys. No time of an entry tells their order, and the keys never
        change.
        """
        return self.end, self.lasting_key, self.begin

    @property
    def month(self) -> Month:
        """The month that is billed."""
        return Month.of(self.begin)

    @property
    def day(self) -> date:
        """The day of the begin in UTC."""
        return self.begin.astimezone(UTC).date()

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

    @property
    def parts(self) -> list[TierPart]:
        """The parts of the quantity in each tier, in order."""
        return split_by_tiers(self.rate, self.before, self.usage.units)


def find_single_price(rated: Iterable[RatedUsage]) -> Decimal | None:
    """Return the unit price of all parts of the quantities, or None for several prices."""
    prices = {part.tier.unit_price for each in rated for part in each.parts}
    return prices.pop() if len(prices) == 1 else None


def list_usage(
    rows: Iterable[LedgerRow],
    intervals: Iterable[StorageInterval],
    prices: PriceLists,
    until: datetime,
    *,
    by_day: bool = False,
) -> list[Usage]:
    """Return the usage of ledger rows, and of intervals up to `until`, cut where the month or the price changes.

    Args:
        rows: charges for transferred bytes.
        intervals: storage intervals.
        prices: all price lists of the installation.
        until: the end of open intervals.
        by_day: whether intervals are cut at each midnight in UTC, too.
    """
    usage = [_transfer_usage(row) for row in rows]
    known = list(intervals)
    borders = prices.borders()
    if by_day and known:
        borders = sorted({*borders, *day_begins(min(each.opened_at for each in known), until)})
    for each in known:
        for begin, end in cut_interval(each, borders, until):
            in_force = prices.at_for(each.storage_account_type, begin)
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

    The order is `Usage.order` within the month, the subscription, the currency and the meter. A later quantity never changes
    the amount of an earlier one.
    """
    sums: defaultdict[_SumName, Fraction] = defaultdict(Fraction)
    rated = []
    for each in sorted(usage, key=lambda one: one.order):
        in_force = prices.by_number(each.price_list)
        rate = _find_rate(each, prices)
        name = _sum_name(each, in_force.currency, rate)
        before = sums[name]
        rated.append(RatedUsage(each, rate, before, rate_quantity(rate, before, each.units), in_force.currency))
        sums[name] = before + each.units
    _check_balance(rated, sums)
    return rated


def _sum_name(usage: Usage, currency: str, rate: Rate) -> _SumName:
    """Return the name of the sum that decides on the tiers of a quantity."""
    return usage.party.subscription.casefold(), usage.month, currency, rate.meter


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


def _check_balance(rated: Iterable[RatedUsage], sums: Mapping[_SumName, Fraction]) -> None:
    """Check the amounts by another method: the price of each month's sum, for meters with one rate in the month."""
    amounts: defaultdict[_SumName, Fraction] = defaultdict(Fraction)
    rates: defaultdict[_SumName, set[Rate]] = defaultdict(set)
    for each in rated:
        name = _sum_name(each.usage, each.currency, each.rate)
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
