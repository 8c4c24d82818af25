"""Predict a garbage collection in bytes and prices."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import Principal
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.forecast import CollectionForecast, price_month
from imgstore.ledger.prices.price_list import PriceList
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc import PATIENCE, plan_collection
from imgstore.policy.gc_plan import SlotReport


def forecast_collection(
    installation: Installation, principal: Principal, *, grace: timedelta, patience: timedelta = PATIENCE
) -> list[CollectionForecast]:
    """Predict the effects of `collect`, by region and storage account type. Nothing is written.

    Args:
        installation: the installation.
        principal: the caller.
        grace: the time from the mark to the deletion of a segment.
        patience: the time without a lease after which a work is abandoned.
    """
    plan = plan_collection(installation, principal, grace=grace, patience=patience)
    with installation.catalog.reading() as transaction:
        prices, now = current_prices(installation, transaction), transaction.now()
    places = sorted({(each.slot.key.region, each.slot.key.storage_account_type) for each in plan.slots})
    return [
        _add_up(prices, now, region, kind, [each for each in plan.slots if _is_in(each, region, kind)])
        for region, kind in places
    ]


def _is_in(report: SlotReport, region: str, kind: StorageAccountType) -> bool:
    return (report.slot.key.region, report.slot.key.storage_account_type) == (region, kind)


def _add_up(
    prices: PriceList, now: datetime, region: str, kind: StorageAccountType, reports: Iterable[SlotReport]
) -> CollectionForecast:
    sums, problem = Counter[str](), None
    for report in reports:
        problem = problem or report.problem
        if report.survey is not None:
            plan = report.survey.plan
            sums["deleted"] += sum(plan.deletable.values()) + sum(report.survey.stale.values())
            sums["grace"] += sum(plan.in_grace.values())
    return CollectionForecast(
        region=region,
        storage_account_type=kind,
        deleted_bytes=sums["deleted"],
        deleted_per_month=_price(prices, now, kind, sums["deleted"]),
        grace_bytes=sums["grace"],
        problem=problem,
    )


def _price(prices: PriceList, now: datetime, kind: StorageAccountType, stored_bytes: int) -> Decimal | None:
    try:
        return price_month(prices.storage(kind, now), 0, stored_bytes)
    except InvalidInput:  # A type that is no longer offered may have no price.
        return None
