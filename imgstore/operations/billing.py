"""Compute the bill from the rows of the ledger."""

from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.ledger.statement import Statement, make_statement
from imgstore.operations.installation import Installation


def show_bill(installation: Installation, principal: Principal) -> Statement:
    """Compute the bill of the subscription until now: egress, free copies, and storage of each replica."""
    authorize(principal, Action.READ, f"/subscriptions/{installation.subscription}")
    with installation.catalog.reading() as transaction:
        rows = transaction.ledger.rows(installation.subscription)
        intervals = transaction.ledger.intervals(installation.subscription)
        return make_statement(rows, intervals, installation.regions.prices, until=transaction.now())
