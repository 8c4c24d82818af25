"""Explanations of an entry: the parts of its amount, and the line of the price list of each part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from imgstore.domain.resources import SegmentRow
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.prices.price_list import PriceLists
from imgstore.ledger.statements.statement import to_decimal
from imgstore.ledger.statements.usage import RatedUsage, Usage

_RULES: Final[Mapping[ChargeKind, str]] = {
    ChargeKind.EGRESS: "bytes that arrived in a region for the first time, at the price of the two regions",
    ChargeKind.COPY: "bytes copied inside a region, which are free",
    ChargeKind.REPAIR: "bytes that replaced missing or damaged bytes",
    ChargeKind.CROSS_REGION_READ: "bytes read from another region, because no store of the own region answered",
    ChargeKind.CORRECTION: "bytes that an operator added to a transfer or took from a transfer, at its price",
    ChargeKind.STORAGE: "distinct stored bytes, of which each belongs to the first owner in the slot, by time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PricePart:
    """The part of an entry in one month, with one price."""

    month: str
    price_list: int
    line: str | None
    """The path of the price in regions.yaml. None for free bytes and for entries of code before price lists."""
    tier_begin_gigabytes: Decimal
    before: Decimal
    """The sum of the month before the part, in GB or GB-months."""
    quantity: Decimal
    """GB or GB-months."""
    unit_price: Decimal
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An entry with the parts of its amount and the segments behind its bytes."""

    entry: str
    usage: Usage
    """The whole entry. The quantity is that of the first month for storage."""
    bytes: int
    """Delivered or stored bytes."""
    rule: str
    parts: Sequence[PricePart]
    segments: Sequence[SegmentRow] | None
    """The segments that the version or disk names and that no earlier owner of the region names, as the catalog is now.

    None if the resources of the entry do not exist any more.
    """


def rule_of(kind: ChargeKind) -> str:
    """Return the rule that makes an entry of a kind, for people."""
    return _RULES[kind]


def explain_amount(rated: Sequence[RatedUsage], prices: PriceLists) -> list[PricePart]:
    """Return the parts of an entry's amount, in the order in which tiers are used up.

    Args:
        rated: the quantities of the entry.
        prices: all price lists of the installation.
    """
    parts = []
    for each in rated:
        before = each.before
        for tier, quantity in each.parts:
            parts.append(
                PricePart(
                    month=str(each.usage.month),
                    price_list=each.usage.price_list,
                    line=_line_of(each, prices),
                    tier_begin_gigabytes=tier.begin_gigabytes,
                    before=to_decimal(before),
                    quantity=to_decimal(quantity),
                    unit_price=tier.unit_price,
                    amount=to_decimal(Fraction(tier.unit_price) * quantity),
                    currency=each.currency,
                )
            )
            before += quantity
    return parts


def _line_of(rated: RatedUsage, prices: PriceLists) -> str | None:
    """Return the path of a meter in regions.yaml. In a file with several periods, the path has the place of the period."""
    if rated.usage.unit_price is not None:
        return None
    in_force = prices.by_number(rated.usage.price_list)
    period = in_force.periods.index(in_force.at(rated.usage.begin))
    top = "prices" if len(in_force.periods) == 1 else f"prices[{period}]"
    match rated.rate.meter.split("/"):
        case ["egress", "default"]:
            return f"{top}.egress_per_gb.default"
        case ["egress", "group", source, target]:
            return f"{top}.egress_per_gb.zone_groups.{source}.{target}"
        case ["egress", source, target]:
            return f"{top}.egress_per_gb.pairs.{source}.{target}"
        case ["storage", kind]:
            return f"{top}.storage_per_gb_month.{kind}"
        case _:
            return f"{top}.repair_per_gb"
