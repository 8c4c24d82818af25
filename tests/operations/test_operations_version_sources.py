"""Versions from what is stored here: disks, snapshots, managed images, other versions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
from imgstore.operations.gallery import definitions, galleries, sharing
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.slots.completion import named_by
from imgstore.operations.versions import create as versions_create
from imgstore.testing.sample_disks import make_raw, sha256_of
from imgstore.testing.sample_disks import patched as patched_raw
from imgstore.testing.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    Stock,
    all_slots,
    audit,
    charges,
    content,
    delete,
    export,
    make_disk,
    open_home,
    publish,
    publish_disks,
    request,
    show,
)

pytest_plugins = ["imgstore.testing.published_gallery"]

HERE = ("southcentralus",)
ELSEWHERE = "9e1c0f53-8a3d-4a39-b3a9-1fd0d1a2c001"
FIRST = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"


def publish_from(
    installation: Installation, version: str = "2.0.0", targets: tuple[str, ...] = HERE, **source: Any
) -> VersionView:
    """A version of the definition (or of `definition`) from a stored source."""
    where = {name: source.pop(name) for name in ("gallery", "definition", "location") if name in source}
    return versions_create.create_version(installation, ADMIN, request(version, targets, **where), **source)


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
    definitions.create_definition(
        installation,
        ADMIN,
        group=GROUP,
        gallery=GALLERY,
        name="other",
        publisher="p",
        offer="o",
        sku="other",
        os_type=OsType.LINUX,
    )
    return {"definition": "other"}


def other_gallery(installation: Installation, **more: Any) -> None:
    galleries.create_gallery(installation, ADMIN, group=GROUP, name="g2", location="southcentralus")
    more = {"os_type": OsType.LINUX} | more
    definitions.create_definition(
        installation, ADMIN, group=GROUP, gallery="g2", name="copy", publisher="p", offer="o", sku="s", **more
    )


@pytest.fixture
def patched(stocked: Installation, stock: Stock) -> Installation:
    """With a version that was taken in on top of another: taken in alone, its disk would make other segments."""
    publish(stocked, stock.second, "1.0.1", ["southcentralus=2"])
    return stocked


def test_a_version_of_the_same_gallery_stores_nothing_twice(patched: Installation, stock: Stock) -> None:
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
    assert sha256_of(patched.home / "o.raw") == sha256_of(stock.second)
    audit(patched)


@pytest.mark.parametrize("kind", [DiskKind.SNAPSHOT, DiskKind.DISK])
def test_a_disk_of_the_gallery_stores_nothing_twice(patched: Installation, stock: Stock, kind: DiskKind) -> None:
    there = other_definition(patched)
    for turn in range(2):  # Whichever replica its turn gives it, the version's first slot has the same content.
        make_disk(patched, f"d{turn}", version="1.0.1")
        word = f"d{turn}" if kind is DiskKind.DISK else make(patched, f"s{turn}", f"d{turn}", kind=kind)
        before = segments(patched)
        made = publish_from(patched, f"2.0.{turn}", os_snapshot=word, **there)
        assert segments(patched) == before
        assert made.version.os_disk.virtual_bytes == stock.second.stat().st_size
    audit(patched)


def test_a_disk_from_a_file_becomes_a_version(stocked: Installation, stock: Stock) -> None:
    source = make(stocked, "d1", stock.second)
    made = publish_from(stocked, os_snapshot=source, targets=("southcentralus", "eastus"))
    assert made.version.os_disk.source.location == source
    export(stocked, stocked.home / "o.raw", "eastus", "2.0.0")
    assert sha256_of(stocked.home / "o.raw") == sha256_of(stock.second)
    with pytest.raises(PropertyChangeNotAllowed, match="source"):
        publish_from(stocked, image_version=FIRST, targets=("southcentralus", "eastus"))
    audit(stocked)


def test_a_managed_image_becomes_a_version(stocked: Installation, stock: Stock) -> None:
    make(stocked, "d1", stock.second)
    images.create_image(stocked, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1"))
    made = publish_from(stocked, managed_image="i1")
    assert made.version.os_disk.source.location.endswith("/images/i1")
    export(stocked, stocked.home / "o.raw", version="2.0.0")
    assert sha256_of(stocked.home / "o.raw") == sha256_of(stock.second)
    version_id = show(stocked).definition_path.version_id(show(stocked).version.name)
    assert publish_from(stocked, "2.0.1", managed_image=version_id).version.os_disk.source.location == version_id
    audit(stocked)


def test_another_gallery_s_version_is_read_near_and_crossing_is_metered(stocked: Installation, stock: Stock) -> None:
    other_gallery(stocked)
    there: dict[str, Any] = {"gallery": "g2", "definition": "copy"}
    before = charges(stocked)
    publish_from(stocked, "1.0.0", ("eastus",), location="eastus", image_version=FIRST, **there)
    assert charges(stocked) == before, "eastus has a replica"
    view = publish_from(stocked, "1.0.1", ("northeurope",), location="northeurope", image_version=FIRST, **there)
    new = charges(stocked)[len(before) :]
    assert [(row.kind, row.source, row.target) for row in new] == [(ChargeKind.EGRESS, "southcentralus", "northeurope")]
    stored = content(stocked, all_slots(stocked)[0]).segments
    assert new[0].delivered_bytes == sum(stored.values())
    assert new[0].party.gallery == "g2"
    publish_from(stocked, "1.0.1", ("northeurope",), location="northeurope", image_version=FIRST, **there)
    assert charges(stocked)[len(before) :] == new
    # Invariants S4 and M8.
    assert view.version.os_disk.virtual_bytes == stock.first.stat().st_size


def test_exactly_one_source_is_named(stocked: Installation, stock: Stock) -> None:
    sources: tuple[dict[str, Any], ...] = ({}, {"os_vhd_uri": str(stock.second), "os_snapshot": "d1"})
    for source in sources:
        with pytest.raises(InvalidInput, match="One and only one source type") as caught:
            publish_from(stocked, **source)
        assert caught.value.error_code == "InvalidParameter"


def test_what_is_not_there_or_elsewhere_is_no_source(stocked: Installation, stock: Stock) -> None:
    make(stocked, "far", stock.second, location="eastus")
    images.create_image(stocked, ADMIN, ImageRequest(group=GROUP, name="pair", source="far", data_sources=["far"]))
    message = r"is not found\. Please check source exists, and is in the same region as gallery image version being"
    sources: tuple[dict[str, Any], ...] = (
        {"os_snapshot": "far"},
        {"os_snapshot": "none"},
        {"os_snapshot": str(stock.first)},
        {"managed_image": "none"},
        {"managed_image": "pair"},
        {"image_version": f"{GROUP}/{GALLERY}/{DEFINITION}/9.0.0"},
    )
    for source in sources:
        with pytest.raises(InvalidInput, match=message):
            publish_from(stocked, **source)
    assert len(gallery_versions.list_versions(stocked, ADMIN, group=GROUP, gallery=GALLERY, definition=DEFINITION)) == 1
    audit(stocked)


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
def test_systems_that_are_declared_must_match(
    stocked: Installation, stock: Stock, declared: dict[str, Any], words: str
) -> None:
    other_gallery(stocked, **declared)
    there: dict[str, Any] = {"gallery": "g2", "definition": "copy"}
    make_disk(stocked, "d1")
    images.create_image(stocked, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1"))
    sources: tuple[dict[str, Any], ...] = ({"image_version": FIRST}, {"os_snapshot": "d1"}, {"managed_image": "i1"})
    for source in sources:
        with pytest.raises(InvalidInput, match=words) as caught:
            publish_from(stocked, "1.0.0", **there, **source)
        assert caught.value.error_code == "InvalidParameter"
    make(stocked, "plain", stock.first)
    publish_from(stocked, "1.0.0", **there, os_snapshot="plain")
    said = OsProperties(os_type=OsType.LINUX, os_state=OsState.GENERALIZED, hyper_v_generation=HyperVGeneration.V1)
    make(stocked, "said", stock.first, os_properties=said)
    with pytest.raises(InvalidInput, match=words):
        publish_from(stocked, "1.0.1", **there, os_snapshot="said")


def test_a_source_stays_while_it_is_read(stocked: Installation, stock: Stock) -> None:
    make(stocked, "d1", stock.second, storage_account_type=StorageAccountType.STANDARD_ZRS)
    refused: list[str] = []

    def delete_it(event: ProgressEvent) -> None:
        if event.task == "read d1" and not refused:
            refused.append("asked")
            with pytest.raises(WorkHeld) as caught:
                disks.delete_disk(stocked, ADMIN, group=GROUP, name="d1")
            refused.append(caught.value.error_code)

    with open_home(stocked.home, delete_it) as reading:
        publish_from(reading, os_snapshot="d1")
    assert len(refused) == 2
    disks.delete_disk(stocked, ADMIN, group=GROUP, name="d1")
    export(stocked, stocked.home / "o.raw", version="2.0.0")
    assert sha256_of(stocked.home / "o.raw") == sha256_of(stock.second)
    audit(stocked)


# -- data disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def raws(stock: Stock, tmp_path: Path) -> dict[str, Path]:
    """The disks of 1.1.0, by key."""
    data = make_raw(tmp_path / "data.raw", seed=7, virtual_bytes=16 * MIB, content_bytes=6 * MIB)
    return {"os": stock.second, "lun-0": patched_raw(data, tmp_path / "data2.raw", seed=8), "lun-5": stock.first}


@pytest.fixture
def several(stocked: Installation, stock: Stock, raws: dict[str, Path]) -> Installation:
    """With 1.1.0 of three disks in one region: taken in alone, its first data disk would make other segments."""
    publish_disks(stocked, stock.first, {0: raws["lun-0"].with_name("data.raw"), 5: stock.rebuilt}, "1.0.5", HERE)
    publish_disks(stocked, raws["os"], {0: raws["lun-0"], 5: raws["lun-5"]}, "1.1.0", HERE)
    return stocked


def check_disks(installation: Installation, raws: dict[str, Path], version: str) -> None:
    assert show(installation, version).version.disk_keys == tuple(raws)
    for key, raw in raws.items():
        export(installation, installation.home / "o.raw", version=version, lun=lun_of(key))
        assert sha256_of(installation.home / "o.raw") == sha256_of(raw), key


def test_all_data_disks_of_a_version_come_with_it_and_nothing_is_stored_twice(
    several: Installation, stock: Stock, raws: dict[str, Path]
) -> None:
    before = segments(several)
    source = f"{GROUP}/{GALLERY}/{DEFINITION}/1.1.0"
    publish_from(several, "1.0.0", image_version=source, **other_definition(several))
    assert segments(several) == before, "each disk's own manifest is its base, where no version is"
    made = publish_from(several, image_version=source)
    check_disks(several, raws, "2.0.0")
    assert publish_from(several, image_version=source).version == made.version
    with pytest.raises(PropertyChangeNotAllowed, match="Data Disk"):
        publish_from(several, os_snapshot=make(several, "d1", stock.second))
    audit(several)


def test_data_disks_from_another_region_are_charged_one_by_one(several: Installation, stock: Stock) -> None:
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
        stored = [transaction.segments.stored_bytes(pool, named_by([row])) for row in rows]
    assert sorted(row.delivered_bytes for row in new) == sorted(stored)


def test_snapshots_stand_for_data_disks_beside_a_snapshot_or_file(
    stocked: Installation, stock: Stock, raws: dict[str, Path]
) -> None:
    for name, raw in zip(("s0", "s1", "s2"), raws.values(), strict=True):
        make(stocked, name, raw, kind=DiskKind.SNAPSHOT)
    data = (DataSnapshot(lun=0, source="s1"), DataSnapshot(lun=5, source="s2"))
    publish_from(stocked, "2.0.0", os_snapshot="s0", data_snapshots=data)
    check_disks(stocked, raws, "2.0.0")
    publish_from(stocked, "2.0.1", os_vhd_uri=str(stock.second), data_snapshots=data)
    check_disks(stocked, raws, "2.0.1")
    mixed = (DataVhd(lun=5, uri=str(stock.first)),)
    publish_from(stocked, "2.0.2", os_snapshot="s0", data_snapshots=data[:1], data_vhds=mixed)
    check_disks(stocked, raws, "2.0.2")
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"data_snapshots": (data[0], DataSnapshot(lun=0, source="s2"))}, "duplicate LUNs"),
        ({"data_snapshots": data, "data_vhds": mixed}, "duplicate LUNs"),
        ({"data_snapshots": (data[0], DataSnapshot(lun=1, source="s1"))}, "cannot point to the same blob"),
        ({"data_snapshots": (DataSnapshot(lun=1, source="s0"),)}, "cannot point to same blob"),
        ({"data_snapshots": (DataSnapshot(lun=1, source="none"),)}, "is not found"),
    )
    for source, words in refusals:
        with pytest.raises(InvalidInput, match=words):
            publish_from(stocked, "2.1.0", os_snapshot="s0", **source)
    audit(stocked)


def test_a_shared_gallery_s_version_is_a_source_elsewhere(stocked: Installation, stock: Stock) -> None:
    unique = f"{stocked.subscription}-{GALLERY.upper()}"
    shared = f"/SharedGalleries/{unique}/Images/{DEFINITION}/Versions/1.0.0"
    with pytest.raises(NotFound):
        publish_from(stocked, image_version=shared)
    sharing.share_add(stocked, ADMIN, group=GROUP, name=GALLERY, subscriptions=[ELSEWHERE])
    with open_home(stocked.home, subscription=ELSEWHERE) as other:
        galleries.create_gallery(other, ADMIN, group="theirs", name="g3", location="southcentralus")
        definitions.create_definition(
            other,
            ADMIN,
            group="theirs",
            gallery="g3",
            name="copy",
            publisher="p",
            offer="o",
            sku="s",
            os_type=OsType.LINUX,
        )
        asked = VersionRequest(group="theirs", gallery="g3", definition="copy", version=VersionName(1, 0, 0))
        made = versions_create.create_version(other, ADMIN, asked, image_version=shared)
        assert made.version.os_disk.source.location == shared, "not by its group, which is the owner's affair"
        _store_source_as_older_code(
            other, made.version, show(stocked).definition_path.version_id(show(stocked).version.name)
        )
        again = versions_create.create_version(other, ADMIN, asked, image_version=shared)
    assert again.version.uid == made.version.uid


def _store_source_as_older_code(installation: Installation, version: ImageVersion, location: str) -> None:
    """Store the full id of a shared image as the source."""
    with installation.catalog.transaction() as transaction:
        disks = [replace(each, source=replace(each.source, location=location)) for each in version.disks]
        transaction.versions.update(replace(version, disks=tuple(disks)))
