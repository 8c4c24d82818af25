"""Commits of overlays: new disks and versions with the changed blocks only (I19, S11), refusals, kills, other regions."""

import random
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound, PropertyChangeNotAllowed, WorkHeld
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.requests import DiskRequest
from imgstore.domain.resources import ManagedDisk, OsType
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB, PIECE_BYTES
from imgstore.operations.disks import disks
from imgstore.operations.disks.commit import commit_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.versions.commit import commit_version
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.journal import OverlayBase
from imgstore.transfer.overlay.overlaid_disk import OverlaidDisk
from imgstore.transfer.overlay.overlay import open_overlay
from tests.support.crash_scenes import CrashScene
from tests.support.overlay_bases import RawDevice, base_of_disk, base_of_version
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    charges,
    content,
    create_definition,
    export,
    export_disk,
    make_disk,
    own_slots,
    publish,
    request,
)

pytest_plugins = ["tests.support.published_gallery"]


def noise(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


CHANGES = ((5 * MIB + 300, noise(700, 1)), (9 * MIB, noise(64 * BLOCK_BYTES, 2)), (24 * MIB, noise(512, 3)))
CHANGED_BLOCKS = 1 + 64 + 1


def write(folder: Path, base: OverlayBase, raw: Path, expected: Path, changes: Any = CHANGES) -> Path:
    """Write into an overlay, and the same bytes into a copy of the base."""
    shutil.copyfile(raw, expected)
    device = RawDevice(raw)
    with closing(open_overlay(folder, base)) as overlay, expected.open("r+b") as file:
        top = OverlayDevice(device, overlay)
        for offset, data in changes:
            top.write_at(offset, data)
            file.seek(offset)
            file.write(data)
        top.write_zeroes(2 * MIB, 2 * BLOCK_BYTES)
        file.seek(2 * MIB)
        file.write(bytes(2 * BLOCK_BYTES))
    return folder


def commit(installation: Installation, folder: Path, name: str = "d2", **more: Any) -> ManagedDisk:
    asked = DiskRequest(group=GROUP, name=name, source=str(folder), **more)
    return commit_disk(installation, ADMIN, asked)


def all_segments(installation: Installation) -> dict[tuple[str, bytes], int]:
    """Return the stored bytes of each segment of each slot."""
    return {
        (str(slot.key), name): size
        for slot in (*all_slots(installation), *own_slots(installation))
        for name, size in content(installation, slot).segments.items()
    }


def record_reads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Record the indexes of the pieces that a commit reads."""
    read = set[int]()
    read_at = OverlaidDisk.read_at

    def recorded(disk: OverlaidDisk, offset: int, length: int) -> bytes:
        read.update(range(offset // PIECE_BYTES, -(-(offset + length) // PIECE_BYTES)))
        return read_at(disk, offset, length)

    monkeypatch.setattr(OverlaidDisk, "read_at", recorded)
    return read


@pytest.mark.parametrize("kind", ["disk", "version", "file"])
def test_a_commit_reads_and_stores_the_changed_blocks_only(
    published: Installation, samples: SampleImages, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "file":
        asked = DiskRequest(group=GROUP, name="d1", source=str(samples.first), location="southcentralus")
        base = base_of_disk(create_from_source(published, ADMIN, asked))
    else:
        base = base_of_disk(make_disk(published, "d1")) if kind == "disk" else base_of_version(published)
    folder = write(tmp_path / "o", base, samples.first, tmp_path / "expected.raw")
    before = all_segments(published)
    read = record_reads(monkeypatch)
    made = commit(published, folder, tags={"a": "b"})
    assert read == {0, 1, 2, 6}
    new = [size for name, size in all_segments(published).items() if name not in before]
    assert 0 < sum(new) <= 1.1 * CHANGED_BLOCKS * BLOCK_BYTES
    export_disk(published, tmp_path / "out.raw", "d2")
    assert (tmp_path / "out.raw").read_bytes() == (tmp_path / "expected.raw").read_bytes()
    assert made.os_properties.os_type == (None if kind == "file" else OsType.LINUX)
    assert made.tags == {"a": "b"}
    read.clear()
    assert commit(published, folder).uid == made.uid
    assert read == set(), "a completed commit is not repeated"
    audit(published)


def test_a_commit_makes_a_version_that_another_region_reads(
    published: Installation, samples: SampleImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "o", base_of_version(published), samples.first, tmp_path / "expected.raw")
    read = record_reads(monkeypatch)
    before = {row.key for row in charges(published)}
    commit_version(published, ADMIN, request("1.0.1", ["southcentralus", "eastus"]), folder)
    assert read == {0, 1, 2, 6}
    moved = [row.delivered_bytes for row in charges(published) if row.key not in before]
    assert 0 < sum(moved) <= 1.1 * CHANGED_BLOCKS * BLOCK_BYTES
    export(published, tmp_path / "out.raw", "eastus", "1.0.1")
    assert (tmp_path / "out.raw").read_bytes() == (tmp_path / "expected.raw").read_bytes()
    audit(published)
    again = write(
        tmp_path / "o2",
        base_of_version(published, "1.0.1", "eastus"),
        tmp_path / "expected.raw",
        tmp_path / "e2.raw",
        [(12 * MIB, noise(BLOCK_BYTES, 4))],
    )
    assert commit(published, again).slot.key.region == "eastus"
    export_disk(published, tmp_path / "out.raw", "d2")
    assert (tmp_path / "out.raw").read_bytes() == (tmp_path / "e2.raw").read_bytes()
    audit(published, quiet=False)  # No byte of the disk crossed regions.


def test_what_a_commit_refuses(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    disk = make_disk(published, "d1")
    folder = write(tmp_path / "o", base_of_disk(disk), samples.first, tmp_path / "expected.raw")
    with pytest.raises(NotFound, match="no overlay"):
        commit(published, tmp_path)
    served = open_overlay(folder, base_of_disk(disk))
    with pytest.raises(WorkHeld, match="is in use"):
        commit(published, folder)
    served.close()
    machine = replace(base_of_disk(disk), location=disk.resource_id.replace("/disks/", "/virtualMachines/"))
    open_overlay(tmp_path / "machine", machine).close()
    with pytest.raises(InvalidInput, match="can't be a source"):
        commit(published, tmp_path / "machine")
    with pytest.raises(InvalidInput, match="data disk"):
        data = replace(base_of_version(published), disk_key="lun-0")
        open_overlay(tmp_path / "data", data).close()
        commit_version(published, ADMIN, request("1.0.1"), tmp_path / "data")
    create_definition(published, "windows", os_type=OsType.WINDOWS)
    with pytest.raises(InvalidInput, match="Windows"):
        commit_version(published, ADMIN, request("1.0.1", definition="windows"), folder)
    scope = f"/subscriptions/{published.subscription}/resourceGroups/other"
    stranger = Principal(name="s", grants=(Grant(role=Role.CONTRIBUTOR, scope=scope),))
    with pytest.raises(AccessDenied):
        commit_disk(published, stranger, DiskRequest(group=GROUP, name="d2", source=str(folder)))
    with pytest.raises(AccessDenied):
        commit_disk(published, stranger, DiskRequest(group="other", name="d2", source=str(folder)))
    with pytest.raises(PropertyChangeNotAllowed):
        commit(published, folder, name="d1")
    made = commit(published, folder)
    write(folder, base_of_disk(disk), samples.first, tmp_path / "expected.raw", [(MIB, b"more")])
    with pytest.raises(PropertyChangeNotAllowed):
        commit(published, folder)
    assert commit(published, folder, name="d3").disk_digest != made.disk_digest
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    with pytest.raises(NotFound, match="base of the overlay was deleted"):
        commit(published, folder, name="d4")
    make_disk(published, "d1")
    assert (
        commit(published, folder, name="d4").disk_digest
        == disks.show_disk(published, ADMIN, group=GROUP, name="d3").disk_digest
    )
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    create_from_source(
        published, ADMIN, DiskRequest(group=GROUP, name="d1", source=str(samples.second), location="southcentralus")
    )
    with pytest.raises(Conflict, match="other content now"):
        commit(published, folder, name="d5")
    audit(published)


def test_a_killed_commit_resumes(samples: SampleImages, tmp_path: Path) -> None:
    expected = {"1.0.0": samples.first, str(tmp_path / "o"): tmp_path / "expected.raw"}
    scene = CrashScene(folder=tmp_path / "scene", expected=expected)
    scene.prepare()
    with scene.open() as installation:
        publish(installation, samples.first, targets=["southcentralus"])
        folder = write(tmp_path / "o", base_of_version(installation), samples.first, tmp_path / "expected.raw")
    scene.run_job("commit", name="d0", overlay=str(folder))  # The first commit fills the segment cache.
    steps = scene.run_job("commit", name="d00", overlay=str(folder))
    for number, fatal in enumerate(random.Random(7).sample(range(2, steps), 2), 1):
        assert scene.crash_and_repeat("commit", fatal=fatal, name=f"d{number}", overlay=str(folder))
    scene.check()
