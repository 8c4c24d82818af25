"""Price lists. All prices are Decimal, in one currency, per gigabyte of 10^9 bytes.

A price has tiers: each tier applies to the part of a month's sum inside the tier (graduated prices). The sum is that of
a subscription, of a month in UTC, and of a meter. A meter is the name of a line of the price list, for example
``egress/default`` or ``storage/Standard_LRS``.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import MAX_PREC, Context, Decimal, Inexact, InvalidOperation
from types import MappingProxyType
from typing import Final, TypeAlias

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType
from imgstore.domain.storage.sizes import GIGABYTE

FREE: Final = Decimal(0)

EXACT: Final = Context(prec=min(400, MAX_PREC), traps=[Inexact, InvalidOperation])
"""The context for sums and products of money without loss of a digit. A result that does not fit raises an error.

The default context rounds at 28 digits, and a petabyte at a price with a dozen decimals has more digits.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A part of a month's sum with one price."""

    begin_gigabytes: Decimal
    """The sum from which the price applies: GB, and GB-months for storage. 0 for the first tier."""
    unit_price: Decimal
    """Per GB, and per GB and month for storage."""


Tiers: TypeAlias = tuple[Tier, ...]
"""The tiers of a price in ascending order. The first tier begins at 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The tiers of a meter."""

    meter: str
    tiers: Tiers

    @property
    def first_price(self) -> Decimal:
        """The price of the first tier."""
        return self.tiers[0].unit_price

    @property
    def highest_price(self) -> Decimal:
        """The highest price of all tiers."""
        return max(tier.unit_price for tier in self.tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The prices of a period."""

    valid_from: datetime | None = None
    """The begin of the period. None: no earlier period exists, and the prices apply to all earlier times."""
    egress_default: Tiers
    """From one region to another."""
    egress_zone_groups: Mapping[tuple[str, str], Tiers] = field(default_factory=lambda: MappingProxyType({}))
    """By (source, target) zone group, in that direction only."""
    egress_pairs: Mapping[tuple[str, str], Tiers] = field(default_factory=lambda: MappingProxyType({}))
    """By (source, target) region, in that direction only."""
    repair: Tiers = (Tier(begin_gigabytes=FREE, unit_price=FREE),)
    """For a repair, from any region."""
    storage: Mapping[StorageAccountType, Tiers]
    """The ZRS price covers all three copies, so ZRS bytes count once (invariant M11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """The price list of an installation. Regions are named by key ("westus2")."""

    currency: str
    """Three capital letters (ISO 4217)."""
    periods: tuple[Prices, ...]
    """In the order of time. Each period ends at the begin of the next."""
    zone_groups: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The zone group of each region that has one, by region."""
    number: int = 0
    """The number of the list in the catalog. 0 for a list that is not in the catalog."""

    def egress(self, source: str, target: str, time: datetime) -> Rate:
        """Return the rate of bytes from one region to another. The most specific price applies.

        Raises:
            InvalidInput: no prices are valid at this time.
        """
        assert source != target, f"bytes inside {source} are free"
        prices = self.at(time)
        if (source, target) in prices.egress_pairs:
            return Rate(meter=f"egress/{source}/{target}", tiers=prices.egress_pairs[source, target])
        groups = self.zone_groups.get(source, ""), self.zone_groups.get(target, "")
        if groups in prices.egress_zone_groups:
            return Rate(meter=f"egress/group/{groups[0]}/{groups[1]}", tiers=prices.egress_zone_groups[groups])
        return Rate(meter="egress/default", tiers=prices.egress_default)

    def repair(self, time: datetime) -> Rate:
        """Return the rate of repaired bytes.

        Raises:
            InvalidInput: no prices are valid at this time.
        """
        return Rate(meter="repair", tiers=self.at(time).repair)

    def storage(self, storage_account_type: StorageAccountType, time: datetime) -> Rate:
        """Return the rate of stored bytes.

        Raises:
            InvalidInput: no prices are valid at this time, or the list has no price for this type.
        """
        tiers = self.at(time).storage.get(storage_account_type)
        if tiers is None:
            raise InvalidInput(
                f"There is no storage price for {storage_account_type}.",
                found=", ".join(f"{kind}" for kind in self.at(time).storage) or "no storage prices",
                expected=f"a price for {storage_account_type}, because the stores contain such bytes",
                hint=f"add a price for {storage_account_type} under prices.storage_per_gb_month in regions.yaml",
                target="prices.storage_per_gb_month",
            )
        return Rate(meter=f"storage/{storage_account_type.value}", tiers=tiers)

    def at(self, time: datetime) -> Prices:
        """Return the prices of a time.

        Raises:
            InvalidInput: the first period begins later. A time without prices is an error, never free of charge.
        """
        begins = [period.valid_from for period in self.periods[1:]]
        found = self.periods[bisect_right([begin for begin in begins if begin is not None], time)]
        if found.valid_from is not None and time < found.valid_from:
            raise InvalidInput(
                f"No prices are valid on {time:%Y-%m-%d}.",
                found=f"prices from {found.valid_from:%Y-%m-%d} on",
                expected=f"prices for {time:%Y-%m}",
                hint="add a period with an earlier valid_from under prices in regions.yaml",
                target="prices",
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceLists:
    """All price lists of an installation. Each list applies to the time from its first use to the next list."""

    lists: tuple[PriceList, ...]
    """By number, from 1."""
    begins: tuple[datetime, ...]
    """The first use of each list. The first list applies to all earlier times, too."""

    @property
    def newest(self) -> PriceList:
        """The list that applies now."""
        return self.lists[-1]

    def by_number(self, number: int | None) -> PriceList:
        """Return the list with a number. Entries of code before price lists have no number and belong to list 1."""
        return self.lists[(number or 1) - 1]

    def at(self, time: datetime) -> PriceList:
        """Return the list that applied at a time."""
        return self.lists[bisect_right(self.begins[1:], time)]

    def at_for(self, storage_account_type: StorageAccountType, time: datetime) -> PriceList:
        """Return the list that prices a storage account type at a time.

        A type may leave the price list when no region offers the type any more. Bytes of the type that are still stored
        keep the price of the last list with the type.
        """
        applied = self.lists[: bisect_right(self.begins[1:], time) + 1]
        found = (each for each in reversed(applied) if storage_account_type in each.at(time).storage)
        return next(found, applied[-1])

    def borders(self) -> list[datetime]:
        """Return all times at which a price may have changed, in order.

        A period that begins before its list applies, or after the next list, changes no price.
        """
        found = set(self.begins[1:])
        ends: list[datetime | None] = [*self.begins[1:], None]
        for at, (each, end) in enumerate(zip(self.lists, ends, strict=True)):
            times = {period.valid_from for period in each.periods if period.valid_from is not None}
            found |= {time for time in times if (at == 0 or self.begins[at] < time) and (end is None or time < end)}
        return sorted(found)


def flat(unit_price: Decimal) -> Tiers:
    """Return the tiers of a price that applies to any quantity."""
    return (Tier(begin_gigabytes=FREE, unit_price=unit_price),)


def price_of(moved_bytes: int, per_gb: Decimal) -> Decimal:
    """Return the exact price of `moved_bytes` at `per_gb`. Negative bytes without a price cost 0, not -0."""
    return EXACT.divide(EXACT.multiply(Decimal(moved_bytes), per_gb), Decimal(GIGABYTE)) or FREE
