"""Charges are added once and read back with all digits. Intervals open and close."""

from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Decimal

import pytest
from catalog_values import LRS, NOON, SUBSCRIPTION, uid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.catalog import Catalog
from imgstore.catalog.storage.revisions import KINDS, decode_row
from imgstore.domain.errors import NotFound
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval

pytest_plugins = ["catalog_fixtures"]

_PARTY = Party(subscription=SUBSCRIPTION, group="rg", gallery="g", definition="d", version="1.0.0")
_OTHERS = Party(subscription="other", group="rg", gallery=None, definition=None, version=None, disk="d1")


def _charge(key: str, **changes: object) -> LedgerRow:
    row = LedgerRow(
        key=key,
        kind=ChargeKind.EGRESS,
        party=_PARTY,
        source="southcentralus",
        target="westus2",
        replica=0,
        delivered_bytes=1 << 40,
        unit_price=Decimal("0.020"),
        amount=Decimal("21.99023255552"),
        time=NOON,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _interval(slot_uid: str, **changes: object) -> StorageInterval:
    interval = StorageInterval(
        uid=uid(),
        party=_PARTY,
        owner_uid=uid(),
        slot_uid=slot_uid,
        region="westus2",
        replica=1,
        storage_account_type=LRS,
        stored_bytes=123,
        opened_at=NOON,
    )
    return replace(interval, **changes)  # type: ignore[arg-type]


def test_charge_is_written_once(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        assert transaction.ledger.add(_charge("a"))
        assert not transaction.ledger.add(_charge("a", amount=Decimal(99)))
        assert transaction.ledger.rows() == [_charge("a")]


def test_rows_are_ordered_by_time(catalog: Catalog) -> None:
    late = _charge("1", time=NOON + timedelta(microseconds=1))
    # The same time in another zone.
    noon = _charge("2", target="eastus", time=NOON.astimezone(timezone(timedelta(hours=5))))
    early = _charge("3", party=_OTHERS, kind=ChargeKind.COPY, amount=Decimal(0), time=NOON - timedelta(days=400))
    with catalog.transaction() as transaction:
        for row in (late, noon, early):
            transaction.ledger.add(row)
    with catalog.reading() as transaction:
        assert transaction.ledger.rows() == [early, noon, late]
        assert transaction.ledger.rows(SUBSCRIPTION.upper()) == [noon, late]
        assert transaction.ledger.rows("OTHER") == [early]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_keep_every_digit(catalog: Catalog, amount: Decimal) -> None:
    """The exponent and trailing zeros are read back too."""
    with catalog.transaction() as transaction:
        key = uid()
        transaction.ledger.add(_charge(key, amount=amount))
        (read,) = [row.amount for row in transaction.ledger.rows() if row.key == key]
    assert read.as_tuple() == amount.as_tuple()


def test_intervals_open_and_close(catalog: Catalog) -> None:
    slot_uid = uid()
    first, second = _interval(slot_uid), _interval(slot_uid, opened_at=NOON + timedelta(hours=1))
    other = _interval(uid(), party=_OTHERS, opened_at=NOON - timedelta(hours=1))
    with catalog.transaction() as transaction:
        for interval in (second, first, other):
            transaction.ledger.open_interval(interval)
        assert transaction.ledger.open_intervals(slot_uid) == [first, second]
        transaction.ledger.close_interval(first.uid, NOON + timedelta(hours=2))
        transaction.ledger.close_interval(first.uid, NOON + timedelta(hours=9))
        closed = replace(first, closed_at=NOON + timedelta(hours=2))
        assert transaction.ledger.open_intervals(slot_uid) == [second]
        assert transaction.ledger.intervals() == [other, closed, second]
        assert transaction.ledger.intervals(SUBSCRIPTION) == [closed, second]
        with pytest.raises(NotFound, match="storage interval"):
            transaction.ledger.close_interval(uid(), NOON)


def test_replaced_rows_leave_the_marks_of_other_rows(catalog: Catalog) -> None:
    """A charge that exists in the catalog alone still goes into the next checkpoint."""
    with catalog.transaction() as transaction:
        for key in ("a", "b"):
            transaction.ledger.add(_charge(key))
        marks = transaction.revision_marks.list_for_ledger(9)
        rows = transaction.revision_marks.read_ledger_rows([mark for mark in marks if mark.uid == "a"])
        decoded = [decode_row(member, row) for member in KINDS["ledger"].members[:1] for row in rows["ledger"]]
        transaction.rebuilt_rows.replace_ledger({"ledger": decoded})
        assert [mark.uid for mark in transaction.revision_marks.list_for_ledger(9)] == ["b"]
        assert len(transaction.ledger.rows()) == 2
