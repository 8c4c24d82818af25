"""Compute the bill from the rows of the ledger."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import pairwise

from imgstore.catalog import Transaction
from imgstore.domain.identity.access import USAGE_DETAILS, Action, Principal, authorize
from imgstore.ledger.months import Month, day_begin, day_begins, list_months
from imgstore.ledger.prices.price_list import PriceLists
from imgstore.ledger.statements.daily_costs import DailyCosts, sum_daily_costs
from imgstore.ledger.statements.grouped_statement import GroupedStatement, Property, columns_of, group_statement
from imgstore.ledger.statements.statement import Statement, make_statement
from imgstore.ledger.statements.usage import RatedUsage, list_usage, rate_all
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation


def show_bill(installation: Installation, principal: Principal, month: Month | None = None) -> Statement:
    """Compute the bill of the subscription until now: egress, free copies, and storage of each replica.

    Args:
        installation: the installation.
        principal: a reader of the charges of the subscription.
        month: the month of the bill. None for all months.

    Raises:
        InvalidInput: no prices are valid in a month of the bill.
    """
    authorize(principal, Action.READ, installation.scope, USAGE_DETAILS)
    begin, end = (None, None) if month is None else (month.begin, month.end)
    with installation.catalog.reading() as transaction:
        rows = transaction.ledger.rows(installation.subscription, begin=begin, end=end)
        intervals = transaction.ledger.intervals(installation.subscription, begin=begin, end=end)
        prices = read_prices(installation, transaction)
        _check_prices(prices, month)
        return make_statement(rows, intervals, prices, until=transaction.now(), month=month)


def group_bill(
    installation: Installation,
    principal: Principal,
    *,
    by: str,
    month: Month | None = None,
    filters: Mapping[str, str] | None = None,
    all_subscriptions: bool = False,
) -> GroupedStatement:
    """Compute the bill until now by a property. The database adds up the entries, so a million entries take a second.

    Args:
        installation: the installation.
        principal: a reader of the charges of the subscription, or of all subscriptions.
        by: a `Property`, or `tag:` with the name of a tag.
        month: the month of the bill. None for all months.
        filters: the wanted value of each property.
        all_subscriptions: whether the bill has all subscriptions of the installation.

    Raises:
        InvalidInput: no prices are valid in a month of the bill.
    """
    subscription = None if all_subscriptions else installation.subscription
    authorize(principal, Action.READ, "/" if subscription is None else f"/subscriptions/{subscription}", USAGE_DETAILS)
    wanted = filters or {}
    columns = columns_of([by, *wanted])
    by_day = Property.DAY in {by, *wanted}
    with installation.catalog.reading() as transaction:
        prices = read_prices(installation, transaction)
        _check_prices(prices, month)
        rated = [
            each
            for some in _months(transaction, subscription, month)
            for each in rate_month(transaction, subscription, some, prices, columns, by_day=by_day)
        ]
        return group_statement(rated, by=by, filters=wanted, currency=prices.newest.currency, of_all=all_subscriptions)


def list_daily_costs(installation: Installation, principal: Principal, month: Month | None = None) -> list[DailyCosts]:
    """Return the cost of each day and region of a month until now, in each currency.

    Args:
        installation: the installation.
        principal: a reader of the charges of the subscription.
        month: the month. None for the current month.

    Raises:
        InvalidInput: no prices are valid in the month.
    """
    authorize(principal, Action.READ, installation.scope, USAGE_DETAILS)
    with installation.catalog.reading() as transaction:
        prices = read_prices(installation, transaction)
        wanted = month or Month.of(transaction.now())
        _check_prices(prices, wanted)
        rated = rate_month(transaction, installation.subscription, wanted, prices, (), by_day=True)
    return sum_daily_costs(rated, wanted, prices.newest.currency)


def _check_prices(prices: PriceLists, month: Month | None) -> None:
    """Refuse a month without prices. Such a month would look free of charge."""
    if month is not None:
        last = month.end - timedelta(microseconds=1)
        prices.at(last).at(last)


def _months(transaction: Transaction, subscription: str | None, month: Month | None) -> list[Month]:
    if month is not None:
        return [month]
    now = transaction.now()
    return list_months(Month.of(transaction.ledger_sums.first_time(subscription) or now), Month.of(now))


def rate_month(
    transaction: Transaction,
    subscription: str | None,
    month: Month,
    prices: PriceLists,
    columns: Collection[str],
    *,
    by_day: bool,
) -> list[RatedUsage]:
    """Rate the sums of a month. With tiers, the order of the entries counts, so the entries are read one by one."""
    rated = _rate_sums(transaction, subscription, month.begin, month.end, prices, columns, by_day=by_day)
    if all(len(each.rate.tiers) == 1 for each in rated):
        return rated
    until = min(month.end, transaction.now())
    rows = transaction.ledger.rows(subscription, begin=month.begin, end=month.end)
    intervals = transaction.ledger.intervals(subscription, begin=month.begin, end=month.end)
    entries = list_usage(rows, intervals, prices, until, by_day=by_day)
    return rate_all((each for each in entries if each.month == month), prices)


def rate_days(
    transaction: Transaction,
    subscription: str | None,
    month: Month,
    prices: PriceLists,
    columns: Collection[str],
    *,
    first: datetime,
) -> Iterator[list[RatedUsage]]:
    """Rate the sums of each day of a month from a day on. A day without tiers needs no other day.

    Args:
        transaction: the transaction.
        subscription: the subscription, or None for all.
        month: the month.
        prices: all price lists.
        columns: the columns of the ledger to keep apart.
        first: the begin of the first wanted day.
    """
    begins = [month.begin, *day_begins(month.begin, month.end)]
    for begin, end in pairwise([*(each for each in begins if each >= first), month.end]):
        rated = _rate_sums(transaction, subscription, begin, end, prices, columns, by_day=True)
        if any(len(each.rate.tiers) > 1 for each in rated):
            days: defaultdict[datetime, list[RatedUsage]] = defaultdict(list)
            for each in rate_month(transaction, subscription, month, prices, columns, by_day=True):
                days[day_begin(each.usage.begin)].append(each)
            yield from (some for day, some in sorted(days.items()) if day >= begin)
            return
        yield rated


def _rate_sums(
    transaction: Transaction,
    subscription: str | None,
    begin: datetime,
    end: datetime,
    prices: PriceLists,
    columns: Collection[str],
    *,
    by_day: bool,
) -> list[RatedUsage]:
    """Rate the sums of a period until now."""
    until = min(end, transaction.now())
    if until < begin:  # Nothing is charged in the future.
        return []
    sums = transaction.ledger_sums
    usage = []
    for first, last in _periods(begin, until, prices, by_day=by_day):
        # A charge of this moment belongs to the last period.
        usage += sums.transfers(subscription, first, end if last == until else last, columns)
        usage += sums.storage(subscription, first, last, columns, prices)
    return rate_all(usage, prices)


def _periods(
    begin: datetime, until: datetime, prices: PriceLists, *, by_day: bool
) -> Iterator[tuple[datetime, datetime]]:
    """Return the periods of a month in which no price changes, of at most a day if wanted."""
    days = day_begins(begin, until) if by_day else ()
    return pairwise(sorted({begin, until, *days, *(border for border in prices.borders() if begin < border < until)}))
