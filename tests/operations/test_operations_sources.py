"""Disks, snapshots and managed images from disks, snapshots and files, with real bytes."""

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
from imgstore.operations.billing import statements
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import groups
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
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

pytest_plugins = ["tests.support.published_gallery"]

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
    return compute_sha256(folder / "served.raw")


def test_disk_from_a_file_is_in_the_pool_of_the_subscription_and_region(
    empty: Installation, samples: SampleImages
) -> None:
    folder = empty.home
    made = make(empty, "d1", samples.first, location="eastus", os_properties=OsProperties(os_type=OsType.LINUX))
    assert made.provisioning_state is ProvisioningState.SUCCEEDED
    assert (made.location, made.replica, made.source_version_uid) == ("eastus", 0, None)
    assert made.os_properties.os_type is OsType.LINUX
    assert [slot.uid for slot in own_slots(empty)] == [made.slot.uid]
    assert served(empty, folder, "d1") == compute_sha256(samples.first)
    assert make(empty, "d1", samples.first, location="eastus") == made
    other = make(empty, "d2", samples.second, location="westus2")
    assert other.slot.key.pool_uid != made.slot.key.pool_uid
    audit(empty)
    rows = [row for row in statements.show_bill(empty, ADMIN).rows if row.disk == "d1"]
    assert [(row.group, row.gallery, row.target) for row in rows] == [(GROUP, None, "eastus")]
    with open_home(folder) as again:
        assert disks.list_disks(again, ADMIN) == [made, other]


def test_a_changed_file_shares_its_blocks_with_the_last_disk_of_the_slot(
    empty: Installation, samples: SampleImages
) -> None:
    made = make(empty, "d1", samples.first)
    before = content(empty, made.slot).segments
    make(empty, "d2", samples.second)
    new = {name: size for name, size in content(empty, made.slot).segments.items() if name not in before}
    assert sum(new.values()) < 0.1 * sum(before.values())
    assert served(empty, empty.home, "d2") == compute_sha256(samples.second)
    # Invariant I8.
    audit(empty)


def test_another_source_region_or_sku_is_refused(published: Installation, samples: SampleImages) -> None:
    make(published, "d1", samples.first)
    make_disk(published, "d2")
    with pytest.raises(PropertyChangeNotAllowed, match="sourceUri"):
        make(published, "d1", samples.second)
    with pytest.raises(PropertyChangeNotAllowed, match="sourceResourceId"):
        make(published, "d1", "d2")
    with pytest.raises(PropertyChangeNotAllowed, match="location"):
        make(published, "d1", samples.first, location="eastus")
    with pytest.raises(PropertyChangeNotAllowed, match="sku"):
        make(published, "d1", samples.first, storage_account_type=StorageAccountType.STANDARD_ZRS)
    with pytest.raises(InvalidInput, match=r"Source d2 is not found\. Please check source exists"):
        make(published, "d3", "d2", location="eastus")
    with pytest.raises(InvalidInput, match="must have the storage account type of the source"):
        make(published, "d3", "d2", storage_account_type=StorageAccountType.STANDARD_ZRS)
    with pytest.raises(InvalidInput, match="Source nowhere is not found"):
        make(published, "d3", "nowhere")
    with pytest.raises(InvalidInput, match="can't be a source"):
        make(
            published,
            "d3",
            f"/subscriptions/{published.subscription}/resourceGroups/rg/providers/Microsoft.Compute/vms/v",
        )
    assert [each.name for each in disks.list_disks(published, ADMIN)] == ["d1", "d2"]
    audit(published)


def test_declared_properties_must_match_the_source(published: Installation, samples: SampleImages) -> None:
    made = make_disk(published, "d1")
    assert made.os_properties == OsProperties(
        os_type=OsType.LINUX, os_state=OsState.GENERALIZED, hyper_v_generation=HyperVGeneration.V1
    )
    with pytest.raises(
        InvalidInput, match="OS type of the source 'd1' is Linux, and the OS type of 'disk d2' is Windows"
    ):
        make(published, "d2", "d1", os_properties=OsProperties(os_type=OsType.WINDOWS))
    with pytest.raises(InvalidInput, match="generation of the source 'd1' is V1"):
        make(published, "d2", "d1", os_properties=OsProperties(hyper_v_generation=HyperVGeneration.V2))
    assert (
        make(published, "d2", "d1", os_properties=OsProperties(os_type=OsType.LINUX)).os_properties
        == made.os_properties
    )
    make(published, "plain", samples.first)
    said = make(published, "s1", "plain", kind=SNAPSHOT, os_properties=OsProperties(os_type=OsType.WINDOWS))
    assert said.os_properties == OsProperties(os_type=OsType.WINDOWS), (
        "what the source does not say is said of the copy"
    )


def test_copies_are_references_and_outlive_the_sources(published: Installation, samples: SampleImages) -> None:
    folder = published.home
    made = make_disk(published, "d1", "westus2")
    before = content(published, made.slot)
    snapshot = make(published, "s1", "d1", kind=SNAPSHOT)
    assert make(published, "s1", made.resource_id, kind=SNAPSHOT) == snapshot
    assert snapshot.slot == made.slot
    assert snapshot.source_reference == made.resource_id
    after = content(published, made.slot)
    assert after.segments == before.segments
    assert after.manifests.keys() - before.manifests.keys() == {f"manifests/{snapshot.uid}/os"}
    make(published, "d2", snapshot.resource_id)
    remove(published, "d1")
    assert make(published, "s1", "d1", kind=SNAPSHOT) == snapshot, "its source may be gone by now"
    remove(published, "s1", SNAPSHOT)
    delete(published)
    collect(published)
    audit(published, collected=True)
    assert served(published, folder, "d2") == compute_sha256(samples.first)
    remove(published, "d2")
    collect(published)
    audit_collected(published)
    assert content(published, made.slot).manifests == {}


def test_bare_name_of_a_snapshot_and_a_disk_names_the_snapshot(empty: Installation, samples: SampleImages) -> None:
    make(empty, "x", samples.first)
    make(empty, "x", samples.second, kind=SNAPSHOT)
    assert make(empty, "copy", "x").source_reference.endswith("/snapshots/x")
    assert served(empty, empty.home, "copy") == compute_sha256(samples.second)
    assert [each.name for each in disks.list_disks(empty, ADMIN, kind=SNAPSHOT, group=GROUP)] == ["x"]
    remove(empty, "x", SNAPSHOT)
    with pytest.raises(NotFound, match="snapshot 'x' was not found"):
        disks.show_disk(empty, ADMIN, group=GROUP, name="x", kind=SNAPSHOT)
    assert disks.show_disk(empty, ADMIN, group=GROUP, name="x").name == "x"
    with pytest.raises(Conflict, match="disks/copy"):
        groups.delete_group(empty, ADMIN, name=GROUP)
    audit(empty)


def test_a_subscription_s_pool_stays_when_all_is_collected(empty: Installation, samples: SampleImages) -> None:
    made = make(empty, "d1", samples.first)
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
    assert make(empty, "d1", samples.first).slot == made.slot
    audit(empty)


def test_refused_file_leaves_no_disk(empty: Installation, samples: SampleImages, tmp_path: Path) -> None:
    cut = tmp_path / "cut.vhd"
    shutil.copy(samples.first, cut)
    with pytest.raises(ImageRefused):
        make(empty, "d1", cut)
    broken = tmp_path / "broken.raw"
    shutil.copy(samples.first, broken)

    def shrink(_event: object) -> None:
        with broken.open("r+b") as file:
            file.truncate(1 << 20)

    with open_home(tmp_path / "other", shrink) as other, pytest.raises((ImageRefused, SourceChanged)):
        make(other, "d1", broken, source_format=DiskFormat.RAW)
    with open_home(tmp_path / "other") as other:
        assert disks.list_disks(other, ADMIN) == []
    assert disks.list_disks(empty, ADMIN) == []


def test_a_managed_image_has_its_data_disks_by_lun(published: Installation, samples: SampleImages) -> None:
    make_disk(published, "d1")
    make(published, "s1", samples.second, kind=SNAPSHOT, location="southcentralus")
    made = make_image(published, "d1", "s1", samples.rebuilt)
    assert [each.disk_key for each in (made.os, *made.data)] == ["os", "lun-0", "lun-1"]
    assert made.provisioning_state is ProvisioningState.SUCCEEDED
    assert made.os.os_properties.os_type is OsType.LINUX
    assert make_image(published, "d1", "s1", samples.rebuilt) == made
    assert images.list_images(published, ADMIN) == [made]
    with pytest.raises(PropertyChangeNotAllowed, match="dataDisks"):
        make_image(published, "d1", "s1")
    with pytest.raises(PropertyChangeNotAllowed):
        make_image(published, "d1", samples.rebuilt, "s1")
    audit(published)
    remove(published, "s1", SNAPSHOT)
    remove(published, "d1")
    audit(published)
    for disk, source in zip(made.data, (samples.second, samples.rebuilt), strict=True):
        assert disk.disk_digest == make(published, f"of-{source.stem}", source, location="southcentralus").disk_digest
    remove(published, "i1", IMAGE)
    with pytest.raises(NotFound, match="managed image 'i1' was not found"):
        images.show_image(published, ADMIN, group=GROUP, name="i1")
    audit(published)


def test_image_has_an_os_state_and_all_disks_share_a_region(published: Installation, samples: SampleImages) -> None:
    make(published, "plain", samples.first, location="eastus")
    with pytest.raises(InvalidInput, match="same region"):
        make_disk(published, "d1", "westus2")
        make_image(published, "plain", "d1")
    assert images.list_images(published, ADMIN) == []
    assert make_image(published, "plain").os.os_properties.os_state is OsState.GENERALIZED
    remove(published, "i1", IMAGE)
    said = OsProperties(os_state=OsState.SPECIALIZED)
    made = make_image(published, "plain", samples.second, os_properties=said)
    assert made.os.os_properties.os_state is OsState.SPECIALIZED
    assert {each.location for each in (made.os, *made.data)} == {"eastus"}
    audit(published)
