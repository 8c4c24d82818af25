"""Resources go in as values and come out the same, on both engines."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from catalog_values import (
    LRS,
    NOON,
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

from imgstore.catalog import ActivityRow, Catalog, Facts
from imgstore.domain.errors import Conflict, NotFound, ParentNotFound
from imgstore.domain.names import VersionName
from imgstore.domain.resources import Pool, SlotKey, StorageAccountType
from imgstore.domain.states import REPLICA_TRANSITIONS, ProvisioningState, ReplicaState
from imgstore.domain.storage.digests import digest_of

pytest_plugins = ["catalog_fixtures"]


def test_the_installation_is_made_once(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        with pytest.raises(NotFound, match="no installation"):
            facts.installation.get()
        first = facts.installation.ensure("sub-1")
        key = facts.installation.hmac_key()
    with catalog.transaction() as facts:
        assert facts.installation.ensure("sub-2") == first == facts.installation.get()
        assert facts.installation.hmac_key() == key
    assert first.subscription == "sub-1"
    assert first.created_at.tzinfo is not None
    assert len(key) == 32


def test_a_subscription_is_made_where_none_is_given(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        assert len(facts.installation.ensure(None).subscription) == 36


def test_groups(catalog: Catalog) -> None:
    mine, other = group("Rg-1", tags={"k": "v"}), group("a", subscription="other")
    with catalog.transaction() as facts:
        facts.groups.add(mine)
        facts.groups.add(other)
    changed = replace(mine, tags={}, location="eastus")
    with catalog.transaction() as facts:
        assert facts.groups.get(SUBSCRIPTION.upper(), "rG-1") == mine
        assert facts.groups.get("other", "Rg-1") is None
        facts.groups.update(changed)
        assert facts.groups.list(SUBSCRIPTION) == [changed]
        assert facts.groups.children(mine.uid) == []
        facts.groups.delete(mine.uid)
        assert facts.groups.get(SUBSCRIPTION, "Rg-1") is None
        with pytest.raises(NotFound, match=mine.uid):
            facts.groups.update(mine)


def test_a_name_differs_in_more_than_case(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        settle(facts)
        pool = Pool(uid=uid(), fingerprint_key=b"k" * 32)
        facts.pools.add(pool)
        facts.groups.add(group("rg2"))
    twins: list[Callable[[Facts], object]] = [
        lambda facts: facts.groups.add(group("RG")),
        # A gallery's name is unique in the subscription, whatever the group.
        lambda facts: facts.galleries.add(gallery(pool.uid, "MYGALLERY", group="rg2")),
    ]
    for add in twins:
        with pytest.raises(Conflict, match="there already") as caught, catalog.transaction() as facts:
            add(facts)
        assert caught.value.hint


def test_galleries(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        facts.groups.add(group("rg2"))
        other = gallery(world.pool.uid, "another", group="RG2")
        facts.galleries.add(other)
    as_kept = replace(other, group="rg2")
    with catalog.reading() as facts:
        assert facts.galleries.get(SUBSCRIPTION, "RG", "mygallery") == world.gallery
        assert facts.galleries.get(SUBSCRIPTION, "rg2", "mygallery") is None
        assert facts.galleries.by_name(SUBSCRIPTION, "MyGallery") == world.gallery
        assert facts.galleries.by_uid(other.uid) == as_kept
        assert facts.galleries.list(SUBSCRIPTION) == [as_kept, world.gallery]
        assert facts.galleries.list(SUBSCRIPTION, "rg") == [world.gallery]
        assert facts.groups.children(facts.groups.list(SUBSCRIPTION)[0].uid) == ["galleries/myGallery"]
    with catalog.transaction() as facts:
        changed = replace(as_kept, description=None, tags={"x": "y"})
        facts.galleries.update(changed)
        assert facts.galleries.by_uid(other.uid) == changed
        facts.galleries.delete(other.uid)
        with pytest.raises(NotFound):
            facts.galleries.by_uid(other.uid)
        with pytest.raises(ParentNotFound, match="imgstore group create -n nowhere"):
            facts.galleries.add(gallery(world.pool.uid, "third", group="nowhere"))


def test_definitions(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        made = definition(world.gallery.uid, "Debian", description="d", tags={"t": "1"})
        facts.definitions.add(made)
        assert facts.definitions.get(world.gallery.uid, "dEBIAN") == made
        assert facts.definitions.by_identifier(world.gallery.uid, "canonical", "SERVER", "debian") == made
        assert facts.definitions.by_identifier(world.gallery.uid, "canonical", "server", "x") is None
        assert facts.definitions.list(world.gallery.uid) == [made, world.definition]
        changed = replace(made, description=None)
        facts.definitions.update(changed)
        assert facts.definitions.by_uid(made.uid) == changed
        facts.definitions.delete(made.uid)
        assert facts.definitions.get(world.gallery.uid, "Debian") is None
    with pytest.raises(Conflict, match="there already"), catalog.transaction() as facts:
        facts.definitions.add(definition(world.gallery.uid, "twin", sku="UBUNTU"))


def test_versions_are_ordered_as_numbers(catalog: Catalog) -> None:
    names = ["1.0.0", "1.0.2", "1.0.10", "1.2.0", "1.10.0", "2.0.0", "10.0.0", "2147483647.0.1"]
    with catalog.transaction() as facts:
        world = settle(facts)
        for name in reversed(names[1:]):
            facts.versions.add(version(world.definition.uid, name))
    with catalog.reading() as facts:
        its = world.definition.uid
        assert [str(each.name) for each in facts.versions.list(its)] == names
        page = facts.versions.list(its, after=VersionName(1, 0, 9), limit=3)
        assert [str(each.name) for each in page] == names[2:5]
        assert facts.versions.list(its, after=VersionName(2147483647, 0, 1)) == []


def test_versions(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        assert facts.versions.get(world.definition.uid, VersionName(1, 0, 0)) == world.version
        assert facts.versions.get(world.definition.uid, VersionName(1, 0, 1)) is None
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
        facts.versions.update(changed)
        assert facts.versions.by_uid(changed.uid) == changed
        assert facts.placements.next_turn(changed.uid, "westus2") == 0
        facts.versions.delete(changed.uid)
        with pytest.raises(NotFound, match="image version"):
            facts.versions.by_uid(changed.uid)


def test_ten_thousand_versions_are_read_along_the_index(catalog: Catalog) -> None:
    """Neither engine sorts for a page: the unique constraint's own order is the order asked for."""
    with catalog.transaction() as facts:
        world = settle(facts)
        facts._session.run(
            _versions_insert(),
            [
                {**_version_values(world.version), "uid": uid(), "major": 2, "minor": minor, "patch": 0}
                for minor in range(10_000)
            ],
        )
        facts._session.connection.exec_driver_sql("ANALYZE")
        page = facts.versions.list(world.definition.uid, after=VersionName(2, 4999, 0), limit=2)
        assert [str(each.name) for each in page] == ["2.5000.0", "2.5001.0"]
        explain = "EXPLAIN QUERY PLAN" if facts._session.is_sqlite else "EXPLAIN"
        plan = facts._session.connection.exec_driver_sql(
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
    from imgstore.catalog.resources.versions import _values

    return _values(its)


def test_a_slot_keeps_its_zone_and_bucket(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        key = world.slot.key
        assert facts.slots.get_or_add(key, zone="3", bucket="elsewhere") == world.slot
        assert facts.slots.find(key) == world.slot == facts.slots.get(world.slot.uid)
        zrs = SlotKey(
            pool_uid=key.pool_uid,
            region="eastus",
            storage_account_type=StorageAccountType.STANDARD_ZRS,
            ordinal=0,
        )
        assert facts.slots.find(zrs) is None
        second = slot(facts, key.pool_uid, ordinal=1)
        far = facts.slots.get_or_add(zrs, zone="zrs", bucket="b")
        assert facts.slots.list(key.pool_uid) == [far, world.slot, second]
        assert facts.slots.list(key.pool_uid, "westus2") == [world.slot, second]
        assert facts.slots.list(uid()) == []
        facts.slots.lock(world.slot.uid)
        facts.slots.lock_region(key.pool_uid, "westus2")
        assert facts.pools.get(key.pool_uid) == world.pool
        for missing in (facts.slots.get, facts.slots.lock, facts.pools.get):
            with pytest.raises(NotFound):
                missing(uid())


def test_replicas(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        its = world.version.uid
        replicas = [
            replica(its, slot(facts, world.pool.uid, region, ordinal))
            for region, ordinal in (("westus2", 1), ("westus2", 0), ("eastus", 0))
        ]
        for each in replicas:
            facts.replicas.add(each)
        assert facts.replicas.list(its) == replicas[::-1]
        assert facts.replicas.in_slot(replicas[0].slot.uid) == [replicas[0]]
        facts.replicas.move(replicas[0].uid, ReplicaState.REPLICATING)
        facts.replicas.begin(replicas[0].uid, 9)
        facts.replicas.progress(replicas[0].uid, 5, 10)
        facts.replicas.failed(replicas[0].uid, error="no answer", attempts=3, retry_at=NOON)
        failed = facts.replicas.get(replicas[0].uid)
        assert (failed.error, failed.attempts, failed.retry_at) == ("no answer", 3, NOON)
        assert failed.started_at is not None
        assert failed.progress_at is not None
        assert failed.started_at <= failed.progress_at
        facts.replicas.move(replicas[0].uid, ReplicaState.REPLICATING)
        facts.replicas.move(replicas[0].uid, ReplicaState.COMPLETED, completed_at=NOON)
        assert facts.replicas.get(replicas[0].uid) == replace(
            replicas[0],
            state=ReplicaState.COMPLETED,
            bytes_done=5,
            bytes_total=10,
            completed_at=NOON,
            started_at=failed.started_at,
            progress_at=failed.progress_at,
        )
        facts.replicas.remove(replicas[0].uid)
        with pytest.raises(NotFound):
            facts.replicas.move(replicas[0].uid, ReplicaState.DELETING)


def test_a_replica_moves_as_the_state_table_says_and_no_other_way(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        for before in ReplicaState:
            for after in ReplicaState:
                one = replica(world.version.uid, world.slot, before)
                facts.replicas.add(one)
                if after in REPLICA_TRANSITIONS[before]:
                    facts.replicas.move(one.uid, after)
                    assert facts.replicas.get(one.uid).state is after
                else:
                    with pytest.raises(Conflict, match=before):
                        facts.replicas.move(one.uid, after)
                    assert facts.replicas.get(one.uid).state is before
                facts.replicas.remove(one.uid)


def test_a_region_that_was_removed_and_added_again_is_a_new_row(catalog: Catalog) -> None:
    """rules.md, rule 21: its charge is under the new row's uid."""
    with catalog.transaction() as facts:
        world = settle(facts)
        old, new = (replica(world.version.uid, world.slot) for _ in range(2))
        facts.replicas.add(old)
        facts.replicas.move(old.uid, ReplicaState.DELETING)
        facts.replicas.add(new)
    with pytest.raises(Conflict, match="there already"), catalog.transaction() as facts:
        facts.replicas.add(replica(world.version.uid, world.slot))


def test_disks(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        made = disk(world.slot, tags={"a": "b"})
        facts.disks.add(made)
        assert facts.disks.get(SUBSCRIPTION, "RG", "D1") == made
        assert facts.disks.get(SUBSCRIPTION, "other", "D1") is None
        assert facts.disks.list(SUBSCRIPTION) == facts.disks.list(SUBSCRIPTION, "rg") == [made]
        assert made.slot.key.storage_account_type is LRS
        changed = replace(made, provisioning_state=ProvisioningState.DELETING)
        facts.disks.update(changed)
        assert facts.disks.by_uid(made.uid) == changed
        rg = facts.groups.list(SUBSCRIPTION)[0].uid
        assert facts.groups.children(rg) == ["disks/d1", "galleries/myGallery"]
        facts.disks.delete(made.uid)
        with pytest.raises(NotFound):
            facts.disks.by_uid(made.uid)


@pytest.mark.parametrize("what", ["groups", "galleries", "definitions", "versions"])
def test_nothing_goes_while_something_is_below_it(catalog: Catalog, what: str) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        facts.replicas.add(replica(world.version.uid, world.slot))
        above = {
            "groups": facts.groups.list(SUBSCRIPTION)[0].uid,
            "galleries": world.gallery.uid,
            "definitions": world.definition.uid,
            "versions": world.version.uid,
        }
    with pytest.raises(Conflict, match="still refers"), catalog.transaction() as facts:
        getattr(facts, what).delete(above[what])


def test_the_activity_log_tells_the_latest_first(catalog: Catalog) -> None:
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
    with catalog.transaction() as facts:
        for row in rows:
            facts.activity.add(
                principal=row.principal,
                action=row.action,
                scope=row.scope,
                outcome=row.outcome,
                detail=row.detail,
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
    with catalog.reading() as facts:
        assert facts.activity.list(2) == rows[:0:-1]
        assert facts.activity.list(10) == rows[::-1]
