"""A subscription has one budget for a month, and one for every month."""

from decimal import Decimal

from catalog_values import SUBSCRIPTION, uid

from imgstore.catalog import Catalog
from imgstore.ledger.budgets import EVERY_MONTH, AtLimit
from imgstore.ledger.months import Month

pytest_plugins = ["catalog_fixtures"]

MONTH = Month(2026, 12)


def put(catalog: Catalog, month: str, amount: str, subscription: str = SUBSCRIPTION) -> str:
    with catalog.transaction() as transaction:
        return transaction.budgets.put(uid(), subscription, month, Decimal(amount), "USD", AtLimit.REFUSE).uid


def test_a_second_budget_of_a_month_replaces_the_first(catalog: Catalog) -> None:
    every = put(catalog, EVERY_MONTH, "10.00")
    first = put(catalog, str(MONTH), "20.00")
    put(catalog, str(MONTH), "30.00", subscription="another")
    assert put(catalog, str(MONTH), "25.00", subscription=SUBSCRIPTION.upper()) == first
    with catalog.transaction() as transaction:
        assert [(each.uid, each.amount) for each in transaction.budgets.list(SUBSCRIPTION)] == [
            (first, Decimal("25.00")),
            (every, Decimal("10.00")),
        ]
        for month, expected in ((MONTH, first), (MONTH.next, every)):
            found = transaction.budgets.effective(SUBSCRIPTION, month)
            assert found is not None
            assert found.uid == expected
        assert transaction.budgets.delete(SUBSCRIPTION, str(MONTH))
        assert not transaction.budgets.delete(SUBSCRIPTION, str(MONTH))


def test_a_month_reaches_a_budget_once_until_the_budget_is_set_again(catalog: Catalog) -> None:
    every = put(catalog, EVERY_MONTH, "10.00")
    with catalog.transaction() as transaction:
        marks = [transaction.budgets.mark_reached(every, each) for each in (MONTH, MONTH, MONTH.next)]
    assert marks == [True, False, True]
    put(catalog, EVERY_MONTH, "10.00")
    with catalog.transaction() as transaction:
        assert transaction.budgets.mark_reached(every, MONTH.next)
