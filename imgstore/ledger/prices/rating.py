"""Rating: the exact price of a quantity by the tiers of a rate (invariant M18).

Amounts are fractions, because an hour has a factor of nine and Azure's month a factor of 73: a storage amount is an
infinite decimal fraction. A statement rounds.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

from imgstore.domain.storage.sizes import GIGABYTE, HOURS_PER_MONTH
from imgstore.ledger.prices.price_list import Rate, Tier

MICROSECONDS_PER_HOUR: Final = 3_600 * 10**6
GB_MONTH: Final = GIGABYTE * HOURS_PER_MONTH * MICROSECONDS_PER_HOUR
"""Bytes times microseconds of a stored GB-month of 730 hours."""


class TierPart(NamedTuple):
    """The part of a quantity inside a tier."""

    tier: Tier
    quantity: Fraction
    """GB, or GB-months."""


def split_by_tiers(rate: Rate, before: Fraction, quantity: Fraction) -> list[TierPart]:
    """Return the parts of a quantity in each tier, in order. A negative quantity has a rate with one tier.

    Args:
        rate: the tiers.
        before: the sum of the month before the quantity, in GB or GB-months.
        quantity: GB or GB-months.
    """
    if len(rate.tiers) == 1:
        return [TierPart(rate.tiers[0], quantity)]
    end = before + quantity
    parts = []
    limits: list[Fraction | None] = [Fraction(upper.begin_gigabytes) for _, upper in pairwise(rate.tiers)]
    for tier, limit in zip(rate.tiers, [*limits, None], strict=True):
        begin = max(before, Fraction(tier.begin_gigabytes))
        inside = (end if limit is None else min(end, limit)) - begin
        if inside > 0:
            parts.append(TierPart(tier, inside))
    return parts or [TierPart(rate.tiers[0], Fraction(0))]


def rate_quantity(rate: Rate, before: Fraction, quantity: Fraction) -> Fraction:
    """Return the amount of a quantity after `before` in the month, exactly."""
    return sum((Fraction(tier.unit_price) * part for tier, part in split_by_tiers(rate, before, quantity)), Fraction())
