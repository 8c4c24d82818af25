"""The bill equals an oracle that looks at the buckets, the clock and regions.yaml alone (invariants M2, M9, M18 and M19).

The oracle lists the segments of each region after each step. A segment that is new in a region other than the source has
crossed. Stored bytes are the sizes of the listed objects. Garbage is collected after each step, so each object is named.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_operations_price_lists import House

from imgstore.catalog.engine.database import Session
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.storage.digests import Digest
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.statements.statement import AMOUNT_UNIT
from imgstore.operations.billing import statements
from imgstore.operations.disks import disks
from imgstore.operations.installation import Installation
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    collect,
    content,
    create_sample_gallery,
    delete,
    make_disk,
    own_slots,
    publish,
    retarget,
)

pytest_plugins = ["tests.support.published_gallery"]

SOURCE = "southcentralus"
FREE_GIGABYTES = Decimal("0.008")
"""About the size of an image, so that histories cross the border of the tiers."""
STORAGE = {"Standard_LRS": Decimal("0.05"), "Standard_ZRS": Decimal("0.0625"), "Premium_LRS": Decimal("0.135")}
TARGETS = st.sampled_from(
    [
        [SOURCE],
        [SOURCE, "eastus"],
        [SOURCE, "westus2=1=Standard_ZRS"],
        [f"{SOURCE}=2", "eastus=2", "northeurope"],
        [SOURCE, "eastus", "westus2=1=Standard_ZRS"],
    ]
)
VERSIONS = st.sampled_from(["1.0.0", "1.0.1", "1.0.2"])
STEPS = st.one_of(
    st.tuples(st.just("publish"), VERSIONS, TARGETS, st.integers(0, 2)),
    st.tuples(st.just("retarget"), VERSIONS, TARGETS),
    st.tuples(st.just("delete"), VERSIONS),
    st.tuples(st.just("disk"), VERSIONS),
    st.tuples(st.just("delete disk")),
    st.tuples(st.just("pass"), st.floats(0.01, 40)),
    st.tuples(st.just("prices"), st.integers(1, 9)),
)


class Oracle:
    """Computes the bill from listings, the clock and the prices that the test writes."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.price = Decimal(7)
        self.factor = 1
        self.storage: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
        """Amounts by month and region."""
        self.egress: defaultdict[str, Fraction] = defaultdict(Fraction)
        self._moved: defaultdict[str, Fraction] = defaultdict(Fraction)
        """GB by month."""
        self._seen: dict[str, set[Digest]] = defaultdict(set)
        self._stored: list[tuple[str, Decimal, int]] = []
        """Region, price and bytes of each slot."""

    def pass_to(self, now: datetime) -> None:
        """Add the storage up to a time."""
        while self.now < now:
            end = min(
                now,
                (self.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(
                    day=1
                ),
            )
            hours = Fraction((end - self.now) // timedelta(microseconds=1), 3_600_000_000)
            for region, price, stored_bytes in self._stored:
                amount = Fraction(price) * self.factor * stored_bytes * hours / 730 / 10**9
                self.storage[f"{self.now:%Y-%m}", region] += amount
            self.now = end

    def look(self, installation: Installation) -> None:
        """List all slots: new segments have crossed, and all objects are stored from now on."""
        present: dict[str, dict[Digest, int]] = defaultdict(dict)
        self._stored = []
        for slot in {each.uid: each for each in (*all_slots(installation), *own_slots(installation))}.values():
            found = content(installation, slot)
            present[slot.key.region] |= found.segments
            stored = sum(found.segments.values()) + sum(found.manifests.values())
            self._stored.append((slot.key.region, STORAGE[slot.key.storage_account_type.value], stored))
        month = f"{self.now:%Y-%m}"
        for region, segments in present.items():
            if region != SOURCE:
                new = Fraction(sum(size for name, size in segments.items() if name not in self._seen[region]), 10**9)
                before = self._moved[month]
                self._moved[month] += new
                border = Fraction(FREE_GIGABYTES)
                self.egress[month] += Fraction(self.price) * (max(before + new, border) - max(before, border))
            self._seen[region] = set(segments)
        self._seen = defaultdict(set, {region: seen for region, seen in self._seen.items() if region in present})


def tiers(price: Decimal) -> Mapping[str, object]:
    return {"default": [{"up_to_gb": f"{FREE_GIGABYTES}", "price": "0"}, {"price": f"{price}"}]}


def act(house: House, oracle: Oracle, step: tuple[object, ...], samples: SampleImages) -> None:
    """Do a step of a history. A step that the present state refuses changes nothing."""
    match step:
        case ("pass", float(days)):
            house.pass_days(round(days, 6))
            oracle.pass_to(house.clock.now())
            return
        case ("prices", int(factor)):
            oracle.factor, oracle.price = factor, Decimal(factor)
            stored = {kind: f"{price * factor}" for kind, price in STORAGE.items()}
            house.write(egress_per_gb=tiers(oracle.price), storage_per_gb_month=stored)
    with house.open() as installation:
        try:
            match step:
                case ("publish", str(version), list(targets), int(image)):
                    publish(installation, (samples.first, samples.second, samples.rebuilt)[image], version, targets)
                case ("retarget", str(version), list(targets)):
                    retarget(installation, targets, version)
                case ("delete", str(version)):
                    delete(installation, version)
                case ("disk", str(version)):
                    make_disk(installation, "d1", SOURCE, version)
                case ("delete disk",):
                    disks.delete_disk(installation, ADMIN, group=GROUP, name="d1")
        except ImgstoreError:
            pass
        collect(installation)
        oracle.look(installation)
    house.pass_days(1 / 86_400)  # Two steps at one time would have no order.
    oracle.pass_to(house.clock.now())


@pytest.mark.parametrize("examples", [3, pytest.param(200, marks=pytest.mark.long)])
def test_bill_equals_the_oracle(
    examples: int, samples: SampleImages, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In random histories over month borders, price changes and tiers, each month and region costs the same."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=examples < 9)
    @given(steps=st.lists(STEPS, min_size=4, max_size=10))
    def check(steps: list[tuple[object, ...]]) -> None:
        clock = ManualClock(datetime(2026, 11, 20, tzinfo=UTC))
        monkeypatch.setattr(Session, "now", lambda _session: clock.now())
        house = House(tmp_path_factory.mktemp("oracle"), clock)
        house.write(egress_per_gb=tiers(Decimal(7)))
        oracle = Oracle(clock.now())
        with house.open() as installation:
            create_sample_gallery(installation)
        first = ("publish", "1.0.0", [SOURCE, "eastus"], 0)
        for step in (first, ("pass", 3.25), *steps, ("pass", 9.5)):
            act(house, oracle, step, samples)
        compare(house, oracle)

    check()


def compare(house: House, oracle: Oracle) -> None:
    with house.open() as installation:
        bill = statements.show_bill(installation, ADMIN)
    storage: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    egress: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in bill.rows:
        if row.kind is ChargeKind.STORAGE:
            storage[row.month, row.target] += row.amount
        else:
            egress[row.month] += row.amount
    assert {month: Fraction(amount) for month, amount in egress.items() if amount} == {
        month: amount for month, amount in oracle.egress.items() if amount
    }
    rounding = len(bill.rows) * Fraction(AMOUNT_UNIT)
    expected = {name: amount for name, amount in oracle.storage.items() if amount}
    assert storage.keys() >= expected.keys()
    for name, amount in storage.items():
        assert abs(Fraction(amount) - expected.get(name, 0)) <= rounding, name
