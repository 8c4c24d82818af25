"""Replication, decided: simulated to its end under any order of finishing, and with any of the replicas failing."""

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


def test_nothing_complete_is_nothing_to_do() -> None:
    assert steps([replica(SOURCE, 0), replica("westus2", 0)]) == []


def test_where_nothing_is_complete_what_was_complete_once_is_restored_from_itself() -> None:
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


def test_one_copy_crosses_into_each_region_at_once() -> None:
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


def test_a_source_at_work_is_not_chosen_twice() -> None:
    world = [*complete("westus2", 0, 1), *(replica("westus2", ordinal) for ordinal in range(2, 6))]
    assert told(steps(world, busy=frozenset({"westus2/2"}))) == [("westus2/3", "westus2/1", False)]


def test_a_region_whose_first_failed_tries_the_next_ordinal() -> None:
    world = [*complete(SOURCE, 0), replica("westus2", 0), replica("westus2", 1)]
    assert told(steps(world, failed=frozenset({"westus2/0"}))) == [("westus2/1", f"{SOURCE}/0", True)]


def test_the_source_region_is_asked_before_the_others() -> None:
    world = [*complete("eastus", 0), *complete(SOURCE, 1), replica("westus2", 0)]
    assert [source.uid for source in steps(world)[0].sources] == [f"{SOURCE}/1", "eastus/0"]


def test_a_source_region_without_a_complete_replica_is_healed_from_another() -> None:
    world = [replica(SOURCE, 0, ReplicaState.DEGRADED), *complete("westus2", 0)]
    assert told(steps(world)) == [(f"{SOURCE}/0", "westus2/0", True)]


def test_what_is_being_deleted_is_left_alone() -> None:
    assert steps([*complete(SOURCE, 0), replica("westus2", 0, ReplicaState.DELETING)]) == []


def test_a_degraded_or_broken_off_replica_is_made_again() -> None:
    for state in (ReplicaState.DEGRADED, ReplicaState.REPLICATING, ReplicaState.FAILED):
        assert len(steps([*complete(SOURCE, 0), replica("westus2", 0, state)])) == 1


counts = st.fixed_dictionaries({name: st.integers(0, 10) for name in REGIONS[1:]} | {SOURCE: st.integers(1, 10)})


@given(counts, st.data())
def test_every_replica_completes_and_each_region_is_crossed_into_once(
    counts: dict[str, int], data: st.DataObject
) -> None:
    """Whatever finishes first: all complete, a region works at no more than its complete ones, and is paid for once."""
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
