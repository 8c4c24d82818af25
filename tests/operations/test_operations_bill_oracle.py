"""The bill equals an oracle that looks at the buckets, the clock and regions.yaml (invariants M2, M9, M10, M18 and M19).

The oracle lists each slot after each step. A segment with a new time of writing in a region other than the source has
crossed. The first version that completes in the region with the segment pays for the segment. The stored bytes are the
sizes of the listed objects that a manifest in the bucket names. The catalog supplies one fact: which manifests are
complete. Charges, intervals and sizes of the catalog are not read. If garbage was collected, each listed object has a name.
"""

import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_operations_price_lists import House

from imgstore.catalog.engine.database import Session
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.names import VersionName
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest
from imgstore.domain.resources import DiskKind, Slot, VersionUpdate
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.statements.statement import AMOUNT_UNIT
from imgstore.operations.billing import statements
from imgstore.operations.disks.disks import create_disk, delete_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import galleries
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.worker import run_worker
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions import update as versions_update
from imgstore.stores.interface import ObjectStore
from tests.support.crash_process import StepCounter
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    all_slots,
    collect,
    create_definition,
    create_sample_gallery,
    named_segments,
    own_slots,
    publish,
    reference,
    target,
)

SOURCE: Final = "southcentralus"
FREE_GIGABYTES: Final = Decimal("0.008")
"""About the size of an image, so that histories cross the border of the tiers."""
STORAGE: Final = {"Standard_LRS": Decimal("0.05"), "Standard_ZRS": Decimal("0.0625"), "Premium_LRS": Decimal("0.135")}
TARGETS: Final = (
    [SOURCE],
    [SOURCE, "eastus"],
    [SOURCE, "westus2=1=Standard_ZRS"],
    [f"{SOURCE}=2", "eastus=2", "northeurope"],
    [SOURCE, "eastus", "westus2=1=Standard_ZRS"],
)
VERSIONS: Final = (("ubuntu", "1.0.0"), ("ubuntu", "1.0.1"), ("debian", "1.0.0"))
COMMANDS: Final = (
    *["publish", "retarget"] * 3,
    *["delete", "undelete", "disk", "pass"] * 2,
    *["soft delete", "hard delete", "file disk", "snapshot", "delete disk", "delete snapshot", "worker", "prices"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a history."""

    command: str
    version: tuple[str, str] = VERSIONS[0]
    """The definition and the name of a version."""
    targets: int = 1
    image: int = 0
    days: float = 1.0
    factor: int = 1
    """The new prices, as a multiple of the first prices of storage."""
    refused: int | None = None
    """The store of eastus refuses this segment of the step, and all later objects."""
    fatal: int | None = None
    """A process with the step kills itself before or after this write or commit. The step is repeated after `days`."""
    grace_hours: float | None = 0.0
    """Collect garbage after the step. None does not collect."""


STEPS: Final = st.builds(
    Step,
    command=st.sampled_from(COMMANDS),
    version=st.sampled_from(VERSIONS),
    targets=st.integers(0, len(TARGETS) - 1),
    image=st.integers(0, 4),
    days=st.floats(0.05, 40).map(lambda each: round(each, 6)),
    factor=st.integers(1, 9),
    refused=st.none() | st.none() | st.integers(1, 2),
    fatal=st.none() | st.integers(1, 60) | st.integers(1, 500),
    grace_hours=st.sampled_from([0.0, None, 24.0]),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small disks that share blocks. The third uses few blocks of each segment of the first, so these are packed again.

    Two definitions pack the first disk, and the last disk, into the same segments.
    """
    folder = tmp_path_factory.mktemp("images")
    blocks = np.random.default_rng(1).integers(0, 256, (4124, BLOCK_BYTES), dtype=np.uint8)
    first = np.arange(2048)
    chosen = [
        first,
        np.concatenate([first[:1024], np.arange(2048, 2560)]),
        np.concatenate([first[::8], np.arange(2560, 4096)]),
        np.concatenate([first[::-1], np.arange(4096, 4124)]),
        np.arange(2560, 4096),
    ]
    paths = [folder / f"{number}.raw" for number in range(len(chosen))]
    for path, numbers in zip(paths, chosen, strict=True):
        path.write_bytes(blocks[numbers].tobytes())
    return paths


@dataclass(slots=True, kw_only=True)
class Region:
    """The segments of a region, by name."""

    written: dict[tuple[str, Digest], datetime] = field(default_factory=dict)
    """The time of writing by slot and name."""
    sizes: dict[Digest, int] = field(default_factory=dict)
    named: set[Digest] = field(default_factory=set)
    """The segments of complete manifests."""
    unpaid: set[Digest] = field(default_factory=set)
    """The segments that crossed, and that no completed version has paid for."""


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
        self._regions: defaultdict[str, Region] = defaultdict(Region)
        self._stored: list[tuple[str, Decimal, int]] = []
        """Region, price and bytes of each slot."""

    def pass_to(self, now: datetime) -> None:
        """Add the storage up to a time."""
        while self.now < now:
            month = self.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            end = min(now, (month + timedelta(days=32)).replace(day=1))
            hours = Fraction((end - self.now) // timedelta(microseconds=1), 3_600_000_000)
            for region, price, stored_bytes in self._stored:
                amount = Fraction(price) * self.factor * stored_bytes * hours / 730 / 10**9
                self.storage[f"{self.now:%Y-%m}", region] += amount
            self.now = end

    def look(self, installation: Installation, *, is_clean: bool) -> None:
        """List all slots. Charge for the segments that crossed and that a complete manifest names.

        Args:
            installation: the installation.
            is_clean: no garbage exists, so a manifest must name each listed object.
        """
        self._stored = []
        present: defaultdict[str, Region] = defaultdict(Region)
        for slot in {each.uid: each for each in (*all_slots(installation), *own_slots(installation))}.values():
            stored = self._list_slot(installation, slot, present[slot.key.region], is_clean=is_clean)
            self._stored.append((slot.key.region, STORAGE[slot.key.storage_account_type.value], stored))
        for name, region in present.items():
            if name != SOURCE:
                self._charge(self._regions[name], region)
        self._regions = present

    @staticmethod
    def _list_slot(installation: Installation, slot: Slot, region: Region, *, is_clean: bool) -> int:
        """Add the segments of a slot to its region, and return the bytes of the named objects."""
        store = installation.locator.store(slot)
        with installation.catalog.reading() as transaction:
            complete = transaction.manifests.in_slot(slot.uid)
        keys = {object_keys.manifest_key(row.owner_uid, row.disk) for row in complete} | {
            row.body_key for row in complete
        }
        named = {name for key in keys for name in named_segments(store, slot, key)}
        stored = 0
        for info in store.list(slot.prefix):
            key = info.key.removeprefix(slot.prefix)
            if key.startswith(object_keys.SEGMENTS):
                name = object_keys.segment_name(key)
                region.written[slot.uid, name] = info.last_modified
                region.sizes[name] = info.stored_bytes
                stored += info.stored_bytes if name in named else 0
                assert name in named or not is_clean, f"{info.key} has no name"
            elif key.startswith(object_keys.MANIFESTS):
                stored += info.stored_bytes if key in keys else 0
                assert key in keys or not is_clean, f"{info.key} has no owner"
        region.named |= named
        return stored

    def _charge(self, before: Region, now: Region) -> None:
        arrived = {name for (slot, name), written in now.written.items() if before.written.get((slot, name)) != written}
        unpaid = (before.unpaid & now.sizes.keys()) | (arrived - before.named)
        charged = unpaid & now.named
        now.unpaid = unpaid - charged
        moved = Fraction(sum(now.sizes[name] for name in charged), 10**9)
        month = f"{self.now:%Y-%m}"
        start, border = self._moved[month], Fraction(FREE_GIGABYTES)
        self._moved[month] += moved
        self.egress[month] += Fraction(self.price) * (max(start + moved, border) - max(start, border))


def tiers(price: Decimal) -> Mapping[str, object]:
    return {"default": [{"up_to_gb": f"{FREE_GIGABYTES}", "price": "0"}, {"price": f"{price}"}]}


def run(installation: Installation, step: Step, images: list[Path]) -> None:
    """Run the command of a step. A command that the present state refuses changes nothing."""
    definition, version = step.version
    targets = TARGETS[step.targets]
    place: dict[str, Any] = {
        "group": GROUP,
        "gallery": GALLERY,
        "definition": definition,
        "version": VersionName.parse(version),
    }
    match step.command:
        case "publish":
            publish(installation, images[step.image], version, targets, definition=definition)
        case "retarget":
            change = VersionUpdate(target_regions=[target(each) for each in targets])
            versions_update.update_version(installation, ADMIN, update=change, **place)
        case "delete":
            versions_delete.delete_version(installation, ADMIN, **place)
        case "hard delete":
            versions_delete.delete_version(installation, ADMIN, bypass_soft_delete=True, **place)
        case "undelete":
            versions_delete.undelete_version(installation, ADMIN, **place)
        case "soft delete":
            is_on = step.factor % 3 != 0
            galleries.create_gallery(
                installation, ADMIN, group=GROUP, name=GALLERY, location=SOURCE, soft_delete_enabled=is_on
            )
        case "disk":
            location = targets[-1].partition("=")[0]
            image = reference(version) if definition == "ubuntu" else reference()
            asked = DiskOfImageRequest(group=GROUP, name="d1", location=location, reference=image)
            create_disk(installation, ADMIN, asked)
        case "file disk":
            file = DiskRequest(group=GROUP, name="d1", source=str(images[step.image]), location=SOURCE)
            create_from_source(installation, ADMIN, file)
        case "snapshot":
            create_from_source(
                installation, ADMIN, DiskRequest(group=GROUP, name="s1", source="d1", kind=DiskKind.SNAPSHOT)
            )
        case "delete disk":
            delete_disk(installation, ADMIN, group=GROUP, name="d1")
        case "delete snapshot":
            delete_disk(installation, ADMIN, group=GROUP, name="s1", kind=DiskKind.SNAPSHOT)
        case "worker":
            run_worker(installation, ADMIN, once=True)
        case _:
            assert step.command in {"pass", "prices"}


@contextmanager
def refusing_region(installation: Installation, first: int | None) -> Iterator[None]:
    """Let the store of eastus refuse all writes from the segment with the number `first` on."""
    real = installation.locator.store
    stores: dict[str, ObjectStore] = {}

    def store(slot: Slot) -> ObjectStore:
        if slot.key.region != "eastus":
            return real(slot)
        if slot.uid not in stores:
            fault = Fault(method="put", key_part=f"/{object_keys.SEGMENTS}", calls=frozenset(range(first or 1, 1000)))
            stores[slot.uid] = FaultyStore(real(slot), [fault])
        return stores[slot.uid]

    if first is not None:
        installation.locator.store = store  # type: ignore[method-assign]
    try:
        yield
    finally:
        installation.locator.store = real  # type: ignore[method-assign]


def kill(house: House, step: Step, images: list[Path]) -> bool:
    """Run a step in a process that kills itself, and return whether the process was killed before the end."""
    assert step.fatal is not None
    process = os.fork()
    if process == 0:
        try:
            with house.open() as installation:
                steps = StepCounter(step.fatal, signal.SIGKILL)
                for name in ("rename", "link", "unlink"):
                    steps.around(os, name)
                steps.wrap_commits()
                with suppress(ImgstoreError):
                    run(installation, step, images)
                if step.grace_hours is not None:
                    collect(installation, step.grace_hours)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in {0, -signal.SIGKILL}, step
    return status != 0


def act(house: House, oracle: Oracle, step: Step, images: list[Path]) -> None:
    """Do a step of a history: kill a process with the step, and repeat the step."""
    if step.command == "prices":
        oracle.factor, oracle.price = step.factor, Decimal(step.factor)
        stored = {kind: f"{price * step.factor}" for kind, price in STORAGE.items()}
        house.write(egress_per_gb=tiers(oracle.price), storage_per_gb_month=stored)
    if step.fatal is not None and kill(house, step, images):
        with house.open() as installation:
            oracle.look(installation, is_clean=False)
        house.pass_days(step.days)
        oracle.pass_to(house.clock.now())
        compare(house, oracle)
    with house.open() as installation:
        with refusing_region(installation, step.refused), suppress(ImgstoreError):
            run(installation, step, images)
        if step.grace_hours is not None:
            collect(installation, step.grace_hours)
        with installation.catalog.reading() as transaction:
            is_settled = not transaction.works.list_open()
        oracle.look(installation, is_clean=is_settled and step.grace_hours == 0)
    house.pass_days(step.days if step.command == "pass" else 1 / 86_400)  # Two steps at one time would have no order.
    oracle.pass_to(house.clock.now())


def start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[House, Oracle]:
    """Create a gallery with two definitions, and its oracle."""
    clock = ManualClock(datetime(2026, 11, 20, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    house = House(folder, clock)
    house.write(egress_per_gb=tiers(Decimal(7)))
    with house.open() as installation:
        create_sample_gallery(installation)
        create_definition(installation, "debian")
    return house, Oracle(clock.now())


def play(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: Sequence[Step], images: list[Path]) -> None:
    """Run a history, and compare the bill with the oracle."""
    house, oracle = start(folder, monkeypatch)
    for step in (FIRST, *steps, LAST):
        act(house, oracle, step, images)
    compare(house, oracle)


FIRST: Final = Step(command="publish")
LAST: Final = Step(command="pass", days=9.5, grace_hours=None)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("examples", [3, pytest.param(200, marks=pytest.mark.long)])
def test_bill_equals_the_oracle(
    examples: int, images: list[Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In random histories over kills, failures, month borders, price changes and tiers, all months and regions agree."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=examples < 9)
    @given(steps=st.lists(STEPS, min_size=4, max_size=12))
    def check(steps: list[Step]) -> None:
        play(tmp_path_factory.mktemp("oracle"), monkeypatch, steps, images)

    check()


def test_shared_bytes_of_killed_and_failed_copies(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of two definitions share unfinished segments, and are deleted, restored and published again."""
    first, second, third = VERSIONS
    steps = [
        Step(command="soft delete"),
        Step(command="publish", version=second, image=4, refused=2, grace_hours=None),
        Step(command="publish", version=third, image=4, fatal=120, days=13.5, grace_hours=None),
        Step(command="retarget", version=third, targets=0, grace_hours=None),
        Step(command="publish", version=second, image=4, grace_hours=24.0),
        Step(command="delete", version=first, fatal=3),
        Step(command="undelete", version=first, fatal=2, days=20),
        Step(command="disk", version=first, fatal=4),
        Step(command="hard delete", version=first, fatal=20),
        Step(command="publish", version=first, image=2, targets=4, fatal=90, days=11),
    ]
    play(tmp_path, monkeypatch, steps, images)


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
