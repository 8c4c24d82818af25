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
from imgstore.ledger.storage.periods import settle_interval
from imgstore.operations.billing import statements
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.seal import seal_entries, seal_now
from imgstore.operations.ledger_log.settlement import settle_months
from imgstore.operations.ledger_log.verify import verify_log
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


def test_months_without_a_worker_are_reported_and_sealed(timed: Timed, samples: SampleImages) -> None:
    """Open intervals of past months are not protected, so a verification lists the intervals until they are settled."""
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus"])
    (opened,) = intervals(installation)
    seal_entries(installation)
    assert verify_log(installation, ADMIN).unsealed == [], "the month has not ended"
    clock.advance(90 * DAY)
    report = verify_log(installation, ADMIN)
    assert (report.findings, [(each.entry, each.is_open) for each in report.unsealed]) == (
        [],
        [(f"intervals/{opened.uid}", True)],
    )
    assert seal_now(installation, ADMIN).sealed == 3
    report = verify_log(installation, ADMIN)
    assert (report.findings, report.unsealed) == ([], [])


def test_settlements_and_clocks_of_honest_histories_are_intact(timed: Timed, samples: SampleImages) -> None:
    """A worker pauses, a release without the settlement seals, and clocks differ."""
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus", "eastus"])
    clock.advance(40 * DAY)
    publish(installation, samples.second, "1.0.1", ["southcentralus"])
    seal_entries(installation)  # Without a settlement: two months are settled after this checkpoint.
    clock.advance(40 * DAY)
    delete(installation)  # Closes an interval of three months that no settlement has cut.
    for _ in range(3):
        seal_now(installation, ADMIN)
        report = verify_log(installation, ADMIN)
        assert (report.findings, report.unsealed) == ([], [])
        clock.advance(31 * DAY)
    clock.advance(-50 * 60)  # Another host, whose clock is late.
    publish(installation, samples.first, "1.0.2", ["southcentralus"])
    delete(installation, "1.0.1")
    for _ in range(2):
        assert verify_log(installation, ADMIN).findings == []
        seal_now(installation, ADMIN)
        clock.advance(31 * DAY)


@pytest.mark.parametrize("case", ["open", "closed", "settled"])
def test_intervals_that_reach_into_settled_months_are_found(timed: Timed, samples: SampleImages, case: str) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus"])
    (whole,) = intervals(installation)
    clock.advance(60 * DAY)
    seal_now(installation, ADMIN)
    forged = replace(whole, uid="forged", stored_bytes=10**12)
    parts = {
        "open": [forged],
        "closed": [replace(forged, closed_at=clock.now())],
        "settled": settle_interval(forged, clock.now()),
    }
    with installation.catalog.transaction() as transaction:
        for part in parts[case]:
            transaction.ledger.open_interval(part)
    for _ in range(2):
        found = {(each.kind.value, each.subject) for each in verify_log(installation, ADMIN).findings}
        assert ("late", "intervals/forged") in found
        seal_now(installation, ADMIN)
