"""Versions from what is stored here: disks, snapshots, managed images, other versions."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.disks.version_disks import lun_of
from imgstore.domain.errors import InvalidInput, NotFound, PropertyChangeNotAllowed, WorkHeld
from imgstore.domain.names import VersionName
from imgstore.domain.progress import ProgressEvent
from imgstore.domain.requests import DataSnapshot, DataVhd, DiskRequest, ImageRequest, VersionRequest
from imgstore.domain.resources import (
    DiskKind,
    HyperVGeneration,
    ImageVersion,
    OsProperties,
    OsState,
    OsType,
    StorageAccountType,
)
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import VersionView
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import galleries, sharing
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from tests.support.sample_disks import compute_sha256, make_raw, patch_disk
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    charges,
    content,
    create_definition,
    create_version,
    delete,
    export,
    make_disk,
    open_home,
    publish,
    publish_disks,
    request,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]

HERE = ("southcentralus",)
ELSEWHERE = "9e1c0f53-8a3d-4a39-b3a9-1fd0d1a2c001"
FIRST = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"


def publish_from(
    installation: Installation, version: str = "2.0.0", targets: tuple[str, ...] = HERE, **source: Any
) -> VersionView:
    """A version of the definition (or of `definition`) from a stored source."""
    where = {name: source.pop(name) for name in ("gallery", "definition", "location") if name in source}
    return create_version(installation, ADMIN, request(version, targets, **where), **source)


def make(installation: Installation, name: str, source: Path | str, **more: Any) -> str:
    """A disk's resource id."""
    more.setdefault("location", "southcentralus")
    asked = DiskRequest(group=GROUP, name=name, source=str(source), **more)
    return create_from_source(installation, ADMIN, asked).resource_id


def segments(installation: Installation) -> dict[str, frozenset[bytes]]:
    """What lies in each slot of the gallery."""
    return {str(slot.key): frozenset(content(installation, slot).segments) for slot in all_slots(installation)}


def other_definition(installation: Installation) -> dict[str, Any]:
    """One that has no version that could be a base."""
    create_definition(installation, "other")
    return {"definition": "other"}


def other_gallery(installation: Installation, **more: Any) -> None:
    galleries.create_gallery(installation, ADMIN, group=GROUP, name="g2", location="southcentralus")
    create_definition(installation, "copy", gallery="g2", **more)


@pytest.fixture
def patched(published: Installation, samples: SampleImages) -> Installation:
    """With a version that was taken in on top of another: taken in alone, its disk would make other segments."""
    publish(published, samples.second, "1.0.1", ["southcentralus=2"])
    return published


def test_a_version_of_the_same_gallery_stores_nothing_twice(patched: Installation, samples: SampleImages) -> None:
    there = other_definition(patched)
    source = show(patched, "1.0.1")
    before = segments(patched)
    made = publish_from(patched, image_version=f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.1", **there)
    assert segments(patched) == before
    assert made.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert made.version.os_disk.source.location == source.definition_path.version_id(source.version.name)
    assert made.version.os_disk.source.file_bytes == made.version.os_disk.virtual_bytes
    assert source.version.os_disk.disk_digest is not None
    assert made.version.os_disk.source.stamp == source.version.os_disk.disk_digest.hex()
    again = publish_from(patched, image_version=f"{GROUP}/{GALLERY}/{DEFINITION}/latest", **there)
    assert again.version == made.version
    publish_from(patched, "3.0.0", image_version=f"{GROUP}/{GALLERY}/other/2.0.0")
    delete(patched)
    delete(patched, "1.0.1")
    export(patched, patched.home / "o.raw", version="3.0.0")
    assert compute_sha256(patched.home / "o.raw") == compute_sha256(samples.second)
    audit(patched)


@pytest.mark.parametrize("kind", [DiskKind.SNAPSHOT, DiskKind.DISK])
def test_a_disk_of_the_gallery_stores_nothing_twice(
    patched: Installation, samples: SampleImages, kind: DiskKind
) -> None:
    there = other_definition(patched)
    for turn in range(2):  # Whichever replica its turn gives it, the version's first slot has the same content.
        make_disk(patched, f"d{turn}", version="1.0.1")
        word = f"d{turn}" if kind is DiskKind.DISK else make(patched, f"s{turn}", f"d{turn}", kind=kind)
        before = segments(patched)
        made = publish_from(patched, f"2.0.{turn}", os_snapshot=word, **there)
        assert segments(patched) == before
        assert made.version.os_disk.virtual_bytes == samples.second.stat().st_size
    audit(patched)


def test_a_disk_from_a_file_becomes_a_version(published: Installation, samples: SampleImages) -> None:
    source = make(published, "d1", samples.second)
    made = publish_from(published, os_snapshot=source, targets=("southcentralus", "eastus"))
    assert made.version.os_disk.source.location == source
    export(published, published.home / "o.raw", "eastus", "2.0.0")
    assert compute_sha256(published.home / "o.raw") == compute_sha256(samples.second)
    with pytest.raises(PropertyChangeNotAllowed, match="source"):
        publish_from(published, image_version=FIRST, targets=("southcentralus", "eastus"))
    audit(published)


def test_a_managed_image_becomes_a_version(published: Installation, samples: SampleImages) -> None:
    make(published, "d1", samples.second)
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1"))
    made = publish_from(published, managed_image="i1")
    assert made.version.os_disk.source.location.endswith("/images/i1")
    export(published, published.home / "o.raw", version="2.0.0")
    assert compute_sha256(published.home / "o.raw") == compute_sha256(samples.second)
    version_id = show(published).definition_path.version_id(show(published).version.name)
    assert publish_from(published, "2.0.1", managed_image=version_id).version.os_disk.source.location == version_id
    audit(published)


def test_version_of_another_gallery_is_read_nearby_and_egress_is_metered(
    published: Installation, samples: SampleImages
) -> None:
    other_gallery(published)
    there: dict[str, Any] = {"gallery": "g2", "definition": "copy"}
    before = charges(published)
    publish_from(published, "1.0.0", ("eastus",), location="eastus", image_version=FIRST, **there)
    assert charges(published) == before, "eastus has a replica"
    view = publish_from(published, "1.0.1", ("northeurope",), location="northeurope", image_version=FIRST, **there)
    new = charges(published)[len(before) :]
    assert [(row.kind, row.source, row.target) for row in new] == [(ChargeKind.EGRESS, "southcentralus", "northeurope")]
    stored = content(published, all_slots(published)[0]).segments
    assert new[0].delivered_bytes == sum(stored.values())
    assert new[0].party.gallery == "g2"
    publish_from(published, "1.0.1", ("northeurope",), location="northeurope", image_version=FIRST, **there)
    assert charges(published)[len(before) :] == new
    # Invariants S4 and M8.
    assert view.version.os_disk.virtual_bytes == samples.first.stat().st_size


def test_exactly_one_source_is_named(published: Installation, samples: SampleImages) -> None:
    sources: tuple[dict[str, Any], ...] = ({}, {"os_vhd_uri": str(samples.second), "os_snapshot": "d1"})
    for source in sources:
        with pytest.raises(InvalidInput, match="One and only one source type") as caught:
            publish_from(published, **source)
        assert caught.value.error_code == "InvalidParameter"


def test_missing_source_or_source_in_another_region_is_refused(published: Installation, samples: SampleImages) -> None:
    make(published, "far", samples.second, location="eastus")
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="pair", source="far", data_sources=["far"]))
    message = r"is not found\. Please check source exists, and is in the same region as gallery image version being"
    sources: tuple[dict[str, Any], ...] = (
        {"os_snapshot": "far"},
        {"os_snapshot": "none"},
        {"os_snapshot": str(samples.first)},
        {"managed_image": "none"},
        {"managed_image": "pair"},
        {"image_version": f"{GROUP}/{GALLERY}/{DEFINITION}/9.0.0"},
    )
    for source in sources:
        with pytest.raises(InvalidInput, match=message):
            publish_from(published, **source)
    assert (
        len(gallery_versions.list_versions(published, ADMIN, group=GROUP, gallery=GALLERY, definition=DEFINITION)) == 1
    )
    audit(published)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (
            {"os_state": OsState.SPECIALIZED},
            "OS state of the source .* is Generalized, and the OS state of 'copy' is Specialized",
        ),
        ({"hyper_v_generation": HyperVGeneration.V2}, "hypervisor generation of the source .* is V1"),
        ({"os_type": OsType.WINDOWS}, "OS type of the source .* is Linux, and the OS type of 'copy' is Windows"),
    ],
)
def test_declared_operating_systems_must_match(
    published: Installation, samples: SampleImages, declared: dict[str, Any], words: str
) -> None:
    other_gallery(published, **declared)
    there: dict[str, Any] = {"gallery": "g2", "definition": "copy"}
    make_disk(published, "d1")
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1"))
    sources: tuple[dict[str, Any], ...] = ({"image_version": FIRST}, {"os_snapshot": "d1"}, {"managed_image": "i1"})
    for source in sources:
        with pytest.raises(InvalidInput, match=words) as caught:
            publish_from(published, "1.0.0", **there, **source)
        assert caught.value.error_code == "InvalidParameter"
    make(published, "plain", samples.first)
    publish_from(published, "1.0.0", **there, os_snapshot="plain")
    said = OsProperties(os_type=OsType.LINUX, os_state=OsState.GENERALIZED, hyper_v_generation=HyperVGeneration.V1)
    make(published, "said", samples.first, os_properties=said)
    with pytest.raises(InvalidInput, match=words):
        publish_from(published, "1.0.1", **there, os_snapshot="said")


def test_source_is_not_deleted_during_the_read(published: Installation, samples: SampleImages) -> None:
    make(published, "d1", samples.second, storage_account_type=StorageAccountType.STANDARD_ZRS)
    refused: list[str] = []

    def delete_it(event: ProgressEvent) -> None:
        if event.task == "read d1" and not refused:
            refused.append("asked")
            with pytest.raises(WorkHeld) as caught:
                disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
            refused.append(caught.value.error_code)

    with open_home(published.home, delete_it) as reading:
        publish_from(reading, os_snapshot="d1")
    assert len(refused) == 2
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    export(published, published.home / "o.raw", version="2.0.0")
    assert compute_sha256(published.home / "o.raw") == compute_sha256(samples.second)
    audit(published)


# -- data disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def raws(samples: SampleImages, tmp_path: Path) -> dict[str, Path]:
    """The disks of 1.1.0, by key."""
    data = make_raw(tmp_path / "data.raw", seed=7, virtual_bytes=16 * MIB, content_bytes=6 * MIB)
    return {"os": samples.second, "lun-0": patch_disk(data, tmp_path / "data2.raw", seed=8), "lun-5": samples.first}


@pytest.fixture
def several(published: Installation, samples: SampleImages, raws: dict[str, Path]) -> Installation:
    """With 1.1.0 of three disks in one region: taken in alone, its first data disk would make other segments."""
    publish_disks(published, samples.first, {0: raws["lun-0"].with_name("data.raw"), 5: samples.rebuilt}, "1.0.5", HERE)
    publish_disks(published, raws["os"], {0: raws["lun-0"], 5: raws["lun-5"]}, "1.1.0", HERE)
    return published


def check_disks(installation: Installation, raws: dict[str, Path], version: str) -> None:
    assert show(installation, version).version.disk_keys == tuple(raws)
    for key, raw in raws.items():
        export(installation, installation.home / "o.raw", version=version, lun=lun_of(key))
        assert compute_sha256(installation.home / "o.raw") == compute_sha256(raw), key


def test_all_data_disks_of_a_version_come_with_it_and_nothing_is_stored_twice(
    several: Installation, samples: SampleImages, raws: dict[str, Path]
) -> None:
    before = segments(several)
    source = f"{GROUP}/{GALLERY}/{DEFINITION}/1.1.0"
    publish_from(several, "1.0.0", image_version=source, **other_definition(several))
    assert segments(several) == before, "each disk's own manifest is its base, where no version is"
    made = publish_from(several, image_version=source)
    check_disks(several, raws, "2.0.0")
    assert publish_from(several, image_version=source).version == made.version
    with pytest.raises(PropertyChangeNotAllowed, match="Data Disk"):
        publish_from(several, os_snapshot=make(several, "d1", samples.second))
    audit(several)


def test_data_disks_from_another_region_are_charged_one_by_one(several: Installation, samples: SampleImages) -> None:
    other_gallery(several)
    before = charges(several)
    there: dict[str, Any] = {"gallery": "g2", "definition": "copy", "location": "northeurope"}
    for _ in range(2):
        publish_from(several, "1.0.0", ("northeurope",), image_version=f"{GROUP}/{GALLERY}/{DEFINITION}/1.1.0", **there)
    new = charges(several)[len(before) :]
    assert sorted(row.key.rpartition("/")[2] for row in new) == ["lun-0", "lun-5", "os"]
    with several.catalog.reading() as transaction:
        rows = transaction.manifests.of_owner(show(several, "1.1.0").version.uid)
        pool = next(slot.key.pool_uid for slot in all_slots(several))
        stored = [transaction.segments.stored_bytes(pool, named_segments([row])) for row in rows]
    assert sorted(row.delivered_bytes for row in new) == sorted(stored)


@pytest.mark.parametrize("content_mib", [1, 5])
def test_a_disk_from_another_region_is_charged_at_each_size(
    published: Installation, tmp_path: Path, content_mib: int
) -> None:
    """A disk may have no content after its first piece of 4 MiB, which readers of the partition table fetch, too (M8)."""
    source = tmp_path / "small.raw"
    source.write_bytes(random.Random(1).randbytes(content_mib * MIB) + bytes(8 * MIB))
    publish(published, source, "1.1.0", HERE)
    before = charges(published)
    image = f"{GROUP}/{GALLERY}/{DEFINITION}/1.1.0"
    for _ in range(2):
        publish_from(published, "1.2.0", ("northeurope",), image_version=image, location="northeurope")
    (row,) = charges(published)[len(before) :]
    assert row.key.endswith("/source/os")
    assert row.kind is ChargeKind.EGRESS
    assert row.delivered_bytes > content_mib * MIB


def test_snapshots_are_data_disks_next_to_a_snapshot_or_file(
    published: Installation, samples: SampleImages, raws: dict[str, Path]
) -> None:
    for name, raw in zip(("s0", "s1", "s2"), raws.values(), strict=True):
        make(published, name, raw, kind=DiskKind.SNAPSHOT)
    data = (DataSnapshot(lun=0, source="s1"), DataSnapshot(lun=5, source="s2"))
    publish_from(published, "2.0.0", os_snapshot="s0", data_snapshots=data)
    check_disks(published, raws, "2.0.0")
    publish_from(published, "2.0.1", os_vhd_uri=str(samples.second), data_snapshots=data)
    check_disks(published, raws, "2.0.1")
    mixed = (DataVhd(lun=5, uri=str(samples.first)),)
    publish_from(published, "2.0.2", os_snapshot="s0", data_snapshots=data[:1], data_vhds=mixed)
    check_disks(published, raws, "2.0.2")
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"data_snapshots": (data[0], DataSnapshot(lun=0, source="s2"))}, "duplicate LUNs"),
        ({"data_snapshots": data, "data_vhds": mixed}, "duplicate LUNs"),
        ({"data_snapshots": (data[0], DataSnapshot(lun=1, source="s1"))}, "cannot point to the same blob"),
        ({"data_snapshots": (DataSnapshot(lun=1, source="s0"),)}, "cannot point to same blob"),
        ({"data_snapshots": (DataSnapshot(lun=1, source="none"),)}, "is not found"),
    )
    for source, words in refusals:
        with pytest.raises(InvalidInput, match=words):
            publish_from(published, "2.1.0", os_snapshot="s0", **source)
    audit(published)


def test_version_of_a_shared_gallery_is_a_source(published: Installation, samples: SampleImages) -> None:
    unique = f"{published.subscription}-{GALLERY.upper()}"
    shared = f"/SharedGalleries/{unique}/Images/{DEFINITION}/Versions/1.0.0"
    with pytest.raises(NotFound):
        publish_from(published, image_version=shared)
    sharing.share_add(published, ADMIN, group=GROUP, name=GALLERY, subscriptions=[ELSEWHERE])
    with open_home(published.home, subscription=ELSEWHERE) as other:
        galleries.create_gallery(other, ADMIN, group="theirs", name="g3", location="southcentralus")
        create_definition(other, "copy", group="theirs", gallery="g3")
        asked = VersionRequest(group="theirs", gallery="g3", definition="copy", version=VersionName(1, 0, 0))
        made = create_version(other, ADMIN, asked, image_version=shared)
        assert made.version.os_disk.source.location == shared, "not by its group, which is the owner's affair"
        _store_source_as_older_code(
            other, made.version, show(published).definition_path.version_id(show(published).version.name)
        )
        again = create_version(other, ADMIN, asked, image_version=shared)
    assert again.version.uid == made.version.uid


def _store_source_as_older_code(installation: Installation, version: ImageVersion, location: str) -> None:
    """Store the full id of a shared image as the source."""
    with installation.catalog.transaction() as transaction:
        disks = [replace(each, source=replace(each.source, location=location)) for each in version.disks]
        transaction.versions.update(replace(version, disks=tuple(disks)))
