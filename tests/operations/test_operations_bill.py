"""The bill counts the bytes that the stores list. A repeated command is charged once."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.storage.digests import Digest
from imgstore.ledger.entries import ChargeKind, StorageInterval
from imgstore.operations.billing import statements
from imgstore.operations.disks import disks
from imgstore.operations.installation import Installation
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    TARGETS,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    check_total,
    content,
    create_sample_gallery,
    delete,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]


def arrivals(installation: Installation) -> dict[tuple[str, int], int]:
    """By slot: the bytes of the segments that its store lists."""
    return {
        (slot.key.region, slot.key.ordinal): sum(content(installation, slot).segments.values())
        for slot in all_slots(installation)
    }


def charged(installation: Installation) -> dict[tuple[str, int], int]:
    """By slot: the bytes that the ledger says arrived."""
    found: defaultdict[tuple[str, int], int] = defaultdict(int)
    for row in charges(installation):
        found[row.target, row.replica] += row.delivered_bytes
    return dict(found)


def test_ledger_equals_the_listing_of_each_slot(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.0.1")
    publish(published, samples.rebuilt, "1.0.2", [*TARGETS, "northeurope=2"])
    there = arrivals(published)
    del there["southcentralus", 0]  # where all came from
    assert charged(published) == there
    kinds = {(row.target, row.replica): row.kind for row in charges(published)}
    assert kinds == {
        ("southcentralus", 1): ChargeKind.COPY,
        ("westus2", 0): ChargeKind.EGRESS,
        ("eastus", 0): ChargeKind.EGRESS,
        ("northeurope", 0): ChargeKind.EGRESS,
        ("northeurope", 1): ChargeKind.COPY,
    }
    # Invariants M12 and M14.
    audit(published)


def test_egress_has_the_price_of_the_region_pair_and_copies_inside_are_free(
    published: Installation, samples: SampleImages
) -> None:
    publish(published, samples.second, "1.0.1", ["southcentralus=2", "northeurope=2", "eastus"])
    bill = statements.show_bill(published, ADMIN)
    moved = [row for row in bill.rows if row.kind is not ChargeKind.STORAGE]
    prices = {row.target: row.unit_price for row in moved if row.kind is ChargeKind.EGRESS}
    assert prices == {"westus2": Decimal("0.02"), "eastus": Decimal("0.02"), "northeurope": Decimal("0.05")}
    for row in moved:
        assert row.unit_price is not None
        assert row.amount == row.delivered_bytes * row.unit_price / 10**9
        assert (row.kind is ChargeKind.COPY) == (row.amount == 0)
    # Invariants M5 and M6.
    check_total(bill)


def test_repeats_charge_nothing(published: Installation, samples: SampleImages) -> None:
    make_disk(published, "d1")
    before = charges(published)
    with published.catalog.reading() as transaction:
        lying = transaction.ledger.intervals()
    for _ in range(3):
        publish(published, samples.first)
        make_disk(published, "d1")
    with published.catalog.reading() as transaction:
        assert transaction.ledger.intervals() == lying
    assert charges(published) == before


def test_a_charge_under_a_known_key_changes_nothing(published: Installation) -> None:
    """The ledger makes a repetition of the completing transaction harmless."""
    before = charges(published)
    with published.catalog.transaction() as transaction:
        assert not any(transaction.ledger.add(row) for row in before)
    assert charges(published) == before


def test_bytes_are_billed_to_remaining_owners(published: Installation, samples: SampleImages) -> None:
    """While versions and disks are created and deleted, the sums always equal the listings of the stores."""
    publish(published, samples.second, "1.0.1")
    make_disk(published, "d1", version="1.0.0")
    audit(published)
    delete(published)
    audit(published)
    delete(published, "1.0.1")
    audit(published)
    open_now = [each for each in intervals(published) if each.closed_at is None]
    assert [(each.party.disk, each.party.gallery) for each in open_now] == [("d1", None)]
    publish(published, samples.rebuilt, "1.0.2")
    audit(published)
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    audit(published)
    delete(published, "1.0.2")
    assert [each for each in intervals(published) if each.closed_at is None] == []


def intervals(installation: Installation) -> list[StorageInterval]:
    with installation.catalog.reading() as transaction:
        return transaction.ledger.intervals()


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Installation, ManualClock]]:
    clock = ManualClock(datetime(2020, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        create_sample_gallery(installation)
        yield installation, clock


def test_storage_is_bytes_times_time(timed: tuple[Installation, ManualClock], samples: SampleImages) -> None:
    installation, clock = timed
    publish(installation, samples.first, targets=["southcentralus", "westus2=1=Standard_ZRS"])
    lies = {
        slot.key.region: sum(content(installation, slot).segments.values())
        + sum(content(installation, slot).manifests.values())
        for slot in all_slots(installation)
    }
    clock.advance(timedelta(hours=730).total_seconds())
    delete(installation)
    bill = statements.show_bill(installation, ADMIN)
    stored = {row.target: row for row in bill.rows if row.kind is ChargeKind.STORAGE}
    prices = {"southcentralus": Decimal("0.05"), "westus2": Decimal("0.0625")}
    for region, price in prices.items():
        row = stored[region]
        assert row.byte_hours == lies[region] * 730, f"{region}: ZRS counts once, and its price says the rest"
        assert row.amount == (lies[region] * price / 10**9).quantize(Decimal("1e-12"))


@pytest.mark.engine("postgresql")
def test_the_main_job_on_postgresql(tmp_path: Path, samples: SampleImages, postgresql: str) -> None:
    with open_home(tmp_path / "home", database=postgresql) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first)
        publish(installation, samples.second, "1.0.1")
        make_disk(installation, "d1", version="1.0.0")
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
        delete(installation)
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
    # Invariant E4.
    with open_home(tmp_path / "home", database=postgresql) as installation:
        audit(installation)


def test_distinct_arrivals_of_a_region_are_paid_once_by_the_first(empty: Installation, samples: SampleImages) -> None:
    """Two versions with shared segments arrive in a region at different times. The region pays each distinct byte once."""
    publish(empty, samples.first, targets=["southcentralus"])
    publish(empty, samples.second, "1.0.1", ["southcentralus", "eastus"])
    publish(empty, samples.rebuilt, "1.0.2", ["southcentralus", "eastus=1=Premium_LRS"])
    paid = sum(row.delivered_bytes for row in charges(empty) if row.target == "eastus")
    union: dict[Digest, int] = {}
    for slot in all_slots(empty):
        if slot.key.region == "eastus":
            union |= content(empty, slot).segments
    # Invariants M2 and M3.
    assert paid == sum(union.values())
