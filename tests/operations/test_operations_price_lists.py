"""Price lists: new prices apply from their first use, old days keep theirs, and a bill has each currency apart."""

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from imgstore.bootstrap import Settings, open_installation
from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput, NotFound
from imgstore.domain.progress import ProgressEvent
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.months import Month
from imgstore.ledger.statements.statement import Statement
from imgstore.operations.billing import explanations, price_lists, statements
from imgstore.operations.installation import Installation
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, SampleImages, create_sample_gallery, publish

pytest_plugins = ["tests.support.published_gallery"]

SHIPPED = Path(__file__).parent.parent.parent / "imgstore" / "regions.yaml"
NOVEMBER, DECEMBER = Month(2026, 11), Month(2026, 12)


class House:
    """A home with a clock and a regions.yaml that the test changes."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.folder = folder
        self.document = yaml.load(SHIPPED.read_text(), Loader=yaml.BaseLoader)
        self.notes: list[str] = []
        self.write()

    def write(self, currency: str = "USD", **prices: object) -> None:
        """Write regions.yaml with other prices."""
        self.document["currency"] = currency
        if prices:
            self.document["prices"].update(prices)
        (self.folder / "regions.yaml").write_text(yaml.safe_dump(self.document))

    def open(self) -> AbstractContextManager[Installation]:
        """Open the home as a new process would."""
        settings = Settings(home=self.folder / "home", regions=self.folder / "regions.yaml", environ={})
        return open_installation(settings, self._note, Effects(now=self.clock.now))

    def _note(self, event: ProgressEvent) -> None:
        self.notes.append(event.detail or "")

    def bill(self, month: Month | None = None) -> Statement:
        """Return the bill of the month."""
        with self.open() as installation:
            return statements.show_bill(installation, ADMIN, month)

    def pass_days(self, days: float) -> None:
        """Advance the clock."""
        self.clock.advance(timedelta(days=days).total_seconds())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: SampleImages) -> House:
    clock = ManualClock(datetime(2026, 11, 10, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    house = House(tmp_path, clock)
    with house.open() as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus", "westus2"])
    return house


def storage(bill: Statement) -> list[tuple[str, str, Decimal | None]]:
    return [(row.target, row.month, row.unit_price) for row in bill.rows if row.kind is ChargeKind.STORAGE]


def test_a_new_storage_price_leaves_old_days(house: House) -> None:
    """Thirty old days cost the same before and after the change, and later days cost twice as much (M19)."""
    house.pass_days(15)
    before = house.bill()
    house.write(storage_per_gb_month={"Standard_LRS": "0.10", "Standard_ZRS": "0.125", "Premium_LRS": "0.27"})
    assert house.bill() == before
    house.pass_days(5)
    after = house.bill()
    kept = [row for row in after.rows if row.unit_price in {Decimal("0.05"), Decimal("0.02")}]
    assert kept == list(before.rows)
    new = {row.target: row.amount for row in after.rows if row.unit_price == Decimal("0.10")}
    old = {row.target: row.amount for row in kept if row.kind is ChargeKind.STORAGE}
    # A third of the days, at twice the price.
    assert {region: round(3 * amount / 2, 9) for region, amount in new.items()} == {
        region: round(amount, 9) for region, amount in old.items()
    }


def test_a_closed_month_does_not_change(house: House, samples: SampleImages) -> None:
    """A version that is published or charged in December leaves the bill of November."""
    house.pass_days(25)
    november = house.bill(NOVEMBER)
    assert {row.month for row in november.rows} == {"2026-11"}
    with house.open() as installation:
        publish(installation, samples.rebuilt, "1.0.1", targets=["southcentralus", "westus2", "northeurope"])
    house.write(storage_per_gb_month={"Standard_LRS": "9", "Standard_ZRS": "9", "Premium_LRS": "9"})
    house.pass_days(40)
    assert house.bill(NOVEMBER) == november
    assert {row.month for row in house.bill(DECEMBER).rows} == {"2026-12"}
    assert {row.month for row in house.bill().rows} == {"2026-11", "2026-12", "2027-01"}


def test_another_currency_leaves_old_charges(house: House) -> None:
    """Amounts of two currencies are never added, and JPY has no minor unit."""
    house.pass_days(5)
    dollars = house.bill()
    house.write("JPY", egress_per_gb={"default": "3"})
    assert house.bill().totals[1] == dollars.totals[0]
    house.pass_days(5)
    totals = {total.currency: total for total in house.bill().totals}
    assert totals["USD"] == dollars.totals[0]
    assert totals["JPY"].amount > 0
    assert totals["JPY"].due == totals["JPY"].due.to_integral_value()


def test_a_type_that_leaves_the_price_list_stays_on_the_bill(house: House) -> None:
    """No region offers the type any more. Stored bytes of the type keep the last price list with a price."""
    house.pass_days(5)
    with house.open() as installation:
        assert price_lists.list_prices(installation, ADMIN)[-1].prices.number == 1
    house.document["regions"]["westus2"]["storage_account_types"] = ["Standard_ZRS"]
    house.document["regions"]["southcentralus"]["storage_account_types"] = ["Standard_ZRS"]
    for region in ("eastus", "northeurope"):
        house.document["regions"][region]["storage_account_types"] = ["Premium_LRS"]
    house.document["prices"]["storage_per_gb_month"] = {"Standard_ZRS": "1", "Premium_LRS": "1"}
    house.write()
    house.pass_days(5)
    assert {price for _, _, price in storage(house.bill())} == {Decimal("0.05")}


def test_tiers_with_a_free_part(house: House, samples: SampleImages) -> None:
    """The free part is that of the month's sum of the subscription, and ends inside an entry."""
    first = sum(row.delivered_bytes for row in house.bill().rows if row.kind is ChargeKind.EGRESS)
    free = Decimal(first + 1000) / 10**9
    house.write(egress_per_gb={"default": [{"up_to_gb": f"{free:f}", "price": "0"}, {"price": "7"}]})
    house.pass_days(1)
    with house.open() as installation:
        publish(installation, samples.rebuilt, "1.0.1", targets=["southcentralus", "westus2", "eastus"])
    rows = [row for row in house.bill().rows if row.kind is ChargeKind.EGRESS and row.version == "1.0.1"]
    moved = sum(row.delivered_bytes for row in rows)
    assert sum(row.amount for row in rows) == 7 * Decimal(moved - 1000) / 10**9
    assert [row.unit_price for row in rows].count(None) == 1, "one entry has parts in both tiers"
    with house.open() as installation:
        grouped = statements.group_bill(installation, ADMIN, by="version", month=NOVEMBER)
    assert {row.name: row.amount for row in grouped.rows}[f"{GALLERY}/{DEFINITION}/1.0.1"] > 0
    assert round(grouped.totals[0].amount, 9) == round(house.bill(NOVEMBER).total, 9)
    house.pass_days(25)
    with house.open() as installation:
        publish(installation, samples.second, "1.0.2", targets=["southcentralus", "westus2"])
    december = [row for row in house.bill(DECEMBER).rows if row.kind is ChargeKind.EGRESS]
    assert {row.unit_price for row in december} == {Decimal(0)}, "a new month has a new free part"


def test_an_older_file_does_not_apply_by_itself(house: House) -> None:
    """A second machine with an older regions.yaml is told, and `prices apply` applies its list again."""
    house.write(repair_per_gb="1")
    with house.open() as installation:
        assert [each.is_in_file for each in price_lists.list_prices(installation, ADMIN)] == [False, True]
    del house.document["prices"]["repair_per_gb"]
    house.write()
    house.notes.clear()
    with house.open() as installation:
        assert [each.is_in_file for each in price_lists.list_prices(installation, ADMIN)] == [True, False]
        assert any("older price list" in note and "imgstore prices apply" in note for note in house.notes)
        assert price_lists.apply_prices(installation, ADMIN).number == 3
        assert price_lists.apply_prices(installation, ADMIN).number == 3
    house.notes.clear()
    with house.open():
        assert house.notes == []


def test_a_month_without_prices_is_refused(house: House) -> None:
    """A month without prices is an error, never free of charge."""
    house.write(valid_from="2027-01-01")
    with pytest.raises(InvalidInput, match="No prices are valid on 2026-11-10"), house.open():
        pass
    (house.folder / "later").mkdir()
    other = House(house.folder / "later", house.clock)
    other.write(valid_from="2026-11-05")
    assert other.bill(NOVEMBER).total == 0
    with pytest.raises(InvalidInput, match="No prices are valid on 2026-10-31"):
        other.bill(Month(2026, 10))


@pytest.mark.parametrize("by", ["region", "gallery", "definition", "version", "subscription", "group", "type", "day"])
def test_each_property_has_the_total_of_the_month(house: House, by: str) -> None:
    house.pass_days(2.5)
    with house.open() as installation:
        grouped = statements.group_bill(installation, ADMIN, by=by, month=NOVEMBER)
        names = [row.name for row in grouped.rows]
        one = statements.group_bill(installation, ADMIN, by="region", month=NOVEMBER, filters={by: names[0]})
    assert round(grouped.totals[0].amount, 9) == round(house.bill(NOVEMBER).total, 9)
    assert round(one.totals[0].amount, 9) == round(grouped.rows[0].amount, 9)
    assert len(names) == (3 if by == "day" else 2 if by == "region" else len(set(names)))


def test_an_explanation_names_segments_and_prices(house: House, samples: SampleImages) -> None:
    """The segments add up to the bytes, and the parts to the amount, across tiers and months."""
    moved = house.bill().rows[-1].delivered_bytes
    free = Decimal(moved + 1000) / 10**9
    house.write(egress_per_gb={"default": [{"up_to_gb": f"{free:f}", "price": "0"}, {"price": "7"}]})
    house.pass_days(1)
    with house.open() as installation:
        publish(installation, samples.second, "1.0.1", targets=["southcentralus", "westus2"])
    house.pass_days(30)
    rows = house.bill().rows
    with house.open() as installation:
        for row in rows:
            told = [explanations.explain_entry(installation, ADMIN, entry) for entry in row.entries]
            months = [part for each in told for part in each.parts if part.month == row.month]
            if row.kind is not ChargeKind.STORAGE:
                assert sum(part.amount for part in months) == row.amount
            for each in told:
                assert each.segments is not None
                stored = sum(segment.stored_bytes for segment in each.segments)
                if row.kind is ChargeKind.STORAGE:
                    assert 0 <= each.bytes - stored < 100_000, "the rest is the manifest"
                else:
                    assert stored == each.bytes == row.delivered_bytes
        second = next(row for row in rows if row.kind is ChargeKind.EGRESS and row.version == "1.0.1")
        parts = explanations.explain_entry(installation, ADMIN, second.entries[0]).parts
        assert [(part.line, part.unit_price) for part in parts] == [
            ("prices.egress_per_gb.default", Decimal(0)),
            ("prices.egress_per_gb.default", Decimal(7)),
        ]
        assert parts[0].quantity == Decimal(1000) / 10**9
        with pytest.raises(NotFound, match="could not be found"):
            explanations.explain_entry(installation, ADMIN, "no-such-entry")


def test_an_explanation_names_the_period_of_a_price(house: House) -> None:
    """A file with several periods has a line for each period."""
    period = {key: house.document["prices"][key] for key in ("egress_per_gb", "storage_per_gb_month")}
    house.document["prices"] = [period, period | {"valid_from": "2026-12-01"}]
    house.write()
    house.pass_days(1)
    with house.open():
        pass
    house.pass_days(30)
    row = next(row for row in house.bill(DECEMBER).rows if row.kind is ChargeKind.STORAGE)
    with house.open() as installation:
        parts = explanations.explain_entry(installation, ADMIN, row.entries[0]).parts
    assert [part.line for part in parts] == [
        f"{top}.storage_per_gb_month.Standard_LRS" for top in ("prices", "prices[0]", "prices[1]")
    ]


def test_disks_of_two_groups_have_own_sums(house: House) -> None:
    """The name of a disk is unique in its resource group only."""
    with house.open() as installation:
        with installation.catalog.transaction() as transaction:
            (kept, *_) = transaction.ledger.intervals()
            for group in ("one", "two"):
                party = replace(kept.party, group=group, gallery=None, definition=None, version=None, disk="same")
                transaction.ledger.open_interval(replace(kept, uid=group, owner_uid=group, party=party))
        house.pass_days(1)
        grouped = statements.group_bill(installation, ADMIN, by="version", month=NOVEMBER)
        one = statements.group_bill(installation, ADMIN, by="region", month=NOVEMBER, filters={"version": "one/same"})
    sums = {row.name: row.amount for row in grouped.rows}
    assert 0 < sums["one/same"] == sums["two/same"] == one.totals[0].amount


@pytest.mark.parametrize(("by", "name"), [("gallery", GALLERY), ("group", GROUP)])
def test_equal_names_of_two_subscriptions_have_own_sums(house: House, by: str, name: str) -> None:
    house.pass_days(1)
    with house.open() as installation:
        with installation.catalog.transaction() as transaction:
            (kept, *_) = transaction.ledger.intervals()
            party = replace(kept.party, subscription="other")
            transaction.ledger.open_interval(replace(kept, uid="other", owner_uid="other", party=party))
        grouped = statements.group_bill(installation, ADMIN, by=by, month=NOVEMBER, all_subscriptions=True)
        own = statements.group_bill(installation, ADMIN, by=by, month=NOVEMBER)
    assert {row.name for row in grouped.rows} == {f"{installation.subscription}/{name}", f"other/{name}"}
    assert [row.name for row in own.rows] == [name]
