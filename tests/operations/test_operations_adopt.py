"""A catalog from a backup takes the newer objects of its buckets, as if the backup never happened (K9)."""

import filecmp
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.errors import CatalogOutdated, Conflict, InvalidInput, StoreError
from imgstore.domain.resources import OsType
from imgstore.operations.activity_log import list_activity
from imgstore.operations.disks.disks import delete_disk, list_disks
from imgstore.operations.gallery import definitions, galleries, groups
from imgstore.operations.ledger_log.keys import rotate_key
from imgstore.operations.ledger_log.seal import seal_entries, seal_now
from imgstore.operations.ledger_log.verify import verify_log
from imgstore.operations.maintenance.revision_upkeep import write_all_revisions
from imgstore.operations.recovery.adopt import adopt_newer
from imgstore.operations.recovery.recovery_file import read_recovery_file, write_recovery_file
from imgstore.operations.stores.catalog_checks import accept_catalog
from tests.support.catalog_dump import PASSPHRASE, dump, remove_catalog
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    SampleImages,
    audit,
    collect,
    delete,
    export,
    make_disk,
    open_home,
    publish,
    update,
)
from tests.support.sealed_ledger import add_entries

pytest_plugins = ["tests.support.published_gallery"]


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    """A home, with a backup of the catalog beside it."""
    shutil.copytree(samples.home, tmp_path / "home")
    with open_home(tmp_path / "home") as installation:
        make_disk(installation, "old", "eastus")
        groups.create_group(installation, ADMIN, name="empty", location="eastus")
        seal_now(installation, ADMIN)
        write_all_revisions(installation)
    shutil.copyfile(tmp_path / "home" / "catalog.sqlite", tmp_path / "backup.sqlite")
    return tmp_path / "home"


def restore(home: Path) -> None:
    """Put the backup in place of the catalog."""
    remove_catalog(home)
    shutil.copyfile(home.parent / "backup.sqlite", home / "catalog.sqlite")


def test_adopted_catalog_equals_the_newest_catalog(home: Path, tmp_path: Path, samples: SampleImages) -> None:
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
        make_disk(installation, "d1", "eastus", "1.0.1")
        delete_disk(installation, ADMIN, group=GROUP, name="old")
        delete(installation, "1.0.0")
        update(installation, "1.0.1", tags={"a": "1"})
        groups.delete_group(installation, ADMIN, name="empty")
        galleries.create_gallery(installation, ADMIN, group=GROUP, name="g2", location="eastus")
        groups.create_group(installation, ADMIN, name="empty", location="westus2")
        rotate_key(installation, ADMIN)
        seal_now(installation, ADMIN)
        write_recovery_file(installation, ADMIN, tmp_path / "file", passphrase=PASSPHRASE)
        write_all_revisions(installation)
        newest = dump(installation.catalog)
    restore(home)
    keys, _ = read_recovery_file(tmp_path / "file", PASSPHRASE)
    with open_home(home) as installation:
        older = dump(installation.catalog)
        with pytest.raises(CatalogOutdated, match="older than its buckets"):
            collect(installation)
        with pytest.raises(InvalidInput, match="does not belong"):
            adopt_newer(installation, ADMIN, dry_run=True, keys=replace(keys, installation_uid="other"))
        plan = adopt_newer(installation, ADMIN, dry_run=True, keys=keys)
        found = {(each.kind, each.name, each.change) for each in plan.resources}
        assert found >= {
            ("versions", "1.0.1", "new"),
            ("versions", "1.0.0", "deleted"),
            ("disks", "d1", "new"),
            ("disks", "old", "deleted"),
            ("galleries", "g2", "new"),
            ("groups", "empty", "new"),
            ("groups", "empty", "deleted"),
        }
        assert plan.newest_at is not None
        assert plan.checkpoints > 0
        changed = dump(installation.catalog)
        assert {name for name in older if changed[name] != older[name]} <= {"installation"}
        report = adopt_newer(installation, ADMIN, dry_run=False, keys=keys)
        assert report.is_complete
        assert {(each.kind, each.name, each.change) for each in report.resources} == found
        after = dump(installation.catalog)
        ignored = {"recovery_keys"}
        assert {name: rows for name, rows in after.items() if rows != newest[name] and name not in ignored} == {}
        assert not adopt_newer(installation, ADMIN, dry_run=True).resources
        events = list_activity(installation, ADMIN, within=timedelta(days=1), events_max=50)
        assert "imgstore/catalog/adopt" in {event.action for event in events}
        collect(installation)
        delete_disk(installation, ADMIN, group=GROUP, name="d1")
        export(installation, tmp_path / "out.raw", "eastus", "1.0.1")
        assert filecmp.cmp(tmp_path / "out.raw", samples.second, shallow=False)
        audit(installation, collected=True)


def test_entries_that_an_older_catalog_sealed_are_sealed_again(home: Path, samples: SampleImages) -> None:
    """The older catalog seals another entry at a position of the newer log, before anyone notices (M21)."""
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
        kept = seal_now(installation, ADMIN).checkpoint
        write_all_revisions(installation)
    restore(home)
    with open_home(home) as installation:
        add_entries(installation, range(1, 3))
        assert seal_entries(installation).sealed == 2
        assert not verify_log(installation, ADMIN, older=kept).is_intact
        with pytest.raises(CatalogOutdated):
            collect(installation)
        with pytest.raises(CatalogOutdated, match="nothing is sealed"):
            seal_now(installation, ADMIN)
        adopt_newer(installation, ADMIN, dry_run=False)
        report = verify_log(installation, ADMIN, older=kept)
        assert [each.kind for each in report.findings] == ["late", "late"], "the entries of the test have an older time"
        assert {each.entry for each in report.unsealed} >= {"ledger/charge-00001", "ledger/charge-00002"}
        assert seal_now(installation, ADMIN).sealed >= 2
        report = verify_log(installation, ADMIN, older=kept)
        assert {each.kind for each in report.findings} == {"late"}
        assert report.verified == report.size


def create_definition(installation: Any) -> None:
    definitions.create_definition(
        installation, ADMIN, group=GROUP, gallery=GALLERY, name="same", publisher="p", offer="o", sku="same",
        os_type=OsType.LINUX,
    )  # fmt: skip


def test_a_newer_disk_of_the_same_name_comes_after_a_deletion(home: Path) -> None:
    with open_home(home) as installation:
        newer = make_disk(installation, "same", "eastus")
        write_all_revisions(installation)
    restore(home)
    with open_home(home) as installation:
        older = make_disk(installation, "same", "eastus")
        with pytest.raises(Conflict) as caught:
            adopt_newer(installation, ADMIN, dry_run=False)
        assert f"disks same ({older.uid}): " in (caught.value.found or "")
        assert "imgstore regions accept-catalog" in (caught.value.hint or "")
        with pytest.raises(CatalogOutdated):
            delete_disk(installation, ADMIN, group=GROUP, name="same")
        accept_catalog(installation, ADMIN)
        delete_disk(installation, ADMIN, group=GROUP, name="same")
        adopt_newer(installation, ADMIN, dry_run=False)
        assert newer.uid in {each.uid for each in list_disks(installation, ADMIN)}
        audit(installation)


def test_a_resource_of_the_older_catalog_alone_stays(home: Path, samples: SampleImages) -> None:
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
        create_definition(installation)
        write_all_revisions(installation)
    restore(home)
    with open_home(home) as installation:
        with pytest.raises(CatalogOutdated):
            collect(installation)
        groups.create_group(installation, ADMIN, name="local", location="eastus")
        plan = adopt_newer(installation, ADMIN, dry_run=True)
        assert "local" not in {each.name for each in plan.resources}
        create_definition(installation)
        for dry_run in (True, False):
            with pytest.raises(Conflict, match="do not fit") as caught:
                adopt_newer(installation, ADMIN, dry_run=dry_run)
            assert "the same gallery_uid, name_key as the newer definitions" in (caught.value.found or "")
        definitions.delete_definition(installation, ADMIN, group=GROUP, gallery=GALLERY, name="same")
        adopt_newer(installation, ADMIN, dry_run=False)
        assert "local" in {each.name for each in groups.list_groups(installation, ADMIN)}
        write_all_revisions(installation)
        collect(installation)
        audit(installation)


def test_a_failed_adoption_changes_nothing(home: Path, samples: SampleImages) -> None:
    """The intervals of adopted versions belong to the transaction of the adoption (invariant K9)."""
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1")
    restore(home)
    file = home / "catalog.sqlite"
    with open_home(home) as installation:
        with pytest.raises(CatalogOutdated):
            collect(installation)
        older = dump(installation.catalog)
        with closing(sqlite3.connect(file)) as connection:
            is_new = "NOT EXISTS (SELECT 1 FROM intervals WHERE uid = NEW.uid)"
            fault = "BEGIN SELECT RAISE(ABORT, 'no interval'); END"
            connection.execute(f"CREATE TRIGGER fault BEFORE INSERT ON intervals WHEN {is_new} {fault}")
        with pytest.raises(StoreError) as caught:
            adopt_newer(installation, ADMIN, dry_run=False)
        assert caught.value.found == "no interval"
        assert dump(installation.catalog) == older
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("DROP TRIGGER fault")
        adopt_newer(installation, ADMIN, dry_run=False)
        after = dump(installation.catalog)
        stored = {(row["owner_uid"], row["slot_uid"]) for row in after["manifests"]}
        assert {(row["owner_uid"], row["slot_uid"]) for row in after["intervals"] if row["closed_at"] is None} == stored
        assert stored > {(row["owner_uid"], row["slot_uid"]) for row in older["manifests"]}


def test_the_command_says_how_much_newer_the_buckets_are(home: Path, samples: SampleImages) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["catalog", "adopt", "--home", str(home), *words], prog_name="imgstore")

    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1", ["southcentralus"])
    restore(home)
    done = run()
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert (body["done"], body["newerResources"]) == (False, len(body["resources"]))
    assert body["newestChange"]
    assert "nothing was changed" in done.stderr
    assert json.loads(run("--yes").stdout)["done"] is True
    current = run()
    assert json.loads(current.stdout)["resources"] == []
    assert "nothing to adopt" in current.stderr
    table = run("-o", "table")
    assert (table.exit_code, table.stdout) == (0, "")
    assert "nothing to adopt" in table.stderr
    with open_home(home) as installation:
        delete(installation, "1.0.1")
