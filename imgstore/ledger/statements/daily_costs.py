"""The cost of each day and region of a month."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

from imgstore.ledger.months import Month
from imgstore.ledger.statements.statement import Total, add_totals, to_decimal
from imgstore.ledger.statements.usage import RatedUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyCosts:
    """The cost of a month in one currency, by day in UTC and region."""

    month: Month
    total: Total
    regions: tuple[str, ...]
    """All regions with charges. The region with the highest cost is first."""
    amounts: Mapping[tuple[date, str], Decimal]
    """The cost of each day and region with charges."""

    @property
    def days(self) -> list[date]:
        """All days of the month."""
        count = (self.month.end - self.month.begin).days
        return [(self.month.begin + timedelta(days=each)).date() for each in range(count)]


def sum_daily_costs(rated: Iterable[RatedUsage], month: Month, currency: str) -> list[DailyCosts]:
    """Return the costs of each currency, sorted by currency.

    Args:
        rated: the quantities of the month, each of a single day.
        month: the month.
        currency: the currency of a month without charges.
    """
    sums: defaultdict[str, defaultdict[tuple[date, str], Fraction]] = defaultdict(lambda: defaultdict(Fraction))
    charges = list(rated)
    for each in charges:
        sums[each.currency][each.usage.day, each.usage.target] += each.amount
    totals = add_totals(charges, charges[0].currency if charges else currency)
    return [_make_costs(month, total, sums[total.currency]) for total in totals]


def _make_costs(month: Month, total: Total, sums: Mapping[tuple[date, str], Fraction]) -> DailyCosts:
    by_region: defaultdict[str, Fraction] = defaultdict(Fraction)
    for (_, region), amount in sums.items():
        by_region[region] += amount
    amounts = {place: to_decimal(amount) for place, amount in sorted(sums.items())}
    return DailyCosts(
        month=month,
        total=total,
        regions=tuple(sorted(by_region, key=lambda region: (-by_region[region], region))),
        amounts=amounts,
    )
