"""A repeated create after `touch`, a copy or a new download compares the content of the source (invariants W4 to W6)."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import ImgstoreError, PropertyChangeNotAllowed, SourceChanged
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import DataVhd, DiskRequest, ImageRequest, VersionSource
from imgstore.domain.resources import DiskKind
from imgstore.domain.storage.sizes import MIB, PIECE_BYTES
from imgstore.formats import LocalFile
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.versions import create as versions
from imgstore.testing.engines import S3Engine
from tests.support.http_server import Page, start_web
from tests.support.sample_disks import compute_sha256, make_raw, write_vhd
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    all_slots,
    audit,
    audit_served,
    create_sample_gallery,
    create_version,
    open_home,
    own_slots,
    request,
)

HERE = ("southcentralus",)


class Log:
    """A subscriber that keeps events, and calls a function at each event."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []
        self.on_event: Callable[[ProgressEvent], None] = lambda _event: None

    def __call__(self, event: ProgressEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    def tasks(self) -> set[str]:
        """Return the names of the tasks, without notes, and forget the events."""
        found = {event.task for event in self.events if event.stage is not Stage.NOTE}
        self.events.clear()
        return found

    def notes(self) -> str:
        return "\n".join(event.detail for event in self.events if event.stage is Stage.NOTE)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def home(tmp_path: Path, log: Log) -> Iterator[Installation]:
    with open_home(tmp_path / "home", log, environ={"IMGSTORE_ALLOW_PRIVATE_SOURCES": "1"}) as opened:
        create_sample_gallery(opened)
        yield opened


def disk(path: Path, seed: int = 1, content_mib: int = 2) -> Path:
    return make_raw(path, seed=seed, virtual_bytes=16 * MIB, content_bytes=content_mib * MIB)


def create(installation: Installation, source: Path | str, version: str = "1.0.0", **more: Any) -> Any:
    data = tuple(DataVhd(lun=lun, uri=str(uri)) for lun, uri in more.pop("data", {}).items())
    asked = request(version, HERE, **more)
    return create_version(installation, ADMIN, asked, os_vhd_uri=str(source), data_vhds=data)


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def copy_anew(path: Path) -> None:
    """Replace a file by a copy: another inode and another time stamp."""
    shutil.copyfile(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    touch(path)


def change_a_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    touch(path)


def stored(installation: Installation) -> dict[str, Any]:
    """Return the write time of each segment."""
    return {
        info.key: info.last_modified
        for slot in (*all_slots(installation), *own_slots(installation))
        for info in installation.locator.store(slot).list(slot.prefix)
        if "/segments/" in info.key
    }


@pytest.mark.parametrize("renew", [touch, copy_anew])
def test_renewed_files_with_equal_content_leave_the_version_unchanged(
    home: Installation, log: Log, tmp_path: Path, renew: Callable[[Path], None]
) -> None:
    raw = disk(tmp_path / "d.raw", 2)
    os_file, data = disk(tmp_path / "os.raw"), write_vhd(raw, tmp_path / "data.vhd")
    first = create(home, os_file, data={3: data})
    before, _ = stored(home), log.tasks()
    renew(data)
    again = create(home, os_file, data={3: data})
    assert (again.version.uid, stored(home)) == (first.version.uid, before)
    assert log.tasks() == {"compare data.vhd"}, "the file with the recorded identity was read too"
    renew(os_file)
    create(home, os_file, data={3: data})
    assert log.tasks() == {"compare os.raw"}
    create(home, os_file, data={3: data})
    assert log.tasks() == set(), "the new identity was not recorded"
    audit_served(home, {"1.0.0": os_file, "1.0.0/lun-3": raw}, tmp_path)
    audit(home)


def test_another_format_of_the_same_disk_is_the_same_content(home: Installation, log: Log, tmp_path: Path) -> None:
    source = disk(tmp_path / "os.img")
    first = create(home, source)
    write_vhd(source, tmp_path / "os.vhd").replace(source)
    assert create(home, source).version.os_disk.disk_digest == first.version.os_disk.disk_digest
    assert "compare os.img" in log.tasks()


def test_a_link_that_leads_to_another_file_is_read(home: Installation, log: Log, tmp_path: Path) -> None:
    link, old, new = tmp_path / "latest.raw", disk(tmp_path / "build-1.raw"), disk(tmp_path / "build-2.raw")
    link.symlink_to(old)
    first = create(home, link)
    log.tasks()
    link.unlink()
    link.symlink_to(new)
    assert create(home, link).version.uid == first.version.uid
    assert log.tasks() == {"compare build-2.raw"}
    create(home, link)
    assert log.tasks() == set(), "the new path was not recorded"
    change_a_byte(old, MIB)
    with pytest.raises(PropertyChangeNotAllowed) as caught:
        create(home, old)
    assert str(old) in (caught.value.found or "")


@pytest.mark.parametrize("at", [MIB + 5, 3 * PIECE_BYTES + 7])
def test_other_content_is_refused_with_its_place(home: Installation, log: Log, tmp_path: Path, at: int) -> None:
    source, data = disk(tmp_path / "os.raw"), disk(tmp_path / "data.raw", 2)
    before = create(home, source, data={0: data})
    change_a_byte(data, at)
    with pytest.raises(PropertyChangeNotAllowed, match=r"dataDiskImages\[lun=0\]\.source") as caught:
        create(home, source, data={0: data})
    assert f"at offset {at // PIECE_BYTES * PIECE_BYTES:,} of the disk" in (caught.value.found or "")
    assert str(data) in (caught.value.found or "")
    data.write_bytes(b"\0" * 16 * MIB)
    with pytest.raises(PropertyChangeNotAllowed):
        create(home, source, data={0: data})
    with data.open("wb") as file:
        file.truncate(16 * MIB)
    with pytest.raises(PropertyChangeNotAllowed, match="dataDiskImages"):
        create(home, source, data={0: data})
    log.tasks()
    with data.open("wb") as file:
        file.truncate(8 * MIB)
    with pytest.raises(PropertyChangeNotAllowed) as caught:
        create(home, source, data={0: data})
    assert ("8,388,608 bytes" in (caught.value.found or ""), log.tasks()) == (True, set())
    disk(data, 2)
    assert create(home, source, data={0: data}).version.disks[1].disk_digest == before.version.disks[1].disk_digest


def test_the_digest_of_the_catalog_is_enough(home: Installation, tmp_path: Path) -> None:
    """The regions do not answer, so no manifest can be read."""
    source = disk(tmp_path / "os.raw")
    create(home, source)
    touch(source)
    regions = (tmp_path / "home" / "regions").rename(tmp_path / "away")
    create(home, source)
    change_a_byte(source, MIB)
    with pytest.raises(PropertyChangeNotAllowed) as caught:
        create(home, source)
    assert "disk digest" in (caught.value.found or "")
    regions.rename(tmp_path / "home" / "regions")


def test_a_sha256_that_was_checked_proves_equal_content(home: Installation, log: Log, tmp_path: Path) -> None:
    source = disk(tmp_path / "os.raw")
    known = compute_sha256(source)
    create(home, source, sha256=known)
    touch(source)
    log.tasks()
    create(home, source, sha256=known)
    assert log.tasks() == {"check os.raw"}, "the disk was compared after its SHA-256 had been compared"
    change_a_byte(source, MIB)
    with pytest.raises(PropertyChangeNotAllowed, match=r"osDiskImage\.source"):
        create(home, source, sha256=compute_sha256(source))


def test_a_file_that_is_replaced_during_the_comparison_is_noticed(home: Installation, log: Log, tmp_path: Path) -> None:
    source = disk(tmp_path / "os.raw")
    first = create(home, source)
    touch(source)

    def replace_once(event: ProgressEvent) -> None:
        if event.task.startswith("compare") and event.stage is Stage.MOVED:
            log.on_event = lambda _event: None
            copy_anew(source)

    log.on_event = replace_once
    with pytest.raises(SourceChanged, match="changed while it was read"):
        create(home, source)
    assert create(home, source).version.uid == first.version.uid


def test_a_url_with_a_new_etag_and_equal_bytes_is_unchanged(home: Installation, log: Log, tmp_path: Path) -> None:
    page = Page(body=disk(tmp_path / "os.raw").read_bytes())
    with start_web({"/os.raw": page}) as web:
        url = web.url("/os.raw")
        first = create(home, url)
        page.headers = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        assert create(home, url).version.uid == first.version.uid
        assert "compare os.raw" in log.tasks()
        create(home, url)
        assert log.tasks() == set()
        page.headers, page.body = {"ETag": '"3"'}, disk(tmp_path / "os.raw", 3).read_bytes()
        with pytest.raises(PropertyChangeNotAllowed):
            create(home, url)


def test_an_object_with_another_etag_and_equal_bytes_is_unchanged(
    minio: S3Engine, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, source = minio.make_bucket("same-content"), disk(tmp_path / "os.raw", content_mib=4)
    client = minio.client()
    client.upload_file(str(source), bucket, "os.raw")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    environ = {"IMGSTORE_SOURCE_S3_ENDPOINT": minio.endpoint}
    with open_home(tmp_path / "home", log, environ=environ) as installation:
        create_sample_gallery(installation)
        first = create(installation, f"s3://{bucket}/os.raw")
        client.put_object(Bucket=bucket, Key="os.raw", Body=source.read_bytes())
        again = create(installation, f"s3://{bucket}/os.raw")
        assert again.version.os_disk.source.stamp != first.version.os_disk.source.stamp
        assert again.version.uid == first.version.uid


def test_requests_are_answered_before_a_renewed_file_is_compared(home: Installation, log: Log, tmp_path: Path) -> None:
    """A comparison reads the whole file, and a client of the API would wait for the answer until a timeout."""
    source, data = disk(tmp_path / "os.raw"), disk(tmp_path / "data.raw", 2)
    version = request("1.0.0", ["southcentralus"], source=VersionSource(os_vhd_uri=str(source)))
    image = ImageRequest(group=GROUP, name="x", source=str(source), data_sources=[str(data)], location="southcentralus")
    events: list[str] = []
    log.on_event = lambda event: events.append(event.task)

    def create_both() -> list[str]:
        events.clear()
        versions.create_version(home, ADMIN, version, on_recorded=lambda _each: events.append("version"))
        images.create_image(
            home, ADMIN, image, on_recorded=lambda each: events.append(f"image, {len(each.data)} data disk")
        )
        return [each for each, _ in groupby(events) if each.startswith(("version", "image", "compare"))]

    create_both()
    touch(source)
    assert create_both() == [
        *("version", "compare os.raw", "version"),
        *("image, 1 data disk", "compare os.raw", "image, 1 data disk"),
    ]


@pytest.mark.parametrize("kind", [DiskKind.DISK, DiskKind.SNAPSHOT, DiskKind.IMAGE])
def test_renewed_files_of_disks_snapshots_and_images(
    home: Installation, log: Log, tmp_path: Path, kind: DiskKind
) -> None:
    source, data = disk(tmp_path / "os.raw"), disk(tmp_path / "data.raw", 2)

    def make() -> Any:
        if kind is DiskKind.IMAGE:
            asked = ImageRequest(
                group=GROUP, name="x", source=str(source), data_sources=[str(data)], location="southcentralus"
            )
            return images.create_image(home, ADMIN, asked).os
        return create_from_source(
            home, ADMIN, DiskRequest(group=GROUP, name="x", source=str(source), location="southcentralus", kind=kind)
        )

    first, _ = make(), log.tasks()
    touch(source)
    assert (make().uid, log.tasks()) == (first.uid, {"compare os.raw"})
    make()
    assert log.tasks() == set()
    source = Path(shutil.copy(source, tmp_path / "moved.raw"))
    assert (make().source_reference, log.tasks()) == (str(source), {"compare moved.raw"})
    make()
    assert log.tasks() == set()
    change_a_byte(source, MIB)
    with pytest.raises(PropertyChangeNotAllowed, match="sourceUri"):
        make()


class Interrupted(ImgstoreError):
    """The end of a run in the middle of an ingest."""


def interrupt_at(home: Installation, log: Log, bytes_done: int) -> None:
    """Interrupt the ingest, as by SIGINT, when it has processed so many bytes."""

    def interrupt(event: ProgressEvent) -> None:
        if event.stage is Stage.MOVED and event.bytes_done >= bytes_done:
            home.keeper.interrupt()

    log.on_event = interrupt


def test_an_interrupted_create_resumes_after_a_touch(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    os_file, data = disk(tmp_path / "os.raw", content_mib=6), disk(tmp_path / "data.raw", 2, content_mib=8)
    with open_home(tmp_path / "home", log) as home:
        create_sample_gallery(home)
        interrupt_at(home, log, 24 * MIB)
        with pytest.raises(KeyboardInterrupt):
            create(home, os_file, data={0: data})
    touch(data)
    log.on_event = lambda _event: None
    with open_home(tmp_path / "home", log) as home:
        # Another version is the newest when the command is repeated. The bases of the first run are used.
        other, more = disk(tmp_path / "other.raw", 5), disk(tmp_path / "more.raw", 6)
        create(home, other, "0.9.0", data={0: more})
        before = stored(home)
        reads: dict[str, int] = {}
        real = LocalFile.read_at

        def counted(self: LocalFile, offset: int, length: int) -> bytes:
            reads[self.path.name] = reads.get(self.path.name, 0) + length
            return real(self, offset, length)

        monkeypatch.setattr(LocalFile, "read_at", counted)
        log.events.clear()
        made = create(home, os_file, data={0: data})
        assert "stored segments are not sent again" in log.notes()
        assert reads["os.raw"] < MIB, "the finished disk with the recorded identity was read again"
        assert reads["data.raw"] >= 8 * MIB
        after = stored(home)
        assert {key: after[key] for key in before} == before
        assert made.replicas[0].bytes_done == made.replicas[0].bytes_total
        audit(home, struck=True)
        newer = {"0.9.0": other, "0.9.0/lun-0": more}
        audit_served(home, {"1.0.0": os_file, "1.0.0/lun-0": data, **newer}, tmp_path)


def test_an_interrupted_disk_resumes_after_a_touch(tmp_path: Path, log: Log) -> None:
    source = disk(tmp_path / "os.raw", content_mib=10)
    asked = DiskRequest(group=GROUP, name="x", source=str(source), location="southcentralus")
    with open_home(tmp_path / "home", log) as home:
        create_sample_gallery(home)
        interrupt_at(home, log, 8 * MIB)
        with pytest.raises(KeyboardInterrupt):
            create_from_source(home, ADMIN, asked)
    log.on_event = lambda _event: None
    touch(source)
    with open_home(tmp_path / "home", log) as home:
        create_from_source(home, ADMIN, DiskRequest(group=GROUP, name="y", source=str(disk(tmp_path / "y.raw", 4))))
        before = stored(home)
        create_from_source(home, ADMIN, asked)
        after = stored(home)
        assert {key: after[key] for key in before} == before
        audit(home, struck=True)


def test_a_changed_file_of_an_interrupted_create_is_ingested(tmp_path: Path, log: Log) -> None:
    source = disk(tmp_path / "os.raw", content_mib=10)
    with open_home(tmp_path / "home", log) as home:
        create_sample_gallery(home)
        interrupt_at(home, log, 8 * MIB)
        with pytest.raises(KeyboardInterrupt):
            create(home, source)
    log.on_event = lambda _event: None
    change_a_byte(source, MIB)
    with open_home(tmp_path / "home", log) as home:
        create(home, source)
        audit(home, struck=True)
        audit_served(home, {"1.0.0": source}, tmp_path)
