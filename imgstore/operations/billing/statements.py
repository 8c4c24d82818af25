"""Compute the bill from the rows of the ledger."""

from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.ledger.months import Month
from imgstore.ledger.statement import Statement, make_statement
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation


def show_bill(installation: Installation, principal: Principal, month: Month | None = None) -> Statement:
    """Compute the bill of the subscription until now: egress, free copies, and storage of each replica.

    Args:
        installation: the installation.
        principal: a reader of the subscription.
        month: the month of the bill. None for all months.

    Raises:
        InvalidInput: no prices are valid in a month of the bill.
    """
    authorize(principal, Action.READ, f"/subscriptions/{installation.subscription}")
    with installation.catalog.reading() as transaction:
        rows = transaction.ledger.rows(installation.subscription)
        intervals = transaction.ledger.intervals(installation.subscription)
        prices = read_prices(installation, transaction)
        return make_statement(rows, intervals, prices, until=transaction.now(), month=month)
