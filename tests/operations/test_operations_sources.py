"""Disks, snapshots and managed images from disks, snapshots and files: real bytes, one life each."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import (
    Conflict,
    ImageRefused,
    InvalidInput,
    NotFound,
    PropertyChangeNotAllowed,
    SourceChanged,
)
from imgstore.domain.requests import DiskRequest, ImageRequest
from imgstore.domain.resources import (
    DiskKind,
    HyperVGeneration,
    ManagedDisk,
    OsProperties,
    OsState,
    OsType,
    StorageAccountType,
)
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import ManagedImage
from imgstore.operations import billing
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import groups
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.testing.sample_disks import sha256_of
from imgstore.testing.sample_gallery import (
    ADMIN,
    GROUP,
    Stock,
    audit,
    audit_collected,
    collect,
    content,
    delete,
    export_disk,
    make_disk,
    open_home,
    own_slots,
)

pytest_plugins = ["imgstore.testing.published_gallery"]

SNAPSHOT = DiskKind.SNAPSHOT
IMAGE = DiskKind.IMAGE


def make(installation: Installation, name: str, source: Path | str, **more: Any) -> ManagedDisk:
    request = DiskRequest(group=GROUP, name=name, source=str(source), **more)
    return create_from_source(installation, ADMIN, request)


def make_image(installation: Installation, source: Path | str, *data: Path | str, **more: Any) -> ManagedImage:
    sources = [str(each) for each in data]
    request = ImageRequest(group=GROUP, name="i1", source=str(source), data_sources=sources, **more)
    return images.create_image(installation, ADMIN, request)


def remove(installation: Installation, name: str, kind: DiskKind = DiskKind.DISK) -> None:
    disks.delete_disk(installation, ADMIN, group=GROUP, name=name, kind=kind)


def served(installation: Installation, folder: Path, name: str) -> str:
    export_disk(installation, folder / "served.raw", name)
    return sha256_of(folder / "served.raw")


def test_a_disk_from_a_file_lies_in_the_subscription_s_pool_of_its_region(empty: Installation, stock: Stock) -> None:
    folder = empty.home
    made = make(empty, "d1", stock.first, location="eastus", os_properties=OsProperties(os_type=OsType.LINUX))
    assert made.provisioning_state is ProvisioningState.SUCCEEDED
    assert (made.location, made.replica, made.source_version_uid) == ("eastus", 0, None)
    assert made.os_properties.os_type is OsType.LINUX
    assert [slot.uid for slot in own_slots(empty)] == [made.slot.uid]
    assert served(empty, folder, "d1") == sha256_of(stock.first)
    assert make(empty, "d1", stock.first, location="eastus") == made
    other = make(empty, "d2", stock.second, location="westus2")
    assert other.slot.key.pool_uid != made.slot.key.pool_uid
    audit(empty)
    rows = [row for row in billing.show_bill(empty, ADMIN).rows if row.disk == "d1"]
    assert [(row.group, row.gallery, row.target) for row in rows] == [(GROUP, None, "eastus")]
    with open_home(folder) as again:
        assert disks.list_disks(again, ADMIN) == [made, other]


def test_a_changed_file_shares_its_blocks_with_the_last_disk_of_the_slot(empty: Installation, stock: Stock) -> None:
    made = make(empty, "d1", stock.first)
    before = content(empty, made.slot).segments
    make(empty, "d2", stock.second)
    new = {name: size for name, size in content(empty, made.slot).segments.items() if name not in before}
    assert sum(new.values()) < 0.1 * sum(before.values())
    assert served(empty, empty.home, "d2") == sha256_of(stock.second)
    # Invariant I8.
    audit(empty)


def test_another_source_region_or_sku_is_refused(stocked: Installation, stock: Stock) -> None:
    make(stocked, "d1", stock.first)
    make_disk(stocked, "d2")
    with pytest.raises(PropertyChangeNotAllowed, match="sourceUri"):
        make(stocked, "d1", stock.second)
    with pytest.raises(PropertyChangeNotAllowed, match="sourceResourceId"):
        make(stocked, "d1", "d2")
    with pytest.raises(PropertyChangeNotAllowed, match="location"):
        make(stocked, "d1", stock.first, location="eastus")
    with pytest.raises(PropertyChangeNotAllowed, match="sku"):
        make(stocked, "d1", stock.first, storage_account_type=StorageAccountType.STANDARD_ZRS)
    with pytest.raises(InvalidInput, match=r"Source d2 is not found\. Please check source exists"):
        make(stocked, "d3", "d2", location="eastus")
    with pytest.raises(InvalidInput, match="kept as its source is"):
        make(stocked, "d3", "d2", storage_account_type=StorageAccountType.STANDARD_ZRS)
    with pytest.raises(InvalidInput, match="Source nowhere is not found"):
        make(stocked, "d3", "nowhere")
    with pytest.raises(InvalidInput, match="can't be a source"):
        make(
            stocked, "d3", f"/subscriptions/{stocked.subscription}/resourceGroups/rg/providers/Microsoft.Compute/vms/v"
        )
    assert [each.name for each in disks.list_disks(stocked, ADMIN)] == ["d1", "d2"]
    audit(stocked)


def test_what_is_declared_must_not_contradict_the_source(stocked: Installation, stock: Stock) -> None:
    made = make_disk(stocked, "d1")
    assert made.os_properties == OsProperties(
        os_type=OsType.LINUX, os_state=OsState.GENERALIZED, hyper_v_generation=HyperVGeneration.V1
    )
    with pytest.raises(
        InvalidInput, match="OS type of the source 'd1' is Linux, and the OS type of 'disk d2' is Windows"
    ):
        make(stocked, "d2", "d1", os_properties=OsProperties(os_type=OsType.WINDOWS))
    with pytest.raises(InvalidInput, match="generation of the source 'd1' is V1"):
        make(stocked, "d2", "d1", os_properties=OsProperties(hyper_v_generation=HyperVGeneration.V2))
    assert (
        make(stocked, "d2", "d1", os_properties=OsProperties(os_type=OsType.LINUX)).os_properties == made.os_properties
    )
    make(stocked, "plain", stock.first)
    said = make(stocked, "s1", "plain", kind=SNAPSHOT, os_properties=OsProperties(os_type=OsType.WINDOWS))
    assert said.os_properties == OsProperties(os_type=OsType.WINDOWS), (
        "what the source does not say is said of the copy"
    )


def test_copies_are_references_and_outlive_all_that_they_came_from(stocked: Installation, stock: Stock) -> None:
    folder = stocked.home
    made = make_disk(stocked, "d1", "westus2")
    before = content(stocked, made.slot)
    snapshot = make(stocked, "s1", "d1", kind=SNAPSHOT)
    assert make(stocked, "s1", made.resource_id, kind=SNAPSHOT) == snapshot
    assert snapshot.slot == made.slot
    assert snapshot.source_reference == made.resource_id
    after = content(stocked, made.slot)
    assert after.segments == before.segments
    assert after.manifests.keys() - before.manifests.keys() == {f"manifests/{snapshot.uid}/os"}
    make(stocked, "d2", snapshot.resource_id)
    remove(stocked, "d1")
    assert make(stocked, "s1", "d1", kind=SNAPSHOT) == snapshot, "its source may be gone by now"
    remove(stocked, "s1", SNAPSHOT)
    delete(stocked)
    collect(stocked)
    audit(stocked, collected=True)
    assert served(stocked, folder, "d2") == sha256_of(stock.first)
    remove(stocked, "d2")
    collect(stocked)
    audit_collected(stocked)
    assert content(stocked, made.slot).manifests == {}


def test_a_snapshot_and_a_disk_may_share_a_name_and_the_snapshot_is_meant(empty: Installation, stock: Stock) -> None:
    make(empty, "x", stock.first)
    make(empty, "x", stock.second, kind=SNAPSHOT)
    assert make(empty, "copy", "x").source_reference.endswith("/snapshots/x")
    assert served(empty, empty.home, "copy") == sha256_of(stock.second)
    assert [each.name for each in disks.list_disks(empty, ADMIN, kind=SNAPSHOT, group=GROUP)] == ["x"]
    remove(empty, "x", SNAPSHOT)
    with pytest.raises(NotFound, match="snapshot 'x' was not found"):
        disks.show_disk(empty, ADMIN, group=GROUP, name="x", kind=SNAPSHOT)
    assert disks.show_disk(empty, ADMIN, group=GROUP, name="x").name == "x"
    with pytest.raises(Conflict, match="disks/copy"):
        groups.delete_group(empty, ADMIN, name=GROUP)
    audit(empty)


def test_a_subscription_s_pool_stays_when_all_is_collected(empty: Installation, stock: Stock) -> None:
    made = make(empty, "d1", stock.first)
    copy = make(empty, "s1", "d1", kind=SNAPSHOT)
    remove(empty, "d1")
    assert collect(empty).removed_pools == 0
    assert content(empty, made.slot).segments, "the snapshot names them"
    audit(empty, collected=True)
    remove(empty, copy.name, SNAPSHOT)
    collect(empty)
    assert content(empty, made.slot).segments == {}
    assert content(empty, made.slot).manifests == {}
    assert collect(empty).removed_pools == 0
    assert make(empty, "d1", stock.first).slot == made.slot
    audit(empty)


def test_a_file_that_is_refused_leaves_nothing(empty: Installation, stock: Stock, tmp_path: Path) -> None:
    cut = tmp_path / "cut.vhd"
    shutil.copy(stock.first, cut)
    with pytest.raises(ImageRefused):
        make(empty, "d1", cut)
    broken = tmp_path / "broken.raw"
    shutil.copy(stock.first, broken)

    def shrink(_event: object) -> None:
        with broken.open("r+b") as file:
            file.truncate(1 << 20)

    with open_home(tmp_path / "other", shrink) as other, pytest.raises((ImageRefused, SourceChanged)):
        make(other, "d1", broken, source_format=DiskFormat.RAW)
    with open_home(tmp_path / "other") as other:
        assert disks.list_disks(other, ADMIN) == []
    assert disks.list_disks(empty, ADMIN) == []


def test_a_managed_image_has_its_data_disks_by_lun(stocked: Installation, stock: Stock) -> None:
    make_disk(stocked, "d1")
    make(stocked, "s1", stock.second, kind=SNAPSHOT, location="southcentralus")
    made = make_image(stocked, "d1", "s1", stock.rebuilt)
    assert [each.disk_key for each in (made.os, *made.data)] == ["os", "lun-0", "lun-1"]
    assert made.provisioning_state is ProvisioningState.SUCCEEDED
    assert made.os.os_properties.os_type is OsType.LINUX
    assert make_image(stocked, "d1", "s1", stock.rebuilt) == made
    assert images.list_images(stocked, ADMIN) == [made]
    with pytest.raises(PropertyChangeNotAllowed, match="dataDisks"):
        make_image(stocked, "d1", "s1")
    with pytest.raises(PropertyChangeNotAllowed):
        make_image(stocked, "d1", stock.rebuilt, "s1")
    audit(stocked)
    remove(stocked, "s1", SNAPSHOT)
    remove(stocked, "d1")
    audit(stocked)
    for disk, source in zip(made.data, (stock.second, stock.rebuilt), strict=True):
        assert disk.disk_digest == make(stocked, f"of-{source.stem}", source, location="southcentralus").disk_digest
    remove(stocked, "i1", IMAGE)
    with pytest.raises(NotFound, match="managed image 'i1' was not found"):
        images.show_image(stocked, ADMIN, group=GROUP, name="i1")
    audit(stocked)


def test_an_image_says_a_state_and_all_its_disks_are_of_one_region(stocked: Installation, stock: Stock) -> None:
    make(stocked, "plain", stock.first, location="eastus")
    with pytest.raises(InvalidInput, match="same region"):
        make_disk(stocked, "d1", "westus2")
        make_image(stocked, "plain", "d1")
    assert images.list_images(stocked, ADMIN) == []
    assert make_image(stocked, "plain").os.os_properties.os_state is OsState.GENERALIZED
    remove(stocked, "i1", IMAGE)
    said = OsProperties(os_state=OsState.SPECIALIZED)
    made = make_image(stocked, "plain", stock.second, os_properties=said)
    assert made.os.os_properties.os_state is OsState.SPECIALIZED
    assert {each.location for each in (made.os, *made.data)} == {"eastus"}
    audit(stocked)
