"""Tests of backups and restores with killed processes and full disks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from imgstore.domain.errors import Conflict, OutputError, StoreFull
from imgstore.domain.requests import UploadRequest
from imgstore.domain.storage.sizes import KIB, MIB
from imgstore.operations.disks.uploads import create_upload, open_spool
from imgstore.operations.recovery import restore
from imgstore.operations.recovery.backup import backup_catalog
from imgstore.operations.recovery.restore import RestoreRequest, restore_backup
from imgstore.testing.engines import PostgreSQL
from tests.support.catalog_tables import read_tables
from tests.support.mounted_folder import mount_small
from tests.support.sample_gallery import ADMIN, GROUP, create_sample_gallery, open_home

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backup of a home with settings, certificates and an unfinished upload."""
    folder = tmp_path_factory.mktemp("saved")
    home = folder / "home"
    with open_home(home) as installation:
        create_sample_gallery(installation)
        (home / "settings.toml").write_text("")
        (home / "tls").mkdir(exist_ok=True)
        (home / "tls" / "ca.pem").write_text("authority")
        size = 4 * MIB + 512
        disk = create_upload(installation, ADMIN, UploadRequest(group=GROUP, name="up", upload_bytes=size))
        with closing(open_spool(installation, disk)) as spool:
            spool.write(0, [os.urandom(MIB)])
        backup_catalog(installation, ADMIN, folder / "b.tar")
    return folder / "b.tar"


def kill_each(*words: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.recovery_process", json.dumps(words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_killed_restore_is_refused_and_repeated(saved: Path, tmp_path: Path) -> None:
    assert kill_each("restore", str(saved), str(tmp_path)) > 50


def test_a_killed_backup_leaves_no_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert kill_each("backup", str(saved.parent / "home"), str(tmp_path / "out")) > 10


def test_a_killed_restore_of_postgresql_is_rolled_back(postgresql_server: PostgreSQL, tmp_path: Path) -> None:
    with postgresql_server.database() as source, postgresql_server.database() as target:
        with open_home(tmp_path / "home", database=source) as installation:
            create_sample_gallery(installation)
            file = backup_catalog(installation, ADMIN, tmp_path / "b.tar").backup.path
        expected = read_tables(source)
        kill_each("database", str(file), str(tmp_path / "new"), target)
        found = read_tables(target)
        assert {**found, "activity": []} == {**expected, "activity": []}


# -- no room ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 1 MiB."""
    with mount_small(tmp_path / "small", "1m") as place:
        yield place


def test_a_backup_to_a_full_disk_leaves_no_file(saved: Path, small: Path) -> None:
    with open_home(saved.parent / "home") as installation:
        with pytest.raises(OutputError) as caught:
            backup_catalog(installation, ADMIN, small / "b.tar")
        assert "No space left" in (caught.value.found or "")
        assert list(small.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        backup_catalog(installation, ADMIN, small / "b.tar")


def test_a_home_with_too_little_space_for_a_copy_is_backed_up(saved: Path, small: Path, tmp_path: Path) -> None:
    restored, target = small / "home", tmp_path / "b.tar"
    subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
    restore_backup(RestoreRequest(file=saved, home=restored))
    with open_home(restored) as installation:
        free = os.statvfs(small)
        (small / "filler").write_bytes(bytes(free.f_bfree * free.f_frsize - 128 * KIB))
        backup_catalog(installation, ADMIN, target)
    assert target.stat().st_size > 128 * KIB


def test_a_catalog_on_a_full_disk_is_found_before_the_first_write(saved: Path, small: Path, tmp_path: Path) -> None:
    free = os.statvfs(small)
    (small / "filler").write_bytes(bytes(free.f_bfree * free.f_frsize - 128 * KIB))
    full = RestoreRequest(file=saved, home=tmp_path / "home", database=f"sqlite:///{small}/catalogs/c.sqlite")
    with pytest.raises(StoreFull, match="cannot be used"):
        restore_backup(full)
    assert [*full.home.iterdir(), *(small / "catalogs").iterdir()] == []


def test_a_restore_to_a_full_disk_is_repeated(saved: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = RestoreRequest(file=saved, home=small / "home")
    with pytest.raises(StoreFull, match="cannot be used"):
        restore_backup(request)
    assert list((small / "home").iterdir()) == [], "too little space is found before the first write"
    monkeypatch.setattr(restore, "check_free_bytes", lambda *_: None)
    with pytest.raises(StoreFull):
        restore_backup(request)
    with pytest.raises(Conflict, match="restore"), open_home(small / "home"):
        pass
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    restore_backup(request)
    with open_home(small / "home") as installation:
        assert installation.uid
