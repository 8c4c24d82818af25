"""Months and days of the bill are those of UTC, in any time zone of the process and of the database (invariant M27)."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.resources import SlotKey, StorageAccountType
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.months import Month
from imgstore.ledger.statements.focus import FocusVersion
from imgstore.operations.billing import statements
from imgstore.operations.billing.focus_export import export_focus
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.settlement import settle_months
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import ADMIN, GALLERY, GROUP, create_sample_gallery, open_home
from tests.support.sealed_ledger import make_charge, make_interval

MONTHS = [
    Month(2026, 10),
    Month(2026, 11),
    Month(2026, 12),
    Month(2027, 1),
    Month(2027, 2),
    Month(2027, 3),
    Month(2027, 4),
]
BORDER = datetime(2026, 11, 1, tzinfo=UTC)
"""The clocks of New York go back on this day, and forward on 2027-03-14. Auckland changes its clocks on 2027-04-04."""
STORED_BYTES = 4096 * 5
LRS = StorageAccountType.STANDARD_LRS


@pytest.fixture(params=["Pacific/Auckland", "America/New_York"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The time zone of the process: before UTC, and after UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_months_of_another_time_zone(zone: str, tmp_path: Path) -> None:
    assert time.localtime(BORDER.timestamp()).tm_gmtoff != 0, f"{zone} must not be UTC"
    check_months(tmp_path)


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("zone", ["America/New_York"], indirect=True)
def test_months_of_a_database_in_another_time_zone(zone: str, tmp_path: Path, postgresql: str) -> None:
    check_months(tmp_path, database=f"{postgresql}{'&' if '?' in postgresql else '?'}options=-c%20TimeZone%3D{zone}")


def check_months(folder: Path, **settings: Any) -> None:
    """Compare all documents of a bill with hours, bytes and transfers around the borders of months."""
    clock = ManualClock(BORDER - timedelta(hours=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "now", lambda _session: clock.now())
        with open_home(folder / "home", effects=Effects(now=clock.now), **settings) as installation:
            add_entries(installation)
            clock.advance((datetime(2027, 4, 10, tzinfo=UTC) - clock.now()).total_seconds())
            check_bill(installation)
            assert settle_months(installation) == 6
            check_bill(installation)


def add_entries(installation: Installation) -> None:
    """Add a transfer before and after the border, and an interval that begins an hour before the border."""
    moment = timedelta(microseconds=1)
    create_sample_gallery(installation)
    with installation.catalog.transaction() as transaction:
        gallery = transaction.galleries.get(installation.subscription, GROUP, GALLERY)
        assert gallery is not None
        key = SlotKey(pool_uid=gallery.pool_uid, region="eastus", storage_account_type=LRS, ordinal=0)
        slot = transaction.slots.get_or_add(key, zone="1", bucket="b")
        transaction.ledger.add(make_charge(installation, 1, time=BORDER - moment))
        transaction.ledger.add(make_charge(installation, 3, time=BORDER))
        opened = BORDER - timedelta(hours=1)
        transaction.ledger.open_interval(make_interval(installation, 5, slot_uid=slot.uid, opened_at=opened))


def check_bill(installation: Installation) -> None:
    hours = {str(month): Decimal((month.end - month.begin).days * 24) for month in MONTHS}
    hours |= {"2026-10": Decimal(1), "2027-04": Decimal(9 * 24)}
    moved = {"2026-10": 1_000_003, "2026-11": 3_000_009}
    bill = statements.show_bill(installation, ADMIN)
    stored = {row.month: row.byte_hours for row in bill.rows if row.kind is ChargeKind.STORAGE}
    assert stored == {month: count * STORED_BYTES for month, count in hours.items()}
    assert {row.month: row.delivered_bytes for row in bill.rows if row.kind is ChargeKind.EGRESS} == moved
    for month in MONTHS:
        rows = statements.show_bill(installation, ADMIN, month).rows
        assert rows == tuple(row for row in bill.rows if row.month == str(month))
    days = {row.name for row in statements.group_bill(installation, ADMIN, by="day").rows}
    assert days == {f"{BORDER - timedelta(days=1) + timedelta(days=each):%Y-%m-%d}" for each in range(161)}
    exported = list(export_focus(installation, ADMIN, focus=FocusVersion.V1_2))
    periods = {(row["BillingPeriodStart"], row["BillingPeriodEnd"]) for row in exported}
    assert periods == {(f"{each.begin:%Y-%m-%dT00:00:00Z}", f"{each.end:%Y-%m-%dT00:00:00Z}") for each in MONTHS}
