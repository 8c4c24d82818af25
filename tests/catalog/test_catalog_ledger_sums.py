"""Sums of the database equal the entries one by one, on both engines."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

import pytest
from catalog_values import SUBSCRIPTION, uid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.catalog import Catalog
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.egress import Transfer, charge_arrival
from imgstore.ledger.entries import LedgerRow, Party, StorageInterval
from imgstore.ledger.prices.price_list import PriceList, PriceLists, Prices, flat
from imgstore.ledger.statements.grouped_statement import Property, columns_of, group_statement
from imgstore.ledger.statements.usage import list_usage, rate_all

pytest_plugins = ["catalog_fixtures"]

_BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
_END = datetime(2026, 12, 1, tzinfo=UTC)
_PRICES = PriceLists(
    lists=(
        PriceList(
            currency="USD",
            periods=(
                Prices(
                    egress_default=flat(Decimal("0.02")),
                    storage=MappingProxyType({kind: flat(Decimal("0.0625")) for kind in StorageAccountType}),
                ),
            ),
            number=1,
        ),
    ),
    begins=(_BEGIN,),
)

names = st.sampled_from(["a", "b", None])
parties = st.builds(
    Party,
    subscription=st.sampled_from([SUBSCRIPTION, SUBSCRIPTION.upper(), "other"]),
    group=st.sampled_from(["rg", "RG2"]),
    gallery=names,
    definition=names,
    version=names,
    disk=names,
    tags=st.sampled_from([MappingProxyType({}), MappingProxyType({"team": "web"}), MappingProxyType({"Team": "ö"})]),
)
times = st.integers(-(10**12), 4 * 10**12).map(lambda count: _BEGIN + timedelta(microseconds=count))
byte_counts = st.integers(0, 2**44)


@st.composite
def charges(draw: st.DrawFn) -> LedgerRow:
    moved = Transfer(
        key=uid(),
        party=draw(parties),
        source=draw(st.sampled_from(["westus2", "eastus"])),
        target=draw(st.sampled_from(["westus2", "northeurope"])),
        replica=draw(st.integers(0, 2)),
        moved_bytes=draw(byte_counts),
        time=draw(times),
    )
    return charge_arrival(moved, _PRICES.newest, crossing=draw(st.booleans()))


@st.composite
def intervals(draw: st.DrawFn) -> StorageInterval:
    first, last = sorted([draw(times), draw(times)])
    return StorageInterval(
        uid=uid(),
        party=draw(parties),
        owner_uid=uid(),
        slot_uid=uid(),
        region="westus2",
        replica=1,
        storage_account_type=draw(st.sampled_from(StorageAccountType)),
        stored_bytes=draw(byte_counts),
        opened_at=first,
        closed_at=draw(st.sampled_from([None, last])),
    )


@pytest.mark.parametrize("by", [*Property, "tag:team"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=5)
@given(rows=st.lists(charges(), max_size=8), lying=st.lists(intervals(), max_size=8))
def test_sums_equal_the_entries(
    catalog: Catalog, by: str, rows: Sequence[LedgerRow], lying: Sequence[StorageInterval]
) -> None:
    """A statement from sums equals the statement from all entries, by each property and for one subscription (M14)."""
    with catalog.transaction() as transaction:
        for row in rows:
            transaction.ledger.add(row)
        for each in lying:
            transaction.ledger.open_interval(each)
        days = [_BEGIN + timedelta(days=day) for day in range(31)] if by == Property.DAY else [_BEGIN, _END]
        for subscription in (None, SUBSCRIPTION):
            summed = [
                usage
                for begin, end in zip(days, [*days[1:], _END], strict=False)
                if begin < end
                for usage in (
                    *transaction.ledger_sums.transfers(subscription, begin, end, columns_of([by])),
                    *transaction.ledger_sums.storage(subscription, begin, end, columns_of([by]), _PRICES),
                )
            ]
            single = list_usage(
                transaction.ledger.rows(subscription, begin=_BEGIN, end=_END),
                transaction.ledger.intervals(subscription, begin=_BEGIN, end=_END),
                _PRICES,
                _END,
                by_day=by == Property.DAY,
            )
            inside = [usage for usage in single if _BEGIN <= usage.begin < _END]
            found, expected = (
                group_statement(rate_all(some, _PRICES), by=by, filters={}, currency="USD") for some in (summed, inside)
            )
            assert [row for row in found.rows if row.amount] == [row for row in expected.rows if row.amount]
            assert found.totals == expected.totals
