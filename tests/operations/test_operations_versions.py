"""Versions: idempotent publication, refusals without visible results, and reads from any replica."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import (
    ImageNotAvailable,
    ImageRefused,
    ImgstoreError,
    InvalidInput,
    NotFound,
    ObjectCorrupt,
    ParentNotFound,
    PropertyChangeNotAllowed,
    ReplicationFailed,
    SourceChanged,
    WorkHeld,
)
from imgstore.domain.names import VersionName
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.resources import Slot
from imgstore.domain.settings.limits import Limits
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import VersionView
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks import verify as disks_verify
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import Body
from tests.support.sample_disks import compute_sha256, make_raw, patch_disk, write_vhd
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    content,
    create_sample_gallery,
    delete,
    export,
    make_disk,
    named_segments,
    open_home,
    publish,
    reference,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

COMPLETED, DEGRADED = ReplicaState.COMPLETED, ReplicaState.DEGRADED


def listed(installation: Installation) -> list[str]:
    views = gallery_versions.list_versions(installation, ADMIN, group=GROUP, gallery=GALLERY, definition=DEFINITION)
    return [str(each.version.name) for each in views]


def objects(installation: Installation) -> set[str]:
    """Every object that any zone of the home holds."""
    top = installation.home / "regions"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()} if top.exists() else set()


def slot_of(installation: Installation, region: str, ordinal: int = 0) -> Slot:
    return next(each for each in all_slots(installation) if (each.key.region, each.key.ordinal) == (region, ordinal))


def segment_files(installation: Installation, slot: Slot, version: str = "1.0.0") -> list[Path]:
    """The files, in every zone, of the segments that the version names in a slot."""
    owner = show(installation, version).version.uid
    names = named_segments(installation.locator.store(slot), slot, object_keys.manifest_key(owner, "os"))
    found = [
        zone / slot.prefix / object_keys.segment_key(name)
        for name in names
        for zone in (installation.home / "regions" / slot.bucket).iterdir()
    ]
    return [path for path in found if path.exists()]


def flip(path: Path) -> None:
    """Change one bit in the middle, in place: whoever reads meanwhile never sees a shorter file."""
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


# -- published --------------------------------------------------------------------------------------------------------


def test_the_main_job(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    view = show(published)
    assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert states(view) == dict.fromkeys(("southcentralus/0", "southcentralus/1", "westus2/0", "eastus/0"), COMPLETED)
    publish(published, samples.second, "1.0.1")
    publish(published, samples.rebuilt, "1.0.2")
    make_disk(published, "d1", "westus2", "1.0.1")
    expected = {"1.0.0": samples.first, "1.0.1": samples.second, "1.0.2": samples.rebuilt}
    audit_served(published, expected, tmp_path)
    audit(published)
    by_version = {row.party.version: row.delivered_bytes for row in charges(published) if row.target == "eastus"}
    assert by_version["1.0.1"] < by_version["1.0.0"] / 50, "a patch of 12 blocks cost more than its blocks"
    assert by_version["1.0.2"] < by_version["1.0.0"] / 50, "a rebuilt disk cost more than its table of files"


def test_every_container_of_a_disk_is_the_same_version(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    even = make_raw(tmp_path / "even.raw", seed=5)
    fixed = write_vhd(even, tmp_path / "fixed.vhd")
    dynamic = write_vhd(even, tmp_path / "dynamic.vhd", DiskFormat.VHD_DYNAMIC)
    digests = {
        publish(empty, source, f"1.0.{number}", ["southcentralus"]).version.os_disk.disk_digest
        for number, source in enumerate((even, fixed, dynamic))
    }
    assert len(digests) == 1
    out = tmp_path / "out.vhd"
    disks_export.export_image(empty, ADMIN, reference=reference("1.0.1"), path=out)
    assert compute_sha256(out) == compute_sha256(fixed)
    assert disks_verify.verify_file(empty, ADMIN, path=out, reference=reference("1.0.0")).matches
    other = disks_verify.verify_file(empty, ADMIN, path=samples.first, reference=reference("1.0.0"))
    assert not other.matches


def test_repeated_create_changes_only_changeable_properties(published: Installation, samples: SampleImages) -> None:
    before, rows, lying = show(published), charges(published), objects(published)
    again = publish(
        published, samples.first, sha256=compute_sha256(samples.first), tags={"a": "1"}, exclude_from_latest=True
    )
    assert again.version == replace(
        before.version,
        tags={"a": "1"},
        exclude_from_latest=True,
        disks=(replace(before.version.os_disk, source_sha256=compute_sha256(samples.first)),),
    )
    assert again.replicas == before.replicas
    assert charges(published) == rows
    assert lying <= objects(published)
    (revision,) = objects(published) - lying
    assert f"/owners/{before.version.uid}/" in revision
    # Invariant W6.
    with pytest.raises(ImageNotAvailable, match="no latest image version"):
        make_disk(published, "d1")


def test_latest_is_the_highest_that_is_complete_in_the_region(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.10.0", ["southcentralus"])
    publish(published, samples.rebuilt, "1.9.0", ["southcentralus", "eastus"])
    publish(published, samples.rebuilt, "2.0.0", ["southcentralus", "eastus"], exclude_from_latest=True)
    wanted = {"southcentralus": "1.10.0", "eastus": "1.9.0", "westus2": "1.0.0"}
    for region, version in wanted.items():
        assert make_disk(published, f"d-{region}", region).source_reference.endswith(f"/versions/{version}")


# -- refused ----------------------------------------------------------------------------------------------------------


def truncated(samples: SampleImages, folder: Path) -> Path:
    vhd = write_vhd(make_raw(folder / "even.raw", seed=5), folder / "cut.vhd")
    os.truncate(vhd, vhd.stat().st_size - MIB)
    return vhd


def nothing(_stock: SampleImages, folder: Path) -> Path:
    (folder / "empty.raw").touch()
    return folder / "empty.raw"


def whole(samples: SampleImages, _folder: Path) -> Path:
    return samples.first


Refusal = tuple[Callable[[SampleImages, Path], Path], dict[str, Any], type[ImgstoreError], str, str]
REFUSALS: dict[str, Refusal] = {
    "unknown region": (
        whole,
        {"targets": ["southcentralus", "atlantis"]},
        InvalidInput,
        "InvalidParameter",
        "atlantis",
    ),
    "unknown source region": (whole, {"location": "atlantis"}, InvalidInput, "InvalidParameter", "atlantis"),
    "source not a target": (
        whole,
        {"targets": ["eastus", "westus2"]},
        InvalidInput,
        "InvalidParameter",
        "profile regions 'eastus, westus2' must contain the location of image version 'South Central US'",
    ),
    "duplicate regions": (
        whole,
        {"targets": ["southcentralus", "eastus", "East US"]},
        InvalidInput,
        "InvalidParameter",
        "Duplicate regions are not allowed in target publishing regions",
    ),
    "no replicas": (whole, {"targets": ["southcentralus=0"]}, InvalidInput, "InvalidParameter", "between 1 and 10"),
    "too many replicas": (
        whole,
        {"targets": ["southcentralus=11"]},
        InvalidInput,
        "InvalidParameter",
        "The value 11 of parameter regionalReplicaCount is out of range",
    ),
    "too many by default": (whole, {"replica_count": 99}, InvalidInput, "InvalidParameter", "The value 99"),
    "zrs in one zone": (
        whole,
        {"targets": ["southcentralus", "eastus=1=Standard_ZRS"]},
        InvalidInput,
        "InvalidParameter",
        "Standard_ZRS is not supported in region 'East US'",
    ),
    "no gallery": (whole, {"gallery": "nowhere"}, ParentNotFound, "ParentResourceNotFound", "'nowhere' not found"),
    "no definition": (
        whole,
        {"definition": "nothing"},
        ParentNotFound,
        "ParentResourceNotFound",
        "'nothing' not found",
    ),
    "not a sha256": (whole, {"sha256": "beef"}, InvalidInput, "InvalidParameter", "SHA-256 is invalid"),
    "another sha256": (whole, {"sha256": "0" * 64}, InvalidInput, "InvalidParameter", "does not have the SHA-256"),
    "no file": (lambda _, folder: folder / "none.raw", {}, InvalidInput, "InvalidParameter", "none.raw"),
    "a scheme": (lambda *_: Path("ftp://host/disk.vhd"), {}, InvalidInput, "InvalidParameter", ""),
    "empty file": (nothing, {}, ImageRefused, "InvalidImage", "is empty"),
    "truncated vhd": (truncated, {}, ImageRefused, "", ""),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_leaves_nothing_visible(
    empty: Installation, samples: SampleImages, tmp_path: Path, case: str
) -> None:
    make, more, kind, code, text = REFUSALS[case]
    targets = more.pop("targets", ["southcentralus"]) if "targets" in more else ["southcentralus", "eastus"]
    source, before = make(samples, tmp_path), objects(empty)
    with pytest.raises(kind) as caught:
        publish(empty, source, targets=targets, **more)
    assert text in caught.value.message
    assert caught.value.error_code == (code or caught.value.error_code)
    assert None not in (caught.value.found, caught.value.expected, caught.value.hint)
    assert listed(empty) == []
    assert objects(empty) == before
    assert charges(empty) == []


@pytest.mark.parametrize("name", ["1.0", "1.0.0.0", "01.0.0", "1.0.-1", "1.0.2147483648", "v1.0.0", "latest", ""])
def test_a_bad_version_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"Major\(int\).Minor\(int\).Patch\(int\)") as caught:
        VersionName.parse(name)
    assert (caught.value.error_code, caught.value.target) == ("InvalidParameter", "galleryImageVersionName")


def test_an_image_over_the_limit_is_refused(tmp_path: Path, samples: SampleImages) -> None:
    limit = samples.first.stat().st_size
    with open_home(tmp_path / "home", limits=Limits(image_bytes_max=limit - 512)) as installation:
        create_sample_gallery(installation)
        before = objects(installation)
        with pytest.raises(ImageRefused, match=f"exceeds the limit of {limit - 512} bytes"):
            publish(installation, samples.first)
        assert (listed(installation), objects(installation)) == ([], before)
    with open_home(tmp_path / "home", limits=Limits(image_bytes_max=limit)) as installation:
        publish(installation, samples.first)


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"source": "second"}, "properties.storageProfile.osDiskImage.source"),
        ({"location": "eastus"}, "location"),
    ],
)
def test_identity_of_a_version_cannot_change(
    published: Installation, samples: SampleImages, changed: dict[str, Any], path: str
) -> None:
    before, rows, lying = show(published), charges(published), objects(published)
    given = dict(changed)
    source = getattr(samples, given.pop("source", "first"))
    with pytest.raises(PropertyChangeNotAllowed, match=f"Changing property '{path}") as caught:
        publish(published, source, **given)
    assert (caught.value.error_code, caught.value.status) == ("PropertyChangeNotAllowed", 409)
    assert (show(published), charges(published), objects(published)) == (before, rows, lying)


def test_other_bytes_with_the_old_time_stamp_are_noticed_by_their_sha256(empty: Installation, tmp_path: Path) -> None:
    source = make_raw(tmp_path / "disk.raw", seed=1)
    publish(empty, source, targets=["southcentralus"], sha256=compute_sha256(source))
    times = source.stat()
    flip(source)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(PropertyChangeNotAllowed, match=r"osDiskImage\.source"):
        publish(empty, source, targets=["southcentralus"], sha256=compute_sha256(source))


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, samples: SampleImages) -> None:
    source = tmp_path / "disk.raw"
    shutil.copyfile(samples.first, source)
    touched: list[ProgressEvent] = []

    def write_once(event: ProgressEvent) -> None:
        if event.stage is Stage.MOVED and not touched:
            touched.append(event)
            flip(source)

    with open_home(tmp_path / "home", write_once) as installation:
        create_sample_gallery(installation)
        with pytest.raises(SourceChanged, match="changed while it was read"):
            publish(installation, source)
        assert touched
        assert listed(installation) == []
        assert charges(installation) == []
        publish(installation, source)
        audit(installation)
        audit_served(installation, {"1.0.0": source}, tmp_path)


def test_image_found_damaged_during_the_ingest_is_withdrawn(tmp_path: Path) -> None:
    """The file is truncated after the ingest of the first piece."""
    source = make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=48 * MIB, content_bytes=30 * MIB)
    cut: list[ProgressEvent] = []

    def cut_once(event: ProgressEvent) -> None:
        if event.stage is Stage.MOVED and not cut:
            cut.append(event)
            os.truncate(source, 8 * MIB)

    with open_home(tmp_path / "home", cut_once) as installation:
        create_sample_gallery(installation)
        with pytest.raises((ImageRefused, SourceChanged)):
            publish(installation, source, targets=["southcentralus"])
        assert listed(installation) == []
        with installation.catalog.reading() as transaction:
            assert transaction.works.list_open() == []


def test_missing_version_is_reported_with_the_display_name_of_the_region(
    published: Installation, tmp_path: Path
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: make_disk(published, "d1", "northeurope", "1.0.0"),
        lambda: make_disk(published, "d1", "North Europe", "9.9.9"),
        lambda: export(published, tmp_path / "o.raw", "northeurope"),
    ]
    for call in calls:
        with pytest.raises(ImageNotAvailable, match="is not available in North Europe region") as caught:
            call()
        assert (caught.value.error_code, caught.value.status) == ("GalleryImageNotFound", 404)
    with pytest.raises(ImageNotAvailable, match="no latest image version of 'ubuntu' in North Europe"):
        make_disk(published, "d1", "northeurope")
    assert not (tmp_path / "o.raw").exists()


# -- deleted ----------------------------------------------------------------------------------------------------------


def test_a_deleted_version_leaves_no_manifest(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    publish(published, samples.second, "1.0.1")
    delete(published)
    assert listed(published) == ["1.0.1"]
    with pytest.raises(NotFound):
        delete(published)
    kept = show(published, "1.0.1").version.uid
    for slot in all_slots(published):
        assert set(content(published, slot).manifests) == {object_keys.manifest_key(kept, "os")}
    audit(published)
    audit_served(published, {"1.0.1": samples.second}, tmp_path)
    publish(published, samples.first)
    audit_served(published, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)


def test_a_version_is_not_deleted_under_a_reader(tmp_path: Path, samples: SampleImages) -> None:
    shutil.copytree(samples.home, tmp_path / "home")
    refusals: list[WorkHeld] = []

    def delete_meanwhile(event: ProgressEvent) -> None:
        if event.task.startswith("export") and event.stage is Stage.STARTED:
            with pytest.raises(WorkHeld) as caught:
                delete(installation)
            refusals.append(caught.value)

    with open_home(tmp_path / "home", delete_meanwhile) as installation:
        export(installation, tmp_path / "o.raw")
        assert len(refusals) == 1
        assert "is in use" in refusals[0].message
        assert listed(installation) == ["1.0.0"], "the refused deletion hid the version"
        delete(installation)
        audit(installation)
    # Invariant W9.
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)


# -- damaged ----------------------------------------------------------------------------------------------------------


def test_a_damaged_segment_is_read_elsewhere_reported_and_repaired(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    rows = charges(published)
    bad = segment_files(published, slot_of(published, "eastus"))[0]
    flip(bad)
    export(published, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
    view = show(published)
    assert states(view)["eastus/0"] is DEGRADED
    assert [each for each in states(view).values() if each is COMPLETED] == [COMPLETED] * 3
    with pytest.raises(ImageNotAvailable):
        make_disk(published, "d1", "eastus")
    repaired = publish(published, samples.first)
    assert set(states(repaired).values()) == {COMPLETED}
    assert repaired.version.provisioning_state is ProvisioningState.SUCCEEDED
    audit(published)
    assert sum(row.amount for row in charges(published)) == sum(row.amount for row in rows), "the repair was charged"


def test_every_version_that_names_a_damaged_segment_is_degraded(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    publish(published, samples.second, "1.0.1")
    publish(published, make_raw(tmp_path / "other.raw", seed=77), "7.0.0")
    flip(segment_files(published, slot_of(published, "eastus"))[0])
    export(published, tmp_path / "o.raw", "eastus")
    assert states(show(published))["eastus/0"] is DEGRADED
    assert states(show(published, "1.0.1"))["eastus/0"] is DEGRADED
    assert states(show(published, "7.0.0"))["eastus/0"] is COMPLETED, "it does not name the segment"
    publish(published, samples.second, "1.0.1")
    publish(published, samples.first)
    audit(published)


def test_a_base_found_damaged_fails_one_publish_and_the_repeat_does_without_it(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    here = ["southcentralus"]
    publish(empty, samples.first, targets=here)
    files = segment_files(empty, slot_of(empty, "southcentralus", 0))
    flip(max(files, key=lambda path: path.stat().st_size))  # used enough to be kept: nothing reads it before the check
    with pytest.raises(ObjectCorrupt):
        publish(empty, samples.second, "1.0.1", here, verify_full=True)
    assert states(show(empty))["southcentralus/0"] is DEGRADED
    assert COMPLETED not in states(show(empty, "1.0.1")).values()
    assert set(states(publish(empty, samples.second, "1.0.1", here, verify_full=True)).values()) == {COMPLETED}
    audit_served(empty, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)
    publish(empty, samples.first, targets=here)  # Disks may use its segments, so equal segments are made again.
    assert set(states(show(empty)).values()) == {COMPLETED}
    audit_served(empty, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)


def test_invalid_base_is_refused(published: Installation, samples: SampleImages) -> None:
    with pytest.raises(InvalidInput, match=r"Version 9\.9\.9 can't be a base") as caught:
        publish(published, samples.second, "1.0.1", bases=[VersionName(9, 9, 9)])
    assert caught.value.found == "complete in the source slot: 1.0.0"
    publish(published, samples.second, "1.0.1", bases=[VersionName(1, 0, 0)])


def test_a_missing_segment_is_found_and_sent_again(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    segment_files(published, slot_of(published, "southcentralus", 1))[0].unlink()
    for number in range(2):
        export(published, tmp_path / f"o{number}.raw")
        assert compute_sha256(tmp_path / f"o{number}.raw") == compute_sha256(samples.first)
    assert states(show(published))["southcentralus/1"] is DEGRADED
    assert set(states(publish(published, samples.first)).values()) == {COMPLETED}
    audit(published)


def test_a_damaged_source_is_never_copied(empty: Installation, samples: SampleImages, tmp_path: Path) -> None:
    publish(empty, samples.first, targets=["southcentralus=2"])
    publish(empty, samples.second, "1.0.1", ["southcentralus=2", "eastus"])
    delete(empty, "1.0.1")
    flip(segment_files(empty, slot_of(empty, "southcentralus", 0))[0])
    view = publish(empty, samples.second, "1.0.1", ["southcentralus=2", "eastus", "westus2"])
    assert {state for place, state in states(view).items() if "southcentralus" not in place} == {COMPLETED}
    audit_served(empty, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path)


def test_damage_everywhere_is_refused_and_no_file_is_left(published: Installation, tmp_path: Path) -> None:
    name = segment_files(published, slot_of(published, "eastus"))[0].name
    for path in (published.home / "regions").rglob(name):
        flip(path)
    (tmp_path / "out").mkdir()
    with pytest.raises(ObjectCorrupt) as caught:
        export(published, tmp_path / "out" / "o.raw", "eastus")
    assert caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    assert set(states(show(published)).values()) == {DEGRADED}
    with pytest.raises(ImageNotAvailable):
        make_disk(published, "d1", "eastus")


@pytest.mark.parametrize("part", ["manifests/", "segments/"])
def test_segment_damaged_by_the_store_is_never_reported_as_complete(
    empty: Installation, samples: SampleImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The disk of eastus writes a wrong bit once and reports success."""
    real = DirectoryStore._write_durably
    damaged: list[str] = []

    def write(store: DirectoryStore, path: str, body: Body, *, only_if_absent: bool) -> os.stat_result:
        if "imgstore-eastus" in path and part in path and not damaged:
            damaged.append(path)
            body = bytes(body[:-1]) + bytes([body[-1] ^ 1])
        return real(store, path, body, only_if_absent=only_if_absent)

    monkeypatch.setattr(DirectoryStore, "_write_durably", write)
    monkeypatch.setattr(DirectoryStore, "properties", replace(DirectoryStore.properties, verifies_checksum=False))
    with pytest.raises(ReplicationFailed, match=r"region:eastus.*is damaged"):
        publish(empty, samples.first)
    assert len(damaged) == 1
    assert states(show(empty))["eastus/0"] is ReplicaState.FAILED
    assert [row.target for row in charges(empty) if row.target == "eastus"] == []
    publish(empty, samples.first)
    audit(empty)
    audit_served(empty, {"1.0.0": samples.first}, tmp_path)


# -- at once ----------------------------------------------------------------------------------------------------------


def test_many_read_the_same_replica_at_once(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    make_disk(published, "d1")
    with ThreadPoolExecutor(6) as pool:
        calls = [
            pool.submit(
                disks_export.export_disk,
                published,
                ADMIN,
                group=GROUP,
                name="d1",
                path=tmp_path / f"{number}.raw",
                format=DiskFormat.RAW,
            )
            for number in range(6)
        ]
        for call in calls:
            call.result()
    assert {compute_sha256(tmp_path / f"{number}.raw") for number in range(6)} == {compute_sha256(samples.first)}
    audit(published)


def test_another_process_may_read_the_same_disk_at_the_same_time(tmp_path: Path, samples: SampleImages) -> None:
    shutil.copytree(samples.home, tmp_path / "home")

    def meanwhile(event: ProgressEvent) -> None:
        if event.task == "export 1.raw" and event.stage is Stage.STARTED:
            with open_home(tmp_path / "home") as second:
                object.__setattr__(second.keeper, "holder", "elsewhere/boot/1/1")
                export(second, tmp_path / "2.raw", "eastus")

    with open_home(tmp_path / "home", meanwhile) as installation:
        export(installation, tmp_path / "1.raw", "eastus")
        audit(installation)
    assert {compute_sha256(tmp_path / f"{number}.raw") for number in (1, 2)} == {compute_sha256(samples.first)}


def test_a_second_process_at_the_same_version_waits_and_does_nothing_twice(
    tmp_path: Path, samples: SampleImages
) -> None:
    """Another process gives the same command during a copy into eastus. The second command answers after the copy."""
    waiting: list[Future[VersionView]] = []
    events: list[ProgressEvent] = []

    def again() -> VersionView:
        with open_home(tmp_path / "home", events.append) as second:
            object.__setattr__(second.keeper, "holder", f"elsewhere/{second.keeper.holder}")
            return publish(second, samples.first, targets=["southcentralus", "eastus"])

    def meanwhile(event: ProgressEvent) -> None:
        if event.task == "eastus/0" and event.stage is Stage.STARTED and not waiting:
            waiting.append(pool.submit(again))

    with ThreadPoolExecutor(1) as pool, open_home(tmp_path / "home", meanwhile) as installation:
        create_sample_gallery(installation)
        view = publish(installation, samples.first, targets=["southcentralus", "eastus"])
        assert states(waiting[0].result()) == states(view)
        assert set(states(view).values()) == {COMPLETED}
        assert [row.target for row in charges(installation)] == ["eastus"]
        notes = [event.detail for event in events if event.stage is Stage.NOTE]
        assert len(events) <= 2 or "another process does this work" in notes[0], "it did what the first one did"
        audit(installation)


def test_a_worker_that_lost_its_lease_changes_nothing(tmp_path: Path, samples: SampleImages) -> None:
    """Another process took over the work. The worker stops and does not mark the replica as failed."""
    seen: list[ReplicaState] = []

    def take_over(event: ProgressEvent) -> None:
        if event.task == "eastus/0" and event.stage is Stage.STARTED and not seen:
            with installation.catalog.transaction() as transaction:
                work = next(each for each in transaction.works.list_open() if each.kind == "copy")
                transaction.works.lease(work.uid, holder="other/boot/1/1", lease_seconds=30, steal=True)
            seen.append(states(show(installation))["eastus/0"])

    with open_home(tmp_path / "home", take_over) as installation:
        create_sample_gallery(installation)
        with pytest.raises(ReplicationFailed, match="The lease expired"):
            publish(installation, samples.first, targets=["southcentralus", "eastus"])
        assert seen == [ReplicaState.REPLICATING]
        assert states(show(installation))["eastus/0"] is ReplicaState.REPLICATING
        assert [row.target for row in charges(installation)] == []


def test_a_patch_of_a_patch_is_found_in_its_base(empty: Installation, samples: SampleImages, tmp_path: Path) -> None:
    source, sources = samples.first, {"1.0.0": samples.first}
    publish(empty, source, targets=["southcentralus", "eastus"])
    for number in range(1, 5):
        source = patch_disk(source, tmp_path / f"{number}.raw", seed=100 + number, blocks=6)
        sources[f"1.0.{number}"] = source
        publish(empty, source, f"1.0.{number}", ["southcentralus", "eastus"])
    audit(empty)
    audit_served(empty, sources, tmp_path)
