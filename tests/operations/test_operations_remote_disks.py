"""Disks from replicas of other regions (`--allow-remote`): bytes, bill, forecast and rights (invariant M32)."""

import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import AccessDenied, Conflict, ImageNotAvailable, InvalidInput, StoreError, StoreFull
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest, ScrubRequest
from imgstore.domain.resources import DiskKind, ManagedDisk, Slot, StorageAccountType
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.ledger.budgets import AtLimit
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.forecast import Forecast
from imgstore.ledger.statements.focus import FocusVersion
from imgstore.operations.billing.budgets import set_budget
from imgstore.operations.billing.explanations import explain_entry
from imgstore.operations.billing.focus_export import export_focus
from imgstore.operations.billing.statements import group_bill
from imgstore.operations.billing.usage_details import page_usage_details
from imgstore.operations.diagnosis.reconcile import reconcile
from imgstore.operations.disks.disks import create_disk, delete_disk, show_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.what_if.disks import forecast_image_disk, forecast_source_disk
from imgstore.stores.interface import ObjectStore
from tests.support.faulty_store import Fault, FaultyStore, unreachable
from tests.support.forecast_check import check_forecast
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    collect,
    content,
    create_sample_gallery,
    delete,
    export_disk,
    make_disk,
    open_home,
    publish,
    publish_disks,
    reference,
    retarget,
)

pytest_plugins = ["tests.support.published_gallery"]

SOURCE, EAST, NORTH = "southcentralus", "eastus", "northeurope"
SEGMENTS = f"/{object_keys.SEGMENTS}"


def remote_request(name: str = "d1", location: str = NORTH, version: str = "1.0.0", **more: Any) -> DiskOfImageRequest:
    """Return the request for a disk that may be copied from another region."""
    more.setdefault("allow_remote", True)
    return DiskOfImageRequest(group=GROUP, name=name, location=location, reference=reference(version), **more)


def make_remote(installation: Installation, name: str = "d1", location: str = NORTH, **more: Any) -> ManagedDisk:
    return create_disk(installation, ADMIN, remote_request(name, location, **more))


def check_remote(installation: Installation, request: DiskOfImageRequest) -> Forecast:
    """Predict the creation, create the disk, and compare both."""
    return check_forecast(
        installation,
        lambda: forecast_image_disk(installation, ADMIN, request),
        lambda: create_disk(installation, ADMIN, request),
    )


def egress(installation: Installation, region: str = NORTH) -> int:
    return sum(
        row.delivered_bytes for row in charges(installation) if row.kind is ChargeKind.EGRESS and row.target == region
    )


def stored(installation: Installation, region: str = NORTH) -> int:
    """Return the bytes of the segments in a region, as the stores list them."""
    slots = [each for each in all_slots(installation) if each.key.region == region]
    return sum(sum(content(installation, slot).segments.values()) for slot in slots)


def test_disk_is_copied_and_billed_as_predicted(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    found = check_remote(published, remote_request())
    assert found.delivered_bytes == egress(published) == stored(published) > 0
    assert found.egress > 0
    (row,) = [each for each in charges(published) if each.target == NORTH]
    assert (row.party.disk, row.source, row.replica) == ("d1", EAST, 0)
    again = check_remote(published, remote_request("d2"))
    assert again.delivered_bytes == 0, "the slot has all segments"
    assert again.added_bytes < 1000, "only a reference"
    assert check_remote(published, remote_request("d2")).storage == (), "a repeated request does nothing"
    (tmp_path / "served").mkdir()
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path / "served")


def test_replica_after_a_disk_pays_only_for_new_bytes(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """The disk and the replica share the slot. The next owner pays for the storage when the disk is deleted (M10)."""
    make_remote(published)
    paid = egress(published)
    retarget(published, [SOURCE, EAST, NORTH])
    assert egress(published) == paid
    audit(published)
    delete_disk(published, ADMIN, group=GROUP, name="d1")
    audit(published)
    make_remote(published, "d2")
    retarget(published, [SOURCE])
    collect(published)
    (tmp_path / "served").mkdir()
    audit(published, collected=True)
    audit_served(published, {"1.0.0": samples.first}, tmp_path / "served")
    delete(published)
    collect(published)
    export_disk(published, tmp_path / "out.raw", "d2")
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    delete_disk(published, ADMIN, group=GROUP, name="d2")
    collect(published)
    assert stored(published) == 0


def test_without_the_flag_the_refusal_names_it(published: Installation) -> None:
    with pytest.raises(ImageNotAvailable, match="is not available in North Europe region") as caught:
        make_remote(published, allow_remote=False)
    for word in ("--allow-remote", "--what-if", "imgstore prices list"):
        assert word in str(caught.value)
    with pytest.raises(ImageNotAvailable) as caught:
        make_remote(published, version="7.0.0")
    assert "--allow-remote" not in str(caught.value)
    with pytest.raises(ImageNotAvailable):
        make_remote(published, lun=5)
    assert charges(published) == [row for row in charges(published) if row.party.disk is None]


def test_local_replica_is_used_with_the_flag(published: Installation) -> None:
    before = len(charges(published))
    assert make_remote(published, "d1", SOURCE).location == SOURCE
    assert len(charges(published)) == before


def test_latest_version_of_any_region(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.0.1", [SOURCE])
    assert make_remote(published, version="latest").source_reference.endswith("/1.0.1")
    assert make_remote(published, "d2", EAST, version="latest").source_reference.endswith("/1.0.0")


class RegionFaults:
    """The stores of an installation, with faults by region."""

    def __init__(self, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stores: dict[str, tuple[str, FaultyStore]] = {}
        self._scripts: dict[str, list[Fault]] = {}
        real, lock = installation.locator.store, threading.Lock()

        def store(slot: Slot) -> ObjectStore:
            region = slot.key.region
            if slot.key.storage_account_type is StorageAccountType.STANDARD_ZRS:
                return real(slot)
            with lock:
                if slot.uid not in self._stores:
                    self._stores[slot.uid] = region, FaultyStore(real(slot), self._scripts.get(region, []))
                return self._stores[slot.uid][1]

        monkeypatch.setattr(installation.locator, "store", store)

    def break_region(self, region: str, *faults: Fault) -> None:
        """Let the stores of a region fail. Without faults, the stores are intact again."""
        self._scripts[region] = list(faults)
        for where, store in self._stores.values():
            if where == region:
                store.script = faults


@pytest.fixture
def faults(published: Installation, monkeypatch: pytest.MonkeyPatch) -> RegionFaults:
    """Intact stores of the published home, which a test may break."""
    return RegionFaults(published, monkeypatch)


def is_full() -> StoreError:
    return StoreFull("The store is full.", found="no space", expected="space", hint="none: this is a test")


@pytest.mark.parametrize("error", [unreachable, is_full])
def test_interrupted_disk_resumes_and_pays_once(
    published: Installation, faults: RegionFaults, error: Callable[[], StoreError]
) -> None:
    faults.break_region(NORTH, Fault(method="put", key_part=SEGMENTS, calls=frozenset(range(2, 1000)), error=error))
    with pytest.raises(type(error())):
        make_remote(published)
    faults.break_region(NORTH)
    assert show_disk(published, ADMIN, group=GROUP, name="d1").provisioning_state is ProvisioningState.CREATING
    arrived = stored(published)
    assert (egress(published), arrived > 0) == (0, True)
    with pytest.raises(ImageNotAvailable, match="--allow-remote"):
        make_remote(published, allow_remote=False)
    found = check_remote(published, remote_request())
    assert found.delivered_bytes == egress(published) == stored(published) > arrived
    audit(published)


def test_interrupted_disk_is_deleted(published: Installation, faults: RegionFaults) -> None:
    faults.break_region(NORTH, Fault(method="put", key_part=f"/{object_keys.MANIFESTS}"))
    with pytest.raises(StoreError):
        make_remote(published)
    faults.break_region(NORTH)
    delete_disk(published, ADMIN, group=GROUP, name="d1")
    collect(published)
    assert stored(published) == 0
    audit(published)


def test_next_region_serves_if_the_cheapest_is_dead(published: Installation, faults: RegionFaults) -> None:
    faults.break_region(EAST, Fault())
    make_remote(published)
    faults.break_region(EAST)
    (row,) = [each for each in charges(published) if each.target == NORTH]
    assert (row.source, row.delivered_bytes) == (SOURCE, stored(published))
    audit(published)


def test_region_that_dies_in_the_middle_is_billed_for_its_part(published: Installation, faults: RegionFaults) -> None:
    faults.break_region(EAST, Fault(key_part=SEGMENTS, calls=frozenset(range(2, 1000))))
    make_remote(published)
    faults.break_region(EAST)
    rows = {each.source: each for each in charges(published) if each.target == NORTH}
    assert {SOURCE} <= rows.keys() <= {EAST, SOURCE}, "a late first answer is hedged by the other region"
    assert len({each.key for each in rows.values()}) == len(rows)
    assert sum(each.delivered_bytes for each in rows.values()) == stored(published)
    audit(published)


def test_damaged_segment_of_the_source_never_arrives(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    slot = next(each for each in all_slots(published) if each.key.region == EAST)
    name = next(iter(content(published, slot).segments))
    key, store = slot.prefix + object_keys.segment_key(name), published.locator.store(slot)
    store.put(key, b"x" * len(store.get(key)))
    make_remote(published)
    export_disk(published, tmp_path / "out.raw", "d1")
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    assert SOURCE in {each.source for each in charges(published) if each.target == NORTH}


def test_segments_that_the_slot_held_are_not_charged(published: Installation, samples: SampleImages) -> None:
    """The region was a target region before, and its segments are not collected yet (invariants M2 and M4)."""
    retarget(published, [SOURCE, EAST, NORTH])
    retarget(published, [SOURCE, EAST])
    before = egress(published)
    assert check_remote(published, remote_request()).delivered_bytes == 0
    assert egress(published) == before
    publish(published, samples.second, "1.0.1", [SOURCE])
    found = check_remote(published, remote_request("d2", version="1.0.1"))
    assert 0 < found.delivered_bytes < before
    audit(published, collected=True)


def test_copies_of_disks_and_snapshots_in_another_region(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """The content of a file is copied, too, and a second copy costs nothing."""
    create_from_source(
        published, ADMIN, DiskRequest(group=GROUP, name="file", source=str(samples.second), location=SOURCE)
    )
    make_disk(published, "image")
    for name, source in (("s1", "file"), ("s2", "file"), ("s3", "s1"), ("s4", "image")):
        request = DiskRequest(
            group=GROUP, name=name, source=source, location=NORTH, kind=DiskKind.SNAPSHOT, allow_remote=True
        )
        found = check_copy(published, request)
        assert (found.delivered_bytes > 0) == (name in ("s1", "s4"))
        made = show_disk(published, ADMIN, group=GROUP, name=name, kind=DiskKind.SNAPSHOT)
        assert (made.location, made.provisioning_state) == (NORTH, ProvisioningState.SUCCEEDED)
        assert check_copy(published, request).storage == ()
    with pytest.raises(InvalidInput, match="is in the same region"):
        check_copy(published, replace(request, name="s5", allow_remote=False))
    back = DiskRequest(group=GROUP, name="back", source="s3", location="westus2", allow_remote=True)
    check_copy(published, back)
    for name in ("file", "image"):
        delete_disk(published, ADMIN, group=GROUP, name=name)
    collect(published)
    export_disk(published, tmp_path / "out.raw", "back")
    assert (tmp_path / "out.raw").read_bytes() == samples.second.read_bytes()
    audit(published, collected=True)


def check_copy(installation: Installation, request: DiskRequest) -> Forecast:
    return check_forecast(
        installation,
        lambda: forecast_source_disk(installation, ADMIN, request),
        lambda: create_from_source(installation, ADMIN, request),
    )


def test_data_disk_on_three_zones(empty: Installation, samples: SampleImages, tmp_path: Path) -> None:
    publish_disks(empty, samples.first, {5: samples.second}, targets=[SOURCE])
    sku = replace(remote_request().details, sku=StorageAccountType.STANDARD_ZRS)
    made = make_remote(empty, location="westus2", lun=5, details=sku)
    assert made.storage_account_type is StorageAccountType.STANDARD_ZRS
    with pytest.raises(InvalidInput, match="Standard_ZRS is not supported"):
        make_remote(empty, "d2", location=EAST, lun=5, details=sku)
    (tmp_path / "served").mkdir()
    audit(empty)
    audit_served(empty, {"1.0.0": samples.first, "1.0.0/lun-5": samples.second}, tmp_path / "served")


def test_rights_are_checked_before_anything_starts_and_on_resume(published: Installation, faults: RegionFaults) -> None:
    group = f"/subscriptions/{published.subscription}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
    disks = Grant(role=Role.CONTRIBUTOR, scope=f"{group}/disks/d1")
    versions = Grant(role=Role.READER, scope=f"{group}/galleries/{GALLERY}")
    writer = Principal(name="writer", uid="1", grants=(disks,))
    reader = Principal(name="reader", uid="2", grants=(versions,))
    both = Principal(name="both", uid="3", grants=(disks, versions))
    faults.break_region(NORTH, Fault(method="put", key_part=SEGMENTS))
    for principal in (writer, reader):
        for act in (create_disk, forecast_image_disk):
            with pytest.raises(AccessDenied):
                act(published, principal, remote_request())
    with published.catalog.reading() as transaction:
        assert transaction.works.list_open() == []
    with pytest.raises(StoreError):
        create_disk(published, both, remote_request())
    faults.break_region(NORTH)
    for principal in (writer, reader):
        with pytest.raises(AccessDenied):
            create_disk(published, principal, remote_request())
    assert egress(published) == 0
    assert create_disk(published, both, remote_request()).provisioning_state is ProvisioningState.SUCCEEDED


def test_reached_budget_refuses_a_new_disk_and_continues_an_accepted_one(
    published: Installation, faults: RegionFaults
) -> None:
    faults.break_region(NORTH, Fault(method="put", key_part=f"/{object_keys.MANIFESTS}"))
    with pytest.raises(StoreError):
        make_remote(published, "accepted")
    faults.break_region(NORTH)
    set_budget(published, ADMIN, amount=Decimal(0), currency="USD", at_limit=AtLimit.REFUSE)
    with pytest.raises(Conflict, match="budget") as refused:
        make_remote(published, "new")
    assert refused.value.error_code == "BudgetExceeded"
    make_remote(published, "accepted")
    make_remote(published, "local", SOURCE)
    copy = DiskRequest(group=GROUP, name="copy", source="local", location=EAST, allow_remote=True)
    with pytest.raises(Conflict, match="budget"):
        create_from_source(published, ADMIN, copy)
    create_from_source(published, ADMIN, replace(copy, location=SOURCE))


def test_slot_is_scrubbed_repaired_and_reconciled(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    make_remote(published)
    assert reconcile(published, ADMIN).agrees
    (slot,) = [each for each in all_slots(published) if each.key.region == NORTH]
    store, there = published.locator.store(slot), content(published, slot)
    damaged = [object_keys.segment_key(next(iter(there.segments))), *there.manifests]
    for key in damaged:
        store.put(slot.prefix + key, b"damaged")
    assert all(not each.unrepaired for each in scrub(published, ADMIN, ScrubRequest()))
    export_disk(published, tmp_path / "out.raw", "d1")
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    assert reconcile(published, ADMIN).agrees


def test_reads_go_to_other_regions_if_the_slot_is_dead(
    published: Installation, faults: RegionFaults, samples: SampleImages, tmp_path: Path
) -> None:
    """The disk has the alternative slots of its version (invariant M17)."""
    make_remote(published)
    faults.break_region(NORTH, Fault())
    export_disk(published, tmp_path / "out.raw", "d1")
    faults.break_region(NORTH)
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    assert any(row.kind is ChargeKind.CROSS_REGION_READ for row in charges(published))


def test_disk_is_on_each_view_of_the_bill(published: Installation) -> None:
    made = make_remote(published)
    retarget(published, [SOURCE, EAST, NORTH])
    (row,) = [each for each in charges(published) if each.party.disk == "d1"]
    explained = explain_entry(published, ADMIN, row.key)
    assert sum(each.stored_bytes for each in explained.segments or ()) == row.delivered_bytes > 0
    (replica,) = [each for each in charges(published) if each.target == NORTH and each.party.disk is None]
    assert explain_entry(published, ADMIN, replica.key).segments == [], "the disk has brought all segments"
    grouped = group_bill(published, ADMIN, by="region", filters={"group": GROUP})
    assert next(each for each in grouped.rows if each.name == NORTH).delivered_bytes == row.delivered_bytes
    details = page_usage_details(published, ADMIN, PageRequest()).items
    assert any(each.party.resource_id == made.resource_id for each in details)
    (focus,) = [
        each
        for each in export_focus(published, ADMIN, focus=FocusVersion.V1_2)
        if each["ResourceId"] == made.resource_id and each["x_TargetRegion"] == NORTH and each["x_WholeCopyCost"]
    ]
    assert Decimal(focus["x_WholeCopyCost"] or 0) > Decimal(focus["BilledCost"] or 0) > 0


def test_cheapest_region_is_the_source(tmp_path: Path, samples: SampleImages) -> None:
    """The price decides before the name of the region, also in the forecast."""
    text = (files("imgstore") / "regions.yaml").read_text(encoding="utf-8")
    dear = text.replace("eastus: {northeurope: 0.05}", "eastus: {northeurope: 0.09}")
    assert dear != text
    (tmp_path / "regions.yaml").write_text(dear, encoding="utf-8")
    with open_home(tmp_path / "home", regions=tmp_path / "regions.yaml") as home:
        create_sample_gallery(home)
        publish(home, samples.first, targets=[SOURCE, EAST])
        found = check_remote(home, remote_request())
        (row,) = [each for each in charges(home) if each.target == NORTH]
        assert (row.source, Decimal(found.egress)) == (SOURCE, row.amount)
        audit(home)
