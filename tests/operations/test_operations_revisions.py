"""The buckets describe themselves: each command leaves the newest rows of its resources in the buckets (B18)."""

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from imgstore.domain.diagnosis import Level
from imgstore.domain.errors import CatalogOutdated, StoreUnreachable
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.storage.object_keys import INSTALLATION
from imgstore.domain.storage.revisions import Revision
from imgstore.operations.diagnosis.doctor import diagnose
from imgstore.operations.disks import disks
from imgstore.operations.gallery import groups
from imgstore.operations.identity.principals import Proof, create_administrator, list_tenants
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import revision_upkeep
from imgstore.operations.maintenance.revision_upkeep import write_all_revisions
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.revisions import flush_revisions, write_waiting_revisions
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.regions import Locator
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.wrappers.hedging import LATE_SECONDS, Grace, ask_to_quorum
from imgstore.testing.engines import S3Engine
from imgstore.testing.latency_proxy import LatencyProxies
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.revision_audit import check_revisions, read_revisions
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    collect,
    create_sample_gallery,
    delete,
    make_disk,
    open_home,
    publish,
    retarget,
    show,
    update,
)

pytest_plugins = ["tests.support.published_gallery"]


def find(installation: Installation, kind: str, region: str | None = None) -> list[Revision]:
    return [each for (name, _), each in read_revisions(installation, region).items() if name == kind]


def test_each_command_leaves_its_revisions(published: Installation) -> None:
    check_revisions(published)
    groups.create_group(published, ADMIN, name="Other", location="eastus", tags={"a": "1"})
    check_revisions(published)
    make_disk(published, "d1", "southcentralus")
    check_revisions(published)
    update(published, tags={"b": "2"})
    check_revisions(published)
    retarget(published, ["southcentralus", "eastus"])
    check_revisions(published)
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    check_revisions(published)
    delete(published)
    check_revisions(published)
    write_all_revisions(published)
    check_revisions(published, deferred=True)


def test_resource_without_a_slot_is_in_each_used_region(published: Installation) -> None:
    groups.create_group(published, ADMIN, name="Other", location="eastus")
    for region in ("southcentralus", "westus2", "eastus"):
        assert "Other" in {each.rows["groups"][0]["name"] for each in find(published, "groups", region)}


def test_first_group_of_a_home_is_in_the_first_region(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as installation:
        groups.create_group(installation, ADMIN, name="rg", location="eastus")
        check_revisions(installation)
        assert find(installation, "groups", "southcentralus")


def test_first_tenant_and_administrator_leave_their_revisions(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as installation:
        groups.create_group(installation, ADMIN, name="rg", location="eastus")
        list_tenants(installation, ADMIN)
        check_revisions(installation)
        assert create_administrator(installation, Proof(hint="abc", hashed="hash", days=1)) is not None
        check_revisions(installation)
        assert len(find(installation, "tenants")) == len(find(installation, "principals")) == 1


def test_deletion_is_a_revision_without_rows(published: Installation) -> None:
    uid = make_disk(published, "d1", "southcentralus").uid
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    for region in ("southcentralus", "westus2", "eastus"):
        (deletion,) = [each for each in find(published, "disks", region) if each.uid == uid]
        assert deletion.is_deleted
        assert not deletion.rows


def test_new_region_gets_the_revisions_of_all_resources(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus"])
        assert not find(installation, "galleries", "eastus")
        retarget(installation, ["southcentralus", "eastus"])
        write_waiting_revisions(installation)
        assert find(installation, "galleries", "eastus") == find(installation, "galleries", "southcentralus")
        assert {each.uid for each in find(installation, "groups", "eastus")} == {
            each.uid for each in find(installation, "groups", "southcentralus")
        }


def test_progress_of_a_replica_marks_nothing(published: Installation) -> None:
    (first, *_) = show(published).replicas
    with published.catalog.transaction() as transaction:
        transaction.replicas.record_progress(first.uid, 1, 2)
    with published.catalog.reading() as transaction:
        assert not transaction.revision_marks.has_urgent()


def test_region_without_an_answer_gets_its_revisions_later(
    published: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Locator.installation_store

    def silent(locator: Locator, name: str) -> object:
        if name == "westus2":
            raise StoreUnreachable("The store does not answer.", found="a fault made on purpose", target=name)
        return real(locator, name)

    with monkeypatch.context() as patch:
        patch.setattr(Locator, "installation_store", silent)
        groups.create_group(published, ADMIN, name="Other", location="eastus")
        names = [each.rows["groups"][0]["name"] for each in find(published, "groups", "eastus")]
        assert "Other" in names
        assert write_waiting_revisions(published) > 0
    assert write_waiting_revisions(published) == 0
    assert "Other" in {each.rows["groups"][0]["name"] for each in find(published, "groups", "westus2")}
    check_revisions(published)


def test_command_succeeds_while_no_store_takes_a_revision(
    published: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def refuse(*_args: object, **_more: object) -> None:
            raise StoreUnreachable("The store does not answer.", found="a fault made on purpose", target="store")

        patch.setattr(DirectoryStore, "put", refuse)
        groups.create_group(published, ADMIN, name="Other", location="eastus")
    assert "Other" not in {each.rows["groups"][0]["name"] for each in find(published, "groups")}
    assert write_waiting_revisions(published) == 0
    check_revisions(published)


def test_command_does_not_wait_for_the_revisions_of_later_commands(published: Installation) -> None:
    class HeldLock:
        """A lock that another command held, while that command has written all revisions and a third one began."""

        def __enter__(self) -> None:
            flush_revisions(published)
            with published.catalog.transaction() as transaction:
                transaction.revision_marks.add("groups", "later", is_urgent=True)

        def __exit__(self, *_: object) -> None:
            pass

    waiting = replace(published, revision_lock=cast("threading.Lock", HeldLock()))
    groups.create_group(waiting, ADMIN, name="Other", location="eastus")
    assert "Other" in {each.rows["groups"][0]["name"] for each in find(published, "groups")}
    with published.catalog.reading() as transaction:
        assert transaction.revision_marks.list_marked("groups", ["later"])


def test_later_rounds_of_a_command_leave_the_changes_of_later_commands(published: Installation) -> None:
    class Lock:
        """A lock after whose release another command makes a change."""

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            with published.catalog.transaction() as transaction:
                transaction.revision_marks.add("groups", "later", is_urgent=True)

    groups.create_group(
        replace(published, revision_lock=cast("threading.Lock", Lock())), ADMIN, name="Other", location="eastus"
    )
    assert "Other" in {each.rows["groups"][0]["name"] for each in find(published, "groups")}
    with published.catalog.reading() as transaction:
        assert transaction.revision_marks.list_marked("groups", ["later"])


def test_killed_command_leaves_marks_for_the_background_pass(tmp_path: Path, samples: SampleImages) -> None:
    """Kill a command between its last commit and the put of the revision."""
    scene = CrashScene(folder=tmp_path)
    shutil.copytree(samples.home, tmp_path / "home")
    steps = scene.run_job("disk", name="d0", location="eastus")
    for before_end in (1, 5, 9):
        scene.run_job("disk", name=f"d{before_end}", location="eastus", fatal=steps - before_end)
    with scene.open() as installation:
        write_all_revisions(installation)
        check_revisions(installation, deferred=True)
        assert {"d0", "d1"} <= {each.rows["disks"][0]["name"] for each in find(installation, "disks")}


def test_home_of_an_older_release_is_written_by_the_pass(published: Installation) -> None:
    with published.catalog.transaction() as transaction:
        transaction._session.connection.exec_driver_sql("DELETE FROM revision_marks")
        transaction._session.connection.exec_driver_sql("DELETE FROM ledger_checkpoints")
    for folder in (*published.home.glob("regions/*/*/installation"), *published.home.glob("regions/**/owners")):
        shutil.rmtree(folder)
    assert not read_revisions(published)
    _upgrade_again(published)
    write_all_revisions(published)
    check_revisions(published, deferred=True)


def _upgrade_again(installation: Installation) -> None:
    """Run the statements of the migration that mark the rows of an existing installation."""
    from imgstore.catalog.engine.revision_triggers import mark_all_rows
    from imgstore.catalog.storage.revisions import list_marked_tables

    with installation.catalog.transaction() as transaction:
        mark_all_rows(transaction._session.connection, list_marked_tables())


def test_collection_keeps_the_newest_revision(published: Installation) -> None:
    for number in range(3):
        update(published, tags={"n": str(number)})
    groups.create_group(published, ADMIN, name="Other", location="eastus", tags={"a": "1"})
    groups.create_group(published, ADMIN, name="Other", location="eastus", tags={"a": "2"})
    before = read_revisions(published)
    collect(published)
    after = read_revisions(published)
    assert {name: each.rows for name, each in after.items() if name[0] != "ledger"}.items() >= {
        name: each.rows for name, each in before.items() if name[0] in ("groups", "versions", "galleries")
    }.items()
    assert len(list(published.home.glob("regions/*/*/pools/**/owners/*/*"))) == 1
    for uid in published.home.glob("regions/*/*/installation/groups/*"):
        assert len(list(uid.iterdir())) == 1
    check_revisions(published, deferred=True)


def test_deletion_revision_goes_after_its_time(published: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = make_disk(published, "d1", "southcentralus").uid
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    collect(published)
    assert ("disks", uid) in read_revisions(published)
    collect(published)
    assert ("disks", uid) in read_revisions(published)
    monkeypatch.setattr(revision_upkeep, "DELETION_DAYS", 0)
    collect(published)
    assert ("disks", uid) not in read_revisions(published)
    check_revisions(published, deferred=True)


def test_scrub_writes_a_damaged_missing_or_forged_revision_again(published: Installation) -> None:
    write_all_revisions(published)
    owners = sorted(published.home.glob("regions/*/*/pools/**/owners/*/*"))
    owners[0].write_bytes(owners[0].read_bytes().replace(b"1", b"2"))
    for zone in published.home.glob("regions/imgstore-eastus/zone-1/installation/galleries"):
        shutil.rmtree(zone)
    for file in published.home.glob("regions/imgstore-westus2/zone-2/installation/definitions/*/*"):
        file.write_bytes(b"rot")
    assert not list(published.home.glob("regions/imgstore-eastus/zone-1/installation/galleries/*/*"))
    scrub(published, ADMIN, ScrubRequest())
    assert list(published.home.glob("regions/imgstore-eastus/zone-1/installation/galleries/*/*"))
    for file in published.home.glob("regions/imgstore-westus2/zone-2/installation/definitions/*/*"):
        assert file.read_bytes().startswith(b"imgstore revision 1\n")
    collect(published)  # Removes the damaged older revision.
    check_revisions(published, deferred=True)


def test_dry_run_of_a_scrub_writes_nothing(published: Installation) -> None:
    write_all_revisions(published)
    (owner,) = published.home.glob("regions/*/*/pools/**/owners/*/*")
    owner.write_bytes(b"rot")
    scrub(published, ADMIN, ScrubRequest(dry_run=True))
    assert owner.read_bytes() == b"rot"
    assert len(list(owner.parent.iterdir())) == 1


def test_zone_that_missed_revisions_gets_them(published: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = published.home / "regions/imgstore-westus2/zone-2"
    real = DirectoryStore.put

    def put(store: DirectoryStore, key: str, *args: object, **more: object) -> object:
        if "imgstore-westus2/zone-2" in store.name and INSTALLATION in key:
            raise StoreUnreachable("The store does not answer.", found="a fault made on purpose", target="store")
        return real(store, key, *args, **more)  # type: ignore[arg-type]

    def count(folder: Path) -> int:
        return len(list((folder / "installation/groups").glob("*/*")))

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put", put)
        groups.create_group(published, ADMIN, name="Other", location="eastus")
    assert count(zone) < count(zone.with_name("zone-1"))
    with open_home(published.home) as other:
        assert revision_upkeep.repair_installation_zones(other) > 0
    assert count(zone) == count(zone.with_name("zone-1"))


def test_number_of_another_catalog_proves_an_outdated_catalog(published: Installation, tmp_path: Path) -> None:
    """A restored backup draws a number again that the lost catalog has used."""
    catalog = published.home / "catalog.sqlite"
    published.catalog.erase_deleted()
    shutil.copyfile(catalog, tmp_path / "backup")
    groups.create_group(published, ADMIN, name=GROUP, location="southcentralus", tags={"a": "lost"})
    lost = find(published, "groups")
    published.catalog.erase_deleted()
    published.catalog.close()
    for file in published.home.glob("catalog.sqlite*"):
        file.unlink()
    shutil.copyfile(tmp_path / "backup", catalog)
    with open_home(published.home) as restored:
        groups.create_group(restored, ADMIN, name=GROUP, location="southcentralus", tags={"a": "new"})
        assert find(restored, "groups") == lost
        with pytest.raises(CatalogOutdated):
            check_catalog_is_current(restored)


def test_checkpoints_of_the_ledger_are_chained_and_in_each_region(published: Installation) -> None:
    write_all_revisions(published)
    publish(published, make_raw(published.scratch / "x.raw", seed=7), "1.0.1")
    write_all_revisions(published)
    folders = list(published.home.glob("regions/*/*/installation/ledger/*"))
    shutil.rmtree(next(folder for folder in folders if "eastus" in str(folder)))
    write_all_revisions(published)
    for folder in folders:
        assert len(list(folder.iterdir())) == 2
    with published.catalog.reading() as transaction:
        macs = transaction.revision_marks.list_checkpoints()
        (first, second) = sorted(macs)
    (newest,) = find(published, "ledger")
    assert newest.number == second
    assert newest.previous == macs[first]
    assert {row["version"] for row in newest.rows["ledger"]} == {"1.0.1"}


@pytest.mark.engine("minio")
def test_revisions_on_minio(tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]]) -> None:
    scene = create_minio_scene(tmp_path, minio_cluster(3), "revisions")
    scene.prepare()
    disk = make_raw(tmp_path / "one.raw", seed=1)
    with scene.open() as installation:
        publish(installation, disk, "1.0.0", targets=["southcentralus", "westus2=1=Standard_ZRS"])
        make_disk(installation, "d1", "westus2")
        check_revisions(installation)
        disks.delete_disk(installation, ADMIN, group=GROUP, name="d1")
        collect(installation)
        check_revisions(installation, deferred=True)


@pytest.mark.engine("minio")
def test_silent_regions_delay_one_command_of_the_host(
    tmp_path: Path,
    minio_cluster: Callable[[int], tuple[S3Engine, ...]],
    latency_proxies: LatencyProxies,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """eastus is silent, and so are two of the three zones of westus2."""
    ways = [latency_proxies.to(engine) for engine in minio_cluster(3)]
    scene = create_minio_scene(tmp_path, [way.engine for way in ways], "silent-revisions")
    scene.prepare()
    waits: list[list[float]] = []

    def observe(asks: Sequence[Any], *, grace: Callable[[int, float, bool], float], **more: Any) -> Any:
        waits.append(sorted(grace(place, 0.0, False) for place, _ in enumerate(asks)))
        return ask_to_quorum(asks, grace=grace, **more)

    monkeypatch.setattr("imgstore.operations.revisions.ask_to_quorum", observe)
    silent = ("eastus", "westus2")
    for way in ways[1:]:
        way.hold()
    with scene.open() as installation:
        groups.create_group(installation, ADMIN, name="first", location="southcentralus")
        assert waits[-1] == [LATE_SECONDS] * 3, "the first command waits"
        assert [installation.locator.is_avoided(name) for name in silent] == [True, True]
    for name in ("second", "third"):
        with scene.open() as other:  # As another process of the host.
            groups.create_group(other, ADMIN, name=name, location="southcentralus")
            late = {target: other.locator.is_avoided(target) for target in ("southcentralus", *silent)}
            assert late == {"southcentralus": False, "eastus": True, "westus2": True}
            assert name in {each.rows["groups"][0]["name"] for each in find(other, "groups", "southcentralus")}
        assert waits[-1] == [Grace().known_late_seconds_min] * 2 + [LATE_SECONDS]
    with scene.open() as installation:
        levels = {each.subject: each.level for each in diagnose(installation, ADMIN, seconds_max=0.5)}
        assert {levels[name] for name in ("eastus/1", "westus2/2", "westus2/3")} == {Level.ERROR}
    for way in ways[1:]:
        way.release()
    with scene.open() as installation:
        installation.locator.health.refresh()
        while any(installation.locator.is_avoided(name) for name in ("southcentralus", *silent)):
            installation.effects.wait(0.1)
            installation.locator.health.refresh()
        groups.create_group(installation, ADMIN, name="fourth", location="southcentralus")
        assert waits[-1] == [LATE_SECONDS] * 3, "each region is asked as usual"
        assert write_waiting_revisions(installation) == 0
        check_revisions(installation)
        for region in silent:
            names = {each.rows["groups"][0]["name"] for each in find(installation, "groups", region)}
            assert {"first", "second", "third", "fourth"} <= names
