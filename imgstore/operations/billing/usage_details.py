"""List usage details: the charges of each day and resource (invariant H20)."""

from datetime import UTC, date, datetime, time

from imgstore.catalog import Transaction
from imgstore.catalog.storage.ledger_sums import PARTY_COLUMNS
from imgstore.domain.identity.access import USAGE_DETAILS, Action, Principal, authorize
from imgstore.domain.names import group_id
from imgstore.domain.paging import Page, PageRequest, invalid_token
from imgstore.ledger.months import Month, list_months
from imgstore.ledger.statements.usage_details import UsageDetail, UsageFilter, list_usage_details
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.billing.statements import rate_days
from imgstore.operations.installation import Installation


def page_usage_details(
    installation: Installation,
    principal: Principal,
    request: PageRequest,
    *,
    group: str | None = None,
    wanted: UsageFilter | None = None,
) -> Page[UsageDetail]:
    """Return a page of the usage details of a subscription or resource group until now, by day.

    Args:
        installation: the installation.
        principal: a reader of the charges of the scope.
        request: the page.
        group: only charges of this resource group, which may be deleted. None for the subscription.
        wanted: the filter. Without days or a filter, the details are those of the current month.

    Raises:
        InvalidInput: no prices are valid in a month, or the token does not belong to this list.
    """
    scope = installation.scope
    if group is not None:
        scope = group_id(installation.subscription, group)
    authorize(principal, Action.READ, scope, USAGE_DETAILS)
    wanted = wanted or UsageFilter()
    of = f"{scope}/{USAGE_DETAILS}?{wanted}"
    after = request.start_key(of) or ""
    first = _first_moment(after, wanted)
    found: list[UsageDetail] = []
    with installation.catalog.reading() as transaction:
        prices = read_prices(installation, transaction)
        days = (
            day
            for month in _months(transaction, installation.subscription, wanted)
            if month.end > first
            for day in rate_days(transaction, installation.subscription, month, prices, PARTY_COLUMNS, first=first)
        )
        for day in days:
            own = [each for each in day if group is None or each.usage.party.group.casefold() == group.casefold()]
            found += [each for each in list_usage_details(own, wanted) if each.sort_key > after]
            if request.limit is not None and len(found) >= request.limit:
                break
    return Page.from_rows(found, request, of=of, key=lambda each: each.sort_key)


def _first_moment(after: str, wanted: UsageFilter) -> datetime:
    """Return the begin of the first day of a page. A page begins in the day of the item before."""
    try:
        first = date.fromisoformat(after[:10]) if after else (wanted.first or date.min)
    except ValueError:
        raise invalid_token(after) from None
    return datetime.combine(first, time(), UTC)


def _months(transaction: Transaction, subscription: str, wanted: UsageFilter) -> list[Month]:
    """Return the months of the wanted days with entries. Tiers apply to whole months."""
    current = Month.of(transaction.now())
    oldest = Month.of(transaction.ledger_sums.first_time(subscription) or transaction.now())
    first, last = oldest, current
    if wanted.first is not None:
        first = max(oldest, Month(wanted.first.year, wanted.first.month))
    elif wanted.last is None:
        first = current
    if wanted.last is not None:
        last = min(current, Month(wanted.last.year, wanted.last.month))
    return list_months(first, last)
