"""Shallow versions: a manifest of their own where their source lies, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import ImageRefused, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.names import ImageReference
from imgstore.domain.requests import DiskRequest, ImageRequest, ScrubRequest
from imgstore.domain.resources import OsType, ReplicationMode, Slot, StorageAccountType
from imgstore.domain.settings.limits import Limits
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.views import VersionView
from imgstore.operations import billing
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.operations.versions import create as versions_create
from imgstore.operations.versions import delete as versions_delete
from imgstore.testing.sample_disks import sha256_of
from imgstore.testing.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    Stock,
    all_slots,
    audit,
    audit_collected,
    collect,
    content,
    delete,
    export,
    make_disk,
    own_slots,
    publish,
    request,
    retarget,
    show,
    update,
)

pytest_plugins = ["imgstore.testing.published_gallery"]

HERE = ("southcentralus",)


def shallow(
    installation: Installation, version: str = "2.0.0", targets: tuple[str, ...] = HERE, **source: Any
) -> VersionView:
    more = {name: source.pop(name) for name in ("replication_mode", "storage_account_type") if name in source}
    more.setdefault("replication_mode", ReplicationMode.SHALLOW)
    return versions_create.create_version(installation, ADMIN, request(version, targets, **more), **source)


def make(installation: Installation, name: str, source: Path | str, **more: Any) -> None:
    more.setdefault("location", "southcentralus")
    create_from_source(installation, ADMIN, DiskRequest(group=GROUP, name=name, source=str(source), **more))


def segments(installation: Installation) -> dict[str, frozenset[bytes]]:
    """What lies in each slot of every pool."""
    slots = (*all_slots(installation), *own_slots(installation))
    return {slot.uid: frozenset(content(installation, slot).segments) for slot in slots}


def same(installation: Installation, raw: Path, version: str = "2.0.0") -> bool:
    export(installation, installation.home / "o.raw", version=version)
    return sha256_of(installation.home / "o.raw") == sha256_of(raw)


def slot_of(view: VersionView) -> Slot:
    (replica,) = view.replicas
    return replica.slot


def test_it_stays_in_its_disk_s_slot_and_outlives_the_disk(stocked: Installation, stock: Stock) -> None:
    make(stocked, "d1", stock.second, storage_account_type=StorageAccountType.STANDARD_ZRS)
    before = segments(stocked)
    made = shallow(stocked, os_snapshot="d1")
    assert segments(stocked) == before, "nothing was copied"
    (own,) = own_slots(stocked)
    assert slot_of(made) == own
    assert made.version.replication_mode is ReplicationMode.SHALLOW
    assert made.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert made.version.target_regions[0].storage_account_type is StorageAccountType.STANDARD_ZRS
    assert object_keys.manifest_key(made.version.uid, "os") in content(stocked, own).manifests
    assert shallow(stocked, os_snapshot="d1") == made, "the same command does nothing"
    assert same(stocked, stock.second)
    audit(stocked)
    with stocked.catalog.reading() as transaction:
        billed = {each.owner_uid: each.stored_bytes for each in transaction.ledger.open_intervals(own.uid)}
    disks.delete_disk(stocked, ADMIN, group=GROUP, name="d1")
    collect(stocked)
    assert same(stocked, stock.second)
    with stocked.catalog.reading() as transaction:
        (left,) = transaction.ledger.open_intervals(own.uid)
    assert left.owner_uid == made.version.uid
    assert left.party.version == "2.0.0"
    assert left.stored_bytes > billed[made.version.uid], "the disk's bytes are the version's from now on"
    billing.show_bill(stocked, ADMIN)
    audit(stocked)
    audit_collected(stocked)
    delete(stocked, "2.0.0")
    collect(stocked)
    assert (content(stocked, own).segments, content(stocked, own).manifests) == ({}, {})
    audit(stocked)
    audit_collected(stocked)


def test_disks_of_a_gallery_snapshots_images_and_versions_are_sources(stocked: Installation, stock: Stock) -> None:
    first, second = (make_disk(stocked, f"d{turn}") for turn in range(2))
    assert (first.replica, second.replica) == (0, 1)
    before = segments(stocked)
    assert slot_of(shallow(stocked, "2.0.0", os_snapshot="d1")) == second.slot, "the second replica's slot"
    make(stocked, "s0", "d0")
    images.create_image(stocked, ADMIN, ImageRequest(group=GROUP, name="i1", source="s0", data_sources=["s0"]))
    both = shallow(stocked, "2.0.1", managed_image="i1")
    assert (slot_of(both), both.version.disk_keys) == (first.slot, ("os", "lun-0"))
    of_version = shallow(stocked, "2.0.2", image_version=f"{GROUP}/{GALLERY}/ubuntu/2.0.1")
    assert of_version.version.disk_keys == ("os", "lun-0")
    assert segments(stocked) == before
    delete(stocked)
    for version in ("2.0.0", "2.0.1", "2.0.2"):
        assert same(stocked, stock.first, version)
    make_disk(stocked, "later", version="2.0.0")
    collect(stocked)
    audit(stocked, collected=True)
    audit_collected(stocked)


def test_a_file_is_taken_in_as_ever(stocked: Installation, stock: Stock) -> None:
    made = publish(stocked, stock.second, "2.0.0", HERE, replication_mode=ReplicationMode.SHALLOW)
    assert slot_of(made) in all_slots(stocked)
    assert same(stocked, stock.second)
    audit(stocked)


def test_other_regions_counts_and_types_are_refused(stocked: Installation, stock: Stock) -> None:
    make(stocked, "d1", stock.second)
    many: tuple[tuple[str, ...], ...] = (("southcentralus", "eastus"), ("southcentralus=2",))
    for targets in many:
        with pytest.raises(InvalidInput, match="the only replica is in the region"):
            shallow(stocked, targets=targets, os_snapshot="d1")
    with pytest.raises(InvalidInput, match="kept as its source is: Standard_LRS"):
        shallow(stocked, targets=("southcentralus=1=Premium_LRS",), os_snapshot="d1")
    make(stocked, "apart", stock.first, storage_account_type=StorageAccountType.STANDARD_ZRS)
    images.create_image(stocked, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1", data_sources=["apart"]))
    with pytest.raises(InvalidInput, match="in one place of its location"):
        shallow(stocked, managed_image="i1")
    elsewhere = request("2.0.0", ["eastus"], location="eastus", replication_mode=ReplicationMode.SHALLOW)
    with pytest.raises(InvalidInput, match="is not found"):
        versions_create.create_version(stocked, ADMIN, elsewhere, os_snapshot="d1")
    assert [str(each.version.name) for each in _all(stocked)] == ["1.0.0"]
    audit(stocked)


def _all(installation: Installation) -> list[VersionView]:
    return gallery_versions.list_versions(installation, ADMIN, group=GROUP, gallery=GALLERY, definition="ubuntu")


def test_the_mode_is_for_ever(stocked: Installation, stock: Stock) -> None:
    make_disk(stocked, "d0")
    make_disk(stocked, "d1")
    made = shallow(stocked, os_snapshot="d1")
    for targets in (["southcentralus", "eastus"], ["southcentralus=2"]):
        with pytest.raises(InvalidInput, match="Shallow"):
            retarget(stocked, targets, "2.0.0")
    with pytest.raises(PropertyChangeNotAllowed, match="storageAccountType"):
        retarget(stocked, ["southcentralus=1=Premium_LRS"], "2.0.0")
    with pytest.raises(InvalidInput, match="Shallow"):
        update(stocked, "2.0.0", replica_count=2)
    changed = update(stocked, "2.0.0", tags={"a": "b"}, target_regions=request("2.0.0", HERE).target_regions)
    assert changed.replicas == made.replicas, "its ordinal is 1, and it stays"
    assert shallow(stocked, os_snapshot="d1").replicas == made.replicas
    with pytest.raises(PropertyChangeNotAllowed, match="replicationMode"):
        shallow(stocked, os_snapshot="d1", replication_mode=ReplicationMode.FULL)
    with pytest.raises(PropertyChangeNotAllowed, match="replicationMode"):
        publish(stocked, stock.first, replication_mode=ReplicationMode.SHALLOW, targets=HERE)
    audit(stocked)


def test_its_disks_have_a_limit_of_their_own(stocked: Installation, stock: Stock) -> None:
    size = stock.second.stat().st_size
    make(stocked, "d1", stock.second)
    small = Limits(image_bytes_max=size - 1, shallow_image_bytes_max=size)
    object.__setattr__(stocked, "limits", small)
    with pytest.raises(ImageRefused, match="image_bytes_max"):
        shallow(stocked, os_snapshot="d1", replication_mode=ReplicationMode.FULL)
    shallow(stocked, os_snapshot="d1")
    object.__setattr__(stocked, "limits", Limits(shallow_image_bytes_max=size - 1))
    with pytest.raises(ImageRefused, match="shallow_image_bytes_max"):
        shallow(stocked, "2.0.1", os_snapshot="d1")


def test_damage_degrades_it_and_a_scrub_that_finds_it_right_completes_it(stocked: Installation, stock: Stock) -> None:
    make(stocked, "d1", stock.second)
    made = shallow(stocked, os_snapshot="d1")
    slot = slot_of(made)
    name = min(content(stocked, slot).segments)
    (path,) = (stocked.home / "regions" / slot.bucket).glob(f"*/{slot.prefix}{object_keys.segment_key(name)}")
    sound = path.read_bytes()
    path.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    maintenance_scrub.scrub(stocked, ADMIN, ScrubRequest())
    assert show(stocked, "2.0.0").replicas[0].state is ReplicaState.DEGRADED
    with pytest.raises(Exception, match="damaged"):
        shallow(stocked, os_snapshot="d1")
    path.write_bytes(sound)
    again = shallow(stocked, os_snapshot="d1")
    assert again.replicas[0].state is ReplicaState.COMPLETED
    assert same(stocked, stock.second)
    audit(stocked)


def test_its_manifest_and_its_source_s_are_made_good_from_each_other(stocked: Installation, stock: Stock) -> None:
    """They are the same bytes in one slot, under two names."""
    make_disk(stocked, "d1")
    made = shallow(stocked, os_snapshot="d1")
    slot = slot_of(made)
    uids = (show(stocked).version.uid, made.version.uid)
    folder = stocked.home / "regions" / slot.bucket
    for uid in uids:
        (path,) = folder.glob(f"*/{slot.prefix}{object_keys.manifest_key(uid, OS_DISK)}")
        path.unlink()
        found = [each for each in maintenance_scrub.scrub(stocked, ADMIN, ScrubRequest()) if each.damaged]
        assert [(each.slot.uid, each.unrepaired, each.restored) for each in found] == [(slot.uid, [], 1)]
        assert path.is_file()
    assert same(stocked, stock.first)
    audit(stocked)


def test_it_outlives_the_gallery_of_its_source(stocked: Installation, stock: Stock) -> None:
    galleries.create_gallery(stocked, ADMIN, group=GROUP, name="g2", location="southcentralus")
    definitions.create_definition(
        stocked, ADMIN, group=GROUP, gallery="g2", name="copy", publisher="p", offer="o", sku="s", os_type=OsType.LINUX
    )
    (pool_uid,) = {slot.key.pool_uid for slot in all_slots(stocked)}
    more: dict[str, Any] = {"gallery": "g2", "definition": "copy", "replication_mode": ReplicationMode.SHALLOW}
    asked = request("1.0.0", HERE, **more)
    made = versions_create.create_version(stocked, ADMIN, asked, image_version=f"{GROUP}/{GALLERY}/ubuntu/1.0.0")
    assert slot_of(made).key.pool_uid == pool_uid, "of another gallery"
    disk = make_disk(stocked, "d1")
    delete(stocked)
    definitions.delete_definition(stocked, ADMIN, group=GROUP, gallery=GALLERY, name="ubuntu")
    told: list[str] = []
    object.__setattr__(stocked, "subscriber", lambda event: told.append(event.detail))
    galleries.delete_gallery(stocked, ADMIN, group=GROUP, name=GALLERY)
    assert disk.resource_id in told[-1]
    assert "1 Shallow image versions of other galleries" in told[-1]
    disks.delete_disk(stocked, ADMIN, group=GROUP, name="d1")
    collect(stocked)
    place: dict[str, Any] = {"group": GROUP, "gallery": "g2", "definition": "copy", "version": made.version.name}
    reference = ImageReference.parse(f"{GROUP}/g2/copy")
    disks_export.export_image(
        stocked, ADMIN, reference=reference, path=stocked.home / "o.raw", format=DiskFormat.RAW, overwrite=True
    )
    assert sha256_of(stocked.home / "o.raw") == sha256_of(stock.first)
    audit_collected(stocked)
    versions_delete.delete_version(stocked, ADMIN, **place)
    collect(stocked)
    with stocked.catalog.reading() as transaction:
        assert pool_uid not in {pool.uid for pool in transaction.pools.list()}, "nothing stands on it any more"
    audit_collected(stocked)
