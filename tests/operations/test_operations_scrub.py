"""Scrub: flipped, lost and outdated objects are found and repaired, and the rest is reported."""

import filecmp
import random
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from imgstore.domain.errors import InvalidInput, StoreDenied, StoreError, StoreUnreachable
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.storage.works import WorkKind
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.billing import statements
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.slots.degrade import degrade
from imgstore.operations.slots.works import acquire_work
from imgstore.operations.stores.regions import init_regions
from imgstore.segments.reference import MAGIC as REFERENCE_MAGIC
from imgstore.stores.zone_redundant import ZoneRedundantStore
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    all_slots,
    audit,
    audit_collected,
    audit_served,
    charges,
    collect,
    delete,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

COMPLETED, DEGRADED = ReplicaState.COMPLETED, ReplicaState.DEGRADED
SOURCE_SLOT, SECOND_SLOT = "southcentralus/Standard_LRS/0", "southcentralus/Standard_LRS/1"
EAST, WEST = "eastus/Standard_LRS/0", "westus2/Standard_ZRS/0"


def slot_of(installation: Installation, key: str) -> Slot:
    return next(slot for slot in all_slots(installation) if str(slot.key) == key)


def copies(installation: Installation, key: str, kind: str = object_keys.SEGMENTS, zone: str = "*") -> list[Path]:
    """The files of a slot, in every zone that it lies in."""
    slot = slot_of(installation, key)
    zones = (installation.home / "regions" / slot.bucket).glob(f"zone-{zone}/{slot.prefix}{kind}")
    return sorted(path for folder in zones for path in folder.rglob("*") if path.is_file())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def run(installation: Installation, **request: object) -> dict[str, SlotScrub]:
    done = scrub(installation, ADMIN, ScrubRequest(**request))  # type: ignore[arg-type]
    return {str(each.slot.key): each for each in done}


def repairs(installation: Installation) -> list[tuple[str, str, int]]:
    return [
        (row.source, row.target, row.delivered_bytes) for row in charges(installation) if row.kind is ChargeKind.REPAIR
    ]


def served(installation: Installation, samples: SampleImages, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir(exist_ok=True)
    audit_served(installation, {"1.0.0": samples.first}, tmp_path / "served")


def test_intact_home_is_read_and_not_changed(published: Installation) -> None:
    make_disk(published, "d1", "westus2")
    before = {path: path.stat().st_mtime_ns for path in (published.home / "regions").rglob("*") if path.is_file()}
    for where, found in run(published).items():
        kinds = (object_keys.SEGMENTS, object_keys.MANIFESTS, object_keys.FINGERPRINTS)
        files = [path for kind in kinds for path in copies(published, where, kind)]
        assert (found.damaged, found.problem, found.restored) == (set(), None, 0)
        manifests = {path.relative_to(path.parents[1]): path.read_bytes() for path in files if path.name == "os"}
        named = [len(body) for body in manifests.values() if not body.startswith(REFERENCE_MAGIC)]
        # The names of stored fingerprints are read from each manifest first.
        again = sum(named) if copies(published, where, object_keys.FINGERPRINTS) else 0
        assert found.read_bytes == sum(path.stat().st_size for path in files) + again
        assert found.objects == len(files) // (3 if where == WEST else 1)
    assert before == {
        path: path.stat().st_mtime_ns for path in (published.home / "regions").rglob("*") if path.is_file()
    }
    audit(published)


@pytest.mark.parametrize("where", [SOURCE_SLOT, SECOND_SLOT])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_lrs_is_repaired_from_its_region(
    published: Installation, samples: SampleImages, tmp_path: Path, harm: object, where: str
) -> None:
    before = charges(published)
    (first, second, *_) = copies(published, where)
    size = first.stat().st_size + second.stat().st_size
    for path in (first, second):
        harm(path)  # type: ignore[operator]
    told = run(published, dry_run=True)[where]
    assert (len(told.damaged), told.repaired) == (2, set())
    assert set(states(show(published)).values()) == {COMPLETED}, "a dry run changed something"
    found = run(published)[where]
    assert (len(found.damaged), found.unrepaired, found.restored, found.repaired_bytes) == (2, [], 1, size)
    assert all(digest_of(path.read_bytes()).hex() == path.name for path in (first, second))
    assert set(states(show(published)).values()) == {COMPLETED}
    assert show(published).version.provisioning_state is ProvisioningState.SUCCEEDED
    assert repairs(published) == [("southcentralus", "southcentralus", size)]
    assert [row for row in charges(published) if row.kind is not ChargeKind.REPAIR] == before
    served(published, samples, tmp_path)
    audit(published)


def test_lrs_is_repaired_from_another_region(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    (first, *_) = copies(published, EAST)
    flip(first)
    found = run(published, region="East US")
    assert list(found) == [EAST]
    assert found[EAST].unrepaired == []
    ((_, target, moved),) = repairs(published)
    assert (target, moved) == ("eastus", first.stat().st_size)
    assert statements.show_bill(published, ADMIN).total >= 0
    assert [row.amount for row in charges(published) if row.kind is ChargeKind.REPAIR] == [Decimal(0)]
    served(published, samples, tmp_path)


def test_repair_is_charged_if_a_price_is_configured(samples: SampleImages, tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[2] / "regions.yaml").read_text()
    document = tmp_path / "regions.yaml"
    document.write_text(shipped.replace("prices:\n", "prices:\n  repair_per_gb: 1.5\n"))
    shutil.copytree(samples.home, tmp_path / "home")
    with open_home(tmp_path / "home", regions=document) as installation:
        (first, *_) = copies(installation, EAST)
        flip(first)
        run(installation)
        (row,) = (row for row in charges(installation) if row.kind is ChargeKind.REPAIR)
        assert row.amount == Decimal("1.5") * first.stat().st_size / 10**9
        statements.show_bill(installation, ADMIN)


@pytest.mark.parametrize("zone", "123")
def test_zrs_is_repaired_from_its_zones(
    published: Installation, samples: SampleImages, tmp_path: Path, zone: str
) -> None:
    mine = copies(published, WEST, zone=zone)
    flip(mine[0])
    mine[1].unlink()
    (manifest,) = copies(published, WEST, object_keys.MANIFESTS, zone)
    flip(manifest)
    found = run(published)[WEST]
    assert (len(found.damaged), found.unrepaired, found.repaired_bytes) == (3, [], 0)
    assert all(digest_of(path.read_bytes()).hex() == path.name for path in mine)
    assert len({path.read_bytes() for path in copies(published, WEST, object_keys.MANIFESTS)}) == 1
    assert repairs(published) == []
    assert set(states(show(published)).values()) == {COMPLETED}
    served(published, samples, tmp_path)


def test_zrs_damage_in_all_zones_is_repaired_from_another_region(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    name = copies(published, WEST, zone="1")[0].name
    for path in copies(published, WEST):
        if path.name == name:
            flip(path)
    found = run(published)[WEST]
    assert (found.unrepaired, found.restored) == ([], 1)
    assert len(repairs(published)) == 1
    served(published, samples, tmp_path)


def test_returning_zone_gets_missed_objects(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    """While it was away a version came and one went: it gets the one, and its copies of the other go."""
    gone = make_raw(tmp_path / "gone.raw", seed=71, virtual_bytes=16 * MIB, content_bytes=5 * MIB)
    come = make_raw(tmp_path / "come.raw", seed=72, virtual_bytes=16 * MIB, content_bytes=5 * MIB)
    publish(published, gone, "0.9.0")
    bucket = published.home / "regions" / slot_of(published, WEST).bucket
    (bucket / "zone-2").rename(tmp_path / "old")
    (bucket / "zone-2").write_bytes(b"")  # A disk that fails: no folder, and none can be made.
    with open_home(published.home) as meanwhile:
        publish(meanwhile, come, "1.0.1")
        delete(meanwhile, "0.9.0")
        collect(meanwhile)
    (bucket / "zone-2").unlink()
    (tmp_path / "old").rename(bucket / "zone-2")
    # Invariant Z6.
    with open_home(published.home) as installation:
        store = installation.locator.store(slot_of(installation, WEST))
        assert isinstance(store, ZoneRedundantStore)
        assert store.list_pending_repairs() != []
        found = run(installation)[WEST]
        assert found.unrepaired == []
        assert len(found.repaired) >= 2
        assert store.list_pending_repairs() == []
        one, two, three = (
            {"/".join(path.parts[-3:]): path.read_bytes() for path in copies(installation, WEST, "", zone)}
            for zone in "123"
        )
        assert one == two == three
        collect(installation)
        audit_collected(installation)
        (tmp_path / "served").mkdir()
        audit_served(installation, {"1.0.0": samples.first, "1.0.1": come}, tmp_path / "served")


@pytest.mark.parametrize("kind", [None, *WorkKind])
def test_unnamed_copy_in_one_zone_is_deleted(published: Installation, tmp_path: Path, kind: WorkKind | None) -> None:
    """An old disk comes back whose absence nobody noted, since an empty folder stood in its place.

    Not while a work is open that may be writing it: one that was killed while it read holds nothing back.
    """
    publish(published, make_raw(tmp_path / "gone.raw", seed=71, virtual_bytes=8 * MIB, content_bytes=3 * MIB), "0.9.0")
    bucket = published.home / "regions" / slot_of(published, WEST).bucket
    shutil.copytree(bucket / "zone-2", tmp_path / "old")
    delete(published, "0.9.0")
    collect(published)
    shutil.rmtree(bucket / "zone-2")
    (tmp_path / "old").rename(bucket / "zone-2")
    assert len(copies(published, WEST, zone="2")) > len(copies(published, WEST, zone="1"))
    if kind is not None:
        with published.catalog.transaction() as transaction:
            acquire_work(
                published, transaction, kind=kind, slot=slot_of(published, WEST), owner_uid="somebody", plan={}
            )
    assert run(published)[WEST].unrepaired == []
    one, two = ([path.name for path in copies(published, WEST, "", zone)] for zone in "12")
    assert (one == two) is (kind in {None, WorkKind.EXPORT, WorkKind.REMOVAL})
    if kind is None:
        audit_collected(published)


def test_a_lost_zone_is_filled_again(published: Installation) -> None:
    bucket = published.home / "regions" / slot_of(published, WEST).bucket
    shutil.rmtree(bucket / "zone-3")
    with open_home(published.home) as installation:
        init_regions(installation, ADMIN, zone="westus2/3")
        found = run(installation)[WEST]
        assert found.unrepaired == []
        assert {path.name for path in copies(installation, WEST, zone="3")} == {
            path.name for path in copies(installation, WEST, zone="1")
        }
        audit(installation)


def test_a_damaged_manifest_comes_from_another_slot(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    (mine,) = copies(published, EAST, object_keys.MANIFESTS)
    body = mine.read_bytes()
    flip(mine)
    found = run(published)[EAST]
    assert (found.unrepaired, found.restored) == ([], 1)
    assert mine.read_bytes() == body
    assert repairs(published) == []
    served(published, samples, tmp_path)
    audit(published)


def test_reference_of_a_disk_is_made_again(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    made = make_disk(published, "d1", "eastus")
    (mine,) = (path for path in copies(published, EAST, object_keys.MANIFESTS) if made.uid in str(path))
    mine.unlink()
    delete(published)
    assert run(published)[EAST].unrepaired == []
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)


def test_damage_of_a_disk_without_another_copy_is_reported(published: Installation) -> None:
    make_disk(published, "d1", "eastus")
    delete(published)
    (first, *_) = copies(published, EAST)
    flip(first)
    for _ in range(2):
        found = run(published)[EAST]
        assert found.unrepaired == [object_keys.segment_key(bytes.fromhex(first.name))]
        assert found.problem is None


def test_damaged_only_replica_is_degraded_and_reported(empty: Installation, samples: SampleImages) -> None:
    publish(empty, samples.first, targets=["eastus"], location="eastus")
    (first, *_) = copies(empty, EAST)
    flip(first)
    found = run(empty)[EAST]
    assert len(found.unrepaired) == 1
    assert states(show(empty)) == {"eastus/0": DEGRADED}


@pytest.mark.parametrize("error", [StoreUnreachable, StoreDenied])
def test_a_store_that_refuses_during_a_restore_leaves_the_replica_degraded(
    empty: Installation, samples: SampleImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[StoreError]
) -> None:
    publish(empty, samples.first, targets=["eastus"], location="eastus")
    name = bytes.fromhex(copies(empty, EAST)[0].name)
    degrade(empty, slot_of(empty, EAST), [name], "not read")
    real = empty.locator.store
    faulty = FaultyStore(real(slot_of(empty, EAST)), [Fault(method="get", error=lambda: error("No.", hint="a test"))])
    monkeypatch.setattr(empty.locator, "store", lambda _slot: faulty)
    for _ in range(2):
        found = run(empty)[EAST]
        assert (found.restored, len(found.unrestored)) == (0, 1)
        assert states(show(empty)) == {"eastus/0": DEGRADED}
    faulty.heal()
    faulty.script = []
    found = run(empty)[EAST]
    assert (found.restored, found.unrestored) == (1, ())
    assert states(show(empty)) == {"eastus/0": COMPLETED}
    served(empty, samples, tmp_path)
    audit(empty)


def test_a_reader_that_is_refused_degrades_nothing(
    published: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired credentials say nothing of the bytes."""
    real, refused = published.locator.store, Fault(method="get", error=lambda: StoreDenied("No.", hint="a test"))
    monkeypatch.setattr(
        published.locator,
        "store",
        lambda slot: FaultyStore(real(slot), [refused] if slot.key.region == "eastus" else []),
    )
    export(published, tmp_path / "x.raw", "eastus")  # Served by the other regions.
    assert set(states(show(published)).values()) == {COMPLETED}


def test_lost_segment_affects_only_replicas_that_name_it(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    publish(empty, samples.first, "1.0.0", targets=["eastus"], location="eastus")
    own = {path.name for path in copies(empty, EAST)}
    other = make_raw(tmp_path / "other.raw", seed=77, virtual_bytes=12 * MIB, content_bytes=6 * MIB)
    publish(empty, other, "1.0.1", targets=["eastus"], location="eastus")
    lost = next(path for path in copies(empty, EAST) if path.name not in own)
    degrade(empty, slot_of(empty, EAST), [bytes.fromhex(min(own))], "not read")
    flip(lost)
    found = run(empty)[EAST]
    assert (found.restored, len(found.unrepaired)) == (1, 1)
    assert len(found.unrestored) == 1
    assert "1.0.1: 1 of its objects" in found.unrestored[0]
    assert states(show(empty, "1.0.0")) == {"eastus/0": COMPLETED}
    assert states(show(empty, "1.0.1")) == {"eastus/0": DEGRADED}


def test_a_sample_is_the_same_for_the_same_seed(empty: Installation, samples: SampleImages) -> None:
    publish(empty, samples.first, targets=["southcentralus"])
    every = copies(empty, SOURCE_SLOT)
    for path in every:
        flip(path)
    some = [run(empty, percent=50.0, seed=seed, dry_run=True)[SOURCE_SLOT].damaged for seed in (*range(8), 0)]
    assert some[0] == some[-1]
    assert len({frozenset(each) for each in some}) > 1
    assert frozenset[str]().union(*some) == {object_keys.segment_key(bytes.fromhex(path.name)) for path in every}
    assert run(empty, percent=0.0, dry_run=True)[SOURCE_SLOT].damaged == set()


def test_scrub_of_an_unknown_region_is_refused(empty: Installation) -> None:
    with pytest.raises(InvalidInput, match="atlantis"):
        run(empty, region="atlantis")


def test_any_damage_in_one_replica_is_repaired(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    rng = random.Random(5)
    for where in (SECOND_SLOT, EAST):
        for path in rng.sample(copies(published, where), 2):
            flip(path)
    for path in rng.sample(copies(published, WEST), 4):
        path.unlink()
    assert all(found.unrepaired == [] for found in run(published).values())
    assert all(found.damaged == set() for found in run(published).values())
    served(published, samples, tmp_path)
    audit(published)
