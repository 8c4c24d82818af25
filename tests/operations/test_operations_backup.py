"""Tests of backups and restores: content, refusals, and what a home and a database look like afterwards."""

import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from click.testing import CliRunner, Result

from imgstore.catalog.recovery import catalog_dumps, postgresql_dumps, sqlite_copies
from imgstore.catalog.schema import REVISION
from imgstore.cli.main import main
from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ImgstoreError,
    InvalidInput,
    ObjectCorrupt,
    OutputError,
    StoreMismatch,
    ToolMissing,
)
from imgstore.domain.identity.access import Principal
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import UploadRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.disks import list_disks
from imgstore.operations.disks.uploads import create_upload, open_spool
from imgstore.operations.gallery.groups import create_group
from imgstore.operations.installation import Installation
from imgstore.operations.recovery import backup_file
from imgstore.operations.recovery.backup import backup_catalog
from imgstore.operations.recovery.restore import RestoreRequest, restore_backup
from imgstore.operations.recovery.restore_mark import mark_path
from tests.support.catalog_tables import read_tables
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    audit,
    create_sample_gallery,
    export,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

UPLOAD_BYTES = 64 * MIB + 512


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, samples: SampleImages) -> Path:
    """A home with a version, settings, certificates and an unfinished upload. Tests do not change this home."""
    home = tmp_path_factory.mktemp("saved") / "home"
    shutil.copytree(samples.home, home)
    (home / "settings.toml").write_text("[limits]\ngalleries_max = 7\n")
    (home / "tls").mkdir(exist_ok=True)
    (home / "tls" / "ca.pem").write_text("authority")
    (home / "tls" / "ca-key.pem").write_text("key")
    with open_home(home) as installation:
        upload(installation)
    return home


@pytest.fixture(scope="module")
def saved(home: Path) -> Path:
    """A backup of the home."""
    return back_up(home, home.parent / "saved.tar")


@pytest.fixture
def target(home: Path, tmp_path: Path) -> Path:
    """A folder with the stored bytes of the home only."""
    shutil.copytree(home / "regions", tmp_path / "new" / "regions")
    return tmp_path / "new"


def upload(installation: Installation) -> None:
    disk = create_upload(installation, ADMIN, UploadRequest(group=GROUP, name="up", upload_bytes=UPLOAD_BYTES))
    with closing(open_spool(installation, disk)) as spool:
        spool.write(0, [random.Random(1).randbytes(MIB)])
        spool.write(32 * MIB, [random.Random(2).randbytes(MIB)])


def back_up(home: Path, target: Path, **settings: Any) -> Path:
    with open_home(home, **settings) as installation:
        return backup_catalog(installation, ADMIN, target).backup.path


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore", env={"IMGSTORE_DATABASE": ""})


def without_activity(tables: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: rows for name, rows in tables.items() if name != "activity"}


def test_a_restored_home_is_equal(home: Path, saved: Path, target: Path, samples: SampleImages, tmp_path: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert saved.stat().st_size < 4 * MIB, "holes of uploads are not stored"
    done = restore_backup(RestoreRequest(file=saved, home=target))
    assert (done.regions_file, mark_path(target).exists()) == (None, False)
    expected = without_activity(read_tables(f"sqlite:///{home}/catalog.sqlite"))
    assert without_activity(read_tables(f"sqlite:///{target}/catalog.sqlite")) == expected
    for name in ("settings.toml", "tls/ca.pem", "tls/ca-key.pem"):
        assert (target / name).read_bytes() == (home / name).read_bytes()
        assert stat.S_IMODE((target / name).stat().st_mode) == 0o600
    (data,) = target.glob("uploads/*/data")
    assert data.read_bytes() == next(home.glob("uploads/*/data")).read_bytes()
    assert data.stat().st_blocks * 512 < 4 * MIB, "holes stay holes"
    with open_home(target) as installation:
        assert installation.limits.galleries_max == 7
        audit(installation, quiet=False)
        export(installation, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)


def test_a_backup_of_a_home_with_other_regions_names_the_restored_file(
    home: Path, target: Path, tmp_path: Path
) -> None:
    regions = tmp_path / "mine.yaml"
    regions.write_bytes(Path("imgstore/regions.yaml").read_bytes() + b"# mine\n")
    file = back_up(home, tmp_path / "b.tar", regions=regions)
    done = run(target, "catalog", "restore", str(file))
    assert done.exit_code == 0, done.output
    assert f"IMGSTORE_REGIONS={target}/regions.yaml" in done.stderr
    assert (target / "regions.yaml").read_bytes() == regions.read_bytes()


def test_tar_extracts_a_backup(home: Path, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", str(saved), "-C", str(tmp_path / "out")], check=True)
    (data,) = (tmp_path / "out").glob("uploads/*/data")
    assert data.read_bytes() == next(home.glob("uploads/*/data")).read_bytes()
    assert data.stat().st_blocks * 512 < 4 * MIB
    manifest = json.loads((tmp_path / "out" / "MANIFEST.json").read_text())
    assert (manifest["formatVersion"], manifest["revision"]) == (1, REVISION)
    catalog = (tmp_path / "out" / "catalog.sqlite").read_bytes()
    assert blake3(catalog).hexdigest() in {each["blake3"] for each in manifest["members"]}


def test_a_backup_is_one_snapshot_although_others_write_at_each_step(tmp_path: Path) -> None:
    """Without a snapshot, SQLite would begin the copy again after each transaction of another connection."""
    steps = list[int]()

    def write(event: ProgressEvent) -> None:
        if event.task == "uploads and catalog" and event.stage is Stage.MOVED:
            steps.append(event.bytes_done)
            if len(steps) > 100:
                return  # The copy has begun again and again.
            with open_home(tmp_path / "home") as other, other.catalog.transaction() as transaction:
                transaction.sequence.next()

    with open_home(tmp_path / "home", write) as installation:
        with installation.catalog.transaction() as transaction:  # More pages than a step of the copy has.
            transaction._session.connection.exec_driver_sql(
                "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 200000) "
                "INSERT INTO checkpoints SELECT n, printf('%036d', n) FROM numbers"
            )
        backup_catalog(installation, ADMIN, tmp_path / "b.tar")
        with installation.catalog.reading() as transaction:
            assert transaction.sequence.last() == 200_000 + len(steps)
    assert len(steps) > 2
    assert steps == sorted(steps), "the copy never begins again"
    restore_backup(RestoreRequest(file=tmp_path / "b.tar", home=tmp_path / "new"))
    with closing(sqlite3.connect(tmp_path / "new" / "catalog.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (200_000,)


def test_an_upgrade_during_a_backup_is_noticed(
    empty: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the manifest would name the former revision, and the backup could not be restored."""
    real = sqlite_copies.copy_sqlite

    def upgrade_first(source: Path, *args: Any) -> None:
        monkeypatch.undo()
        with closing(sqlite3.connect(source)) as other, other:
            other.execute("UPDATE alembic_version SET version_num = '9999'")
        real(source, *args)

    monkeypatch.setattr(catalog_dumps, "copy_sqlite", upgrade_first)
    found = empty.catalog.dump(tmp_path / "dump", lambda *_: None)
    with closing(sqlite3.connect(tmp_path / "dump")) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (found.revision,) == ("9999",)


def test_an_older_backup_is_noticed_and_the_next_step_is_named(saved: Path, target: Path) -> None:
    restore_backup(RestoreRequest(file=saved, home=target))
    with open_home(target) as installation:
        make_disk(installation, "later", "eastus")
    (target / "catalog.sqlite").unlink()
    for name in ("settings.toml", "tls", "uploads"):
        subprocess.run(["rm", "-r", str(target / name)], check=True)
    done = run(target, "catalog", "restore", str(saved))
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert "checkpoint" in answer["newerBuckets"]
    assert any("imgstore catalog adopt" in step for step in answer["nextSteps"])
    assert "(CatalogOutdated)" in run(target, "gc", "--yes").output
    log = json.loads(run(target, "monitor", "activity-log", "list").stdout)
    assert "imgstore/catalog/restore" in {each["operationName"]["value"] for each in log}


def test_a_catalog_from_before_the_first_content_is_noticed(tmp_path: Path, samples: SampleImages) -> None:
    home, target = tmp_path / "home", tmp_path / "new"
    with open_home(home) as installation:
        create_group(installation, ADMIN, name="rg", location="eastus")
    saved = back_up(home, tmp_path / "saved.tar")
    target.mkdir()
    shutil.copy(home / "catalog.sqlite", target)
    words = ["disk", "create", "-g", "rg", "-n", "later", "-l", "eastus", "--source", str(samples.first)]
    assert run(home, *words).exit_code == 0
    shutil.copytree(home / "regions", target / "regions")
    findings = json.loads(run(target, "doctor", "-o", "json").stdout)["findings"]
    assert [each["level"] for each in findings if each["check"] == "catalog-age"] == ["error"]
    for file in target.glob("catalog.sqlite*"):
        file.unlink()
    answer = json.loads(run(target, "catalog", "restore", str(saved)).stdout)
    assert "checkpoint" in answer["newerBuckets"]
    assert run(target, "catalog", "adopt", "--yes").exit_code == 0
    with open_home(target) as installation:
        assert [each.name for each in list_disks(installation, ADMIN)] == ["later"]


@pytest.mark.parametrize("into", ["file", "folder"])
def test_an_existing_file_is_not_replaced(tmp_path: Path, into: str) -> None:
    home = tmp_path / "home"
    folder = tmp_path / "backups"
    folder.mkdir()
    file = back_up(home, folder if into == "folder" else folder / "b.tar")
    assert [each.name for each in folder.iterdir()] == [file.name]
    before = file.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        back_up(home, file)
    assert file.read_bytes() == before
    assert [each.name for each in folder.iterdir()] == [file.name]
    log = json.loads(run(home, "monitor", "activity-log", "list").stdout)
    outcomes = [each["status"]["value"] for each in log if each["operationName"]["value"] == "imgstore/catalog/backup"]
    assert sorted(outcomes) == ["Failed", "Succeeded"]


def test_a_backup_of_a_home_that_can_be_read_only(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = without_activity(read_tables(f"sqlite:///{home}/catalog.sqlite"))
    monkeypatch.setattr(
        "imgstore.catalog.catalog.find_write_fault", lambda file: OSError(30, "Read-only file system", str(file))
    )
    file = back_up(home, tmp_path / "b.tar")
    monkeypatch.undo()
    restore_backup(RestoreRequest(file=file, home=tmp_path / "new"))
    assert without_activity(read_tables(f"sqlite:///{tmp_path}/new/catalog.sqlite")) == expected


def test_standard_output_is_no_target(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run(home, "catalog", "backup", "-")
    assert (refused.exit_code, "Name a file" in refused.output, list(tmp_path.iterdir())) == (2, True, [])


def test_a_backup_below_the_home_is_warned_of(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "catalog", "backup", str(tmp_path / "home"))
    assert (done.exit_code, "below the home" in done.stderr) == (0, True)
    done = run(tmp_path / "home", "catalog", "backup", str(tmp_path))
    assert (done.exit_code, "below the home" in done.stderr) == (0, False)


def test_only_an_operator_may_back_up(empty: Installation, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied):
        backup_catalog(empty, Principal(name="ann", uid="7"), tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


# -- refusals of a restore --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["catalog.sqlite", "catalog.sqlite-wal", "settings.toml", "tls/ca.pem", "uploads/x", "own"]
)
def test_a_home_with_content_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "new"
    (target / name).parent.mkdir(parents=True)
    (target / name).write_text("x")
    with pytest.raises(Conflict, match="not empty") as caught:
        restore_backup(RestoreRequest(file=saved, home=target))
    assert name.partition("/")[0] in (caught.value.found or "")
    assert [each for each in target.rglob("*") if each.is_file()] == [target / name]


def test_the_leftovers_of_a_lost_catalog_are_no_content(saved: Path, target: Path) -> None:
    (target / "catalog.sqlite").touch()
    assert run(target, "sig", "list").exit_code == 1  # This makes the folders of a home.
    restore_backup(RestoreRequest(file=saved, home=target))
    with open_home(target) as installation:
        audit(installation, quiet=False)


@pytest.mark.parametrize("database", ["sqlite://c.sqlite", "sqlite:///", "mysql://host/x"])
def test_a_wrong_address_is_named_before_anything_is_written(saved: Path, tmp_path: Path, database: str) -> None:
    with pytest.raises(InvalidInput, match="address of the database is invalid"):
        restore_backup(RestoreRequest(file=saved, home=tmp_path / "new", database=database))
    assert not (tmp_path / "new").exists()


def test_the_backup_of_another_installation_is_refused(target: Path, tmp_path: Path) -> None:
    with open_home(tmp_path / "other") as installation:
        create_sample_gallery(installation)
        file = backup_catalog(installation, ADMIN, tmp_path / "b.tar").backup.path
    with pytest.raises(StoreMismatch, match="another installation") as caught:
        restore_backup(RestoreRequest(file=file, home=target))
    assert "imgstore-" in (caught.value.found or "")
    assert [each.name for each in target.iterdir()] == ["regions"]


def test_a_backup_of_a_newer_schema_or_format_is_refused(
    home: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgstore.operations.recovery.restore.REVISION", "0001")
    with pytest.raises(InvalidInput, match="does not know") as caught:
        restore_backup(RestoreRequest(file=saved, home=tmp_path / "new"))
    assert f"revision {REVISION}" in (caught.value.found or "")
    monkeypatch.setattr(backup_file, "FORMAT_VERSION", 2)
    newer = back_up(home, tmp_path / "newer.tar")
    monkeypatch.undo()
    with pytest.raises(InvalidInput, match="format") as caught:
        restore_backup(RestoreRequest(file=newer, home=tmp_path / "new"))
    assert "version 2" in (caught.value.found or "")
    assert not (tmp_path / "new").exists()


def test_each_damage_is_found_before_anything_is_written(saved: Path, tmp_path: Path) -> None:
    file, content = tmp_path / "b.tar", saved.read_bytes()
    end = content.rindex(b"DIGEST\0") + 512 + 64
    rng = random.Random(4)
    for place in [0, 300, 600, end - 1, *(rng.randrange(end - 600) for _ in range(40))]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        with pytest.raises((ObjectCorrupt, InvalidInput)):
            restore_backup(RestoreRequest(file=file, home=tmp_path / "new"))
    for length in (0, 511, 512, 5000, len(content) // 2, end - 600, end - 80):
        file.write_bytes(content[:length])
        with pytest.raises((ObjectCorrupt, InvalidInput)):
            restore_backup(RestoreRequest(file=file, home=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_damaged_member_is_named(saved: Path, tmp_path: Path) -> None:
    file, content = tmp_path / "b.tar", saved.read_bytes()
    file.write_bytes(content.replace(b"SQLite format 3", b"SQLite format 4"))
    with pytest.raises(ObjectCorrupt) as caught:
        backup_file.open_backup(file)
    assert caught.value.found == "wrong bytes in catalog.sqlite"


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(20_480)])
def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(InvalidInput, match="is no backup"):
        restore_backup(RestoreRequest(file=tmp_path / "b.tar", home=tmp_path / "new"))
    with pytest.raises(InvalidInput, match="cannot be read"):
        restore_backup(RestoreRequest(file=tmp_path / "missing.tar", home=tmp_path / "new"))


@pytest.mark.parametrize("announced", [1 << 60, 1 << 70, 0])
def test_an_announced_length_costs_no_memory(tmp_path: Path, announced: int) -> None:
    info = tarfile.TarInfo(backup_file.DIGEST)
    info.size = announced
    (tmp_path / "b.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 1024)
    with pytest.raises(InvalidInput, match="is no backup"):
        backup_file.open_backup(tmp_path / "b.tar")


@pytest.mark.parametrize("offset", [-1, 1 << 40, (1 << 63) - 1, 1 << 63, 10**40])
@pytest.mark.parametrize("is_intact", [True, False])
def test_a_manifest_outside_of_the_file_is_refused(
    saved: Path, tmp_path: Path, offset: int, *, is_intact: bool
) -> None:
    """A hostile file with a right or a wrong digest."""
    content = saved.read_bytes()
    place = content.rindex(b"DIGEST\0")
    digest = content[place + 512 :].split()[0] if is_intact else b"0" * 64
    text = b"%s %d 100\n" % (digest, offset)
    info = tarfile.TarInfo(backup_file.DIGEST)
    info.size = len(text)
    (tmp_path / "b.tar").write_bytes(content[:place] + info.tobuf(tarfile.GNU_FORMAT) + text.ljust(1536, b"\0"))
    with pytest.raises((InvalidInput, ObjectCorrupt)) as caught:
        restore_backup(RestoreRequest(file=tmp_path / "b.tar", home=tmp_path / "new"))
    assert backup_file.MANIFEST in (caught.value.found or "")
    assert not (tmp_path / "new").exists()


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.tar")
    with pytest.raises(InvalidInput, match="cannot be read"):
        backup_file.open_backup(tmp_path / "b.tar")


@pytest.mark.parametrize("left_out", ["data", "journal", "extents"])
def test_an_upload_needs_both_files_and_the_places_of_its_bytes(
    home: Path, tmp_path: Path, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backup_file.BackupWriter.end

    def end(self: backup_file.BackupWriter, description: Any) -> None:
        if left_out == "extents":
            del next(each for each in self._members if "extents" in each)["extents"]
        self._members[:] = [each for each in self._members if not each["name"].endswith(f"/{left_out}")]
        real(self, description)

    monkeypatch.setattr(backup_file.BackupWriter, "end", end)
    with pytest.raises(ObjectCorrupt, match="damaged") as caught:
        back_up(home, tmp_path / "b.tar")
    assert "uploads/" in (caught.value.found or "")


@pytest.mark.parametrize("name", ["../escape", "/etc/x", "uploads/../../x/data", "tls/../x", "scratch/x"])
def test_a_member_outside_of_the_home_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    real = backup_file.BackupWriter.end

    def end(writer: backup_file.BackupWriter, description: backup_file.BackupDescription) -> None:
        writer.add(name, 1, [b"x"])
        real(writer, description)

    monkeypatch.setattr(backup_file.BackupWriter, "end", end)
    with pytest.raises(ObjectCorrupt, match="damaged") as caught:
        back_up(home, tmp_path / "b.tar")
    assert "unknown member" in (caught.value.found or "")
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"schema": 3}, "the schema 3"),
        ({"schema": ["x"]}, "the schema"),
        ({"schema": "public"}, "in a backup of sqlite"),
        ({"programMajor": True}, "the program True"),
        ({"engine": "postgresql"}, "unknown member 'catalog.sqlite'"),
        ("settings.toml", "settings.toml twice"),
        ("catalog.sqlite", "catalog.sqlite twice"),
        ("catalog.pgdump", "unknown member 'catalog.pgdump'"),
    ],
    ids=str,
)
def test_a_manifest_with_other_types_or_further_members_is_refused(
    tmp_path: Path, change: dict[str, object] | str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with open_home(home):
        (home / "settings.toml").write_text("")
    real_end, real_dumps = backup_file.BackupWriter.end, json.dumps

    def end(writer: backup_file.BackupWriter, description: backup_file.BackupDescription) -> None:
        if isinstance(change, str):
            writer.add(change, 1, [b"x"])
        real_end(writer, description)

    def dumps(document: Any, **settings: Any) -> str:
        is_manifest = isinstance(document, dict) and "formatVersion" in document and isinstance(change, dict)
        return real_dumps(document | change if is_manifest else document, **settings)

    monkeypatch.setattr(backup_file.BackupWriter, "end", end)
    monkeypatch.setattr(json, "dumps", dumps)
    with pytest.raises(ObjectCorrupt, match="damaged") as caught:
        back_up(home, tmp_path / "b.tar")
    assert found in (caught.value.found or "")


def test_a_catalog_that_appears_during_a_restore_is_noticed(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgstore.operations.recovery import restore

    real, target = restore._restore_files, tmp_path / "new"

    def appear(*args: Any) -> Any:
        (target / "catalog.sqlite").write_bytes(b"another catalog")
        return real(*args)

    monkeypatch.setattr(restore, "_restore_files", appear)
    with pytest.raises(Conflict, match="exists"):
        restore_backup(RestoreRequest(file=saved, home=target))
    assert (target / "catalog.sqlite").read_bytes() == b"another catalog"


def test_two_restores_exclude_each_other(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    from imgstore.operations.recovery import restore

    real = restore._restore_files

    def wait(*args: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(restore, "_restore_files", wait)
    target = tmp_path / "new"
    thread = threading.Thread(target=restore_backup, args=[RestoreRequest(file=saved, home=target)])
    thread.start()
    assert inside.wait(60)
    with pytest.raises(Conflict, match="Another process"):
        restore_backup(RestoreRequest(file=saved, home=target))
    refused = run(target, "sig", "list")
    assert (refused.exit_code, "was interrupted or is in progress" in refused.output) == (1, True)
    go_on.set()
    thread.join()
    assert run(target, "sig", "list").exit_code == 0


def test_two_homes_are_not_restored_into_one_catalog_at_once(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgstore.operations.recovery import restore

    first, second = (
        RestoreRequest(file=saved, home=tmp_path / name, database=f"sqlite:///{tmp_path}/shared/c.sqlite")
        for name in ("first", "second")
    )
    real, refusals = restore._restore_files, list[Conflict]()

    def restore_second(*args: Any) -> Any:
        monkeypatch.setattr(restore, "_restore_files", real)
        with pytest.raises(Conflict, match="copies or restores") as caught:
            restore_backup(second)
        refusals.append(caught.value)
        return real(*args)

    monkeypatch.setattr(restore, "_restore_files", restore_second)
    restore_backup(first)
    assert len(refusals) == 1
    assert list(second.home.iterdir()) == []
    assert [each.name for each in (tmp_path / "shared").iterdir()] == ["c.sqlite"]
    with pytest.raises(Conflict, match="exists"):
        restore_backup(second)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def databases(postgresql_server: Any) -> Iterator[tuple[str, str]]:
    with postgresql_server.database() as first, postgresql_server.database() as second:
        yield first, second


def test_postgresql_is_restored_by_its_own_tools(
    databases: tuple[str, str], samples: SampleImages, tmp_path: Path
) -> None:
    source, target = databases
    home = tmp_path / "home"
    with open_home(home, database=source) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["eastus"], location="eastus")
        upload(installation)
        file = backup_catalog(installation, ADMIN, tmp_path / "b.tar").backup.path
    expected = without_activity(read_tables(source))
    shutil.copytree(home / "regions", tmp_path / "new" / "regions")
    moved = tmp_path / "new"
    with pytest.raises(InvalidInput, match="another engine"):
        restore_backup(RestoreRequest(file=file, home=moved))
    with pytest.raises(Conflict, match="not empty") as caught:
        restore_backup(RestoreRequest(file=file, home=moved, database=source))
    assert "tables" in (caught.value.found or "")
    assert [each.name for each in moved.iterdir()] == ["regions"]
    restore_backup(RestoreRequest(file=file, home=moved, database=target))
    assert without_activity(read_tables(target)) == expected
    with open_home(moved, database=target) as installation:
        audit(installation, quiet=False)
        make_disk(installation, "after", "eastus")  # The sequence of checkpoints continues.
        export(installation, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)


def test_a_restore_after_the_commit_of_postgresql_ends_well(
    databases: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed after `pg_restore` has committed, and before the mark is removed."""
    source, target = databases
    with open_home(tmp_path / "home", database=source) as installation:
        create_sample_gallery(installation)
        file = backup_catalog(installation, ADMIN, tmp_path / "b.tar").backup.path
    request = RestoreRequest(file=file, home=tmp_path / "new", database=target)
    from imgstore.operations.recovery import restore

    real = catalog_dumps.restore_dump

    def die(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(restore, "restore_dump", die)
    with pytest.raises(KeyboardInterrupt):
        restore_backup(request)
    monkeypatch.undo()
    with pytest.raises(Conflict, match="restore"), open_home(tmp_path / "new", database=target):
        pass
    restore_backup(request)
    with open_home(tmp_path / "new", database=target) as installation:
        assert installation.uid


def test_a_missing_or_old_program_is_named(postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_home(tmp_path / "home", database=postgresql) as installation:
        monkeypatch.setattr(postgresql_dumps, "_FOLDERS", ())
        monkeypatch.setattr(postgresql_dumps, "_PACKAGE", "no_such_package")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ToolMissing, match="pg_dump") as caught:
            backup_catalog(installation, ADMIN, tmp_path / "b.tar")
        assert caught.value.found == "no pg_dump on PATH"
        old = tmp_path / "pg_dump"
        old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.2'\n")
        old.chmod(0o755)
        with pytest.raises(ToolMissing) as caught:
            backup_catalog(installation, ADMIN, tmp_path / "b.tar")
        assert "of version 9" in (caught.value.found or "")
        assert "postgresql-client-" in (caught.value.hint or "")
    assert not (tmp_path / "b.tar").exists()


def test_no_command_line_shows_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "seen"
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" > {log}\necho "password $PGPASSWORD" >> {log}\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(ImgstoreError, match="failed"):
        postgresql_dumps.dump_postgresql(
            "postgresql://u:geheim@127.0.0.1:1/n",
            "public",
            postgresql_dumps.Program(path=str(program), major=16),
            tmp_path / "dump",
            lambda _: None,
        )
    words, variables = log.read_text().splitlines()
    assert "geheim" not in words
    assert variables == "password geheim"
    assert os.environ.get("PGPASSWORD") is None


@pytest.mark.parametrize("name", ["oauth_client_secret", "scram_client_key", "scram_server_key", "sslpassword"])
def test_a_secret_that_a_command_line_would_show_is_refused(tmp_path: Path, name: str) -> None:
    program = postgresql_dumps.Program(path="/bin/false", major=16)
    with pytest.raises(InvalidInput, match="a secret") as caught:
        postgresql_dumps.dump_postgresql(
            f"postgresql://127.0.0.1:1/n?{name}=geheim", "public", program, tmp_path / "dump", lambda _: None
        )
    assert caught.value.found == f"the parameter {name}"
