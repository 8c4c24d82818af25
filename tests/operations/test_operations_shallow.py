"""Shallow versions: a manifest of their own where their source lies, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import ImageRefused, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.names import ImageReference
from imgstore.domain.requests import DiskRequest, ImageRequest, ScrubRequest
from imgstore.domain.resources import ReplicationMode, Slot, StorageAccountType
from imgstore.domain.settings.limits import Limits
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.views import VersionView
from imgstore.operations.billing import statements
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.operations.versions import delete as versions_delete
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_collected,
    collect,
    content,
    create_definition,
    create_version,
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

pytest_plugins = ["tests.support.published_gallery"]

HERE = ("southcentralus",)


def shallow(
    installation: Installation, version: str = "2.0.0", targets: tuple[str, ...] = HERE, **source: Any
) -> VersionView:
    more = {name: source.pop(name) for name in ("replication_mode", "storage_account_type") if name in source}
    more.setdefault("replication_mode", ReplicationMode.SHALLOW)
    return create_version(installation, ADMIN, request(version, targets, **more), **source)


def make(installation: Installation, name: str, source: Path | str, **more: Any) -> None:
    more.setdefault("location", "southcentralus")
    create_from_source(installation, ADMIN, DiskRequest(group=GROUP, name=name, source=str(source), **more))


def segments(installation: Installation) -> dict[str, frozenset[bytes]]:
    """What lies in each slot of every pool."""
    slots = (*all_slots(installation), *own_slots(installation))
    return {slot.uid: frozenset(content(installation, slot).segments) for slot in slots}


def same(installation: Installation, raw: Path, version: str = "2.0.0") -> bool:
    export(installation, installation.home / "o.raw", version=version)
    return compute_sha256(installation.home / "o.raw") == compute_sha256(raw)


def slot_of(view: VersionView) -> Slot:
    (replica,) = view.replicas
    return replica.slot


def test_shallow_version_stays_in_the_slot_of_its_disk_and_outlives_the_disk(
    published: Installation, samples: SampleImages
) -> None:
    make(published, "d1", samples.second, storage_account_type=StorageAccountType.STANDARD_ZRS)
    before = segments(published)
    made = shallow(published, os_snapshot="d1")
    assert segments(published) == before, "nothing was copied"
    (own,) = own_slots(published)
    assert slot_of(made) == own
    assert made.version.replication_mode is ReplicationMode.SHALLOW
    assert made.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert made.version.target_regions[0].storage_account_type is StorageAccountType.STANDARD_ZRS
    assert object_keys.manifest_key(made.version.uid, "os") in content(published, own).manifests
    assert shallow(published, os_snapshot="d1") == made, "the same command does nothing"
    assert same(published, samples.second)
    audit(published)
    with published.catalog.reading() as transaction:
        billed = {each.owner_uid: each.stored_bytes for each in transaction.ledger.open_intervals(own.uid)}
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    collect(published)
    assert same(published, samples.second)
    with published.catalog.reading() as transaction:
        (left,) = transaction.ledger.open_intervals(own.uid)
    assert left.owner_uid == made.version.uid
    assert left.party.version == "2.0.0"
    assert left.stored_bytes > billed[made.version.uid], "the disk's bytes are the version's from now on"
    statements.show_bill(published, ADMIN)
    audit(published)
    audit_collected(published)
    delete(published, "2.0.0")
    collect(published)
    assert (content(published, own).segments, content(published, own).manifests) == ({}, {})
    audit(published)
    audit_collected(published)


def test_disks_of_a_gallery_snapshots_images_and_versions_are_sources(
    published: Installation, samples: SampleImages
) -> None:
    first, second = (make_disk(published, f"d{turn}") for turn in range(2))
    assert (first.replica, second.replica) == (0, 1)
    before = segments(published)
    assert slot_of(shallow(published, "2.0.0", os_snapshot="d1")) == second.slot, "the second replica's slot"
    make(published, "s0", "d0")
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="s0", data_sources=["s0"]))
    both = shallow(published, "2.0.1", managed_image="i1")
    assert (slot_of(both), both.version.disk_keys) == (first.slot, ("os", "lun-0"))
    of_version = shallow(published, "2.0.2", image_version=f"{GROUP}/{GALLERY}/ubuntu/2.0.1")
    assert of_version.version.disk_keys == ("os", "lun-0")
    assert segments(published) == before
    delete(published)
    for version in ("2.0.0", "2.0.1", "2.0.2"):
        assert same(published, samples.first, version)
    make_disk(published, "later", version="2.0.0")
    collect(published)
    audit(published, collected=True)
    audit_collected(published)


def test_shallow_version_from_a_file_is_ingested(published: Installation, samples: SampleImages) -> None:
    made = publish(published, samples.second, "2.0.0", HERE, replication_mode=ReplicationMode.SHALLOW)
    assert slot_of(made) in all_slots(published)
    assert same(published, samples.second)
    audit(published)


def test_other_regions_counts_and_types_are_refused(published: Installation, samples: SampleImages) -> None:
    make(published, "d1", samples.second)
    many: tuple[tuple[str, ...], ...] = (("southcentralus", "eastus"), ("southcentralus=2",))
    for targets in many:
        with pytest.raises(InvalidInput, match="the only replica is in the region"):
            shallow(published, targets=targets, os_snapshot="d1")
    with pytest.raises(InvalidInput, match="storage account type of its source: Standard_LRS"):
        shallow(published, targets=("southcentralus=1=Premium_LRS",), os_snapshot="d1")
    make(published, "apart", samples.first, storage_account_type=StorageAccountType.STANDARD_ZRS)
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1", data_sources=["apart"]))
    with pytest.raises(InvalidInput, match="in one slot of its location"):
        shallow(published, managed_image="i1")
    elsewhere = request("2.0.0", ["eastus"], location="eastus", replication_mode=ReplicationMode.SHALLOW)
    with pytest.raises(InvalidInput, match="is not found"):
        create_version(published, ADMIN, elsewhere, os_snapshot="d1")
    assert [str(each.version.name) for each in _all(published)] == ["1.0.0"]
    audit(published)


def _all(installation: Installation) -> list[VersionView]:
    return gallery_versions.list_versions(installation, ADMIN, group=GROUP, gallery=GALLERY, definition="ubuntu")


def test_replication_mode_cannot_be_changed(published: Installation, samples: SampleImages) -> None:
    make_disk(published, "d0")
    make_disk(published, "d1")
    made = shallow(published, os_snapshot="d1")
    for targets in (["southcentralus", "eastus"], ["southcentralus=2"]):
        with pytest.raises(InvalidInput, match="Shallow"):
            retarget(published, targets, "2.0.0")
    with pytest.raises(PropertyChangeNotAllowed, match="storageAccountType"):
        retarget(published, ["southcentralus=1=Premium_LRS"], "2.0.0")
    with pytest.raises(InvalidInput, match="Shallow"):
        update(published, "2.0.0", replica_count=2)
    changed = update(published, "2.0.0", tags={"a": "b"}, target_regions=request("2.0.0", HERE).target_regions)
    assert changed.replicas == made.replicas, "its ordinal is 1, and it stays"
    assert shallow(published, os_snapshot="d1").replicas == made.replicas
    with pytest.raises(PropertyChangeNotAllowed, match="replicationMode"):
        shallow(published, os_snapshot="d1", replication_mode=ReplicationMode.FULL)
    with pytest.raises(PropertyChangeNotAllowed, match="replicationMode"):
        publish(published, samples.first, replication_mode=ReplicationMode.SHALLOW, targets=HERE)
    audit(published)


def test_disks_of_shallow_versions_have_another_limit(published: Installation, samples: SampleImages) -> None:
    size = samples.second.stat().st_size
    make(published, "d1", samples.second)
    small = Limits(image_bytes_max=size - 1, shallow_image_bytes_max=size)
    object.__setattr__(published, "limits", small)
    with pytest.raises(ImageRefused, match="image_bytes_max"):
        shallow(published, os_snapshot="d1", replication_mode=ReplicationMode.FULL)
    shallow(published, os_snapshot="d1")
    object.__setattr__(published, "limits", Limits(shallow_image_bytes_max=size - 1))
    with pytest.raises(ImageRefused, match="shallow_image_bytes_max"):
        shallow(published, "2.0.1", os_snapshot="d1")


def test_damage_degrades_a_shallow_version_and_scrub_restores_it(
    published: Installation, samples: SampleImages
) -> None:
    make(published, "d1", samples.second)
    made = shallow(published, os_snapshot="d1")
    slot = slot_of(made)
    name = min(content(published, slot).segments)
    (path,) = (published.home / "regions" / slot.bucket).glob(f"*/{slot.prefix}{object_keys.segment_key(name)}")
    sound = path.read_bytes()
    path.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    maintenance_scrub.scrub(published, ADMIN, ScrubRequest())
    assert show(published, "2.0.0").replicas[0].state is ReplicaState.DEGRADED
    with pytest.raises(Exception, match="damaged"):
        shallow(published, os_snapshot="d1")
    path.write_bytes(sound)
    again = shallow(published, os_snapshot="d1")
    assert again.replicas[0].state is ReplicaState.COMPLETED
    assert same(published, samples.second)
    audit(published)


def test_shallow_manifest_and_source_manifest_repair_each_other(published: Installation, samples: SampleImages) -> None:
    """They are the same bytes in one slot, under two names."""
    make_disk(published, "d1")
    made = shallow(published, os_snapshot="d1")
    slot = slot_of(made)
    uids = (show(published).version.uid, made.version.uid)
    folder = published.home / "regions" / slot.bucket
    for uid in uids:
        (path,) = folder.glob(f"*/{slot.prefix}{object_keys.manifest_key(uid, OS_DISK)}")
        path.unlink()
        found = [each for each in maintenance_scrub.scrub(published, ADMIN, ScrubRequest()) if each.damaged]
        assert [(each.slot.uid, each.unrepaired, each.restored) for each in found] == [(slot.uid, [], 1)]
        assert path.is_file()
    assert same(published, samples.first)
    audit(published)


def test_shallow_version_outlives_the_gallery_of_its_source(published: Installation, samples: SampleImages) -> None:
    galleries.create_gallery(published, ADMIN, group=GROUP, name="g2", location="southcentralus")
    create_definition(published, "copy", gallery="g2")
    (pool_uid,) = {slot.key.pool_uid for slot in all_slots(published)}
    more: dict[str, Any] = {"gallery": "g2", "definition": "copy", "replication_mode": ReplicationMode.SHALLOW}
    asked = request("1.0.0", HERE, **more)
    made = create_version(published, ADMIN, asked, image_version=f"{GROUP}/{GALLERY}/ubuntu/1.0.0")
    assert slot_of(made).key.pool_uid == pool_uid, "of another gallery"
    disk = make_disk(published, "d1")
    delete(published)
    definitions.delete_definition(published, ADMIN, group=GROUP, gallery=GALLERY, name="ubuntu")
    told: list[str] = []
    object.__setattr__(published, "subscriber", lambda event: told.append(event.detail))
    galleries.delete_gallery(published, ADMIN, group=GROUP, name=GALLERY)
    assert disk.resource_id in told[-1]
    assert "1 Shallow image versions of other galleries" in told[-1]
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    collect(published)
    place: dict[str, Any] = {"group": GROUP, "gallery": "g2", "definition": "copy", "version": made.version.name}
    reference = ImageReference.parse(f"{GROUP}/g2/copy")
    disks_export.export_image(
        published, ADMIN, reference=reference, path=published.home / "o.raw", format=DiskFormat.RAW, overwrite=True
    )
    assert compute_sha256(published.home / "o.raw") == compute_sha256(samples.first)
    audit_collected(published)
    versions_delete.delete_version(published, ADMIN, **place)
    collect(published)
    with published.catalog.reading() as transaction:
        assert pool_uid not in {pool.uid for pool in transaction.pools.list()}, "nothing stands on it any more"
    audit_collected(published)
