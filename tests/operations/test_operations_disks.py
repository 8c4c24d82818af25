"""Managed disks: distributed round robin under concurrency, made once, and independent of the version."""

import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import (
    Conflict,
    ImageNotAvailable,
    InvalidInput,
    NotFound,
    OutputError,
    PropertyChangeNotAllowed,
)
from imgstore.domain.names import ImageReference
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.views import Export
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.installation import Installation
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    content,
    create_sample_gallery,
    delete,
    export_disk,
    make_disk,
    open_home,
    publish,
    reference,
)

pytest_plugins = ["tests.support.published_gallery"]

THREADS = 16


def made_at_once(installation: Installation, count: int) -> Counter[int]:
    """How many of `count` disks each replica was given, made by many threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(lambda number: make_disk(installation, f"d{number}"), range(count)))
    assert {disk.provisioning_state for disk in made} == {ProvisioningState.SUCCEEDED}
    return Counter(disk.replica for disk in made)


def test_round_robin_is_within_one_under_many_threads(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus=3"])
        counts = made_at_once(installation, 32)
        assert sorted(counts) == [0, 1, 2]
        assert max(counts.values()) - min(counts.values()) <= 1, counts
        audit(installation)


@pytest.mark.engine("postgresql")
def test_round_robin_on_postgresql_from_two_processes_homes(
    tmp_path: Path, samples: SampleImages, postgresql: str
) -> None:
    """Two installations share a database, as two workers do. The round robin counter is in the database."""
    with (
        open_home(tmp_path / "home", database=postgresql) as one,
        open_home(tmp_path / "home", database=postgresql) as two,
    ):
        create_sample_gallery(one)
        publish(one, samples.first, targets=["southcentralus=3"])
        with ThreadPoolExecutor(THREADS) as pool:
            made = list(pool.map(lambda number: make_disk((one, two)[number % 2], f"d{number}"), range(31)))
        counts = Counter(disk.replica for disk in made)
        assert max(counts.values()) - min(counts.values()) <= 1, counts
        audit(two)


def test_making_a_disk_again_gives_the_same_disk(published: Installation, samples: SampleImages) -> None:
    first = make_disk(published, "d1")
    publish(published, samples.second, "1.0.1")
    assert make_disk(published, "d1") == first, "latest has moved on; the disk has not"
    assert make_disk(published, "D1", "South Central US", "1.0.0") == first
    other = make_disk(published, "d2", version="1.0.0")
    assert (first.replica, other.replica) == (0, 1), "a repeat took a turn"
    tagged = disks.create_disk(
        published, ADMIN, DiskOfImageRequest(group=GROUP, name="d1", reference=reference(), tags={"a": "1"})
    )
    assert (tagged.uid, dict(tagged.tags)) == (first.uid, {"a": "1"})
    assert [each.name for each in disks.list_disks(published, ADMIN, group=GROUP)] == ["d1", "d2"]


def test_source_of_a_disk_cannot_change(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.0.1")
    make_disk(published, "d1", version="1.0.0")
    with pytest.raises(PropertyChangeNotAllowed, match="'location'"):
        make_disk(published, "d1", "westus2")
    with pytest.raises(PropertyChangeNotAllowed, match=r"galleryImageReference\.id"):
        make_disk(published, "d1", version="1.0.1")
    assert len(disks.list_disks(published, ADMIN)) == 1


def test_refused_disks_leave_nothing(published: Installation) -> None:
    elsewhere = ImageReference.parse(
        "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.Compute"
        "/galleries/g1/images/ubuntu"
    )

    def make(name: str, location: str, image: ImageReference) -> None:
        disks.create_disk(
            published, ADMIN, DiskOfImageRequest(group="fresh", name=name, location=location, reference=image)
        )

    with pytest.raises(InvalidInput, match="disk name is invalid"):
        make("-bad-", "eastus", reference())
    with pytest.raises(InvalidInput, match="atlantis"):
        make("d1", "atlantis", reference())
    with pytest.raises(NotFound, match="Parent resource 'g1' not found"):
        make("d1", "eastus", elsewhere)
    with pytest.raises(NotFound):
        make("d1", "eastus", ImageReference.parse("rg/g1/nothing"))
    with pytest.raises(ImageNotAvailable, match="North Europe"):
        make("d1", "northeurope", reference("1.0.0"))
    assert disks.list_disks(published, ADMIN) == []
    with published.catalog.reading() as transaction:
        assert [group.name for group in transaction.groups.list(published.subscription)] == [GROUP], "a group was made"


def test_a_disk_outlives_its_version(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    disk = make_disk(published, "d1")
    body = disk.slot.prefix + disk.body_key
    delete(published)
    for slot in all_slots(published):
        mine = (
            {object_keys.manifest_key(disk.uid, "os"), body.removeprefix(slot.prefix)} if slot == disk.slot else set()
        )
        assert set(content(published, slot).manifests) == mine
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path)
    publish(published, samples.second, "1.0.1")
    audit_served(published, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    with pytest.raises(NotFound):
        disks.show_disk(published, ADMIN, group=GROUP, name="d1")
    delete(published, "1.0.1")
    assert [content(published, slot).manifests for slot in all_slots(published)] == [{}] * 4
    audit(published)


def test_deletion_of_a_disk_keeps_the_version_and_other_disks(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    for name in ("d1", "d2", "d3"):
        make_disk(published, name)
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    audit(published)
    delete(published)
    disks.delete_disk(published, ADMIN, group=GROUP, name="d2")
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path)


@pytest.mark.parametrize("form", list(DiskFormat)[:4])
def test_export_is_complete_and_overwrites_only_on_request(
    published: Installation, samples: SampleImages, tmp_path: Path, form: DiskFormat
) -> None:
    if form is DiskFormat.QCOW2 and not shutil.which("qemu-img"):
        pytest.skip("no qemu-img: apt install qemu-utils")
    make_disk(published, "d1")
    path = tmp_path / "out" / f"d1.{form}"
    path.parent.mkdir()

    def write(*, overwrite: bool = False, pad: bool = False) -> Export:
        return disks_export.export_disk(
            published, ADMIN, group=GROUP, name="d1", path=path, format=form, overwrite=overwrite, pad=pad
        )

    written = write(pad=True)
    assert written.file_bytes == path.stat().st_size
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write(pad=True)
    assert path.read_bytes() == before
    write(overwrite=True, pad=True)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert samples.first.stat().st_size == written.virtual_bytes


def test_export_into_a_missing_folder_is_refused(published: Installation, tmp_path: Path) -> None:
    make_disk(published, "d1")
    with pytest.raises(OutputError) as caught:
        export_disk(published, tmp_path / "none" / "d1.raw", "d1")
    assert "mkdir" in (caught.value.hint or "")
    with published.catalog.reading() as transaction:
        assert transaction.works.list_open() == [], "a failed export kept its pin"


def test_incomplete_disk_is_not_exported(published: Installation, tmp_path: Path) -> None:
    """The zone of the replica is missing during the creation. The disk waits for the same command."""
    zones = published.home / "regions" / "imgstore-eastus"
    os.rename(zones / "zone-1", zones / "away")
    (zones / "zone-1").touch()  # no folder: the zone is down
    with pytest.raises(Exception, match="zone-1"):
        make_disk(published, "d1", "eastus")
    with pytest.raises(Conflict, match="is not ready"):
        export_disk(published, tmp_path / "o.raw", "d1")
    (zones / "zone-1").unlink()
    os.rename(zones / "away", zones / "zone-1")
    disk = make_disk(published, "d1", "eastus")
    assert disk.provisioning_state is ProvisioningState.SUCCEEDED
    export_disk(published, tmp_path / "o.raw", "d1")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(Path(stocked_source(published)))
    audit(published)


def stocked_source(installation: Installation) -> str:
    with installation.catalog.reading() as transaction:
        gallery = transaction.galleries.list(installation.subscription)[0]
        definition = transaction.definitions.list(gallery.uid)[0]
        return transaction.versions.list(definition.uid)[0].os_disk.source.location
