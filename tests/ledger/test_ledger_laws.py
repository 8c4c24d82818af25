"""Laws of the ledger: each byte is billed once, rounding loses nothing, and the statement balances."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.egress import ArrivalPath, Transfer, charge_arrival, split_arrival
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.months import Month
from imgstore.ledger.prices.price_list import FREE, PriceList, PriceLists, Prices, Rate, Tier, Tiers, flat
from imgstore.ledger.prices.rating import rate_quantity
from imgstore.ledger.statements.daily_costs import sum_daily_costs
from imgstore.ledger.statements.grouped_statement import Property, group_statement
from imgstore.ledger.statements.statement import AMOUNT_UNIT, BYTE_HOURS_UNIT, make_statement
from imgstore.ledger.statements.usage import list_usage, rate_all
from imgstore.ledger.storage.periods import byte_microseconds, cut_interval, settle_interval
from imgstore.ledger.storage.shared_bytes import group_by_owners
from imgstore.ledger.storage.storage_intervals import (
    Owner,
    attribute_bytes,
    plan_interval_changes,
)

START = datetime(2024, 3, 1, tzinfo=UTC)
PARTY = Party(subscription="s", group="rg", gallery="g", definition="d", version="1.0.0")
PERIOD = Prices(
    egress_default=flat(Decimal("0.02")),
    egress_pairs=MappingProxyType({("a", "b"): flat(Decimal("0.0123456789"))}),
    storage=MappingProxyType({kind: flat(Decimal("0.0625")) for kind in StorageAccountType}),
)
PRICES = PriceList(currency="USD", periods=(PERIOD,), number=1)

Lengths: TypeAlias = NDArray[np.int64]

regions = st.sampled_from("abc")
prices_ = st.decimals(min_value=0, max_value=999_999_999, places=12)
byte_counts = st.integers(min_value=0, max_value=2**60)
instants = st.integers(min_value=0, max_value=10**14).map(lambda count: START + timedelta(microseconds=count))


@st.composite
def tiers(draw: st.DrawFn) -> Tiers:
    begins = [0, *sorted(draw(st.sets(st.integers(1, 2**31), max_size=3)))]
    return tuple(Tier(begin_gigabytes=Decimal(begin), unit_price=draw(prices_)) for begin in begins)


@st.composite
def price_lists(draw: st.DrawFn, number: int = 1) -> PriceList:
    begins = [None, *sorted(draw(st.sets(instants, max_size=2)))]
    periods = [
        Prices(
            valid_from=begin,
            egress_default=draw(tiers()),
            egress_pairs=MappingProxyType(draw(st.dictionaries(st.tuples(regions, regions), tiers()))),
            storage=MappingProxyType({kind: draw(tiers()) for kind in StorageAccountType}),
        )
        for begin in begins
    ]
    return PriceList(currency="EUR", periods=tuple(periods), number=number)


def alone(prices: PriceList) -> PriceLists:
    return PriceLists(lists=(prices,), begins=(START,))


@st.composite
def arrivals(draw: st.DrawFn, prices: PriceList) -> LedgerRow:
    return charge_arrival(
        Transfer(
            key=draw(st.uuids(version=4)).hex,
            party=PARTY,
            source=draw(regions),
            target=draw(regions),
            replica=draw(st.integers(0, 9)),
            moved_bytes=draw(byte_counts),
            time=draw(instants),
        ),
        prices,
        crossing=draw(st.booleans()),
    )


@st.composite
def intervals(draw: st.DrawFn) -> StorageInterval:
    first, last = sorted([draw(instants), draw(instants)])
    return StorageInterval(
        uid="i",
        party=PARTY,
        owner_uid=draw(st.sampled_from("vw")),
        slot_uid=draw(st.sampled_from("xy")),
        region="a",
        replica=0,
        storage_account_type=StorageAccountType.STANDARD_LRS,
        stored_bytes=draw(byte_counts),
        opened_at=first,
        closed_at=draw(st.sampled_from([None, last])),
    )


@given(data=st.data(), prices=price_lists(), until=instants)
def test_a_statement_balances(data: st.DataObject, prices: PriceList, until: datetime) -> None:
    """The total equals the sum of the amounts up to the rounding of storage, and no bytes are lost."""
    rows = data.draw(st.lists(arrivals(prices)))
    lying = data.draw(st.lists(intervals()))
    bill = make_statement(rows, lying, alone(prices), until=until)
    rounded = 1 + sum(row.kind is ChargeKind.STORAGE for row in bill.rows)
    difference = abs(Fraction(bill.total) - sum((Fraction(row.amount) for row in bill.rows), Fraction()))
    assert difference <= rounded * Fraction(AMOUNT_UNIT) / 2
    assert sum(row.delivered_bytes for row in bill.rows) == sum(row.delivered_bytes for row in rows)
    owners = {(each.owner_uid, each.slot_uid) for each in lying if cut_interval(each, [], until)}
    assert len(bill.rows) >= len(rows) + len(owners)
    assert list(bill.rows) == sorted(bill.rows, key=lambda row: row.time)
    assert bill.currency == "EUR"


@given(data=st.data(), prices=price_lists())
def test_arrival_costs_bytes_times_price(data: st.DataObject, prices: PriceList) -> None:
    """The amount is exact. Only transfers between regions have a price."""
    row = data.draw(arrivals(prices))
    assert Fraction(row.amount) == Fraction(row.unit_price) * row.delivered_bytes / 10**9
    if row.kind is ChargeKind.COPY:
        assert row.unit_price == row.amount == 0
        assert row.meter is None
    else:
        assert row.source != row.target
        assert row.meter in {"egress/default", f"egress/{row.source}/{row.target}"}
        assert row.unit_price == prices.egress(row.source, row.target, row.time).tiers[0].unit_price


def test_transfers_between_regions_are_charged_and_copies_inside_are_free() -> None:
    def row(source: str, target: str, *, crossing: bool) -> tuple[ChargeKind, Decimal, Decimal]:
        made = charge_arrival(
            Transfer(
                key="k",
                party=PARTY,
                source=source,
                target=target,
                replica=0,
                moved_bytes=3_000_000_001,
                time=START,
            ),
            PRICES,
            crossing=crossing,
        )
        return made.kind, made.unit_price, made.amount

    pair = Decimal("0.0123456789")
    assert row("a", "b", crossing=True) == (ChargeKind.EGRESS, pair, Decimal("0.0370370367123456789"))
    assert row("b", "a", crossing=True) == (ChargeKind.EGRESS, Decimal("0.02"), Decimal("0.06000000002"))
    assert row("a", "b", crossing=False) == (ChargeKind.COPY, FREE, FREE)
    assert row("a", "a", crossing=True) == (ChargeKind.COPY, FREE, FREE)


@given(
    byte_counts,
    st.dictionaries(st.sampled_from("abc"), byte_counts, max_size=3),
    st.sampled_from("abc"),
    st.sampled_from("abc"),
)
def test_parts_of_an_arrival_have_all_bytes_and_a_key_each(
    moved_bytes: int, served: dict[str, int], parent: str, earlier: str
) -> None:
    moved = Transfer(key="k", party=PARTY, source="s", target="t", replica=0, moved_bytes=moved_bytes, time=START)
    parts = split_arrival(moved, ArrivalPath(parent=parent, earlier=earlier, served=served))
    # Invariants M3 and M5.
    assert sum(each.moved_bytes for each in parts) == moved_bytes
    assert [each.key for each in parts] == ["k", *(f"k/{each.source}" for each in parts[1:])]
    assert len({each.source for each in parts}) == len(parts)
    if not moved_bytes:
        assert [each.source for each in parts] == [parent]
    elif moved_bytes > sum(served.values()):
        rest = moved_bytes - sum(served.values())
        assert {each.source: each.moved_bytes for each in parts}[earlier] == served.get(earlier, 0) + rest


def test_no_digit_is_lost_beyond_28_digits() -> None:
    period = dataclasses.replace(PERIOD, egress_default=flat(Decimal("123456789.123456789012")))
    dear = dataclasses.replace(PRICES, periods=(period,))
    row = charge_arrival(
        Transfer(
            key="k",
            party=PARTY,
            source="b",
            target="a",
            replica=0,
            moved_bytes=2**60 - 1,
            time=START,
        ),
        dear,
        crossing=True,
    )
    assert Fraction(row.amount) == Fraction(123456789123456789012, 10**21) * (2**60 - 1)
    cheap = dataclasses.replace(row, unit_price=Decimal("1e-12"), amount=Decimal("1e-21"))
    small = dataclasses.replace(cheap, key="l", delivered_bytes=1, price_list=None, meter=None)
    # Invariant M1.
    assert Fraction(make_statement([row, small], [], alone(dear), until=START).total) == Fraction(
        row.amount
    ) + Fraction(1, 10**21)


@given(each=intervals(), cut=instants, until=instants)
def test_divided_interval_has_the_weight_of_the_whole(each: StorageInterval, cut: datetime, until: datetime) -> None:
    """The number of parts affects neither byte-hours nor amounts nor the statement."""
    cut = min(max(cut, each.opened_at), each.closed_at or cut)
    parts = [dataclasses.replace(each, closed_at=cut), dataclasses.replace(each, opened_at=max(cut, each.opened_at))]
    assert byte_microseconds(each, until) == sum(byte_microseconds(part, until) for part in parts)
    whole, pieced = (make_statement([], some, alone(PRICES), until=until) for some in ([each], parts))
    assert whole.total == pieced.total
    assert [row.byte_hours for row in whole.rows] == [row.byte_hours for row in pieced.rows]


@given(each=intervals(), until=instants)
def test_weight_and_amount_equal_exact_fractions(each: StorageInterval, until: datetime) -> None:
    end = min(each.closed_at or until, until)
    hours = max(Fraction(0), Fraction((end - each.opened_at) / timedelta(microseconds=1)) / 3_600_000_000)
    cost = each.stored_bytes * hours * Fraction("0.0625") / 730 / 10**9
    bill = make_statement([], [each], alone(PRICES), until=until)
    months = len(bill.rows)
    assert [row.month for row in bill.rows] == sorted({row.month for row in bill.rows})
    assert abs(Fraction(bill.total) - cost) <= months * Fraction(AMOUNT_UNIT) / 2
    weight = sum(Fraction(row.byte_hours) for row in bill.rows)
    assert abs(weight - each.stored_bytes * hours) <= months * Fraction(BYTE_HOURS_UNIT) / 2


@given(data=st.data(), first=price_lists(1), second=price_lists(2), change=instants, until=instants)
def test_new_prices_change_no_older_day(
    data: st.DataObject, first: PriceList, second: PriceList, change: datetime, until: datetime
) -> None:
    """Up to the change, the bill with both lists equals the bill with the first list alone (invariant M19)."""
    lying = data.draw(st.lists(intervals(), max_size=4))
    until = min(until, change)
    both = PriceLists(lists=(first, second), begins=(START, change))
    assert (
        make_statement([], lying, both, until=until).rows == make_statement([], lying, alone(first), until=until).rows
    )


@given(data=st.data(), prices=price_lists(), until=instants)
def test_a_closed_month_does_not_change(data: st.DataObject, prices: PriceList, until: datetime) -> None:
    """Later entries, and the close of intervals after the month, leave the rows of the month (invariant M19)."""
    rows = data.draw(st.lists(arrivals(prices), max_size=4))
    lying = [
        dataclasses.replace(each, uid=str(at)) for at, each in enumerate(data.draw(st.lists(intervals(), max_size=4)))
    ]
    month = Month.of(until)
    before = make_statement(rows, lying, alone(prices), until=month.end, month=month)
    later = month.end + timedelta(days=data.draw(st.integers(0, 99)))
    rows += [dataclasses.replace(row, key=f"later-{row.key}", time=later) for row in rows]
    lying = [
        each if each.closed_at else dataclasses.replace(each, closed_at=max(later, each.opened_at)) for each in lying
    ]
    after = make_statement(rows, lying, alone(prices), until=later + timedelta(days=40), month=month)
    assert after == before


@given(data=st.data(), prices=price_lists(), until=instants, settled_at=instants)
def test_settlement_changes_no_statement(
    data: st.DataObject, prices: PriceList, until: datetime, settled_at: datetime
) -> None:
    """Closing intervals at month ends changes no row of any statement, also not before the settlement (M27)."""
    rows = data.draw(st.lists(arrivals(prices), max_size=3))
    lying = [
        dataclasses.replace(each, uid=str(at), owner_uid=str(at), slot_uid="x")
        for at, each in enumerate(data.draw(st.lists(intervals(), max_size=4)))
    ]
    parts = [part for each in lying for part in ([each] if each.closed_at else settle_interval(each, settled_at))]
    assert len({part.uid for part in parts}) == len(parts)
    assert all(Month.of(part.opened_at) >= Month.of(settled_at) for part in parts if part.closed_at is None)
    settled, open_ = (make_statement(rows, some, alone(prices), until=until) for some in (parts, lying))
    # A settled month is an entry of its own.
    assert [dataclasses.replace(row, entries=()) for row in settled.rows] == [
        dataclasses.replace(row, entries=()) for row in open_.rows
    ]
    assert settled.totals == open_.totals
    again = [part for each in parts for part in ([each] if each.closed_at else settle_interval(each, settled_at))]
    assert again == parts


@given(data=st.data(), first=price_lists(1), second=price_lists(2), change=instants, until=instants)
def test_all_statements_of_the_same_charges_have_the_same_totals(
    data: st.DataObject, first: PriceList, second: PriceList, change: datetime, until: datetime
) -> None:
    """The total of each property is the exact sum, rounded once (M33). The rows differ by their own rounding only."""
    both = PriceLists(lists=(first, second), begins=(START, change))
    parties = [
        dataclasses.replace(PARTY, version=f"1.0.{number}", tags={"team": str(number % 2)}) for number in range(3)
    ]
    party = st.sampled_from(parties)
    rows = [
        dataclasses.replace(row, key=str(at), party=data.draw(party))
        for at, row in enumerate(data.draw(st.lists(arrivals(first), max_size=4)))
    ]
    lying = [
        dataclasses.replace(each, uid=str(at), owner_uid=str(at), party=data.draw(party))
        for at, each in enumerate(data.draw(st.lists(intervals(), max_size=6)))
    ]
    currency = second.currency
    rated = rate_all(list_usage(rows, lying, both, until), both)
    daily = rate_all(list_usage(rows, lying, both, until, by_day=True), both)
    plain = make_statement(rows, lying, both, until=until)
    exact = sum((each.amount for each in rated), Fraction())
    assert exact == sum((each.amount for each in daily), Fraction())
    (total,) = plain.totals
    assert abs(Fraction(total.amount) - exact) <= Fraction(AMOUNT_UNIT) / 2
    assert Fraction(total.due) == round(exact * 100) / Fraction(100)
    for by in (*Property, "tag:team"):
        some = daily if by is Property.DAY else rated
        grouped = group_statement(some, by=by, filters={}, currency=currency)
        assert grouped.totals == plain.totals, by
        difference = abs(sum(Fraction(row.amount) for row in grouped.rows) - exact)
        assert difference <= len(grouped.rows) * Fraction(AMOUNT_UNIT) / 2
    for month in {each.usage.month for each in daily}:
        costs = sum_daily_costs([each for each in daily if each.usage.month == month], month, currency)
        assert tuple(each.total for each in costs) == make_statement(rows, lying, both, until=until, month=month).totals


@given(data=st.data(), prices=price_lists())
def test_entries_of_one_instant_use_up_tiers_in_the_order_of_their_keys(data: st.DataObject, prices: PriceList) -> None:
    """The order of reading changes nothing, and the order of the keys changes only the entries of the instant (M18)."""
    row = data.draw(arrivals(prices))
    times = [START, START, START, START + timedelta(milliseconds=1), START + timedelta(milliseconds=1)]
    rows = [
        charge_arrival(
            Transfer(
                key=f"k{at}",
                party=PARTY,
                source="a",
                target="b",
                replica=0,
                moved_bytes=row.delivered_bytes + at,
                time=time,
            ),
            prices,
            crossing=True,
        )
        for at, time in enumerate(times)
    ]

    def rate(some: list[LedgerRow]) -> dict[str, Fraction]:
        return {
            each.usage.key: each.amount for each in rate_all(list_usage(some, [], alone(prices), START), alone(prices))
        }

    amounts = rate(rows)
    assert list(amounts) == [each.key for each in rows]
    assert rate(data.draw(st.permutations(rows))) == amounts
    renamed = data.draw(st.permutations(["k0", "k1", "k2"]))
    other = rate([dataclasses.replace(each, key=key) for each, key in zip(rows, [*renamed, "k3", "k4"], strict=True)])
    assert sum(other[key] for key in renamed) == sum(amounts[key] for key in renamed)
    assert [other[key] for key in ("k3", "k4")] == [amounts[key] for key in ("k3", "k4")]


@given(used=tiers(), parts=st.lists(st.fractions(0, 2**32), max_size=5))
def test_tiers_price_the_sum_of_a_month(used: Tiers, parts: list[Fraction]) -> None:
    """The amounts of parts add up to the amount of the sum, and each band applies to its part only (invariant M18)."""
    rate = Rate(meter="m", tiers=used)
    before, amounts = Fraction(0), []
    for part in parts:
        amounts.append(rate_quantity(rate, before, part))
        before += part
    ends = [Fraction(tier.begin_gigabytes) for tier in used[1:]] + [max(before, Fraction(2**33))]
    expected = sum(
        Fraction(tier.unit_price) * max(Fraction(0), min(before, end) - Fraction(tier.begin_gigabytes))
        for tier, end in zip(used, ends, strict=True)
    )
    assert sum(amounts) == expected


@st.composite
def slots(draw: st.DrawFn) -> tuple[list[Owner], Lengths]:
    """Return owners of a slot in the order of arrival, and a column of stored bytes by segment id."""
    lengths = np.array(draw(st.lists(st.integers(17, 2**42), min_size=1, max_size=30)), dtype=np.int64)
    named = st.lists(st.integers(0, len(lengths) - 1), unique=True).map(
        lambda ids: np.array(sorted(ids), dtype=np.uint32)
    )
    held = draw(st.lists(st.tuples(named, st.integers(0, 2**20)), max_size=6))
    return [(f"owner-{number}", ids, count) for number, (ids, count) in enumerate(held)], lengths


def distinct_bytes(owners: Sequence[Owner], lengths: Lengths) -> int:
    segments = {int(each) for _, ids, _ in owners for each in ids}
    return sum(int(lengths[each]) for each in segments) + sum(count for _, _, count in owners)


@given(slot=slots())
def test_attribution_adds_up_to_the_distinct_bytes(slot: tuple[list[Owner], Lengths]) -> None:
    """Each byte belongs to the first owner that names the byte."""
    owners, lengths = slot
    own = attribute_bytes(owners, lengths)
    assert own == attribute_bytes(owners, lambda ids: lengths[ids])
    assert list(own) == [uid for uid, _, _ in owners]
    assert sum(own.values()) == distinct_bytes(owners, lengths)
    for count in range(len(owners)):
        before, after = (distinct_bytes(owners[:upto], lengths) for upto in (count, count + 1))
        assert own[owners[count][0]] == after - before


@given(slot=slots(), moves=st.lists(st.integers(0, 5), max_size=12))
def test_arriving_and_leaving_owners_conserve_bytes(slot: tuple[list[Owner], Lengths], moves: list[int]) -> None:
    """After any sequence, the open intervals equal the stored bytes, and the bill equals the history."""
    owners, lengths = slot
    present: list[Owner] = []
    standing: dict[str, StorageInterval] = {}
    closed: list[StorageInterval] = []
    weight = 0
    now = START
    for move in (move for move in moves if move < len(owners)):
        uid = owners[move][0]
        staying = [each for each in present if each[0] != uid]
        present = staying if len(staying) < len(present) else [*present, owners[move]]
        wanted = attribute_bytes(present, lengths)
        to_close, to_open = plan_interval_changes(standing.values(), wanted)
        closed += [dataclasses.replace(standing.pop(each.owner_uid), closed_at=now) for each in to_close]
        assert not to_open.keys() & standing.keys()
        standing |= {uid: _opened(uid, count, now) for uid, count in to_open.items()}
        assert {uid: each.stored_bytes for uid, each in standing.items()} == {k: v for k, v in wanted.items() if v}
        assert plan_interval_changes(standing.values(), wanted) == ((), {})
        weight += distinct_bytes(present, lengths)
        now += timedelta(hours=1)
    bill = make_statement([], [*closed, *standing.values()], alone(PRICES), until=now)
    assert sum(row.byte_hours for row in bill.rows) == weight


@given(slot=slots())
def test_groups_of_shared_bytes_name_the_owners_in_the_order_of_payment(slot: tuple[list[Owner], Lengths]) -> None:
    """Compare with a count of single segments (invariant M10)."""
    owners, lengths = slot
    named = {uid: set(ids.tolist()) for uid, ids, _ in owners}
    expected = Counter[tuple[str, ...]]()
    for number, size in enumerate(lengths.tolist()):
        if holders := tuple(uid for uid, _, _ in owners if number in named[uid]):
            expected[holders] += size
    groups = group_by_owners(owners, lengths)
    assert {each.owner_uids: each.stored_bytes for each in groups} == expected
    assert len(groups) == len(expected)
    assert groups == group_by_owners(owners, lambda ids: lengths[ids])
    own = attribute_bytes(owners, lengths)
    for uid, _, count in owners:
        assert own[uid] == count + sum(each.stored_bytes for each in groups if each.owner_uids[0] == uid)


def _opened(uid: str, count: int, now: datetime) -> StorageInterval:
    return StorageInterval(
        uid=f"{uid}@{now}",
        party=PARTY,
        owner_uid=uid,
        slot_uid="slot",
        region="a",
        replica=0,
        storage_account_type=StorageAccountType.STANDARD_LRS,
        stored_bytes=count,
        opened_at=now,
    )


def test_correct_intervals_stay_open() -> None:
    first, second = _opened("first", 10, START), _opened("second", 5, START)
    assert plan_interval_changes([first, second], {"first": 10, "second": 5, "third": 0}) == ((), {})
    assert plan_interval_changes([first, second], {"second": 12}) == ((first, second), {"second": 12})
    assert plan_interval_changes([first], {"first": 10, "second": 5}) == ((), {"second": 5})
    assert attribute_bytes([], np.zeros(0, dtype=np.int64)) == {}


def test_a_statement_of_a_month() -> None:
    """Computed by hand: 100 GB for 730 hours at 0.0625 per GB and month, and 2 GB between regions at 0.02."""
    delivery = charge_arrival(
        Transfer(
            key="k",
            party=PARTY,
            source="b",
            target="a",
            replica=1,
            moved_bytes=2 * 10**9,
            time=START,
        ),
        PRICES,
        crossing=True,
    )
    lying = _opened("v", 100 * 10**9, START)
    bill = make_statement([delivery], [lying], alone(PRICES), until=START + timedelta(hours=730))
    moved, stored = bill.rows
    assert bill.total == Decimal("6.29")
    assert (moved.kind, moved.source, moved.target, moved.replica) == (ChargeKind.EGRESS, "b", "a", 1)
    assert (moved.delivered_bytes, moved.byte_hours, moved.unit_price, moved.amount) == (
        2 * 10**9,
        Decimal(0),
        Decimal("0.02"),
        Decimal("0.04"),
    )
    assert (stored.kind, stored.source, stored.target, stored.replica) == (ChargeKind.STORAGE, None, "a", 0)
    assert (stored.delivered_bytes, stored.byte_hours) == (0, Decimal(73_000 * 10**9))
    assert (stored.unit_price, stored.amount) == (Decimal("0.0625"), Decimal("6.25"))
    assert stored.time == START + timedelta(hours=730)
    # Invariant M13.
    assert (stored.group, stored.gallery, stored.definition, stored.version, stored.disk) == (
        "rg",
        "g",
        "d",
        "1.0.0",
        None,
    )


def test_wrong_amount_of_a_row_breaks_the_balance() -> None:
    row = LedgerRow(
        key="k",
        kind=ChargeKind.EGRESS,
        party=PARTY,
        source="a",
        target="b",
        replica=0,
        delivered_bytes=10**9,
        unit_price=Decimal("0.02"),
        amount=Decimal("0.03"),
        time=START,
    )
    with pytest.raises(AssertionError, match=r"k does not balance: the amount is 0\.03, the bytes cost 0\.02"):
        make_statement([row], [], alone(PRICES), until=START)
