"""Uploads and grants as operations: rights, other processes, crashes and billing."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from imgstore.domain import names
from imgstore.domain.disks.signed_urls import AccessLevel, DiskState
from imgstore.domain.disks.upload_tags import UPLOAD_DIGEST, UPLOAD_FOR, UPLOAD_MISMATCH
from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NotFound,
    ObjectCorrupt,
    SourceChanged,
    SourceNotFound,
    WorkHeld,
)
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import DiskRequest, MachineRequest, UploadRequest, VersionSource
from imgstore.domain.resources import DiskKind, ImageVersion, ManagedDisk
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import VersionView
from imgstore.formats.vhd_layout import TYPE_FIXED, pack_footer
from imgstore.operations.disks import disks, signed_urls, uploads
from imgstore.operations.disks.disks import delete_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.disks.uploads import create_upload, open_spool, open_upload, revoke_access, sweep_uploads
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import create_machine
from imgstore.operations.versions.create import create_version
from imgstore.transfer.spool import remove_spool, spool_folder
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    audit,
    create_sample_gallery,
    export_disk,
    open_home,
    own_slots,
    request,
)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with open_home(tmp_path / "home") as opened:
        create_sample_gallery(opened)
        yield opened


@pytest.fixture
def vhd(tmp_path: Path) -> bytes:
    make_raw(tmp_path / "d.raw", seed=3, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
    return (tmp_path / "d.raw").read_bytes() + pack_footer(
        virtual_bytes=8 * MIB, disk_type=TYPE_FIXED, disk_digest=bytes(32)
    )


def make(installation: Installation, data: bytes, name: str = "up") -> None:
    """A disk with its upload sent."""
    disk = create_upload(installation, ADMIN, UploadRequest(group=GROUP, name=name, upload_bytes=len(data)))
    with closing(open_spool(installation, disk)) as spool:
        for at in range(0, len(data), MIB):
            spool.write(at, [data[at : at + MIB]])


def grant(installation: Installation, level: AccessLevel, who: Principal = ADMIN, seconds: int = 60) -> str:
    return signed_urls.grant_access(
        installation, who, group=GROUP, name="up", level=level, duration_seconds=seconds, server_url="https://h"
    )


def revoke(installation: Installation, name: str = "up") -> ManagedDisk:
    return revoke_access(installation, ADMIN, group=GROUP, name=name)


def test_an_upload_becomes_a_disk_that_is_collected_and_billed_like_others(
    installation: Installation, vhd: bytes, tmp_path: Path
) -> None:
    for name in ("up", "again"):
        make(installation, vhd, name)
        made = revoke(installation, name)
        assert (made.provisioning_state, made.disk_state) == (ProvisioningState.SUCCEEDED, DiskState.UNATTACHED)
    export_disk(installation, tmp_path / "out.raw", "again")
    assert (tmp_path / "out.raw").read_bytes() == vhd[:-512]
    (slot,) = own_slots(installation)
    with installation.catalog.reading() as transaction:
        first, second = (row for row in transaction.manifests.in_slot(slot.uid))
    assert first.segment_ids == second.segment_ids, "the same disk is not stored twice"
    audit(installation)
    for name in ("up", "again"):
        disks.delete_disk(installation, ADMIN, group=GROUP, name=name)
    audit(installation)
    assert not list((installation.home / "uploads").iterdir())


def test_unfinished_upload_is_refused_as_a_source(installation: Installation, vhd: bytes) -> None:
    make(installation, vhd)
    copy = DiskRequest(group=GROUP, name="copy", source="up")
    with pytest.raises(InvalidInput, match="is not found") as caught:
        create_from_source(installation, ADMIN, copy)
    assert caught.value.found == "a disk that waits for an upload: `imgstore disk revoke-access` ends the upload"
    revoke(installation)
    assert create_from_source(installation, ADMIN, copy).provisioning_state is ProvisioningState.SUCCEEDED


def test_repeated_command_resumes_after_a_store_failure(
    installation: Installation, vhd: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(installation, vhd)

    def broken(*_args: object, **_more: object) -> None:
        raise ObjectCorrupt("torn")

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "ingest_disk", broken)
        with pytest.raises(ObjectCorrupt):
            revoke(installation)
    shown = disks.show_disk(installation, ADMIN, group=GROUP, name="up")
    assert shown.disk_state is DiskState.READY_TO_UPLOAD
    assert revoke(installation).provisioning_state is ProvisioningState.SUCCEEDED
    assert revoke(installation).provisioning_state is ProvisioningState.SUCCEEDED, "once more does nothing"


def test_rights_of_uploads_and_grants(installation: Installation, vhd: bytes) -> None:
    make(installation, vhd)
    nobody = Principal(name="nobody")
    with pytest.raises((AccessDenied, NotFound)):
        grant(installation, AccessLevel.WRITE, nobody)
    with pytest.raises((AccessDenied, NotFound)):
        revoke_access(installation, nobody, group=GROUP, name="up")
    with pytest.raises((AccessDenied, NotFound)):
        create_upload(installation, nobody, UploadRequest(group=GROUP, name="x", upload_bytes=1024))


def test_impossible_grants_are_refused(installation: Installation, vhd: bytes) -> None:
    make(installation, vhd)
    with pytest.raises(Conflict, match="Access level Read is not allowed"):
        grant(installation, AccessLevel.READ)
    for seconds in (0, 2**31):
        with pytest.raises(InvalidInput, match="out of range"):
            grant(installation, AccessLevel.WRITE, seconds=seconds)
    grant(installation, AccessLevel.WRITE)
    with pytest.raises(Conflict, match="active shared access signature"):
        disks.delete_disk(installation, ADMIN, group=GROUP, name="up")
    assert disks.show_disk(installation, ADMIN, group=GROUP, name="up").disk_state is DiskState.ACTIVE_UPLOAD


def test_grant_for_a_concurrently_changed_disk_is_refused(installation: Installation, vhd: bytes) -> None:
    make(installation, vhd)
    stale = disks.show_disk(installation, ADMIN, group=GROUP, name="up")
    revoke(installation)
    with installation.catalog.transaction() as transaction:
        assert not transaction.disks.set_grant(stale, stale.grant)
        transaction.disks.update(transaction.disks.by_uid(stale.uid))


def test_each_url_is_valid_until_the_expiry_of_the_url(installation: Installation, vhd: bytes) -> None:
    make(installation, vhd)
    long, short = grant(installation, AccessLevel.WRITE, seconds=600), grant(installation, AccessLevel.WRITE)
    for url in (long, short):
        told = dict(part.split("=") for part in url.split("?")[1].split("&"))
        ticket = signed_urls.SignedUrlClaims(
            disk_uid=url.split("/")[4],
            grant_uid=told["si"],
            expires_at=told["se"].replace("%3A", ":"),
            signature=told["sig"],
        )
        assert signed_urls.authorize_signed_url(installation, ticket, write=True).name == "up"


def test_server_removes_only_uploads_left_by_a_crash(installation: Installation, vhd: bytes) -> None:
    make(installation, vhd)
    kept = disks.show_disk(installation, ADMIN, group=GROUP, name="up")
    left = spool_folder(installation.home, "a-disk-that-is-gone")
    left.mkdir()
    sweep_uploads(installation)
    assert not left.exists()
    assert spool_folder(installation.home, kept.uid).exists()


def test_open_upload_is_not_ingested(installation: Installation, vhd: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    make(installation, vhd)
    monkeypatch.setattr(uploads, "_PATIENCE_SECONDS", 0.1)
    disk = disks.show_disk(installation, ADMIN, group=GROUP, name="up")
    with closing(open_spool(installation, disk)), pytest.raises(WorkHeld):
        revoke(installation)
    assert revoke(installation).provisioning_state is ProvisioningState.SUCCEEDED


def test_copy_of_an_uploaded_disk_does_not_wait_for_an_upload(
    installation: Installation, vhd: bytes, tmp_path: Path
) -> None:
    make(installation, vhd)
    revoke(installation)
    grant(installation, AccessLevel.READ)
    for name, kind in (("s1", DiskKind.SNAPSHOT), ("d2", DiskKind.DISK)):
        copy = create_from_source(installation, ADMIN, DiskRequest(kind=kind, group=GROUP, name=name, source="up"))
        assert (copy.upload_bytes, copy.grant, copy.disk_state) == (None, None, DiskState.UNATTACHED)
    export_disk(installation, tmp_path / "out.raw", "d2")
    assert (tmp_path / "out.raw").read_bytes() == vhd[:-512]
    machine = create_machine(installation, ADMIN, MachineRequest(group=GROUP, name="vm1", attach_os_disk="d2"))
    assert machine.os_disk.disk_state is DiskState.ATTACHED
    create_upload(installation, ADMIN, UploadRequest(group=GROUP, name="waits", upload_bytes=len(vhd)))
    with pytest.raises(InvalidInput, match="is not found"):
        create_machine(installation, ADMIN, MachineRequest(group=GROUP, name="vm2", attach_os_disk="waits"))
    audit(installation)


def version_of(installation: Installation, source: str = "up", who: Principal = ADMIN) -> VersionView:
    wanted = request("1.0.0", ["southcentralus"], source=VersionSource(os_snapshot=source))
    return create_version(installation, who, wanted)


def for_version(installation: Installation, data: bytes, **tags: str) -> ManagedDisk:
    """A disk whose upload is for a version and ended."""
    disk = create_upload(
        installation,
        ADMIN,
        UploadRequest(group=GROUP, name="up", upload_bytes=len(data), tags={UPLOAD_FOR: "x"} | tags),
    )
    with closing(open_spool(installation, disk)) as spool:
        for at in range(0, len(data), MIB):
            spool.write(at, [data[at : at + MIB]])
    return revoke(installation)


def test_an_upload_for_a_version_is_stored_and_billed_with_the_version_only(
    installation: Installation, vhd: bytes
) -> None:
    """Invariant S1."""
    disk = for_version(installation, vhd)
    assert disk.disk_state is DiskState.READY_TO_UPLOAD
    view = version_of(installation)
    assert view.version.os_disk.source.location == disk.resource_id
    (own,) = own_slots(installation)
    keys = [info.key for info in installation.access(own).store.list("pools/" + own.key.pool_uid)]
    assert [key for key in keys if not key.startswith(f"{own.prefix}owners/{disk.uid}/")] == [], "revisions only"
    with installation.catalog.reading() as transaction:
        assert transaction.manifests.in_slot(own.uid) == []
    audit(installation)
    remove_spool(installation.home, disk.uid)
    assert version_of(installation).version.uid == view.version.uid, "the upload is not needed any more"
    disks.delete_disk(installation, ADMIN, group=GROUP, name="up")
    assert version_of(installation).version.uid == view.version.uid, "the disk is not needed any more"
    audit(installation)


def test_an_upload_with_an_expired_url_is_no_source(installation: Installation, vhd: bytes) -> None:
    """A URL that expires during an upload leaves a gap, which would read as zeros."""
    disk = for_version(installation, vhd)
    grant(installation, AccessLevel.WRITE)
    with installation.catalog.transaction() as transaction:
        begun = transaction.disks.by_uid(disk.uid)
        assert begun.grant is not None
        assert transaction.disks.set_grant(begun, replace(begun.grant, expires_at=transaction.now()))
    with pytest.raises(InvalidInput, match="is not found") as caught:
        version_of(installation)
    assert caught.value.found == "a disk that waits for an upload: `imgstore disk revoke-access` ends the upload"
    revoke(installation)
    assert version_of(installation).version.provisioning_state is ProvisioningState.SUCCEEDED


def test_errors_about_an_upload_for_a_version_name_steps_to_a_disk(installation: Installation, vhd: bytes) -> None:
    for_version(installation, vhd)
    copy = DiskRequest(group=GROUP, name="copy", source="up")
    with pytest.raises(InvalidInput) as copied:
        create_from_source(installation, ADMIN, copy)
    with pytest.raises(Conflict) as exported:
        export_disk(installation, installation.home / "out.raw", "up")
    with pytest.raises(Conflict) as granted:
        grant(installation, AccessLevel.READ)
    steps = "repeat `imgstore disk create` with `--tags` without this tag, then run `imgstore disk revoke-access`"
    assert steps in str(copied.value.found)
    assert exported.value.hint == granted.value.hint == steps
    create_upload(installation, ADMIN, UploadRequest(group=GROUP, name="up", upload_bytes=len(vhd), tags={"k": "v"}))
    assert revoke(installation).provisioning_state is ProvisioningState.SUCCEEDED
    assert create_from_source(installation, ADMIN, copy).provisioning_state is ProvisioningState.SUCCEEDED


def test_a_second_create_follows_the_ingest_of_an_upload(tmp_path: Path, vhd: bytes) -> None:
    """The first create keeps the upload locked, so the second must follow before its sources are opened."""
    begun, followed = threading.Event(), threading.Event()

    def hold_first(event: ProgressEvent) -> None:
        if "another process does this work" in event.detail:
            followed.set()
        elif (event.task, event.stage) == ("southcentralus/0", Stage.STARTED) and not begun.is_set():
            begun.set()
            assert followed.wait(60)

    with open_home(tmp_path / "home", hold_first) as home, ThreadPoolExecutor(2) as threads:
        create_sample_gallery(home)
        for_version(home, vhd)
        first = threads.submit(version_of, home)
        assert begun.wait(60)
        second = threads.submit(version_of, home)
        assert second.result().version == first.result().version
        audit(home)


def test_an_upload_that_is_deleted_during_the_wait_is_no_source(installation: Installation, vhd: bytes) -> None:
    """An equal command creates the version and deletes the disk while this command waits for the lock of the upload."""
    disk = for_version(installation, vhd)
    held = open_spool(installation, disk)

    def delete_first(_seconds: float) -> None:
        held.close()
        delete_disk(installation, ADMIN, group=GROUP, name="up")

    waiting = replace(installation, effects=replace(installation.effects, wait=delete_first))
    with pytest.raises(SourceNotFound, match=r"Source .*up is not found"):
        open_upload(waiting, disk)
    assert not list((installation.home / "uploads").iterdir())


def test_a_create_without_the_right_to_the_upload_follows_no_ingest(tmp_path: Path, vhd: bytes) -> None:
    """Invariant H7: the request would be stored, and preempt the first one, before its rights were checked."""
    begun, ended = threading.Event(), threading.Event()

    def hold_first(event: ProgressEvent) -> None:
        if (event.task, event.stage) == ("southcentralus/0", Stage.STARTED) and not begun.is_set():
            begun.set()
            assert ended.wait(60)

    with open_home(tmp_path / "home", hold_first) as home, ThreadPoolExecutor(1) as threads:
        create_sample_gallery(home)
        for_version(home, vhd)
        first = threads.submit(version_of, home)
        try:
            assert begun.wait(60)
            gallery = names.gallery_id(home.subscription, GROUP, GALLERY)
            eve = Principal(name="eve", grants=(Grant(role=Role.CONTRIBUTOR, scope=gallery),))
            wanted = request("1.0.0", ["southcentralus"], source=VersionSource(os_snapshot="up"))

            def refuse_record(_version: ImageVersion) -> None:
                pytest.fail("the request was recorded")

            with pytest.raises(AccessDenied):
                create_version(home, eve, wanted, on_recorded=refuse_record)
        finally:
            ended.set()
        first.result()
        audit(home)


def test_an_upload_with_another_digest_makes_no_version(installation: Installation, vhd: bytes) -> None:
    for_version(installation, vhd, **{UPLOAD_DIGEST: "00" * 32})
    with pytest.raises(SourceChanged) as caught:
        version_of(installation)
    assert caught.value.error_code == UPLOAD_MISMATCH
    with installation.catalog.reading() as transaction:
        assert transaction.versions.list_all() == []
    disks.tag_disk(installation, ADMIN, group=GROUP, name="up", tags={UPLOAD_DIGEST: "no digest"})
    with pytest.raises(InvalidInput, match="not a disk digest"):
        version_of(installation)


def test_an_upload_for_a_version_needs_the_right_to_the_version(installation: Installation, vhd: bytes) -> None:
    """A caller with the right to disks alone is refused before bytes are sent or stored."""
    group = names.group_id(installation.subscription, GROUP)
    gallery = names.gallery_id(installation.subscription, GROUP, GALLERY)
    ann = Principal(
        name="ann", grants=(Grant(role=Role.CONTRIBUTOR, scope=f"{group}/providers/Microsoft.Compute/disks/up"),)
    )
    wanted = UploadRequest(group=GROUP, name="up", upload_bytes=len(vhd), tags={UPLOAD_FOR: gallery})
    with pytest.raises(AccessDenied):
        create_upload(installation, ann, wanted)
    with pytest.raises(NotFound):
        disks.show_disk(installation, ADMIN, group=GROUP, name="up")
    assert create_upload(installation, ann, replace(wanted, tags=None)).awaits_upload, "the right to the disk"
    for_version(installation, vhd)
    with pytest.raises(AccessDenied):
        version_of(installation, who=ann)
    with installation.catalog.reading() as transaction:
        assert transaction.versions.list_all() == []


def test_an_abandoned_upload_for_a_version_is_removed(tmp_path: Path, vhd: bytes) -> None:
    with open_home(tmp_path / "other", space=DiskSpace(upload_days_max=0)) as installation:
        create_sample_gallery(installation)
        disk = for_version(installation, vhd)
        sweep_uploads(installation)
        assert not spool_folder(installation.home, disk.uid).exists()
        with pytest.raises(InvalidInput, match="no uploaded bytes"):
            version_of(installation)
        audit(installation)
