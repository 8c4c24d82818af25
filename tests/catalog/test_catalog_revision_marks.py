"""Triggers mark each changed resource on both engines, whatever code changes the row (invariant B18)."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from catalog_values import NOON, POOLED_ENGINES, disk, group, manifest, replica, settle
from sqlalchemy import Connection, create_engine, text

from imgstore.catalog import Catalog, Transaction
from imgstore.catalog.engine.revision_triggers import install_triggers
from imgstore.catalog.schema import metadata
from imgstore.catalog.storage.revisions import list_marked_tables
from imgstore.domain.effects import Effects
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.zones import ZoneKind, ZoneRecord
from tests.support.older_catalog import older_catalog

pytest_plugins = ["catalog_fixtures"]


def take_marks(transaction: Transaction) -> set[tuple[str, str, str | None, bool]]:
    """Return and remove all marks, as (kind, uid, region, is urgent)."""
    marks = transaction.revision_marks
    found = marks.list(urgent_only=False, regions=["eastus", "westus2"], after=0, until=None, limit=1000)
    found += marks.list_for_ledger(1000)
    marks.remove([each.number for each in found])
    return {(each.kind, each.uid, each.region, each.is_urgent) for each in found}


def test_triggers_are_those_of_the_kinds(fresh_catalog: Catalog) -> None:
    with fresh_catalog.reading() as transaction:
        connection = transaction._session.connection
        if transaction._session.is_sqlite:
            installed = _sqlite_triggers(connection)
            with create_engine("sqlite://").begin() as other:
                metadata.create_all(other)
                install_triggers(other, list_marked_tables())
                expected = _sqlite_triggers(other)
        else:
            rows = connection.exec_driver_sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
            installed = {str(name): "" for (name,) in rows}
            expected = {
                each.name(event): "" for each in list_marked_tables() for event in ("insert", "update", "delete")
            }
    installed.pop("revision_mark_region")
    assert installed == expected


def _sqlite_triggers(connection: Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    return {str(name): " ".join(str(sql).split()) for name, sql in rows}


def test_insert_update_and_deletion_mark(catalog: Catalog) -> None:
    made = group()
    mark = ("groups", made.uid, None, True)
    with catalog.transaction() as transaction:
        take_marks(transaction)
        transaction.groups.add(made)
        assert take_marks(transaction) == {mark}
        run = transaction._session.connection.exec_driver_sql
        run(f"UPDATE groups SET location = 'eastus' WHERE uid = '{made.uid}'")
        assert take_marks(transaction) == {mark}
        run(f"UPDATE groups SET location = 'eastus' WHERE uid = '{made.uid}'")
        assert take_marks(transaction) == set(), "nothing has changed"
        run(f"UPDATE groups SET tags = '{{\"a\": \"1\"}}' WHERE uid = '{made.uid}'")
        assert take_marks(transaction) == {mark}
        run(f"DELETE FROM groups WHERE uid = '{made.uid}'")
        assert take_marks(transaction) == {mark}


def test_rows_of_a_version_mark_the_version(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        version = world.version
        mark = ("versions", version.uid, None, True)
        take_marks(transaction)
        made = replica(version.uid, world.slot)
        transaction.replicas.add(made)
        assert take_marks(transaction) == {mark}
        transaction.replicas.move(made.uid, ReplicaState.REPLICATING)
        assert take_marks(transaction) == {mark}
        transaction.replicas.record_progress(made.uid, 5, 9)
        transaction.queue.mark_served(version.uid)
        assert take_marks(transaction) == set(), "progress needs no revision"
        transaction.manifests.add(manifest(world.slot.uid, owner_uid=version.uid))
        assert take_marks(transaction) == {mark}
        transaction.placements.advance_counter(version.uid, "westus2")
        assert take_marks(transaction) == {("placements", version.uid, None, False)}


def test_manifest_marks_the_disk_that_owns_the_manifest(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        made = disk(world.slot)
        transaction.disks.add(made)
        take_marks(transaction)
        transaction.manifests.add(manifest(world.slot.uid, owner_uid=made.uid))
        assert take_marks(transaction) == {("disks", made.uid, None, True)}


def test_first_zone_of_a_region_marks_all_resources_for_the_region(catalog: Catalog) -> None:
    def record(zone: str) -> ZoneRecord:
        return ZoneRecord(region="eastus", zone=zone, uid=zone, kind=ZoneKind.S3, place="s3 http://h/b")

    with catalog.transaction() as transaction:
        world = settle(transaction)
        take_marks(transaction)
        transaction.zones.add(record("1"))
        found = take_marks(transaction)
        assert ("zones", "eastus/1", None, True) in found
        assert {("galleries", world.gallery.uid, "eastus", False), ("pools", world.pool.uid, "eastus", False)} <= found
        assert not {kind for kind, _, _, _ in found} & {"versions", "disks", "ledger"}
        transaction.zones.add(record("2"))
        assert take_marks(transaction) == {("zones", "eastus/2", None, True)}


def test_mark_of_a_rolled_back_change_does_not_exist(catalog: Catalog) -> None:
    made = group()
    with pytest.raises(RuntimeError), catalog.transaction() as transaction:
        take_marks(transaction)
        transaction.groups.add(made)
        raise RuntimeError
    with catalog.transaction() as transaction:
        assert ("groups", made.uid, None, True) not in take_marks(transaction)


def test_numbers_rise_and_are_never_used_again(catalog: Catalog) -> None:
    def draw(_turn: int) -> int:
        with catalog.transaction() as transaction:
            number = transaction.revision_marks.add("groups", "g")
            transaction.revision_marks.remove([number])
            return number

    first = draw(0)
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(draw, range(12)))
    assert len({first, *numbers}) == 13
    assert min(numbers) > first
    with catalog.transaction() as transaction:
        assert transaction.revision_marks.last_number() == max(numbers)
        transaction.revision_marks.raise_to(max(numbers) + 1000)
        transaction.revision_marks.raise_to(3)
    assert draw(0) == max(numbers) + 1001


def test_rows_are_equal_on_both_engines(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        version = world.version
        made = replica(version.uid, world.slot)
        transaction.replicas.add(made)
        found = transaction.revision_marks.read("versions", [version.uid, "other"])
        assert found.keys() == {version.uid}
        assert {name: len(rows) for name, rows in found[version.uid].items()} == {
            "versions": 1,
            "replicas": 1,
            "manifests": 0,
        }
        (row,) = found[version.uid]["versions"]
        assert row["published_at"] == NOON.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert row["exclude_from_latest"] is False
        assert transaction.revision_marks.find_slots("versions", [version.uid]) == {version.uid: world.slot.uid}


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_upgrade_marks_the_present_rows(catalog_url: str) -> None:
    with older_catalog(catalog_url, "0034") as session:
        session.connection.execute(
            text(
                "INSERT INTO groups (uid, subscription, subscription_key, name, name_key, location, tags, created_at)"
                " VALUES ('g', 's', 's', 'rg', 'rg', 'eastus', '{}', :at)"
            ),
            {"at": f"{NOON:%Y-%m-%d %H:%M:%S.%f}" if session.is_sqlite else NOON},
        )
    for opened in _opened(catalog_url):
        with opened.transaction() as transaction:
            assert not transaction.revision_marks.has_urgent()
            assert take_marks(transaction) == {("groups", "g", None, False)}


def _opened(url: str) -> Iterator[Catalog]:
    opened = Catalog.open(url, Effects())
    yield opened
    opened.close()
