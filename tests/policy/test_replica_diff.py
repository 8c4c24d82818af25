"""Differences of replicas and targets: for all states and targets, no step loses the bytes of a version."""

from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.resources import Replica, Slot, SlotKey, StorageAccountType, TargetRegion
from imgstore.domain.states import ReplicaState
from imgstore.policy.copy_plan import ready_steps
from imgstore.policy.replica_diff import diff_replicas, find_removed_regions

LRS, ZRS = StorageAccountType.STANDARD_LRS, StorageAccountType.STANDARD_ZRS
REGIONS = ("southcentralus", "westus2", "eastus")
COMPLETED, DELETING = ReplicaState.COMPLETED, ReplicaState.DELETING


def replica(region: str, kind: StorageAccountType, ordinal: int, state: ReplicaState, uid: str = "") -> Replica:
    key = SlotKey(pool_uid="pool", region=region, storage_account_type=kind, ordinal=ordinal)
    slot = Slot(uid=f"slot-{key}", key=key, zone="1", bucket="bucket")
    return Replica(uid=uid or str(key), version_uid="version", slot=slot, state=state)


def target(region: str, count: int, kind: StorageAccountType = LRS) -> TargetRegion:
    return TargetRegion(name=region, regional_replica_count=count, storage_account_type=kind)


slots = st.tuples(st.sampled_from(REGIONS), st.sampled_from((LRS, ZRS)), st.integers(0, 3))
worlds = st.dictionaries(slots, st.sampled_from(list(ReplicaState)), max_size=8).map(
    lambda world: [replica(*slot, state) for slot, state in world.items()]
)
target_lists = st.dictionaries(
    st.sampled_from(REGIONS), st.tuples(st.integers(1, 3), st.sampled_from((LRS, ZRS))), min_size=1
).map(lambda wanted: [target(region, count, kind) for region, (count, kind) in wanted.items()])


def applied(world: list[Replica], targets: list[TargetRegion]) -> list[Replica]:
    """Return the rows after one transaction."""
    plan = diff_replicas(world, targets)
    gone = {each.uid for each in plan.surplus}
    standing = [replica(*_slot(each), DELETING if each.uid in gone else each.state, each.uid) for each in world]
    made = [
        replica(aim.name, aim.storage_account_type, ordinal, ReplicaState.PENDING, f"new-{aim.name}-{ordinal}")
        for aim, ordinal in plan.missing
    ]
    return standing + made


def _slot(each: Replica) -> tuple[str, StorageAccountType, int]:
    key = each.slot.key
    return key.region, key.storage_account_type, key.ordinal


def living(world: list[Replica]) -> list[Replica]:
    return [each for each in world if each.state is not DELETING]


@given(worlds, target_lists)
def test_step_keeps_the_bytes_and_a_repetition_changes_nothing(
    world: list[Replica], targets: list[TargetRegion]
) -> None:
    after = applied(world, targets)
    slots = [each.slot.uid for each in living(after)]
    assert len(set(slots)) == len(slots), "two live replicas of a version in one slot"
    if any(each.state is COMPLETED for each in world):
        assert any(each.state is COMPLETED for each in after)
    wanted = {each.name for each in targets}
    served = {each.slot.key.region for each in world if each.state is COMPLETED} & wanted
    assert served <= {each.slot.key.region for each in after if each.state is COMPLETED}, (
        "a region that stays went dark"
    )
    again = diff_replicas(after, targets)
    assert (again.missing, again.surplus) == ((), ())


@given(worlds, target_lists)
def test_completed_replicas_match_the_targets(world: list[Replica], targets: list[TargetRegion]) -> None:
    made = [
        each if each.state is DELETING else replica(*_slot(each), COMPLETED, each.uid)
        for each in applied(world, targets)
    ]
    end = living(applied(made, targets))
    found = {
        aim.name: sum(
            (each.slot.key.region, each.slot.key.storage_account_type) == (aim.name, aim.storage_account_type)
            for each in end
        )
        for aim in targets
    }
    assert found == {aim.name: aim.regional_replica_count for aim in targets}
    assert len(end) == sum(found.values())


def test_least_complete_replica_is_removed_first() -> None:
    world = [
        replica("eastus", LRS, 0, ReplicaState.FAILED),
        replica("eastus", LRS, 1, COMPLETED),
        replica("eastus", LRS, 2, COMPLETED),
    ]
    assert [each.slot.key.ordinal for each in diff_replicas(world, [target("eastus", 2)]).surplus] == [0]
    assert [each.slot.key.ordinal for each in diff_replicas(world, [target("eastus", 1)]).surplus] == [0, 2]


def test_only_complete_regions_count_as_removed() -> None:
    world = [
        replica("southcentralus", LRS, 0, COMPLETED),
        replica("eastus", LRS, 0, COMPLETED),
        replica("westus2", LRS, 0, ReplicaState.FAILED),
    ]
    assert find_removed_regions(world, [target("southcentralus", 1, ZRS)]) == ["eastus"]


def test_slot_accepts_a_replica_after_the_removal_only() -> None:
    world = [
        replica("southcentralus", LRS, 0, COMPLETED),
        replica("eastus", LRS, 0, DELETING, "old"),
        replica("eastus", LRS, 0, ReplicaState.PENDING, "new"),
        replica("eastus", LRS, 1, ReplicaState.PENDING, "other"),
    ]
    steps = ready_steps(world, source_region="southcentralus", busy=(), failed=())
    assert [step.replica.uid for step in steps] == ["other"]
