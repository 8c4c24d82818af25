"""Usage details: the charges of a day with one resource, one region and one price, as Azure's Microsoft.Consumption shows."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.entries import ChargeKind, Party
from imgstore.ledger.statements.statement import to_decimal
from imgstore.ledger.statements.usage import RatedUsage, find_single_price

CHARGE_TYPE: Final = "Usage"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageDetail:
    """The charges of a day in UTC with the same resource, tags, regions, meter, price list and currency."""

    name: str
    """A UUID, always the same for these values."""
    day: date
    party: Party
    kind: ChargeKind
    source: str | None
    """None for storage."""
    region: str
    """The region of arrival or storage."""
    storage_account_type: StorageAccountType | None
    meter: str
    """The line of the price list, or "free/KIND"."""
    price_list: int
    currency: str
    quantity: Decimal
    """GB of 10^9 bytes, or GB-months of 730 hours for storage."""
    unit_price: Decimal | None
    """None: several tiers with different prices apply."""
    cost: Decimal

    @property
    def meter_uid(self) -> str:
        """The UUID of the meter."""
        return str(uuid5(NAMESPACE_URL, f"imgstore/meters/{self.meter}"))

    @property
    def effective_price(self) -> Decimal:
        """The cost of a unit of quantity. 0 without a quantity."""
        return to_decimal(Fraction(self.cost) / Fraction(self.quantity)) if self.quantity else Decimal(0)

    @property
    def resource_id(self) -> str:
        """The id of the version, or of the disk that alone names the bytes. The resource may be deleted."""
        return self.party.resource_id

    @property
    def resource_name(self) -> str:
        """The last part of the id, with the names above for a version."""
        return self.party.resource_name

    @property
    def sort_key(self) -> str:
        """The key of the order: by day."""
        return f"{self.day}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """The wanted usage details."""

    first: date | None = None
    """None: the first day of the ledger, or of the current month if `last` is also None."""
    last: date | None = None
    """The last day, which is included. None: today."""
    groups: tuple[str, ...] = ()
    """A detail has the group of each name. Upper and lower case letters are equal, here and below."""
    resource_ids: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    charge_types: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def admits(self, detail: UsageDetail) -> bool:
        """Return whether a detail is wanted."""
        tags = {key.casefold(): value.casefold() for key, value in detail.party.tags.items()}
        pairs = (
            (self.groups, detail.party.group),
            (self.resource_ids, detail.resource_id),
            (self.resource_names, detail.resource_name),
            (self.charge_types, CHARGE_TYPE),
        )
        return (
            (self.first is None or detail.day >= self.first)
            and (self.last is None or detail.day <= self.last)
            and all(each.casefold() == found.casefold() for wanted, found in pairs for each in wanted)
            and all(tags.get(key.casefold()) == value.casefold() for key, value in self.tags)
        )


def list_usage_details(rated: Iterable[RatedUsage], wanted: UsageFilter) -> list[UsageDetail]:
    """Return the wanted usage details, by day.

    Args:
        rated: the quantities, each of a single day.
        wanted: the filter.
    """
    groups: defaultdict[str, list[RatedUsage]] = defaultdict(list)
    for each in rated:
        groups[_key_of(each)].append(each)
    details = [_make_detail(key, parts) for key, parts in groups.items()]
    return sorted((each for each in details if wanted.admits(each)), key=lambda each: each.sort_key)


def _key_of(rated: RatedUsage) -> str:
    usage, party = rated.usage, rated.usage.party
    values = [
        str(usage.day),
        usage.kind,
        [part.casefold() for part in (party.subscription, party.group)],
        [part and part.casefold() for part in (party.gallery, party.definition, party.version, party.disk)],
        sorted(party.tags.items()),
        [usage.source, usage.target, usage.storage_account_type],
        [usage.price_list, _meter_of(rated), str(usage.unit_price), rated.currency],
    ]
    return json.dumps(values)


def _meter_of(rated: RatedUsage) -> str:
    return rated.usage.meter or f"{'free' if not rated.usage.unit_price else 'fixed'}/{rated.usage.kind}"


def _make_detail(key: str, rated: list[RatedUsage]) -> UsageDetail:
    first = rated[0]
    usage = first.usage
    return UsageDetail(
        name=str(uuid5(NAMESPACE_URL, f"imgstore/usageDetails/{key}")),
        day=usage.day,
        party=usage.party,
        kind=usage.kind,
        source=usage.source,
        region=usage.target,
        storage_account_type=usage.storage_account_type,
        meter=_meter_of(first),
        price_list=usage.price_list,
        currency=first.currency,
        quantity=to_decimal(sum((each.usage.units for each in rated), Fraction())),
        unit_price=find_single_price(rated),
        cost=to_decimal(sum((each.amount for each in rated), Fraction())),
    )
