"""Lost segments of a version's only replica: the lost ranges, the intact disks, and the repair from the same file."""

import filecmp
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound, PropertyChangeNotAllowed
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import DiskRequest, ScrubRequest
from imgstore.domain.resources import DiskKind, ReplicationMode, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import list_scrubs, scrub
from imgstore.segments.manifest import MAGIC as MANIFEST_MAGIC
from tests.support.sample_disks import make_raw, patch_disk
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    create_sample_gallery,
    create_version,
    delete,
    export,
    export_disk,
    make_disk,
    open_home,
    own_slots,
    publish,
    publish_disks,
    request,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

HERE = ["eastus"]
PLACE: dict[str, Any] = {"targets": HERE, "location": "eastus"}
COMPLETED, DEGRADED = {"eastus/0": ReplicaState.COMPLETED}, {"eastus/0": ReplicaState.DEGRADED}


def files(installation: Installation, slot: Slot, kind: str = object_keys.SEGMENTS) -> set[Path]:
    folder = installation.home / "regions" / slot.bucket
    return {path for path in folder.glob(f"*/{slot.prefix}{kind}**/*") if path.is_file()}


def only_slot(installation: Installation) -> Slot:
    (slot,) = all_slots(installation)
    return slot


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def run(installation: Installation, slot: Slot) -> SlotScrub:
    (found,) = scrub(installation, ADMIN, ScrubRequest(slot_uid=slot.uid))
    return found


def data_ranges(path: Path) -> list[tuple[int, int]]:
    """The merged ranges of 4 KiB blocks that are not zero, read from the file alone."""
    data = path.read_bytes()
    ranges: list[tuple[int, int]] = []
    for begin in range(0, len(data), BLOCK_BYTES):
        block = data[begin : begin + BLOCK_BYTES]
        if not any(block):
            continue
        if ranges and sum(ranges[-1]) == begin:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + len(block))
        else:
            ranges.append((begin, len(block)))
    return ranges


def test_lost_ranges_and_intact_disks_are_listed_and_intact_disks_are_exported(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    publish(empty, samples.first, "0.9.0", **PLACE)  # So that the OS disk shares all segments, and the data disk none.
    slot = only_slot(empty)
    before = files(empty, slot)
    data = make_raw(tmp_path / "data.raw", seed=9, virtual_bytes=10 * MIB + 512, content_bytes=3 * MIB)
    publish_disks(empty, samples.first, {5: data}, "1.0.0", **PLACE)
    for path in files(empty, slot) - before:
        path.unlink()
    found = run(empty, slot)
    (loss,) = found.losses
    assert loss.resource_id == show(empty).definition_path.version_id(show(empty).version.name)
    os_disk, lost = loss.disks
    assert (os_disk.disk_key, os_disk.lost, os_disk.virtual_bytes) == (OS_DISK, (), samples.first.stat().st_size)
    assert (lost.disk_key, lost.virtual_bytes) == ("lun-5", data.stat().st_size)
    assert [(each.offset, each.length) for each in lost.lost] == data_ranges(data)
    assert lost.lost_bytes == sum(length for _, length in data_ranges(data))
    (status,) = (each for each in list_scrubs(empty, ADMIN) if each.slot.uid == slot.uid)
    assert (status.losses, status.lost_objects) == (found.losses, len(found.unrepaired))
    assert states(show(empty)) == DEGRADED
    assert states(show(empty, "0.9.0")) == COMPLETED
    export(empty, tmp_path / "os.raw", "eastus")
    assert filecmp.cmp(tmp_path / "os.raw", samples.first, shallow=False)
    with pytest.raises((ObjectCorrupt, ObjectNotFound)):
        export(empty, tmp_path / "lun-5.raw", "eastus", lun=5)
    assert not (tmp_path / "lun-5.raw").exists()
    with pytest.raises(ImgstoreError, match="is not available"):
        make_disk(empty, "d1", "eastus", "1.0.0")
    publish_disks(empty, samples.first, {5: data}, "1.0.0", **PLACE)
    assert run(empty, slot).losses == ()
    export(empty, tmp_path / "lun-5.raw", "eastus", lun=5)
    assert filecmp.cmp(tmp_path / "lun-5.raw", data, shallow=False)
    audit(empty)


def test_a_lost_manifest_loses_the_whole_disk(empty: Installation, samples: SampleImages) -> None:
    publish(empty, samples.first, **PLACE)
    slot = only_slot(empty)
    (manifest,) = files(empty, slot, object_keys.MANIFESTS)
    flip(manifest)
    ((disk,),) = (loss.disks for loss in run(empty, slot).losses)
    assert [(each.offset, each.length) for each in disk.lost] == [(0, samples.first.stat().st_size)]
    publish(empty, samples.first, **PLACE)
    assert states(show(empty)) == COMPLETED
    assert run(empty, slot).damaged == set()
    audit(empty)


def test_a_lost_manifest_is_recorded_by_a_reader_and_repaired_without_a_scrub(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    publish(empty, samples.first, "1.0.0", **PLACE)
    publish(empty, samples.second, "1.0.1", **PLACE)
    slot = only_slot(empty)
    (manifest,) = [
        path for path in files(empty, slot, object_keys.MANIFESTS) if show(empty, "1.0.1").version.uid in str(path)
    ]
    before = manifest.read_bytes()
    flip(manifest)
    with pytest.raises(ObjectCorrupt):
        export(empty, tmp_path / "back.raw", "eastus", "1.0.1")
    assert states(show(empty, "1.0.1")) == DEGRADED
    assert states(show(empty, "1.0.0")) == COMPLETED
    publish(empty, samples.second, "1.0.1", **PLACE)
    assert manifest.read_bytes() == before
    assert run(empty, slot).damaged == set()
    audit(empty)


@pytest.mark.parametrize("kind", [DiskKind.DISK, DiskKind.SNAPSHOT])
def test_same_file_repairs_the_manifest_and_the_segments_of_a_stored_disk(
    empty: Installation, samples: SampleImages, tmp_path: Path, kind: DiskKind
) -> None:
    """The disk has another disk as its base, and a copy of the disk names the same manifest."""
    base = DiskRequest(group=GROUP, name="base", source=str(samples.first), location="eastus")
    create_from_source(empty, ADMIN, base)
    (slot,) = own_slots(empty)
    of_base = files(empty, slot, "")
    asked = replace(base, name="d1", source=str(samples.second), kind=kind)
    create_from_source(empty, ADMIN, asked)
    create_from_source(empty, ADMIN, replace(base, name="copy", source="d1"))
    bodies = {path: path.read_bytes() for path in files(empty, slot, "") - of_base}
    (manifest,) = [path for path, body in bodies.items() if body.startswith(MANIFEST_MAGIC)]
    manifest.unlink()
    flip(min(path for path in bodies if "segments" in path.parts))
    if kind is DiskKind.DISK:
        with pytest.raises(ObjectNotFound):
            export_disk(empty, tmp_path / "back.raw", "d1")
    else:
        assert len(run(empty, slot).losses) == 2
    create_from_source(empty, ADMIN, asked)
    assert {path: path.read_bytes() for path in bodies if path.exists()} == bodies
    assert (run(empty, slot).damaged, list_scrubs(empty, ADMIN)[0].lost_objects) == (set(), 0)
    export_disk(empty, tmp_path / "back.raw", "copy")
    assert filecmp.cmp(tmp_path / "back.raw", samples.second, shallow=False)
    audit(empty)


def test_the_progress_of_a_partial_repair_begins_again(samples: SampleImages, tmp_path: Path) -> None:
    """A segment of the version alone is made again. Then the whole disk is ingested, for the segments of another disk."""
    events: list[ProgressEvent] = []
    with open_home(tmp_path / "home", events.append) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, "1.0.0", **PLACE)
        rest = patch_disk(samples.first, tmp_path / "rest.raw", seed=4, blocks=300)
        publish(installation, rest, "1.0.1", **PLACE)
        delete(installation, "1.0.0")
        slot = only_slot(installation)
        for path in files(installation, slot):
            path.unlink()
        run(installation, slot)
        events.clear()
        with pytest.raises(ImgstoreError, match="publish the same source as a new version"):
            publish(installation, rest, "1.0.1", **PLACE)
    repair = [each for each in events if each.task == "eastus/0" and each.stage is not Stage.NOTE]
    moved = [each.bytes_done for each in repair[: [each.stage for each in repair].index(Stage.STARTED, 1)]]
    assert moved[-1] > 0, "a segment is made again"
    assert [each.bytes_done for each in repair if each.stage is Stage.STARTED] == [0, 0]


def test_the_losses_of_many_disks_of_a_version_read_its_manifest_once(
    empty: Installation, samples: SampleImages
) -> None:
    publish(empty, samples.first, **PLACE)
    slot = only_slot(empty)
    min(files(empty, slot)).unlink()

    def received_bytes() -> int:
        before = empty.locator.traffic()["eastus"].received_bytes
        list_scrubs(empty, ADMIN)
        return empty.locator.traffic()["eastus"].received_bytes - before

    for number in range(4):
        make_disk(empty, f"d{number}", "eastus", "1.0.0")
    assert len(run(empty, slot).losses) == 5
    manifest_bytes = sum(path.stat().st_size for path in files(empty, slot, object_keys.MANIFESTS)
                         if path.read_bytes().startswith(MANIFEST_MAGIC))  # fmt: skip
    assert received_bytes() == manifest_bytes


@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["flip", "delete"])
@pytest.mark.parametrize("way", ["scrub", "read"])
def test_same_file_published_again_repairs_the_only_replica_and_all_that_share_it(
    empty: Installation, samples: SampleImages, tmp_path: Path, harm: Any, way: str
) -> None:
    """The later version is based on the first; a disk was made from each; the file was copied since (invariant R18)."""
    publish(empty, samples.first, "1.0.0", **PLACE)
    slot = only_slot(empty)
    own = sorted(files(empty, slot))
    publish(empty, samples.second, "1.0.1", **PLACE)
    make_disk(empty, "d1", "eastus", "1.0.0")
    make_disk(empty, "d2", "eastus", "1.0.1")
    bodies = {path: path.read_bytes() for path in files(empty, slot, "")}
    for path in random.Random(3).sample(own, 2):
        harm(path)
    if way == "scrub":
        assert len(run(empty, slot).losses) == 4
    else:
        with pytest.raises((ObjectCorrupt, ObjectNotFound)):
            export_disk(empty, tmp_path / "x.raw", "d2")
    assert states(show(empty, "1.0.1")) == DEGRADED
    with pytest.raises(PropertyChangeNotAllowed):
        publish(empty, samples.rebuilt, "1.0.0", **PLACE)
    copy = shutil.copyfile(samples.first, tmp_path / "copy.raw")
    publish(empty, copy, "1.0.0", **PLACE)
    if way == "read":  # A read ends at the first lost segment. The create finds all lost segments of its version.
        run(empty, slot)
    assert states(show(empty, "1.0.0")) == states(show(empty, "1.0.1")) == COMPLETED
    assert {path: path.read_bytes() for path in bodies if path.exists()} == bodies, "the bytes differ"
    for name, source in (("d1", samples.first), ("d2", samples.second)):
        export_disk(empty, tmp_path / "back.raw", name)
        assert filecmp.cmp(tmp_path / "back.raw", source, shallow=False)
    assert run(empty, slot).losses == ()
    audit(empty)


def test_file_without_all_blocks_of_a_segment_repairs_nothing_and_names_a_way(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """The segments were packed for a version that was deleted, and the later version uses a part of their blocks."""
    rest = patch_disk(samples.first, tmp_path / "rest.raw", seed=4, blocks=300)
    publish(empty, samples.first, "1.0.0", **PLACE)
    slot = only_slot(empty)
    shared = sorted(files(empty, slot))
    publish(empty, rest, "1.0.1", **PLACE)
    make_disk(empty, "d1", "eastus", "1.0.1")
    delete(empty, "1.0.0")
    for path in shared:
        path.unlink()
    run(empty, slot)
    with pytest.raises(ImgstoreError, match="publish the same source as a new version"):
        publish(empty, rest, "1.0.1", **PLACE)
    assert states(show(empty, "1.0.1")) == DEGRADED
    publish(empty, rest, "1.0.2", **PLACE)
    export(empty, tmp_path / "back.raw", "eastus", "1.0.2")
    assert filecmp.cmp(tmp_path / "back.raw", rest, shallow=False)
    publish(empty, samples.first, "1.0.3", **PLACE)  # The file that packed the segments.
    assert filecmp.cmp(export(empty, tmp_path / "back.raw", "eastus", "1.0.3").path, samples.first, shallow=False)


def test_disk_of_a_file_is_repaired_with_the_shallow_version_that_shares_it(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    asked = DiskRequest(group=GROUP, name="d1", source=str(samples.first), location="eastus")
    create_from_source(empty, ADMIN, asked)
    shallow = request("2.0.0", HERE, location="eastus", replication_mode=ReplicationMode.SHALLOW)
    create_version(empty, ADMIN, shallow, os_snapshot="d1")
    make_disk(empty, "d2", "eastus", "2.0.0")
    (slot,) = own_slots(empty)
    first, *_ = sorted(files(empty, slot))
    flip(first)
    found = run(empty, slot)
    assert {loss.resource_id.rsplit("/", 1)[-1] for loss in found.losses} == {"2.0.0", "d1", "d2"}
    assert states(show(empty, "2.0.0")) == DEGRADED
    with pytest.raises(PropertyChangeNotAllowed):
        create_from_source(empty, ADMIN, DiskRequest(group=GROUP, name="d1", source=str(samples.second)))
    create_from_source(empty, ADMIN, asked)
    assert states(show(empty, "2.0.0")) == COMPLETED
    assert run(empty, slot).damaged == set()
    for name in ("d1", "d2"):
        export_disk(empty, tmp_path / "back.raw", name)
        assert filecmp.cmp(tmp_path / "back.raw", samples.first, shallow=False)
    audit(empty)


def test_new_version_builds_on_no_lost_segment(empty: Installation, samples: SampleImages, tmp_path: Path) -> None:
    """A disk without a replica has no state, so only the lost objects tell that its segments are not usable."""
    publish(empty, samples.first, "1.0.0", **PLACE)
    make_disk(empty, "d1", "eastus", "1.0.0")
    slot = only_slot(empty)
    delete(empty, "1.0.0")
    for path in files(empty, slot):
        flip(path)
    assert len(run(empty, slot).losses) == 1
    publish(empty, samples.first, "1.0.1", **PLACE)
    export(empty, tmp_path / "back.raw", "eastus", "1.0.1")
    assert filecmp.cmp(tmp_path / "back.raw", samples.first, shallow=False)
    assert run(empty, slot).losses == (), "equal segments repair the disk"
    export_disk(empty, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)


def test_segment_lost_in_all_three_zones_is_made_again_in_each(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    place: dict[str, Any] = {"targets": ["westus2=1=Standard_ZRS"], "location": "westus2"}
    publish(empty, samples.first, **place)
    make_disk(empty, "d1", "westus2", "1.0.0")
    slot = only_slot(empty)
    bodies = {path: path.read_bytes() for path in files(empty, slot)}
    name = min(path.name for path in bodies)
    for number, path in enumerate(sorted(path for path in bodies if path.name == name)):
        (flip, Path.unlink, lambda each: each.write_bytes(b""))[number](path)
    assert len(run(empty, slot).losses) == 2
    publish(empty, samples.first, **place)
    assert {path: path.read_bytes() for path in bodies if path.exists()} == bodies
    assert (run(empty, slot).damaged, list_scrubs(empty, ADMIN)[0].lost_objects) == (set(), 0)
    export_disk(empty, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)
    audit(empty)
