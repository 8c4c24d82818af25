"""Storage of past months is closed at the month ends. No amount of a bill and no order of payers changes (invariant M27)."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.catalog.storage.ledger import Ledger
from imgstore.domain.effects import Effects
from imgstore.ledger.entries import ChargeKind, StorageInterval
from imgstore.ledger.statements.statement import Statement
from imgstore.operations.billing import statements
from imgstore.operations.billing.settlement import settle_months
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.seal import seal_now
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    audit,
    create_sample_gallery,
    delete,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

Timed: TypeAlias = tuple[Installation, ManualClock]
DAY = 86_400


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Timed]:
    clock = ManualClock(datetime(2026, 1, 20, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        create_sample_gallery(installation)
        yield installation, clock


def intervals(installation: Installation) -> list[StorageInterval]:
    with installation.catalog.reading() as transaction:
        return transaction.ledger.intervals()


def charges(installation: Installation) -> Statement:
    """Return the bill without the entries of its rows, because a settled interval is another entry."""
    bill = statements.show_bill(installation, ADMIN)
    return replace(bill, rows=tuple(replace(row, entries=()) for row in bill.rows))


def payers(installation: Installation) -> dict[str, dict[str, datetime]]:
    with installation.catalog.reading() as transaction:
        return {each.uid: transaction.ledger.arrivals(each.uid) for each in transaction.slots.list_all()}


def test_past_months_become_closed_entries(timed: Timed, samples: SampleImages) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus", "eastus"])
    clock.advance(5 * DAY)
    publish(installation, samples.second, "1.0.1", ["southcentralus"])
    assert settle_months(installation) == 0, "no month has ended"
    clock.advance(60 * DAY)
    bill, arrived, opened = charges(installation), payers(installation), intervals(installation)
    with pytest.MonkeyPatch.context() as patch:
        # The process ends in the transaction of the first slot: nothing of the slot is stored.
        patch.setattr(Ledger, "open_interval", _fail)
        with pytest.raises(KeyboardInterrupt):
            settle_months(installation)
    assert intervals(installation) == opened
    assert settle_months(installation) == len(opened) * 2 == 6
    assert settle_months(installation) == 0
    assert charges(installation) == bill
    assert payers(installation) == arrived
    closed = {each.closed_at for each in intervals(installation) if each.closed_at is not None}
    assert closed == {datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)}
    stored = [row for row in statements.show_bill(installation, ADMIN).rows if row.kind is ChargeKind.STORAGE]
    assert sorted(entry for row in stored for entry in row.entries) == sorted(
        each.uid for each in intervals(installation)
    )
    audit(installation)
    sealed = seal_now(installation, ADMIN).sealed
    assert sealed >= 6
    # The first owner still pays, and the other owner pays after the deletion.
    delete(installation)
    audit(installation)


def _fail(_ledger: Ledger, _interval: StorageInterval) -> None:
    raise KeyboardInterrupt


def test_monthly_and_late_settlements_give_the_same_rows(timed: Timed, samples: SampleImages) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus"])
    (whole,) = intervals(installation)
    for _ in range(4):
        clock.advance(31 * DAY)
        settle_months(installation)
    monthly = intervals(installation)
    with installation.catalog.transaction() as transaction:
        transaction.ledger._session.connection.exec_driver_sql("DELETE FROM intervals")
        transaction.ledger.open_interval(whole)
    assert settle_months(installation) == 4
    assert intervals(installation) == monthly


def test_two_workers_settle_each_month_once(timed: Timed, samples: SampleImages) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus", "eastus", "westus2"])
    clock.advance(20 * DAY)
    before = charges(installation)
    start = threading.Barrier(2)

    def settle(_number: int) -> int:
        start.wait()
        return settle_months(installation)

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(settle, range(2))) == 3
    assert charges(installation) == before
    assert len(intervals(installation)) == 6


def test_a_clock_that_jumps_back_settles_nothing_again(timed: Timed, samples: SampleImages) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus"])
    before = charges(installation)
    clock.advance(30 * DAY)
    assert settle_months(installation) == 1
    clock.advance(-30 * DAY)
    assert charges(installation) == before
    assert settle_months(installation) == 0
    clock.advance(30 * DAY)
    assert settle_months(installation) == 0
    audit(installation)


def test_one_wrong_clock_closes_no_month(timed: Timed, samples: SampleImages, monkeypatch: pytest.MonkeyPatch) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus"])
    monkeypatch.setattr(Session, "now", lambda _session: clock.now() + timedelta(days=400))
    assert settle_months(installation) == 0
