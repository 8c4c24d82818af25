"""A repeated command after the removal of the source succeeds if no byte of the source is needed any more."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import (
    ImgstoreError,
    InvalidInput,
    LostRace,
    NotFound,
    PropertyChangeNotAllowed,
    SourceNotFound,
)
from imgstore.domain.identity.access import Principal
from imgstore.domain.requests import DataSnapshot, DataVhd, DiskRequest, ImageRequest, MachineRequest, OsProfile
from imgstore.domain.resources import DiskKind, ManagedDisk, ReplicationMode
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import VersionView
from imgstore.formats import LocalFile, open_disk
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images, machines
from imgstore.operations.machines.create import create_machine
from imgstore.operations.replication.disk_ingest import ingest_disk
from imgstore.operations.versions import create as versions_create
from tests.support.sample_disks import compute_sha256, make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    audit,
    create_sample_gallery,
    create_version,
    delete,
    open_home,
    request,
)

pytest_plugins = ["tests.support.published_gallery"]

HERE = ("southcentralus",)
MORE = ("southcentralus", "westus2")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """A home with an empty gallery."""
    with open_home(tmp_path / "home") as opened:
        create_sample_gallery(opened)
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A raw disk of 8 MiB."""
    return make_raw(tmp_path / "one.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=MIB)


def create(
    installation: Installation, version: str = "1.0.0", targets: tuple[str, ...] = HERE, **more: Any
) -> VersionView:
    """A version from whatever is stated."""
    sha256 = more.pop("sha256", None)
    return create_version(installation, ADMIN, request(version, targets, sha256=sha256), **more)


def make(installation: Installation, name: str, source: Path | str, kind: DiskKind = DiskKind.DISK) -> ManagedDisk:
    """A disk or snapshot from whatever is stated."""
    asked = DiskRequest(group=GROUP, name=name, source=str(source), location="southcentralus", kind=kind)
    return create_from_source(installation, ADMIN, asked)


def remove(installation: Installation, name: str, kind: DiskKind = DiskKind.DISK) -> None:
    """A disk, snapshot or managed image leaves."""
    disks.delete_disk(installation, ADMIN, group=GROUP, name=name, kind=kind)


def test_a_disk_that_another_process_has_ingested_is_not_ingested_again(installation: Installation, file: Path) -> None:
    """The second of two equal commands read the row before the first one ended. A new manifest would be billed wrongly."""
    made = make(installation, "s1", file, DiskKind.SNAPSHOT)
    with closing(open_disk(LocalFile(file), format=None, scratch=installation.scratch)) as reader:
        read_before = replace(made, provisioning_state=ProvisioningState.CREATING)
        with pytest.raises(LostRace, match="Another process has ingested the snapshot 's1'"):
            ingest_disk(installation, read_before, reader, reader.identity())
    audit(installation)


def complete_regions(view: VersionView) -> set[str]:
    """Where the version is complete."""
    return {each.slot.key.region for each in view.replicas if each.state is ReplicaState.COMPLETED}


def test_version_is_completed_without_the_source_file(installation: Installation, file: Path, tmp_path: Path) -> None:
    first = create(installation, os_vhd_uri=str(file))
    file.unlink()
    again = create(installation, targets=MORE, os_vhd_uri=f"file://{file}")
    assert again.version.uid == first.version.uid
    assert complete_regions(again) == set(MORE), "its own slot is the source of the other"
    with pytest.raises(SourceNotFound, match=f"There is no file {tmp_path}/other.raw"):
        create(installation, os_vhd_uri=str(tmp_path / "other.raw"))
    with pytest.raises(SourceNotFound, match="There is no file"):
        create(installation, "2.0.0", os_vhd_uri=str(file))
    make_raw(file, seed=2, virtual_bytes=8 * MIB, content_bytes=MIB)
    with pytest.raises(PropertyChangeNotAllowed, match=r"osDiskImage\.source"):
        create(installation, os_vhd_uri=str(file))
    audit(installation)


def test_missing_source_with_unread_bytes_is_named_in_the_error(
    installation: Installation, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise InvalidInput("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(versions_create, "publish", fails)
        with pytest.raises(InvalidInput, match="the store is away"):
            create(installation, os_vhd_uri=str(file))
    kept = file.rename(file.with_name("kept"))
    with pytest.raises(SourceNotFound, match=f"There is no file {file}"):
        create(installation, os_vhd_uri=str(file))
    kept.rename(file)
    assert complete_regions(create(installation, os_vhd_uri=str(file))) == set(HERE)


def test_a_sha256_that_was_never_checked_needs_the_file(installation: Installation, file: Path) -> None:
    known = compute_sha256(file)
    create(installation, os_vhd_uri=str(file))
    create(installation, "2.0.0", os_vhd_uri=str(file), sha256=known)
    file.unlink()
    with pytest.raises(SourceNotFound):
        create(installation, os_vhd_uri=str(file), sha256=known)
    create(installation, "2.0.0", os_vhd_uri=str(file), sha256=known.upper())
    with pytest.raises(PropertyChangeNotAllowed):
        create(installation, "2.0.0", os_vhd_uri=str(file), sha256="0" * 64)


def test_each_disk_is_looked_at_by_itself(installation: Installation, file: Path, tmp_path: Path) -> None:
    data = make_raw(tmp_path / "data.raw", seed=3, virtual_bytes=8 * MIB, content_bytes=MIB)
    snapshot = make(installation, "s1", data, DiskKind.SNAPSHOT)
    other = make_raw(tmp_path / "other.raw", seed=4, virtual_bytes=8 * MIB, content_bytes=MIB)
    stated: dict[str, Any] = {
        "os_vhd_uri": str(file),
        "data_snapshots": [DataSnapshot(lun=0, source="s1")],
        "data_vhds": [DataVhd(lun=1, uri=str(other))],
    }
    first = create(installation, **stated)
    remove(installation, "s1", DiskKind.SNAPSHOT)
    other.unlink()
    assert create(installation, **stated).version == first.version
    assert create(
        installation, **stated | {"data_snapshots": [DataSnapshot(lun=0, source=snapshot.resource_id.upper())]}
    )
    with pytest.raises(SourceNotFound, match="Source s2 is not found"):
        create(installation, **stated | {"data_snapshots": [DataSnapshot(lun=0, source="s2")]})
    make_raw(file, seed=9, virtual_bytes=8 * MIB, content_bytes=MIB)
    with pytest.raises(PropertyChangeNotAllowed, match=r"osDiskImage\.source"):
        create(installation, **stated)
    audit(installation)


def test_deleted_source_images_machines_and_versions_are_not_needed(installation: Installation, file: Path) -> None:
    make(installation, "d1", file)
    images.create_image(installation, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1"))
    create_machine(
        installation, ADMIN, MachineRequest(group=GROUP, name="m1", image="i1", profile=OsProfile(admin_username="u"))
    )
    machines.generalize_machine(installation, ADMIN, group=GROUP, name="m1")
    create(installation, "1.0.0", managed_image="i1")
    create(installation, "2.0.0", virtual_machine="m1")
    create(installation, "3.0.0", os_snapshot="d1")
    of_version = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"
    create(installation, "4.0.0", image_version=of_version)
    machines.delete_machine(installation, ADMIN, group=GROUP, name="m1")
    remove(installation, "i1", DiskKind.IMAGE)
    remove(installation, "d1")
    assert complete_regions(create(installation, "1.0.0", MORE, managed_image="i1")) == set(MORE)
    assert complete_regions(create(installation, "2.0.0", MORE, virtual_machine="m1")) == set(MORE)
    assert complete_regions(create(installation, "3.0.0", MORE, os_snapshot="d1")) == set(MORE)
    delete(installation, "1.0.0")
    assert complete_regions(create(installation, "4.0.0", MORE, image_version=of_version)) == set(MORE)
    refused: list[dict[str, Any]] = [{"managed_image": "i2"}, {"virtual_machine": "m2"}, {"os_snapshot": "d2"}]
    for stated in refused:
        with pytest.raises(SourceNotFound, match="is not found"):
            create(installation, "2.0.0", **stated)
    with pytest.raises((SourceNotFound, NotFound)):
        create(installation, "4.0.0", image_version=f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.1")
    audit(installation, quiet=False)


def test_shallow_version_is_completed_without_the_source(installation: Installation, file: Path) -> None:
    make(installation, "d1", file)
    asked = request("1.0.0", HERE, replication_mode=ReplicationMode.SHALLOW)
    first = create_version(installation, ADMIN, asked, os_snapshot="d1")
    remove(installation, "d1")
    assert create_version(installation, ADMIN, asked, os_snapshot="d1").version == first.version
    audit(installation)


@pytest.mark.parametrize("kind", [DiskKind.DISK, DiskKind.SNAPSHOT])
def test_disk_of_a_deleted_file(
    installation: Installation, file: Path, kind: DiskKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    first = make(installation, "x1", file.name, kind)
    assert first.provisioning_state is ProvisioningState.SUCCEEDED
    file.unlink()
    assert make(installation, "x1", file.name, kind) == first, "a bare name that may be a snapshot's too"
    assert make(installation, "x1", file, kind) == first
    with pytest.raises(ImgstoreError, match="There is no file"):
        make(installation, "x2", file, kind)
    with pytest.raises(SourceNotFound, match="is not found"):
        make(installation, "x1", "y1", kind)
    make_raw(file, seed=2, virtual_bytes=8 * MIB, content_bytes=MIB)
    with pytest.raises(PropertyChangeNotAllowed, match="sourceUri"):
        make(installation, "x1", file, kind)


def test_image_of_deleted_files(installation: Installation, file: Path, tmp_path: Path) -> None:
    data = make_raw(tmp_path / "data.raw", seed=3, virtual_bytes=8 * MIB, content_bytes=MIB)
    asked = ImageRequest(group=GROUP, name="i1", source=str(file), data_sources=[str(data)], location="southcentralus")
    first = images.create_image(installation, ADMIN, asked)
    file.unlink()
    assert images.create_image(installation, ADMIN, asked) == first, "the other is looked at still"
    data.unlink()
    assert images.create_image(installation, ADMIN, asked) == first
    nobody = Principal(name="nobody")
    with pytest.raises(ImgstoreError):
        images.create_image(installation, nobody, asked)
