"""What a placement asks of the catalog: what is meant in one look, whose turn it is, the disk's row in its group."""

import pytest
from catalog_values import SUBSCRIPTION, definition, disk, gallery, group, replica, settle, slot, uid, version

from imgstore.catalog import Catalog, Facts, database
from imgstore.domain.effects import Effects
from imgstore.domain.errors import ParentNotFound
from imgstore.domain.names import VersionName
from imgstore.domain.resources import Pool
from imgstore.domain.states import ReplicaState

pytest_plugins = ["catalog_fixtures"]

ABOVE = ("RG", "MYGALLERY", "Ubuntu")


def completed(facts: Facts, definition_uid: str, name: str, *slots: str, pool_uid: str) -> None:
    """A version that is complete in those regions."""
    made = version(definition_uid, name)
    facts.versions.add(made)
    for region in slots:
        facts.replicas.add(replica(made.uid, slot(facts, pool_uid, region), ReplicaState.COMPLETED))


def test_one_look_finds_what_three_would(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        other = settle(facts, "other")
        name = world.version.name
        found = facts.lineages.find_version(SUBSCRIPTION, *ABOVE, name)
        assert found == (world.gallery, world.definition, world.version)
        assert found[0] == facts.galleries.get(SUBSCRIPTION, "rg", "myGallery")
        assert found[1] == facts.definitions.by_uid(world.definition.uid)
        assert facts.lineages.find(SUBSCRIPTION, *ABOVE) == (world.gallery, world.definition)
        assert facts.lineages.find(SUBSCRIPTION, "rg", "other", "ubuntu") == (other.gallery, other.definition)


def test_it_tells_a_version_that_is_missing_from_what_is_missing_above_it(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        absent = VersionName(9, 9, 9)
        assert facts.lineages.find_version(SUBSCRIPTION, *ABOVE, absent) == (world.gallery, world.definition, None)
        for wrong in (("no", *ABOVE[1:]), (ABOVE[0], "no", ABOVE[2]), (*ABOVE[:2], "no")):
            assert facts.lineages.find(SUBSCRIPTION, *wrong) is None
            assert facts.lineages.find_version(SUBSCRIPTION, *wrong, world.version.name) is None
        assert facts.lineages.find("another subscription", *ABOVE) is None


def test_a_gallery_is_looked_for_in_its_own_group(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        settle(facts)
        facts.groups.add(group("elsewhere"))
        pool = Pool(uid=uid(), fingerprint_key=bytes(32))
        facts.pools.add(pool)
        there = gallery(pool.uid, "there", group="elsewhere")
        facts.galleries.add(there)
        facts.definitions.add(definition(there.uid))
        assert facts.lineages.find(SUBSCRIPTION, "rg", "there", "ubuntu") is None
        assert facts.lineages.find(SUBSCRIPTION, "elsewhere", "there", "ubuntu") is not None


def test_the_replicas_of_a_region_are_those_of_all_that_are_there(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        for region, ordinal in (("westus2", 1), ("westus2", 0), ("eastus", 0)):
            facts.replicas.add(replica(world.version.uid, slot(facts, world.pool.uid, region, ordinal)))
        everywhere = facts.replicas.list(world.version.uid)
        here = facts.replicas.in_region(world.version.uid, "westus2")
        assert here == [each for each in everywhere if each.slot.key.region == "westus2"]
        assert [each.slot.key.ordinal for each in here] == [0, 1]


def test_complete_versions_come_highest_first_and_page_by_page(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        line, pool = world.definition.uid, world.pool.uid
        completed(facts, line, "1.9.0", "westus2", "eastus", pool_uid=pool)
        completed(facts, line, "1.10.0", "westus2", pool_uid=pool)
        completed(facts, line, "2.0.0", "eastus", pool_uid=pool)
        facts.replicas.add(replica(world.version.uid, slot(facts, pool), ReplicaState.DEGRADED))
        here = [str(each.name) for each in facts.versions.complete_in(line, "westus2", limit=9)]
        assert here == ["1.10.0", "1.9.0"]
        first = facts.versions.complete_in(line, "westus2", limit=1)
        rest = facts.versions.complete_in(line, "westus2", below=first[0].name, limit=9)
        assert [str(each.name) for each in (*first, *rest)] == here
        assert facts.versions.complete_in(line, "northeurope", limit=9) == []


def test_a_disk_lies_in_its_group_or_nowhere(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        facts.groups.add(group("other"))
        made = disk(world.slot, group="other")
        facts.disks.add(made)
        assert facts.disks.by_uid(made.uid) == made
        with pytest.raises(ParentNotFound, match="nowhere"):
            facts.disks.add(disk(world.slot, group="nowhere"))
        assert facts.disks.list(SUBSCRIPTION) == [made]


def test_turns_count_up_for_each_version_and_region(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        uids = [settle(facts).version.uid, settle(facts, "other").version.uid]
        asked = [(uids[0], "westus2"), (uids[0], "eastus"), (uids[1], "westus2"), (uids[0], "westus2")]
        assert [facts.placements.next_turn(*each) for each in asked] == [0, 0, 0, 1]
    with catalog.transaction() as facts:
        assert facts.placements.next_turn(uids[0], "westus2") == 2


@pytest.mark.engine("postgresql")
def test_a_connection_that_died_while_it_lay_idle_is_not_handed_out(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_SECONDS_MAX", 0.0)
    catalog, killer = Catalog.open(postgresql, Effects()), Catalog.open(postgresql, Effects())
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
    try:
        with catalog.transaction() as facts:
            facts.groups.add(group())
        with killer.transaction() as facts:
            facts._session.connection.exec_driver_sql(f"{others} pg_backend_pid()")
        with catalog.transaction() as facts:
            assert len(facts.groups.list(SUBSCRIPTION)) == 1
    finally:
        catalog.close()
        killer.close()
