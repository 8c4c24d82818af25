"""The budgets of subscriptions."""

from decimal import Decimal

from sqlalchemy import ColumnElement, and_, delete, or_, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value
from imgstore.ledger.budgets import EVERY_MONTH, AtLimit, Budget
from imgstore.ledger.months import Month

_table = schema.budgets


class Budgets(Repository):
    """At most one budget for each subscription and month, and one for every month of a subscription."""

    def list(self, subscription: str) -> list[Budget]:
        """Return the budgets of a subscription by month. The budget for every month is the last."""
        statement = select(_table).where(_table.c.subscription_key == fold_name(subscription)).order_by(_table.c.month)
        return [to_value(Budget, row) for row in self._session.all(statement)]

    def effective(self, subscription: str, month: Month) -> Budget | None:
        """Return the budget that applies to a month: the month's own budget, or the budget for every month."""
        found = {each.month: each for each in self.list(subscription)}
        return found.get(str(month)) or found.get(EVERY_MONTH)

    def put(self, uid: str, subscription: str, month: str, amount: Decimal, currency: str, at_limit: AtLimit) -> Budget:
        """Add a budget, or replace the budget of the same subscription and month. The uid is for a new row."""
        values = {"amount": amount, "currency": currency, "at_limit": at_limit, "set_at": self._session.now()}
        added = {"uid": uid, "subscription": subscription, "subscription_key": fold_name(subscription), "month": month}
        statement = self._session.upsert(_table).values({**added, **values, "reached_month": None})
        self._session.run(
            statement.on_conflict_do_update(
                index_elements=["subscription_key", "month"], set_={**values, "reached_month": None}
            )
        )
        return next(each for each in self.list(subscription) if each.month == month)

    def delete(self, subscription: str, month: str) -> bool:
        """Delete a budget. Return False if there is no such budget."""
        return bool(self._session.change(delete(_table).where(_of(subscription, month))))

    def mark_reached(self, uid: str, month: Month) -> bool:
        """Record that the charges of a month have reached a budget. Return False if that was recorded before."""
        is_new = or_(_table.c.reached_month.is_(None), _table.c.reached_month != str(month))
        statement = update(_table).where(_table.c.uid == uid, is_new).values(reached_month=str(month))
        return bool(self._session.change(statement))


def _of(subscription: str, month: str) -> ColumnElement[bool]:
    return and_(_table.c.subscription_key == fold_name(subscription), _table.c.month == month)
