"""Lookup and placement of an image on both engines.

PostgreSQL increments the counter and adds the disk in one statement, SQLite needs two statements.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from catalog_values import (
    NOON,
    SUBSCRIPTION,
    World,
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

from imgstore.catalog import Catalog, Transaction
from imgstore.catalog.engine import database
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, ParentNotFound, StoreUnreachable
from imgstore.domain.names import VersionName
from imgstore.domain.resources import DiskType, ManagedDisk, Pool, Slot, StorageAccountType
from imgstore.domain.states import ProvisioningState, ReplicaState

pytest_plugins = ["catalog_fixtures"]

ABOVE = ("RG", "MYGALLERY", "Ubuntu")
WHOLE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute"
OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <>"


def completed(transaction: Transaction, definition_uid: str, name: str, *slots: str, pool_uid: str) -> None:
    """Return a version that is complete in the regions."""
    made = version(definition_uid, name)
    transaction.versions.add(made)
    for region in slots:
        transaction.replicas.add(replica(made.uid, slot(transaction, pool_uid, region), ReplicaState.COMPLETED))


def test_one_statement_finds_the_same_as_three_lookups(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        other = settle(transaction, "other")
        name = world.version.name
        found = transaction.references.find_version(SUBSCRIPTION, *ABOVE, name)
        assert found == (world.gallery, world.definition, world.version)
        assert found[0] == transaction.galleries.get(SUBSCRIPTION, "rg", "myGallery")
        assert found[1] == transaction.definitions.by_uid(world.definition.uid)
        assert transaction.references.find(SUBSCRIPTION, *ABOVE) == (world.gallery, world.definition)
        assert transaction.references.find(SUBSCRIPTION, "rg", "other", "ubuntu") == (other.gallery, other.definition)


def test_missing_version_differs_from_a_missing_parent(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        absent = VersionName(9, 9, 9)
        assert transaction.references.find_version(SUBSCRIPTION, *ABOVE, absent) == (
            world.gallery,
            world.definition,
            None,
        )
        for wrong in (("no", *ABOVE[1:]), (ABOVE[0], "no", ABOVE[2]), (*ABOVE[:2], "no")):
            assert transaction.references.find(SUBSCRIPTION, *wrong) is None
            assert transaction.references.find_version(SUBSCRIPTION, *wrong, world.version.name) is None
        assert transaction.references.find("another subscription", *ABOVE) is None


def test_gallery_is_found_only_in_its_own_group(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        settle(transaction)
        transaction.groups.add(group("elsewhere"))
        pool = Pool(uid=uid(), fingerprint_key=bytes(32))
        transaction.pools.add(pool)
        there = gallery(pool.uid, "there", group="elsewhere")
        transaction.galleries.add(there)
        transaction.definitions.add(definition(there.uid))
        assert transaction.references.find(SUBSCRIPTION, "rg", "there", "ubuntu") is None
        assert transaction.references.find(SUBSCRIPTION, "elsewhere", "there", "ubuntu") is not None


def test_replicas_of_a_region_are_a_part_of_all_replicas(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        for region, ordinal in (("westus2", 1), ("westus2", 0), ("eastus", 0)):
            transaction.replicas.add(replica(world.version.uid, slot(transaction, world.pool.uid, region, ordinal)))
        everywhere = transaction.replicas.list(world.version.uid)
        here = transaction.replicas.in_region(world.version.uid, "westus2")
        assert here == [each for each in everywhere if each.slot.key.region == "westus2"]
        assert [each.slot.key.ordinal for each in here] == [0, 1]


def test_complete_versions_are_listed_highest_first_in_pages(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        line, pool = world.definition.uid, world.pool.uid
        completed(transaction, line, "1.9.0", "westus2", "eastus", pool_uid=pool)
        completed(transaction, line, "1.10.0", "westus2", pool_uid=pool)
        completed(transaction, line, "2.0.0", "eastus", pool_uid=pool)
        transaction.replicas.add(replica(world.version.uid, slot(transaction, pool), ReplicaState.DEGRADED))
        here = [str(each.name) for each in transaction.versions.list_complete_in(line, "westus2", limit=9)]
        assert here == ["1.10.0", "1.9.0"]
        first = transaction.versions.list_complete_in(line, "westus2", limit=1)
        rest = transaction.versions.list_complete_in(line, "westus2", below=first[0].name, limit=9)
        assert [str(each.name) for each in (*first, *rest)] == here
        assert transaction.versions.list_complete_in(line, "northeurope", limit=9) == []


def test_disk_needs_an_existing_group(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.groups.add(group("other"))
        made = disk(world.slot, group="other")
        transaction.disks.add(made)
        assert transaction.disks.by_uid(made.uid) == made
        with pytest.raises(ParentNotFound, match="nowhere"):
            transaction.disks.add(disk(world.slot, group="nowhere"))
        assert transaction.disks.list(SUBSCRIPTION) == [made]


def test_counter_increases_for_each_version_and_region(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        uids = [settle(transaction).version.uid, settle(transaction, "other").version.uid]
        asked = [(uids[0], "westus2"), (uids[0], "eastus"), (uids[1], "westus2"), (uids[0], "westus2")]
        assert [transaction.placements.advance_counter(*each) for each in asked] == [0, 0, 0, 1]
    # Invariant D1.
    with catalog.transaction() as transaction:
        assert transaction.placements.advance_counter(uids[0], "westus2") == 2


# -- offers -----------------------------------------------------------------------------------------------------------


def test_offer_contains_the_complete_replicas_of_the_region(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.definitions.update(replace(world.definition, disallowed_disk_types=(DiskType.PREMIUM_LRS,)))
        here = [slot(transaction, world.pool.uid, ordinal=ordinal) for ordinal in range(4)]
        zoned = replace(here[0].key, storage_account_type=StorageAccountType.STANDARD_ZRS)
        here.append(transaction.slots.get_or_add(zoned, zone="zrs", bucket="b"))
        states = (ReplicaState.COMPLETED, ReplicaState.DEGRADED, ReplicaState.COMPLETED, ReplicaState.PENDING)
        for place, state in reversed([*zip(here, (*states, ReplicaState.COMPLETED), strict=True)]):
            transaction.replicas.add(replica(world.version.uid, place, state))
        transaction.replicas.add(
            replica(world.version.uid, slot(transaction, world.pool.uid, "eastus"), ReplicaState.COMPLETED)
        )
        offer = transaction.offers.find(SUBSCRIPTION, *ABOVE, world.version.name, "westus2")
        assert offer is not None
        assert offer.slots == (here[0], here[4], here[2])
        assert offer.source == f"{WHOLE}/galleries/myGallery/images/ubuntu/versions/1.0.0"
        assert (offer.version_uid, offer.disks, offer.disk_keys) == (
            world.version.uid,
            world.version.disks,
            ("os", "lun-5"),
        )
        assert (offer.definition, offer.os_properties) == (world.definition.name, world.definition.os_properties)
        assert offer.os_state is world.definition.os_state
        assert offer.disallowed_disk_types == (DiskType.PREMIUM_LRS,)


def test_incomplete_or_invisible_versions_are_not_offered(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = _offered(transaction)[0]
        name = world.version.name

        def is_offered(region: str = "westus2", above: tuple[str, str, str] = ABOVE) -> bool:
            return transaction.offers.find(SUBSCRIPTION, *above, name, region) is not None

        assert is_offered()
        assert not is_offered("eastus")
        for wrong in (("no", *ABOVE[1:]), (ABOVE[0], "no", ABOVE[2]), (*ABOVE[:2], "no")):
            assert not is_offered(above=wrong)
        assert transaction.offers.find(SUBSCRIPTION, *ABOVE, VersionName(9, 9, 9), "westus2") is None
        transaction.versions.update(replace(world.version, soft_deleted_at=NOON))
        assert not is_offered()
        transaction.versions.update(replace(world.version, provisioning_state=ProvisioningState.DELETING))
        assert not is_offered()


# -- the turn and the row ---------------------------------------------------------------------------------------------


def test_disks_are_placed_round_robin(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world, slots = _offered(transaction)
        placed = [transaction.placements.place(_new(world, slots, number), slots) for number in range(7)]
        assert [each.slot for each in placed] == [*slots, *slots, slots[0]]
        assert [transaction.disks.by_uid(each.uid) for each in placed] == placed
        assert [each.storage_account_type for each in placed[:3]] == [each.key.storage_account_type for each in slots]
        assert placed[1] == _new(world, slots, 1, uid=placed[1].uid).in_slot(slots[1])


def test_machines_and_disks_share_a_counter(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world, slots = _offered(transaction)
        assert transaction.placements.advance_counter(world.version.uid, "westus2") == 0
        assert transaction.placements.place(_new(world, slots, 1), slots).slot == slots[1]
        assert transaction.placements.place(_new(world, slots, 2, location="eastus"), slots).slot == slots[0]
        assert transaction.placements.advance_counter(world.version.uid, "westus2") == 2


def test_fewer_slots_use_the_same_counter(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world, slots = _offered(transaction)
        placed = [transaction.placements.place(_new(world, slots, number), slots[1:]) for number in range(3)]
        assert [each.slot for each in placed] == [slots[1], slots[2], slots[1]]


def test_refused_placement_does_not_advance_the_counter(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world, slots = _offered(transaction)
    with pytest.raises(ParentNotFound, match="nowhere"), catalog.transaction() as transaction:
        transaction.placements.place(_new(world, slots, 0, group="nowhere"), slots)
    with catalog.transaction() as transaction:
        assert transaction.placements.place(_new(world, slots, 1), slots).slot == slots[0]
    with pytest.raises(Conflict, match="of this name"), catalog.transaction() as transaction:
        transaction.placements.place(_new(world, slots, 1), slots)
    with catalog.transaction() as transaction:
        assert transaction.placements.place(_new(world, slots, 2), slots).slot == slots[1]
        assert [each.name for each in transaction.disks.list(SUBSCRIPTION)] == ["d1", "d2"]


@pytest.mark.parametrize("placed_before", [False, True], ids=["first turn", "later turn"])
def test_deleted_version_is_not_placed(catalog: Catalog, placed_before: bool) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        slots = [world.slot]
        if placed_before:
            transaction.placements.place(_new(world, slots, 0), slots)

    def place() -> None:
        with catalog.transaction() as transaction:
            transaction.placements.place(_new(world, slots, 1), slots)

    with ThreadPoolExecutor(1) as thread:
        with catalog.transaction() as transaction:
            transaction.versions.delete(world.version.uid)
            placing = thread.submit(place)
            with suppress(TimeoutError):
                placing.result(timeout=0.2)
        with pytest.raises(Conflict, match="still refers to this resource, or a resource that"):
            placing.result()
    # Invariant W11.
    with catalog.reading() as transaction:
        assert len(transaction.disks.list(SUBSCRIPTION)) == placed_before


@pytest.mark.engine("postgresql")
def test_replica_that_is_damaged_after_the_offer_is_still_placed(postgresql: str) -> None:
    """A chosen replica stays chosen.

    The disk pins the manifest, and reads use another replica where bytes are damaged.
    """
    with _opened(postgresql) as catalog, _opened(postgresql) as other:
        with catalog.transaction() as transaction:
            world, slots = _offered(transaction)
        with catalog.transaction() as transaction:
            offer = transaction.offers.find(SUBSCRIPTION, *ABOVE, world.version.name, "westus2")
            assert offer is not None
            with other.transaction() as theirs:
                theirs.replicas.move(theirs.replicas.in_slot(slots[0].uid)[0].uid, ReplicaState.DEGRADED)
            assert transaction.placements.place(_new(world, slots, 0), offer.slots).slot == slots[0]


@pytest.mark.engine("postgresql")
def test_placement_with_a_lost_connection_does_not_advance_the_counter(postgresql: str) -> None:
    with _opened(postgresql) as catalog, _opened(postgresql) as killer:
        with catalog.transaction() as transaction:
            world, slots = _offered(transaction)
        with pytest.raises(StoreUnreachable), catalog.transaction() as transaction:
            transaction.placements.place(_new(world, slots, 0), slots)
            with killer.transaction() as theirs:
                theirs._session.connection.exec_driver_sql(f"{OTHERS} pg_backend_pid()")
        with catalog.transaction() as transaction:
            assert transaction.placements.place(_new(world, slots, 0), slots).slot == slots[0]


def _offered(transaction: Transaction) -> tuple[World, list[Slot]]:
    """Return a version that is complete in three slots of a region. A slot has another storage account type."""
    world = settle(transaction)
    slots = [slot(transaction, world.pool.uid, ordinal=ordinal) for ordinal in range(2)]
    zoned = replace(slots[0].key, storage_account_type=StorageAccountType.STANDARD_ZRS, ordinal=2)
    slots.append(transaction.slots.get_or_add(zoned, zone="zrs", bucket="b"))
    for each in slots:
        transaction.replicas.add(replica(world.version.uid, each, ReplicaState.COMPLETED))
    return world, slots


def _new(world: World, slots: list[Slot], number: int, **changes: object) -> ManagedDisk:
    return disk(slots[0], f"d{number}", source_version_uid=world.version.uid, **changes)


@contextmanager
def _opened(url: str) -> Iterator[Catalog]:
    catalog = Catalog.open(url, Effects())
    try:
        yield catalog
    finally:
        catalog.close()


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.engine("postgresql")
def test_connection_that_died_while_idle_is_not_used(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "IDLE_SECONDS_MAX", 0.0)
    with _opened(postgresql) as catalog, _opened(postgresql) as killer:
        with catalog.transaction() as transaction:
            transaction.groups.add(group())
        with killer.transaction() as transaction:
            transaction._session.connection.exec_driver_sql(f"{OTHERS} pg_backend_pid()")
        with catalog.transaction() as transaction:
            assert len(transaction.groups.list(SUBSCRIPTION)) == 1
