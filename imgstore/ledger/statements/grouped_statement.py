"""Statements by a property: the cost of each region, gallery, version, tag or day."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.statements.statement import BYTE_HOURS_UNIT, ROUNDING, Total, add_totals, to_decimal
from imgstore.ledger.statements.usage import RatedUsage, Usage
from imgstore.ledger.storage.periods import to_byte_hours


class Property(StrEnum):
    """A property by which a statement is grouped or filtered."""

    REGION = "region"
    """The region of arrival or storage."""
    GALLERY = "gallery"
    DEFINITION = "definition"
    VERSION = "version"
    SUBSCRIPTION = "subscription"
    GROUP = "group"
    """The resource group."""
    TYPE = "type"
    """The kind of the charge, with the storage account type for storage."""
    DAY = "day"


TAG_PREFIX: Final = "tag:"
"""The prefix of a tag's name in a property: `tag:team`."""

COLUMNS: Final[Mapping[str, Collection[str]]] = {
    Property.REGION: (),
    Property.GALLERY: ("gallery",),
    Property.DEFINITION: ("gallery", "definition"),
    Property.VERSION: ("group_name", "gallery", "definition", "version", "disk"),
    Property.SUBSCRIPTION: ("subscription",),
    Property.GROUP: ("group_name",),
    Property.TYPE: (),
    Property.DAY: (),
}
"""The columns of the ledger that each property needs, except tags."""

_OF_SUBSCRIPTION: Final = (Property.GALLERY, Property.DEFINITION, Property.VERSION, Property.GROUP)
"""The properties with names that are unique in a subscription only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """The cost of one value of the property, in one currency."""

    name: str
    """The value of the property, for example a region. Empty for charges without the property."""
    currency: str
    delivered_bytes: int
    byte_hours: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedStatement:
    """A bill by a property. The totals are those of each other property and of `Statement` (invariant M33)."""

    by: str
    totals: tuple[Total, ...]
    rows: tuple[GroupRow, ...]
    """Sorted by the name."""


@dataclass(slots=True)
class _Sum:
    delivered_bytes: int = 0
    byte_microseconds: int = 0
    amount: Fraction = field(default_factory=Fraction)


def group_statement(
    rated: Iterable[RatedUsage], *, by: str, filters: Mapping[str, str], currency: str, of_all: bool = False
) -> GroupedStatement:
    """Return the statement of rated quantities by a property.

    Args:
        rated: the quantities of whole months. Tiers depend on all quantities of a month, so filters apply afterwards.
        by: a `Property`, or `tag:` with the name of a tag.
        filters: the wanted value of each property. Upper and lower case letters are equal.
        currency: the currency of a statement without rows.
        of_all: whether the quantities are those of all subscriptions. The names of two subscriptions may be equal, so the
            names of resources then begin with the subscription.
    """
    sums: defaultdict[tuple[str, str], _Sum] = defaultdict(_Sum)
    chosen = [
        each
        for each in rated
        if all(name_of(each.usage, key).casefold() == value.casefold() for key, value in filters.items())
    ]
    for each in chosen:
        usage = each.usage
        name = name_of(usage, by)
        if of_all and name and by in _OF_SUBSCRIPTION:
            name = f"{usage.party.subscription}/{name}"
        found = sums[name, each.currency]
        found.amount += each.amount
        if usage.kind is ChargeKind.STORAGE:
            found.byte_microseconds += usage.quantity
        else:
            found.delivered_bytes += usage.quantity
    rows = [
        GroupRow(
            name=name,
            currency=own,
            delivered_bytes=found.delivered_bytes,
            byte_hours=to_byte_hours(found.byte_microseconds).quantize(BYTE_HOURS_UNIT, context=ROUNDING),
            amount=to_decimal(found.amount),
        )
        for (name, own), found in sorted(sums.items())
    ]
    return GroupedStatement(by=by, totals=add_totals(chosen, currency), rows=tuple(rows))


def columns_of(properties: Iterable[str]) -> Sequence[str]:
    """Return the columns of the ledger that the properties need."""
    found: set[str] = set()
    for each in properties:
        found.update(("tags",) if each.startswith(TAG_PREFIX) else COLUMNS[each])
    return sorted(found)


def name_of(usage: Usage, prop: str) -> str:
    """Return the value of a property of a quantity. Empty without a value."""
    party = usage.party
    if prop.startswith(TAG_PREFIX):
        wanted = prop.removeprefix(TAG_PREFIX).casefold()
        return next((value for key, value in party.tags.items() if key.casefold() == wanted), "")
    match Property(prop):
        case Property.REGION:
            return usage.target
        case Property.GALLERY:
            return party.gallery or ""
        case Property.DEFINITION:
            return "/".join(filter(None, (party.gallery, party.definition)))
        case Property.VERSION:
            # The name of a gallery is unique in the subscription, and the name of a disk in the resource group.
            names = (party.gallery, party.definition, party.version) if party.version else (party.group, party.disk)
            return "/".join(filter(None, names))
        case Property.SUBSCRIPTION:
            return party.subscription
        case Property.GROUP:
            return party.group
        case Property.TYPE:
            return "/".join(
                filter(None, (usage.kind.value, usage.storage_account_type and usage.storage_account_type.value))
            )
        case Property.DAY:
            return str(usage.day)
