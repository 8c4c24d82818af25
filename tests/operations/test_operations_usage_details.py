"""Test pages of usage details by day, with tiers, and bills of months that begin in the future."""

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.months import Month
from imgstore.ledger.prices.price_list import PriceList, Prices, Tier, flat
from imgstore.ledger.statements.usage_details import UsageDetail, UsageFilter
from imgstore.operations.billing import statements
from imgstore.operations.billing.usage_details import page_usage_details
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, open_home
from tests.support.sealed_ledger import NOON, add_entries, make_charge

MARCH = UsageFilter(first=date(2026, 3, 1), last=date(2026, 3, 31))
TIERS = (
    Tier(begin_gigabytes=Decimal(0), unit_price=Decimal(0)),
    Tier(begin_gigabytes=Decimal(1), unit_price=Decimal("0.05")),
)


def add_tiered_charges(installation: Installation) -> None:
    """Add a transfer of 0.4 GB on each of the first days. The first GB of a month is free."""
    prices = Prices(
        egress_default=TIERS, storage=MappingProxyType({kind: flat(Decimal("0.05")) for kind in StorageAccountType})
    )
    with installation.catalog.transaction() as transaction:
        transaction.price_lists.add("tiers", PriceList(currency="USD", periods=(prices,)))
        number = transaction.price_lists.all().newest.number
        for day in range(5):
            entry = make_charge(
                installation,
                day,
                target="eastus",
                delivered_bytes=4 * 10**8,
                unit_price=Decimal(0),
                amount=Decimal(0),
                time=NOON + timedelta(days=day),
                price_list=number,
                meter="egress/default",
            )
            transaction.ledger.add(entry)


def read_pages(installation: Installation, items_max: int, wanted: UsageFilter) -> list[UsageDetail]:
    found: list[UsageDetail] = []
    page: Page[UsageDetail] = Page(items=(), next_token=None)
    while not found or page.next_token is not None:
        request = PageRequest(items_max=items_max, token=page.next_token)
        page = page_usage_details(installation, ADMIN, request, wanted=wanted)
        assert 0 < len(page.items) <= items_max
        found += page.items
    return found


@pytest.mark.parametrize("tiered", [False, True])
def test_pages_of_any_size_have_the_whole_list(tmp_path: Path, *, tiered: bool) -> None:
    with open_home(tmp_path / "home") as installation:
        add_entries(installation, range(20, 26), closed=range(1, 3), opened=range(3, 5))
        if tiered:
            add_tiered_charges(installation)
        whole = page_usage_details(installation, ADMIN, PageRequest(), wanted=MARCH).items
        assert [each.sort_key for each in whole] == sorted(each.sort_key for each in whole)
        for items_max in (1, 7, len(whole), 1_000):
            assert read_pages(installation, items_max, MARCH) == list(whole)
        middle = UsageFilter(first=date(2026, 3, 3), last=date(2026, 3, 4))
        assert read_pages(installation, 2, middle) == [each for each in whole if each.day.day in (3, 4)]
        bill = statements.group_bill(installation, ADMIN, by="day", month=Month(2026, 3))
        for row in bill.rows:
            cost = sum(each.cost for each in whole if str(each.day) == row.name)
            assert abs(cost - row.amount) < Decimal("1e-10")
        if tiered:
            own = [each for each in whole if each.meter == "egress/default"]
            assert [each.cost for each in own] == [0, 0, Decimal("0.01"), Decimal("0.02"), Decimal("0.02")]
            assert [each.unit_price for each in own] == [0, 0, None, Decimal("0.05"), Decimal("0.05")]
            assert own[2].effective_price == Decimal("0.025")


def test_token_of_another_list_is_refused(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as installation:
        add_entries(installation, range(20, 26))
        token = page_usage_details(installation, ADMIN, PageRequest(items_max=1), wanted=MARCH).next_token
        for wanted, group in ((UsageFilter(), None), (MARCH, "rg")):
            with pytest.raises(InvalidInput, match="does not belong to this list"):
                page_usage_details(installation, ADMIN, PageRequest(token=token), wanted=wanted, group=group)


def test_month_that_begins_in_the_future_has_no_charges(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as installation:
        add_entries(installation, range(0), opened=range(3, 5))
        with installation.catalog.reading() as transaction:
            month = Month.of(transaction.now()).next
        for by in ("day", "region"):
            assert statements.group_bill(installation, ADMIN, by=by, month=month).rows == ()
        (costs,) = statements.list_daily_costs(installation, ADMIN, month)
        assert (dict(costs.amounts), int(costs.total.due)) == ({}, 0)


def test_last_month_of_the_calendar_is_no_month() -> None:
    assert [Month.parse(text) for text in ("9999-12", "0000-01", "2026-13", "9998-12")] == [None] * 3 + [
        Month(9998, 12)
    ]
