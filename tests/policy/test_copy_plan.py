"""Copy plans, simulated to the end with any order of completion and any failing replicas."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.resources import Replica, Slot, SlotKey, StorageAccountType
from imgstore.domain.states import ReplicaState
from imgstore.policy.copy_plan import CopyStep, ready_steps

SOURCE = "southcentralus"
REGIONS = [SOURCE, "westus2", "eastus"]


def replica(region: str, ordinal: int, state: ReplicaState = ReplicaState.PENDING) -> Replica:
    key = SlotKey(pool_uid="pool", region=region, storage_account_type=StorageAccountType.STANDARD_LRS, ordinal=ordinal)
    slot = Slot(uid=f"slot-{key}", key=key, zone="1", bucket="bucket")
    return Replica(uid=f"{region}/{ordinal}", version_uid="version", slot=slot, state=state)


def steps(
    replicas: list[Replica], *, busy: frozenset[str] = frozenset(), failed: frozenset[str] = frozenset()
) -> list[CopyStep]:
    return ready_steps(replicas, source_region=SOURCE, busy=busy, failed=failed)


def told(made: list[CopyStep]) -> list[tuple[str, str, bool]]:
    return [(step.replica.uid, step.sources[0].uid, step.is_cross_region) for step in made]


def complete(region: str, *ordinals: int) -> list[Replica]:
    return [replica(region, ordinal, ReplicaState.COMPLETED) for ordinal in ordinals]


def test_no_copy_without_a_complete_replica() -> None:
    assert steps([replica(SOURCE, 0), replica("westus2", 0)]) == []


def test_formerly_complete_replica_is_restored_without_a_source() -> None:
    once = replica("westus2", 0, ReplicaState.DEGRADED), replica("westus2", 1, ReplicaState.REPLICATING)
    world = [replica(SOURCE, 0), *once, replica("eastus", 0, ReplicaState.FAILED)]

    def restored(busy: frozenset[str] = frozenset()) -> list[str]:
        made = ready_steps(
            world, source_region=SOURCE, busy=busy, failed=(), once_complete={each.uid for each in (*once, world[0])}
        )
        assert all(step.sources == () for step in made)
        return [step.replica.uid for step in made]

    assert restored() == ["westus2/0", "westus2/1"]
    assert restored(frozenset({"westus2/1"})) == ["westus2/0"]
    world.append(*complete("eastus", 1))
    assert all(step.sources for step in steps(world))


def test_one_copy_at_a_time_crosses_into_a_region() -> None:
    world = [*complete(SOURCE, 0), *(replica("westus2", ordinal) for ordinal in range(3)), replica("eastus", 0)]
    # Invariant R4.
    assert told(steps(world)) == [
        ("westus2/0", f"{SOURCE}/0", True),
        ("eastus/0", f"{SOURCE}/0", True),
    ]


def test_sources_double_inside_a_region() -> None:
    world = [*complete("westus2", 0, 1), *(replica("westus2", ordinal) for ordinal in range(2, 6))]
    # Invariant R5.
    assert told(steps(world)) == [("westus2/2", "westus2/0", False), ("westus2/3", "westus2/1", False)]


def test_busy_source_is_not_chosen_twice() -> None:
    world = [*complete("westus2", 0, 1), *(replica("westus2", ordinal) for ordinal in range(2, 6))]
    assert told(steps(world, busy=frozenset({"westus2/2"}))) == [("westus2/3", "westus2/1", False)]


def test_region_with_a_failed_first_replica_tries_the_next_ordinal() -> None:
    world = [*complete(SOURCE, 0), replica("westus2", 0), replica("westus2", 1)]
    assert told(steps(world, failed=frozenset({"westus2/0"}))) == [("westus2/1", f"{SOURCE}/0", True)]


def test_source_region_is_preferred_to_other_regions() -> None:
    world = [*complete("eastus", 0), *complete(SOURCE, 1), replica("westus2", 0)]
    assert [source.uid for source in steps(world)[0].sources] == [f"{SOURCE}/1", "eastus/0"]


def test_source_region_is_restored_from_another_region() -> None:
    world = [replica(SOURCE, 0, ReplicaState.DEGRADED), *complete("westus2", 0)]
    assert told(steps(world)) == [(f"{SOURCE}/0", "westus2/0", True)]


def test_replica_in_deletion_is_ignored() -> None:
    assert steps([*complete(SOURCE, 0), replica("westus2", 0, ReplicaState.DELETING)]) == []


def test_degraded_or_interrupted_replica_is_made_again() -> None:
    for state in (ReplicaState.DEGRADED, ReplicaState.REPLICATING, ReplicaState.FAILED):
        assert len(steps([*complete(SOURCE, 0), replica("westus2", 0, state)])) == 1


counts = st.fixed_dictionaries({name: st.integers(0, 10) for name in REGIONS[1:]} | {SOURCE: st.integers(1, 10)})


@given(counts, st.data())
def test_every_replica_completes_with_one_transfer_per_region(counts: dict[str, int], data: st.DataObject) -> None:
    """Check all orders of completion.

    All replicas complete, no region has more copies than complete replicas, and each region is charged once.
    """
    every = [replica(name, ordinal) for name in REGIONS for ordinal in range(counts[name])]
    world = {each.uid: each for each in every}
    world[f"{SOURCE}/0"] = replica(SOURCE, 0, ReplicaState.COMPLETED)
    busy: dict[str, CopyStep] = {}
    crossings: Counter[str] = Counter()
    broken = data.draw(st.sets(st.sampled_from(sorted(world))) if len(world) > 1 else st.just(set()), label="broken")
    broken -= {f"{SOURCE}/0"}
    failed: set[str] = set()
    begun: Counter[str] = Counter()
    while True:
        for step in ready_steps(list(world.values()), source_region=SOURCE, busy=set(busy), failed=failed):
            uid, region = step.replica.uid, step.replica.slot.key.region
            assert uid not in busy
            assert world[uid].state is not ReplicaState.COMPLETED
            assert step.sources
            assert len(set(step.sources)) == len(step.sources)
            assert all(world[each.uid].state is ReplicaState.COMPLETED for each in step.sources)
            assert step.is_cross_region == (step.sources[0].slot.key.region != region)
            assert step.is_cross_region or uid not in {each.uid for each in step.sources}
            crossings[region] += step.is_cross_region and uid not in broken
            begun[uid] += 1
            busy[uid] = step
        for region in REGIONS:
            here = [each for each in world.values() if each.slot.key.region == region]
            there = sum(each.state is ReplicaState.COMPLETED for each in here)
            assert sum(each.uid in busy for each in here) <= max(1, there)
        if not busy:
            break
        uid = data.draw(st.sampled_from(sorted(busy)), label="done")
        del busy[uid]
        if uid in broken:
            failed.add(uid)
            world[uid] = replace(world[uid], state=ReplicaState.FAILED)
        else:
            world[uid] = replace(world[uid], state=ReplicaState.COMPLETED)
    assert {uid for uid, each in world.items() if each.state is not ReplicaState.COMPLETED} == broken
    assert all(times == 1 for times in begun.values())
    assert all(times <= 1 for times in crossings.values())
    assert crossings[SOURCE] == 0
