"""Budgets as JSON. Amounts are texts with all digits."""

from typing import TYPE_CHECKING

from imgstore.wire.json_text import Json, instant

if TYPE_CHECKING:
    from imgstore.ledger.budgets import Budget, BudgetUse


def budget_json(budget: "Budget") -> Json:
    """Return a budget. `budget` is its month, or "every"."""
    return {
        "budget": budget.month,
        "amount": f"{budget.amount:f}",
        "currency": budget.currency,
        "atLimit": budget.at_limit.value,
        "setAt": instant(budget.set_at),
    }


def budget_use_json(use: "BudgetUse") -> Json:
    """Return a budget with the charges of a month."""
    return {
        **budget_json(use.budget),
        "month": str(use.month),
        "used": f"{use.used:f}",
        "remaining": f"{use.remaining:f}",
        "reached": use.is_reached,
        "otherCurrencies": list(use.other_currencies),
    }
