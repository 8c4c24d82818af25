"""Resources are read back with equal values on both engines."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from catalog_values import (
    LRS,
    NOON,
    POOLED_ENGINES,
    SUBSCRIPTION,
    definition,
    disk,
    gallery,
    group,
    replica,
    settle,
    slot,
    uid,
    version,
)

from imgstore.catalog import ActivityRow, Catalog, Transaction
from imgstore.domain.errors import Conflict, NotFound, ParentNotFound
from imgstore.domain.names import VersionName
from imgstore.domain.resources import Pool, SlotKey, StorageAccountType
from imgstore.domain.states import REPLICA_TRANSITIONS, ProvisioningState, ReplicaState
from imgstore.domain.storage.digests import digest_of

pytest_plugins = ["catalog_fixtures"]


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_installation_is_created_once(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        with pytest.raises(NotFound, match="no installation"):
            transaction.installation.get()
        first = transaction.installation.ensure("sub-1")
        key = transaction.installation.hmac_key()
    with catalog.transaction() as transaction:
        assert transaction.installation.ensure("sub-2") == first == transaction.installation.get()
        assert transaction.installation.hmac_key() == key
    assert first.subscription == "sub-1"
    assert first.created_at.tzinfo is not None
    assert len(key) == 32


def test_missing_subscription_is_created(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        assert len(transaction.installation.ensure(None).subscription) == 36


def test_groups_are_read_back(catalog: Catalog) -> None:
    mine, other = group("Rg-1", tags={"k": "v"}), group("a", subscription="other")
    with catalog.transaction() as transaction:
        transaction.groups.add(mine)
        transaction.groups.add(other)
    changed = replace(mine, tags={}, location="eastus")
    with catalog.transaction() as transaction:
        assert transaction.groups.get(SUBSCRIPTION.upper(), "rG-1") == mine
        assert transaction.groups.get("other", "Rg-1") is None
        transaction.groups.update(changed)
        assert transaction.groups.list(SUBSCRIPTION) == [changed]
        assert transaction.groups.children(mine.uid) == []
        transaction.groups.delete(mine.uid)
        assert transaction.groups.get(SUBSCRIPTION, "Rg-1") is None
        with pytest.raises(NotFound, match=mine.uid):
            transaction.groups.update(mine)


def test_names_that_differ_in_case_are_equal(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        settle(transaction)
        pool = Pool(uid=uid(), fingerprint_key=b"k" * 32)
        transaction.pools.add(pool)
        transaction.groups.add(group("rg2"))
    twins: list[Callable[[Transaction], object]] = [
        lambda transaction: transaction.groups.add(group("RG")),
        # The name of a gallery is unique in the subscription, not only in the group.
        lambda transaction: transaction.galleries.add(gallery(pool.uid, "MYGALLERY", group="rg2")),
    ]
    for add in twins:
        with pytest.raises(Conflict, match="exists already") as caught, catalog.transaction() as transaction:
            add(transaction)
        assert caught.value.hint


def test_galleries_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.groups.add(group("rg2"))
        other = gallery(world.pool.uid, "another", group="RG2")
        transaction.galleries.add(other)
    as_kept = replace(other, group="rg2")
    with catalog.reading() as transaction:
        assert transaction.galleries.get(SUBSCRIPTION, "RG", "mygallery") == world.gallery
        assert transaction.galleries.get(SUBSCRIPTION, "rg2", "mygallery") is None
        assert transaction.galleries.by_name(SUBSCRIPTION, "MyGallery") == world.gallery
        assert transaction.galleries.by_uid(other.uid) == as_kept
        assert transaction.galleries.list(SUBSCRIPTION) == [as_kept, world.gallery]
        assert transaction.galleries.list(SUBSCRIPTION, "rg") == [world.gallery]
        assert transaction.groups.children(transaction.groups.list(SUBSCRIPTION)[0].uid) == ["galleries/myGallery"]
    with catalog.transaction() as transaction:
        changed = replace(as_kept, description=None, tags={"x": "y"})
        transaction.galleries.update(changed)
        assert transaction.galleries.by_uid(other.uid) == changed
        transaction.galleries.delete(other.uid)
        with pytest.raises(NotFound):
            transaction.galleries.by_uid(other.uid)
        with pytest.raises(ParentNotFound, match="imgstore group create -n nowhere"):
            transaction.galleries.add(gallery(world.pool.uid, "third", group="nowhere"))


def test_definitions_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        made = definition(world.gallery.uid, "Debian", description="d", tags={"t": "1"})
        transaction.definitions.add(made)
        assert transaction.definitions.get(world.gallery.uid, "dEBIAN") == made
        assert transaction.definitions.by_identifier(world.gallery.uid, "canonical", "SERVER", "debian") == made
        assert transaction.definitions.by_identifier(world.gallery.uid, "canonical", "server", "x") is None
        assert transaction.definitions.list(world.gallery.uid) == [made, world.definition]
        changed = replace(made, description=None)
        transaction.definitions.update(changed)
        assert transaction.definitions.by_uid(made.uid) == changed
        transaction.definitions.delete(made.uid)
        assert transaction.definitions.get(world.gallery.uid, "Debian") is None
    with pytest.raises(Conflict, match="exists already"), catalog.transaction() as transaction:
        transaction.definitions.add(definition(world.gallery.uid, "twin", sku="UBUNTU"))


def test_versions_are_ordered_as_numbers(catalog: Catalog) -> None:
    names = ["1.0.0", "1.0.2", "1.0.10", "1.2.0", "1.10.0", "2.0.0", "10.0.0", "2147483647.0.1"]
    with catalog.transaction() as transaction:
        world = settle(transaction)
        for name in reversed(names[1:]):
            transaction.versions.add(version(world.definition.uid, name))
    with catalog.reading() as transaction:
        its = world.definition.uid
        assert [str(each.name) for each in transaction.versions.list(its)] == names
        page = transaction.versions.list(its, after=VersionName(1, 0, 9), limit=3)
        assert [str(each.name) for each in page] == names[2:5]
        assert transaction.versions.list(its, after=VersionName(2147483647, 0, 1)) == []


def test_versions_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        assert transaction.versions.get(world.definition.uid, VersionName(1, 0, 0)) == world.version
        assert transaction.versions.get(world.definition.uid, VersionName(1, 0, 1)) is None
        changed = replace(
            world.version,
            disks=(
                replace(
                    world.version.os_disk,
                    virtual_bytes=1 << 40,
                    disk_digest=digest_of(b"d"),
                    source_sha256="ab" * 32,
                ),
                *world.version.data_disks,
            ),
            provisioning_state=ProvisioningState.SUCCEEDED,
            target_regions=world.version.target_regions[::-1],
        )
        transaction.versions.update(changed)
        assert transaction.versions.by_uid(changed.uid) == changed
        assert transaction.placements.advance_counter(changed.uid, "westus2") == 0
        transaction.versions.delete(changed.uid)
        with pytest.raises(NotFound, match="image version"):
            transaction.versions.by_uid(changed.uid)


def test_ten_thousand_versions_are_read_in_index_order(catalog: Catalog) -> None:
    """No engine sorts for a page, because the index of the unique constraint has the requested order."""
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction._session.run(
            _versions_insert(),
            [
                {**_version_values(world.version), "uid": uid(), "major": 2, "minor": minor, "patch": 0}
                for minor in range(10_000)
            ],
        )
        transaction._session.connection.exec_driver_sql("ANALYZE")
        page = transaction.versions.list(world.definition.uid, after=VersionName(2, 4999, 0), limit=2)
        assert [str(each.name) for each in page] == ["2.5000.0", "2.5001.0"]
        explain = "EXPLAIN QUERY PLAN" if transaction._session.is_sqlite else "EXPLAIN"
        plan = transaction._session.connection.exec_driver_sql(
            f"{explain} SELECT * FROM versions WHERE definition_uid = '{world.definition.uid}'"
            " AND (major, minor, patch) > (2, 4999, 0) ORDER BY major, minor, patch LIMIT 100"
        ).all()
    told = str(plan)
    assert "sort" not in told.lower()
    assert "temp b-tree" not in told.lower()
    assert "index" in told.lower()


def _versions_insert() -> Any:
    from imgstore.catalog.schema import versions

    return versions.insert()


def _version_values(its: Any) -> dict[str, Any]:
    from imgstore.catalog.resources.versions import Versions

    return Versions(its)._columns(its)


def test_a_slot_keeps_its_zone_and_bucket(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        key = world.slot.key
        assert transaction.slots.get_or_add(key, zone="3", bucket="elsewhere") == world.slot
        assert transaction.slots.find(key) == world.slot == transaction.slots.get(world.slot.uid)
        zrs = SlotKey(
            pool_uid=key.pool_uid,
            region="eastus",
            storage_account_type=StorageAccountType.STANDARD_ZRS,
            ordinal=0,
        )
        assert transaction.slots.find(zrs) is None
        second = slot(transaction, key.pool_uid, ordinal=1)
        far = transaction.slots.get_or_add(zrs, zone="zrs", bucket="b")
        assert transaction.slots.list(key.pool_uid) == [far, world.slot, second]
        assert transaction.slots.list(key.pool_uid, "westus2") == [world.slot, second]
        assert transaction.slots.list(uid()) == []
        transaction.slots.lock(world.slot.uid)
        transaction.slots.lock_region(key.pool_uid, "westus2")
        assert transaction.pools.get(key.pool_uid) == world.pool
        for missing in (transaction.slots.get, transaction.slots.lock, transaction.pools.get):
            with pytest.raises(NotFound):
                missing(uid())


def test_replicas_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        its = world.version.uid
        replicas = [
            replica(its, slot(transaction, world.pool.uid, region, ordinal))
            for region, ordinal in (("westus2", 1), ("westus2", 0), ("eastus", 0))
        ]
        for each in replicas:
            transaction.replicas.add(each)
        assert transaction.replicas.list(its) == replicas[::-1]
        assert transaction.replicas.in_slot(replicas[0].slot.uid) == [replicas[0]]
        transaction.replicas.move(replicas[0].uid, ReplicaState.REPLICATING)
        transaction.replicas.record_start(replicas[0].uid, 9)
        transaction.replicas.record_progress(replicas[0].uid, 5, 10)
        transaction.replicas.record_failure(replicas[0].uid, error="no answer", attempts=3, retry_at=NOON)
        failed = transaction.replicas.by_uid(replicas[0].uid)
        assert (failed.error, failed.attempts, failed.retry_at) == ("no answer", 3, NOON)
        assert failed.started_at is not None
        assert failed.progress_at is not None
        assert failed.started_at <= failed.progress_at
        transaction.replicas.move(replicas[0].uid, ReplicaState.REPLICATING)
        transaction.replicas.move(replicas[0].uid, ReplicaState.COMPLETED, completed_at=NOON)
        assert transaction.replicas.by_uid(replicas[0].uid) == replace(
            replicas[0],
            state=ReplicaState.COMPLETED,
            bytes_done=10,
            bytes_total=10,
            completed_at=NOON,
            started_at=failed.started_at,
            progress_at=failed.progress_at,
        )
        transaction.replicas.delete(replicas[0].uid)
        with pytest.raises(NotFound):
            transaction.replicas.move(replicas[0].uid, ReplicaState.DELETING)


def test_replica_follows_the_state_table(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        for before in ReplicaState:
            for after in ReplicaState:
                one = replica(world.version.uid, world.slot, before)
                transaction.replicas.add(one)
                if after in REPLICA_TRANSITIONS[before]:
                    transaction.replicas.move(one.uid, after)
                    assert transaction.replicas.by_uid(one.uid).state is after
                else:
                    with pytest.raises(Conflict, match=before):
                        transaction.replicas.move(one.uid, after)
                    assert transaction.replicas.by_uid(one.uid).state is before
                transaction.replicas.delete(one.uid)


def test_region_that_was_removed_and_added_again_has_a_new_row(catalog: Catalog) -> None:
    """The uid of the new row is the key of the charge (invariant M4)."""
    with catalog.transaction() as transaction:
        world = settle(transaction)
        old, new = (replica(world.version.uid, world.slot) for _ in range(2))
        transaction.replicas.add(old)
        transaction.replicas.move(old.uid, ReplicaState.DELETING)
        transaction.replicas.add(new)
    # Invariant M4.
    with pytest.raises(Conflict, match="exists already"), catalog.transaction() as transaction:
        transaction.replicas.add(replica(world.version.uid, world.slot))


def test_disks_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        made = disk(world.slot, tags={"a": "b"})
        transaction.disks.add(made)
        assert transaction.disks.get(SUBSCRIPTION, "RG", "D1") == made
        assert transaction.disks.get(SUBSCRIPTION, "other", "D1") is None
        assert transaction.disks.list(SUBSCRIPTION) == transaction.disks.list(SUBSCRIPTION, "rg") == [made]
        assert made.slot.key.storage_account_type is LRS
        changed = replace(made, provisioning_state=ProvisioningState.DELETING)
        transaction.disks.update(changed)
        assert transaction.disks.by_uid(made.uid) == changed
        rg = transaction.groups.list(SUBSCRIPTION)[0].uid
        assert transaction.groups.children(rg) == ["disks/d1", "galleries/myGallery"]
        transaction.disks.delete(made.uid)
        with pytest.raises(NotFound):
            transaction.disks.by_uid(made.uid)


@pytest.mark.parametrize("what", ["groups", "galleries", "definitions", "versions"])
def test_parent_is_not_deleted_while_it_has_children(catalog: Catalog, what: str) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.replicas.add(replica(world.version.uid, world.slot))
        above = {
            "groups": transaction.groups.list(SUBSCRIPTION)[0].uid,
            "galleries": world.gallery.uid,
            "definitions": world.definition.uid,
            "versions": world.version.uid,
        }
    with pytest.raises(Conflict, match="still refers"), catalog.transaction() as transaction:
        getattr(transaction, what).delete(above[what])


def test_activity_log_lists_the_latest_entry_first(catalog: Catalog) -> None:
    rows = [
        ActivityRow(
            principal="root",
            action=f"action {number}",
            scope="/",
            outcome="Succeeded",
            detail=None if number else "first",
            started_at=NOON,
            finished_at=NOON,
        )
        for number in range(3)
    ]
    with catalog.transaction() as transaction:
        for row in rows:
            transaction.activity.add(
                principal=row.principal,
                action=row.action,
                scope=row.scope,
                outcome=row.outcome,
                detail=row.detail,
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
    with catalog.reading() as transaction:
        assert transaction.activity.list(2) == rows[:0:-1]
        assert transaction.activity.list(10) == rows[::-1]
