"""``imgstore budget``: limits of the charges of a month."""

import re
from decimal import Decimal
from typing import Final

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.months import month_option
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.ledger.budgets import AtLimit
from imgstore.ledger.months import Month
from imgstore.operations.billing import budgets as operations
from imgstore.wire.json_text import Json
from imgstore.wire.responses.budget import budget_json, budget_use_json

_AMOUNT: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
"""`Decimal` also reads exponents, underscores and the digits of all scripts."""
_USE = columns(
    Budget="budget",
    Month="month",
    Amount="amount",
    Currency="currency",
    Used="used",
    AtLimit="atLimit",
    Reached="reached",
)


@click.group(cls=Group)
def budget() -> None:
    """Manage the budgets of the subscription.

    When the charges of a month reach the budget, imgstore warns, or refuses new replications.
    """


@budget.command(
    "set",
    table=_USE,
    example="imgstore budget set --amount 100.00 --at-limit warn\n"
    "imgstore budget set --amount 250 --month 2026-12 --at-limit refuse",
)
@click.option("--amount", required=True, metavar="AMOUNT", help="Amount due that reaches the budget, such as 100.00.")
@click.option("--currency", metavar="CODE", help="Currency of the amount. Default: the currency of the price list.")
@month_option("--month", help="Month in UTC. Default: every month without a budget of its own.")
@options.choice(
    "--at-limit",
    members=tuple(AtLimit),
    default=AtLimit.WARN,
    help="Effect of a reached budget: a warning, or the refusal of new replications. Default: warn.",
)
def set_(session: Session, amount: str, currency: str | None, month: Month | None, at_limit: AtLimit) -> Json:
    """Set the budget of a month, or of every month.

    Charges of a month are the amount due of `imgstore bill show --month`. Accepted replications always continue.
    """
    use = session.run(
        operations.set_budget, amount=_parse_amount(amount), currency=currency, month=month, at_limit=at_limit
    )
    return budget_use_json(use)


@budget.command(table=_USE, example="imgstore budget show --month 2026-12 -o table")
@month_option("--month", help="Month in UTC. Default: the present month.")
def show(session: Session, month: Month | None) -> Json:
    """Show the budget that applies to a month, and the charges of the month."""
    return budget_use_json(session.run(operations.show_budget, month))


@budget.command(
    "list",
    table=columns(Budget="budget", Amount="amount", Currency="currency", AtLimit="atLimit", SetAt="setAt"),
    example="imgstore budget list -o table",
)
def list_(session: Session) -> Json:
    """List the budgets of the subscription."""
    return [budget_json(each) for each in session.run(operations.list_budgets)]


@budget.command(example="imgstore budget delete --month 2026-12")
@month_option("--month", help="Month in UTC. Default: the budget of every month.")
def delete(session: Session, month: Month | None) -> None:
    """Delete the budget of a month, or of every month."""
    session.run(operations.delete_budget, month)


def _parse_amount(text: str) -> Decimal:
    if not _AMOUNT.fullmatch(text):
        raise click.BadParameter(f"'{text[:80]}' is no amount. Write a number such as 100.00.", param_hint="--amount")
    return Decimal(text)
