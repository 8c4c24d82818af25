"""Set and show budgets, and check the budget of the month before a new replication (invariant M30)."""

from decimal import Decimal
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import BUDGETS, Action, Principal, authorize
from imgstore.ledger.budgets import EVERY_MONTH, AtLimit, Budget, BudgetUse
from imgstore.ledger.months import Month
from imgstore.ledger.prices.currencies import minor_unit
from imgstore.operations.activity_log import record_activity
from imgstore.operations.billing.price_lists import current_prices, read_prices
from imgstore.operations.installation import Installation

_BUDGETS: Final = "imgstore/budgets"
_AMOUNT_MAX: Final = Decimal("1e15")


def set_budget(
    installation: Installation,
    principal: Principal,
    *,
    amount: Decimal,
    at_limit: AtLimit,
    currency: str | None = None,
    month: Month | None = None,
) -> BudgetUse:
    """Set the budget of a month, or the budget of every month, of the subscription. May be repeated.

    Args:
        installation: the installation, with the subscription.
        principal: an Owner of the subscription. A Contributor causes charges, and may not change the limit.
        amount: the amount due at which the budget is reached.
        at_limit: the effect.
        currency: three letters. None means the currency of the price list that applies now.
        month: the month. None means every month without a budget of its own.

    Raises:
        InvalidInput: the amount is invalid, or the price list has another currency.
    """
    scope = installation.scope
    with record_activity(
        installation,
        principal,
        Action.ADMINISTER,
        scope,
        f"{_BUDGETS}/write",
        about=f"{_month_text(month)}: {amount} {at_limit}"[:200],
        of=_BUDGETS,
    ):
        with installation.catalog.transaction() as transaction:
            priced = current_prices(installation, transaction).currency
            wanted = (currency or priced).upper()
            wanted_amount = _check_amount(amount, priced)
            if wanted != priced:
                raise InvalidInput(
                    "A budget has the currency of the price list.",
                    found=wanted,
                    expected=priced,
                    hint=f"give the amount in {priced}",
                    target="currency",
                )
            budget = transaction.budgets.put(
                installation.effects.new_uid(),
                installation.subscription,
                _month_text(month),
                wanted_amount,
                wanted,
                at_limit,
            )
        with installation.catalog.reading() as transaction:
            return _measure(installation, transaction, budget, month or Month.of(transaction.now()))


def show_budget(installation: Installation, principal: Principal, month: Month | None = None) -> BudgetUse:
    """Return the budget that applies to a month, with the charges of the month up to now.

    Args:
        installation: the installation, with the subscription.
        principal: a reader of the subscription.
        month: the month. None means the present month.

    Raises:
        NotFound: no budget applies to the month.
    """
    authorize(principal, Action.READ, installation.scope, BUDGETS)
    with installation.catalog.reading() as transaction:
        shown = month or Month.of(transaction.now())
        budget = transaction.budgets.effective(installation.subscription, shown)
        if budget is None:
            raise _not_found(f"the month {shown}", None)
        return _measure(installation, transaction, budget, shown)


def list_budgets(installation: Installation, principal: Principal) -> list[Budget]:
    """List the budgets of the subscription by month. The budget of every month is the last."""
    authorize(principal, Action.READ, installation.scope, BUDGETS)
    with installation.catalog.reading() as transaction:
        return transaction.budgets.list(installation.subscription)


def delete_budget(installation: Installation, principal: Principal, month: Month | None = None) -> None:
    """Delete the budget of a month, or the budget of every month.

    Raises:
        NotFound: there is no such budget.
    """
    with (
        record_activity(
            installation,
            principal,
            Action.ADMINISTER,
            installation.scope,
            f"{_BUDGETS}/delete",
            about=_month_text(month),
            of=_BUDGETS,
        ),
        installation.catalog.transaction() as transaction,
    ):
        if not transaction.budgets.delete(installation.subscription, _month_text(month)):
            raise _not_found("every month" if month is None else f"the month {month}", month)


def check_budget(installation: Installation) -> None:
    """Check prices and budget of the present month before a new replication. Nothing is locked.

    A reached budget of kind `warn` adds a note. The activity log gets one entry for each month with a reached budget.

    Raises:
        InvalidInput: no prices are valid now. The bytes would arrive, and could not be charged.
        Conflict: a budget of kind `refuse` is reached.
    """
    with installation.catalog.reading() as transaction:
        now = transaction.now()
        current_prices(installation, transaction).at(now)
        month = Month.of(now)
        budget = transaction.budgets.effective(installation.subscription, month)
        if budget is None:
            return
        use = _measure(installation, transaction, budget, month)
    if not use.is_reached:
        return
    _record_reached(installation, use)
    if budget.at_limit is AtLimit.WARN:
        installation.note("budget", f"the budget of the subscription is reached: {use.describe()}")
        return
    raise Conflict(
        f"The budget of the subscription for {month} is reached. New replications are refused.",
        found=use.describe(),
        expected=f"charges below {budget.amount:f} {budget.currency}" if budget.amount else "a budget above 0",
        hint="raise the budget with `imgstore budget set`, delete the budget, or wait for the next month; "
        "accepted replications continue",
        target="budget",
        code="BudgetExceeded",
    )


def _measure(installation: Installation, transaction: Transaction, budget: Budget, month: Month) -> BudgetUse:
    # The statement's arithmetic loads numpy, which takes 70 ms. Most installations have no budget.
    from imgstore.ledger.statements.statement import make_statement  # noqa: PLC0415

    statement = make_statement(
        transaction.ledger.rows(budget.subscription, begin=month.begin, end=month.end),
        transaction.ledger.intervals(budget.subscription, begin=month.begin, end=month.end),
        read_prices(installation, transaction),
        until=transaction.now(),
        month=month,
    )
    due = {total.currency: total.due for total in statement.totals}
    others = sorted(currency for currency, amount in due.items() if amount and currency != budget.currency)
    return BudgetUse(
        budget=budget,
        month=month,
        used=due.get(budget.currency, Decimal(0).quantize(minor_unit(budget.currency))),
        other_currencies=tuple(others),
    )


def _record_reached(installation: Installation, use: BudgetUse) -> None:
    with installation.catalog.without_operation.transaction() as transaction:
        if transaction.budgets.mark_reached(use.budget.uid, use.month):
            now = transaction.now()
            transaction.activity.add(
                principal="imgstore",
                action=f"{_BUDGETS}/reached",
                scope=installation.scope,
                outcome="Succeeded",
                detail=f"{use.describe()}; at the limit: {use.budget.at_limit}",
                started_at=now,
                finished_at=now,
            )


def _check_amount(amount: Decimal, currency: str) -> Decimal:
    """Return the amount with the digits of the minor unit of its currency."""
    unit = minor_unit(currency)
    is_valid = amount.is_finite() and 0 <= amount <= _AMOUNT_MAX and not amount % unit
    if not is_valid:
        raise InvalidInput(
            "The amount of a budget is invalid.",
            found=f"{amount}"[:80],
            expected=f"0 to {_AMOUNT_MAX:f} {currency}, in steps of {unit:f}",
            hint="give a number such as 100.00",
            target="amount",
        )
    return abs(amount).quantize(unit)


def _not_found(what: str, month: Month | None) -> NotFound:
    option = "" if month is None else f" --month {month}"
    return NotFound(
        f"There is no budget for {what}.",
        found="no budget",
        expected="a budget of the month, or of every month",
        hint=f"`imgstore budget set --amount 100{option} --at-limit warn` sets a budget; `imgstore budget list` lists all",
        target="month",
    )


def _month_text(month: Month | None) -> str:
    return EVERY_MONTH if month is None else str(month)
