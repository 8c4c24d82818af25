"""Budgets: the amount of a month at which a subscription gets a warning, or may start no further replication."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from imgstore.ledger.months import Month

EVERY_MONTH: Final = "every"
"""The month of a budget that applies to each month without a budget of its own."""


class AtLimit(StrEnum):
    """The effect of a budget when the month's charges reach its amount."""

    WARN = "warn"
    """Commands that start a replication print a note, and the activity log has an entry."""
    REFUSE = "refuse"
    """New replications are refused. Accepted replications continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A budget of a subscription."""

    uid: str
    subscription: str
    month: str
    """A month in UTC such as "2026-12", or `EVERY_MONTH`."""
    amount: Decimal
    """The budget is reached when the amount due is at least this amount. 0 is always reached."""
    currency: str
    at_limit: AtLimit
    set_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """A budget, and the charges of a month up to now."""

    budget: Budget
    month: Month
    used: Decimal
    """The amount due of the statement of the month, in the currency of the budget."""
    other_currencies: tuple[str, ...] = ()
    """Other currencies with charges in the month. The budget cannot limit such charges."""

    @property
    def remaining(self) -> Decimal:
        """The rest of the budget. Negative if the charges exceed the budget."""
        return self.budget.amount - self.used

    @property
    def is_reached(self) -> bool:
        """Whether the charges have reached the budget, or contain a currency that the budget cannot limit."""
        return self.used >= self.budget.amount or bool(self.other_currencies)

    def describe(self) -> str:
        """Return the used amount and the budget as text."""
        if not self.budget.amount:
            return f"a budget of 0 {self.budget.currency}, so any replication exceeds the budget"
        text = f"{self.used:f} {self.budget.currency} of {self.budget.amount:f} {self.budget.currency} used in {self.month}"
        return f"{text}, and charges in {', '.join(self.other_currencies)}" if self.other_currencies else text
