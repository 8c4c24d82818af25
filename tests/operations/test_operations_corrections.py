"""Operators correct a transfer with further rows. The row of the transfer stays (invariant M28)."""

import dataclasses
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from imgstore.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import Principal
from imgstore.ledger.corrections import charge_correction
from imgstore.ledger.entries import ChargeKind, LedgerRow
from imgstore.ledger.prices.price_list import Rate, Tier
from imgstore.ledger.statements.usage import RatedUsage, list_usage
from imgstore.operations import activity_log
from imgstore.operations.billing import statements
from imgstore.operations.billing.corrections import correct_entry
from imgstore.operations.billing.explanations import explain_entry
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, charges

pytest_plugins = ["tests.support.published_gallery"]


def egress(installation: Installation) -> LedgerRow:
    return next(row for row in charges(installation) if row.kind is ChargeKind.EGRESS and row.target == "eastus")


def test_corrections_change_the_bill_by_the_price_of_the_entry(published: Installation) -> None:
    row, before = egress(published), charges(published)
    total = statements.show_bill(published, ADMIN)
    (first,) = correct_entry(published, ADMIN, row.key, -1_000_000, "ticket 17")
    (second,) = correct_entry(published, ADMIN, f"ledger/{row.key}", -500_000, "ticket 18")
    (third,) = correct_entry(published, ADMIN, row.key, 500_000, "ticket 18 was wrong")
    assert [each.key for each in (first, second, third)] == [f"correction/{row.key}/{n}" for n in (1, 2, 3)]
    assert [each for each in charges(published) if each.kind is not ChargeKind.CORRECTION] == before
    bill = statements.show_bill(published, ADMIN)
    corrections = [each for each in bill.rows if each.kind is ChargeKind.CORRECTION]
    assert sum(each.delivered_bytes for each in corrections) == -1_000_000
    assert sum(each.amount for each in corrections) == -1_000_000 * Decimal("0.02") / 10**9
    assert {(each.source, each.target, each.version) for each in corrections} == {("southcentralus", "eastus", "1.0.0")}
    unchanged = [each for each in bill.rows if each.kind not in (ChargeKind.CORRECTION, ChargeKind.STORAGE)]
    assert unchanged == [each for each in total.rows if each.kind is not ChargeKind.STORAGE]
    noted = [
        each.detail for each in activity_log.list_activity(published, ADMIN, within=timedelta(days=1), events_max=10)
    ]
    assert f"{row.key}: -1000000 bytes, ticket 17" in noted
    explained = explain_entry(published, ADMIN, first.key)
    assert (explained.bytes, explained.segments) == (-1_000_000, None)
    assert "an operator added" in explained.rule


def test_an_interval_without_time_has_no_explanation(published: Installation) -> None:
    with published.catalog.transaction() as transaction:
        interval, later = transaction.ledger.intervals()[0], transaction.now() + timedelta(days=40)
        transaction.ledger.open_interval(dataclasses.replace(interval, uid="later", opened_at=later, closed_at=None))
    with pytest.raises(Conflict, match="no charge until now"):
        explain_entry(published, ADMIN, "later")


def test_corrections_take_no_more_than_the_entry_has(published: Installation) -> None:
    row = egress(published)
    correct_entry(published, ADMIN, row.key, -(row.delivered_bytes - 10), "all but 10 bytes")
    with pytest.raises(InvalidInput, match="takes more bytes"):
        correct_entry(published, ADMIN, row.key, -11, "too much")
    correct_entry(published, ADMIN, row.key, -10, "the rest")
    corrections = [each for each in charges(published) if each.kind is ChargeKind.CORRECTION]
    assert sum(each.delivered_bytes for each in corrections) == -row.delivered_bytes
    with pytest.raises(InvalidInput, match="is a correction"):
        correct_entry(published, ADMIN, corrections[0].key, 1, "no")


def test_corrections_of_another_part_of_a_transfer_do_not_count(published: Installation) -> None:
    """The key of a part that another region supplied begins with the key of the transfer."""
    row = egress(published)
    part = dataclasses.replace(row, key=f"{row.key}/westus2", source="westus2")
    with published.catalog.transaction() as transaction:
        transaction.ledger.add(part)
    correct_entry(published, ADMIN, part.key, -part.delivered_bytes, "the part")
    (whole,) = correct_entry(published, ADMIN, row.key, -row.delivered_bytes, "the transfer")
    assert whole.key == f"correction/{row.key}/1"
    with pytest.raises(InvalidInput, match="takes more bytes"):
        correct_entry(published, ADMIN, row.key, -1, "too much")


@pytest.mark.parametrize(("count", "reason"), [(0, "why"), (-1, " ")])
def test_an_empty_correction_is_refused(published: Installation, count: int, reason: str) -> None:
    with pytest.raises(InvalidInput):
        correct_entry(published, ADMIN, egress(published).key, count, reason)


def test_only_operators_correct_existing_entries(published: Installation) -> None:
    with pytest.raises(NotFound, match="could not be found"):
        correct_entry(published, ADMIN, "none", -1, "why")
    with pytest.raises((AccessDenied, NotFound)):
        correct_entry(published, Principal(name="somebody", grants=()), egress(published).key, -1, "why")
    assert ChargeKind.CORRECTION not in {each.kind for each in charges(published)}


def test_a_correction_of_two_tiers_takes_the_last_tier_first(published: Installation) -> None:
    """The parts of a transfer over a tier border have two prices, and so does the correction."""
    row = dataclasses.replace(egress(published), delivered_bytes=3 * 10**9, amount=Decimal("0.06"))
    with published.catalog.reading() as transaction:
        prices = read_prices(published, transaction)
    (usage,) = list_usage([row], [], prices, row.time)
    tiers = (
        Tier(begin_gigabytes=Decimal(0), unit_price=Decimal(0)),
        Tier(begin_gigabytes=Decimal(2), unit_price=Decimal("0.02")),
    )
    rated = RatedUsage(usage, Rate(meter="egress/default", tiers=tiers), Fraction(0), Fraction("0.02"), "USD")
    later = row.time + timedelta(days=1)
    made = charge_correction(row, rated, [], -(10**9) - 5, later)
    assert [(each.delivered_bytes, each.unit_price) for each in made] == [(-(10**9), Decimal("0.02")), (-5, Decimal(0))]
    rest = charge_correction(row, rated, made, -(2 * 10**9) + 5, later)
    assert [(each.delivered_bytes, each.unit_price) for each in rest] == [(-(2 * 10**9) + 5, Decimal(0))]
    assert str(rest[0].amount) == "0", "a correction of free bytes costs 0, not -0"
