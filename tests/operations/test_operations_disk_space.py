"""Limits for the local disk space of callers: a free reserve, scratch limits and quotas of subscriptions."""

import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.upload_tags import UPLOAD_FOR
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, ImageRefused, ImgstoreError, InvalidInput, SafetyCheckFailed, StoreFull
from imgstore.domain.requests import DiskRequest, MachineRequest, OsProfile, UploadRequest, VersionSource
from imgstore.domain.resources import DiskKind
from imgstore.domain.settings.disk_space import DiskSpace, allocated_bytes, read_disk_space
from imgstore.domain.settings.limits import Limits
from imgstore.domain.storage.sizes import GIB, MIB
from imgstore.formats import LocalFile, open_disk
from imgstore.formats.qemu import qemu_reader
from imgstore.formats.vhd_layout import TYPE_FIXED, pack_footer
from imgstore.operations.disks.disks import delete_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.disks.reader import open_disk_reader
from imgstore.operations.disks.uploads import create_upload, open_spool, sweep_uploads
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import create_machine
from imgstore.operations.shared_settings import read_settings_file
from imgstore.operations.versions.create import create_version
from imgstore.testing.pytest_plugin import require
from imgstore.transfer.segment_cache import SegmentCache
from imgstore.transfer.spool import spool_folder
from tests.support.manual_clock import ManualClock
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    audit,
    collect,
    create_sample_gallery,
    delete,
    export_disk,
    make_disk,
    open_home,
    publish,
    request,
)

DISK_BYTES = 64 * MIB
RESERVE_BYTES = 8 * MIB
HERE = ["southcentralus"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of `DISK_BYTES`."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def noise(path: Path, length: int, seed: int = 1) -> Path:
    return make_raw(path, seed=seed, virtual_bytes=length, content_bytes=length // 2)


def dense(path: Path, length: int) -> Path:
    path.write_bytes(os.urandom(length))
    return path


def free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


# -- the reserve --------------------------------------------------------------------------------------------------------


def test_disk_full_for_callers_keeps_the_reserve_and_can_be_emptied(small_disk: Path, tmp_path: Path) -> None:
    space = DiskSpace(free_bytes_min=RESERVE_BYTES)
    with open_home(small_disk / "home", space=space) as installation:
        create_sample_gallery(installation)
        first = dense(tmp_path / "first.raw", 16 * MIB)
        publish(installation, first, "1.0.0", HERE)
        with pytest.raises(StoreFull, match="outside of the reserve") as caught:
            publish(installation, dense(tmp_path / "second.raw", 48 * MIB), "1.0.1", HERE)
        assert "8388608 bytes that stay free (free_bytes_min)" in str(caught.value)
        assert free_bytes(small_disk) >= RESERVE_BYTES - MIB, "but for the catalog's own pages"
        make_disk(installation, "d")
        export_disk(installation, tmp_path / "out.raw", "d")
        assert (tmp_path / "out.raw").read_bytes() == first.read_bytes()
        delete(installation, "1.0.1")
        collect(installation)
        collect(installation)
        publish(installation, dense(tmp_path / "third.raw", 24 * MIB), "1.0.2", HERE)
        audit(installation)


def test_upload_stops_at_the_reserve_and_keeps_received_bytes(small_disk: Path) -> None:
    space = DiskSpace(free_bytes_min=RESERVE_BYTES)
    with open_home(small_disk / "home", space=space) as installation:
        disk = create_upload(installation, ADMIN, UploadRequest(group=GROUP, name="up", upload_bytes=GIB + 512))
        with closing(open_spool(installation, disk)) as spool:
            arrived = 0
            with pytest.raises(StoreFull, match="outside of the reserve"):
                for arrived in range(0, GIB, 4 * MIB):
                    spool.write(arrived, [b"a" * (4 * MIB)])
            assert spool.received_bytes == arrived > 32 * MIB
            spool.write_zeros(0, GIB)
            assert free_bytes(small_disk) > 48 * MIB
            spool.write(0, [b"b" * (4 * MIB)])
            assert spool.read_at(0, 1) == b"b"
        delete_disk(installation, ADMIN, group=GROUP, name="up")


def test_a_disk_that_is_really_full_corrupts_nothing(small_disk: Path, tmp_path: Path) -> None:
    """Without a reserve, each kind of file reaches the end of the file system."""
    home, first = small_disk / "home", dense(tmp_path / "first.raw", 8 * MIB)
    with open_home(home, space=DiskSpace(free_bytes_min=0)) as installation:
        create_sample_gallery(installation)
        publish(installation, first, "1.0.0", HERE)
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))
        second = dense(tmp_path / "second.raw", 8 * MIB)
        with pytest.raises(StoreFull):
            publish(installation, second, "1.0.1", HERE)
        ballast.unlink()
        publish(installation, second, "1.0.1", HERE)
        audit(installation)
        for version, path in (("1.0.0", first), ("1.0.1", second)):
            make_disk(installation, f"d{version}", version=version)
            export_disk(installation, tmp_path / f"{version}.raw", f"d{version}")
            assert (tmp_path / f"{version}.raw").read_bytes() == path.read_bytes()


def test_the_usual_reserve_is_a_twentieth_and_at_most_a_gibibyte(small_disk: Path) -> None:
    few, many = DISK_BYTES // 20 - MIB, DISK_BYTES // 20 + MIB
    assert DiskSpace().has_free_space(small_disk, DISK_BYTES - many)
    assert not DiskSpace().has_free_space(small_disk, DISK_BYTES - few)
    assert DiskSpace().has_free_space(small_disk / "not" / "there" / "yet", MIB)


# -- scratch ------------------------------------------------------------------------------------------------------------

CONTAINERS = ["qcow2", "vmdk", "vhdx"]


def bomb(folder: Path, form: str, length: int) -> Path:
    """A small file, in which a disk of `length` bytes without a zero lies, as far as its format can compress."""
    program = require("qemu-img").command
    raw, image = folder / "full.raw", folder / f"bomb.{form}"
    with raw.open("wb") as file:
        for _ in range(length // MIB):
            file.write(b"\1" * MIB)
    how = {"qcow2": ["-c"], "vmdk": ["-o", "subformat=streamOptimized"], "vhdx": []}[form]
    subprocess.run([program, "convert", "-f", "raw", "-O", form, *how, str(raw), str(image)], check=True)
    raw.unlink()
    return image


@pytest.mark.parametrize("form", CONTAINERS)
def test_container_is_refused_by_size_before_any_write(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = bomb(tmp_path, form, 64 * MIB)
    monkeypatch.setenv("PATH", "/nowhere")  # qemu-img, which would write it, is looked for after the check
    with open_home(tmp_path / "home", limits=Limits(image_bytes_max=32 * MIB)) as installation:
        create_sample_gallery(installation)
        with pytest.raises(ImageRefused, match="exceeds the limit"):
            publish(installation, image, "1.0.0", HERE)
        assert allocated_bytes(installation.scratch) == 0
    # Invariant F12.
    with open_home(tmp_path / "home", limits=Limits(bytes_per_subscription_max=32 * MIB)) as installation:
        with pytest.raises(Conflict, match="exceeding the approved quota"):
            create_from_source(
                installation,
                ADMIN,
                DiskRequest(kind=DiskKind.DISK, group=GROUP, name="d", source=str(image), location="southcentralus"),
            )
        assert allocated_bytes(installation.scratch) == 0


@pytest.mark.parametrize("form", CONTAINERS)
def test_work_beyond_the_scratch_limit_ends_and_leaves_no_files(form: str, tmp_path: Path) -> None:
    image = bomb(tmp_path, form, 256 * MIB)
    space = DiskSpace(scratch_bytes_per_work_max=16 * MIB)
    with open_home(tmp_path / "home", space=space) as installation:
        create_sample_gallery(installation)
        with pytest.raises(StoreFull, match="scratch files of a work are too large") as caught:
            publish(installation, image, "1.0.0", HERE)
        assert "scratch_bytes_per_work_max" in str(caught.value)
        assert allocated_bytes(installation.scratch) == 0


def test_container_that_expands_to_much_more_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_reader, "EXPANSION_FREE_BYTES", 0)
    image = bomb(tmp_path, "qcow2", 512 * MIB)  # of some 500 KB by itself; its clusters are made to share one place
    share_clusters(image)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        with pytest.raises(SafetyCheckFailed, match="far more data than its file can hold") as caught:
            publish(installation, image, "1.0.0", HERE)
        assert caught.value.check == "expansion"
        assert allocated_bytes(installation.scratch) == 0


def share_clusters(image: Path) -> None:
    """Have all compressed clusters of a qcow2 with one L2 table lie in the same place, and cut the file behind it."""
    data = image.read_bytes()
    (l1_at,) = struct.unpack_from(">Q", data, 40)
    (l2_at,) = (entry & 0x00FFFFFFFFFFFE00 for entry in struct.unpack_from(">Q", data, l1_at))
    (first,) = struct.unpack_from(">Q", data, l2_at)
    cluster_bytes = 65_536
    end = max(l2_at, first & ((1 << 54) - 1)) + cluster_bytes
    with image.open("r+b") as file:
        file.seek(l2_at)
        file.write(struct.pack(">Q", first) * (cluster_bytes // 8))
        file.truncate(end)


@pytest.mark.parametrize("form", CONTAINERS)
def test_converted_files_are_private(form: str, tmp_path: Path) -> None:
    image = bomb(tmp_path, form, 4 * MIB)
    before = os.umask(0)
    try:
        with (
            closing(LocalFile(image)) as source,
            closing(open_disk(_Distant(source), format=DiskFormat(form), scratch=tmp_path / "made" / "scratch")),
        ):
            made = list((tmp_path / "made").rglob("*"))
            assert len(made) >= 3
            assert not [each for each in made if each.stat().st_mode & 0o077]
    finally:
        os.umask(before)


class _Distant:
    """A source that is no local file: it is fetched into scratch first."""

    def __init__(self, source: LocalFile) -> None:
        self.file_bytes = source.file_bytes
        self.extents = source.extents
        self.identity = source.identity
        self.read_at = source.read_at
        self.close = source.close


def test_all_works_of_all_processes_share_a_bound(tmp_path: Path) -> None:
    image = bomb(tmp_path, "qcow2", 64 * MIB)
    with open_home(tmp_path / "home", space=DiskSpace(scratch_bytes_max=32 * MIB)) as installation:
        create_sample_gallery(installation)
        others = installation.scratch.parent / "another-process"
        others.mkdir()
        dense(others / "file", 24 * MIB)
        with pytest.raises(StoreFull, match="scratch files of all works together"):
            publish(installation, image, "1.0.0", HERE)
        assert allocated_bytes(installation.scratch) == 0


def test_files_used_instead_of_memory_count_as_scratch(tmp_path: Path) -> None:
    space = DiskSpace(scratch_bytes_per_work_max=16 * 1024)  # the fingerprints of an eighth of the blocks
    with open_home(tmp_path / "home", space=space) as installation:
        create_sample_gallery(installation)
        source = dense(tmp_path / "d.raw", 32 * MIB)
        with pytest.raises(StoreFull, match="scratch files of a work"):
            publish(installation, source, "1.0.0", HERE)
        with pytest.raises(StoreFull, match="scratch files of a work"):
            from_file(installation, source, "d")
        assert allocated_bytes(installation.scratch) == 0


def test_assembled_disk_needs_scratch_space(tmp_path: Path) -> None:
    with open_home(tmp_path / "home", space=DiskSpace(scratch_bytes_per_work_max=4 * MIB)) as installation:
        create_sample_gallery(installation)
        publish(installation, noise(tmp_path / "d.raw", 24 * MIB), "1.0.0", HERE)
        make_disk(installation, "d")
        with installation.catalog.reading() as transaction:
            disk = transaction.disks.get(installation.subscription, GROUP, "d")
        assert disk is not None
        with closing(SegmentCache(installation.scratch, cache_bytes=1)) as cache:
            opened = open_disk_reader(installation, disk, cache)
            object.__setattr__(opened, "ranges", _scattered(opened.ranges))
            with pytest.raises(StoreFull, match="scratch files of a work"), opened.open_whole():
                pass


def _scattered(ranges: object) -> object:
    """The same ranges, told to be such that a whole read would fetch segments again and again."""
    return type("Scattered", (type(ranges),), {"prefers_scatter": True, "__init__": lambda self: None})()


# -- quotas -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Installation]:
    """A subscription that may keep 40 MiB."""
    with open_home(tmp_path / "home", limits=Limits(bytes_per_subscription_max=40 * MIB)) as installation:
        create_sample_gallery(installation)
        yield installation


def used(installation: Installation) -> int:
    with installation.catalog.reading() as transaction:
        return transaction.quotas.used_bytes(installation.subscription)


def from_file(installation: Installation, path: Path, name: str) -> None:
    create_from_source(
        installation,
        ADMIN,
        DiskRequest(kind=DiskKind.DISK, group=GROUP, name=name, source=str(path), location="southcentralus"),
    )


def upload(installation: Installation, name: str, length: int) -> None:
    create_upload(installation, ADMIN, UploadRequest(group=GROUP, name=name, upload_bytes=length + 512))


def test_each_content_counts_once_and_a_quota_refuses_more(tight: Installation, tmp_path: Path) -> None:
    disk = noise(tmp_path / "d.raw", 16 * MIB)
    publish(tight, disk, "1.0.0", ["southcentralus=2", "westus2"])
    assert used(tight) == 16 * MIB, "once, however many replicas"
    make_disk(tight, "of-a-version")
    image = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"
    create_machine(
        tight, ADMIN, MachineRequest(group=GROUP, name="vm", image=image, profile=OsProfile(admin_username="me"))
    )
    assert used(tight) == 16 * MIB, "what comes from a version is the version's"
    from_file(tight, disk, "of-a-file")
    create_from_source(tight, ADMIN, DiskRequest(kind=DiskKind.SNAPSHOT, group=GROUP, name="snap", source="of-a-file"))
    assert used(tight) == 32 * MIB, "a copy shares its content"
    makers: list[Callable[[], object]] = [
        lambda: publish(tight, disk, "1.0.1", HERE),
        lambda: from_file(tight, disk, "more"),
        lambda: upload(tight, "up", 16 * MIB),
    ]
    for make in makers:
        with pytest.raises(Conflict, match="exceeding the approved quota") as caught:
            make()
        assert (caught.value.error_code, caught.value.status) == ("QuotaExceeded", 409)
        assert "bytes_per_subscription_max" in str(caught.value)
        assert used(tight) == 32 * MIB
    upload(tight, "up", 8 * MIB)
    assert used(tight) == 40 * MIB
    upload(tight, "up", 8 * MIB)  # the same again adds nothing
    for name in ("of-a-file", "up"):
        delete_disk(tight, ADMIN, group=GROUP, name=name)
    assert used(tight) == 32 * MIB, "the snapshot keeps the file's content"


def test_a_version_counts_in_place_of_its_upload(tight: Installation, tmp_path: Path) -> None:
    disk = noise(tmp_path / "d.raw", 24 * MIB)
    footer = pack_footer(virtual_bytes=24 * MIB, disk_type=TYPE_FIXED, disk_digest=bytes(32))
    wanted = UploadRequest(group=GROUP, name="up", upload_bytes=24 * MIB + 512, tags={UPLOAD_FOR: "x"})
    made = create_upload(tight, ADMIN, wanted)
    with closing(open_spool(tight, made)) as spool:
        spool.write(0, [disk.read_bytes(), footer])
    version = request("1.0.0", ["southcentralus"], source=VersionSource(os_snapshot="up"))
    create_version(tight, ADMIN, version)
    assert used(tight) == 24 * MIB
    delete_disk(tight, ADMIN, group=GROUP, name="up")
    assert used(tight) == 24 * MIB
    upload(tight, "up", 32 * MIB)
    assert used(tight) == 32 * MIB, "more bytes than those of the version count"


def test_another_subscription_has_a_quota_of_its_own(tight: Installation) -> None:
    upload(tight, "up", 32 * MIB)
    other = replace(tight, subscription="11111111-2222-3333-4444-555555555555")
    create_upload(
        other, ADMIN, UploadRequest(group="g", name="up", upload_bytes=32 * MIB + 512, location="southcentralus")
    )
    assert used(tight) == used(other) == 32 * MIB


def test_concurrent_requests_never_exceed_the_quota(tight: Installation) -> None:
    refused: list[ImgstoreError] = []

    def begin(number: int) -> None:
        try:
            upload(tight, f"up{number}", 8 * MIB)
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (used(tight), len(refused)) == (40 * MIB, 3)


def test_lowered_quota_refuses_only_additional_bytes(tight: Installation) -> None:
    upload(tight, "up", 32 * MIB)
    lowered = replace(tight, limits=Limits(bytes_per_subscription_max=MIB))
    upload(lowered, "up", 32 * MIB)
    with pytest.raises(Conflict, match="exceeding the approved quota"):
        upload(lowered, "other", 512)


# -- uploads that nobody ends -------------------------------------------------------------------------------------------


def last_used_at(folder: Path, time: datetime) -> None:
    for each in folder.iterdir():
        os.utime(each, (time.timestamp(), time.timestamp()))


def test_the_bytes_of_an_abandoned_upload_are_removed(tmp_path: Path) -> None:
    clock = ManualClock()
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        disk = create_upload(
            installation,
            ADMIN,
            UploadRequest(group=GROUP, name="up", upload_bytes=MIB + 512, location="southcentralus"),
        )
        folder = spool_folder(installation.home, disk.uid)
        with closing(open_spool(installation, disk)) as spool:
            spool.write(0, [b"a" * 512])
        last_used_at(folder, clock.now())
        clock.advance(timedelta(days=29).total_seconds())
        sweep_uploads(installation)
        assert folder.exists()
        clock.advance(timedelta(days=2).total_seconds())
        with closing(open_spool(installation, disk)):
            sweep_uploads(installation)
            assert folder.exists(), "somebody has it open"
        last_used_at(folder, clock.now() - timedelta(days=31))
        sweep_uploads(installation)
        assert not folder.exists()
        with closing(open_spool(installation, disk)) as spool:
            assert not spool.has_any


# -- settings -----------------------------------------------------------------------------------------------------------


def test_the_bounds_are_read_from_the_settings_of_the_home(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    assert read_disk_space(read_settings_file(file) or {}, str(file)) == DiskSpace(file=str(file))
    file.write_text("[limits]\ngalleries_max = 7\n[disk_space]\nscratch_bytes_max = 5\nfree_bytes_min = 0\n")
    assert read_disk_space(read_settings_file(file) or {}, str(file)) == DiskSpace(
        scratch_bytes_max=5, free_bytes_min=0, file=str(file)
    )
    with open_home(tmp_path) as installation:
        assert (installation.space.scratch_bytes_max, installation.limits.galleries_max) == (5, 7)
    for wrong in ("[disk_space]\nfree = 1\n", "[disk_space]\nupload_days_max = -1\n", "disk_space = 3\n"):
        file.write_text(wrong)
        with pytest.raises(InvalidInput, match="cannot be used: disk_space"):
            read_settings_file(file)
