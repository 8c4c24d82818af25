"""Selection of bases, of the latest version and of the next replica."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, Replica, Slot, SlotKey, StorageAccountType, TargetRegion
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.policy.selection import BASES_MAX, choose_bases, find_latest, healthy_replicas, next_slot

LRS, ZRS = StorageAccountType.STANDARD_LRS, StorageAccountType.STANDARD_ZRS
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def version(
    name: str,
    *,
    day: int = 0,
    excluded: bool = False,
    excluded_in: str | None = None,
    state: ProvisioningState = ProvisioningState.SUCCEEDED,
) -> ImageVersion:
    targets = tuple(
        TargetRegion(
            name=region, regional_replica_count=1, storage_account_type=LRS, exclude_from_latest=region == excluded_in
        )
        for region in ("westus2", "eastus")
    )
    return ImageVersion(
        uid=f"uid-{name}",
        definition_uid="definition",
        name=VersionName.parse(name),
        location="westus2",
        target_regions=targets,
        exclude_from_latest=excluded,
        disks=(VersionDisk(source=SourceIdentity(location="/disk", file_bytes=1, stamp="1")),),
        published_at=BEGIN + timedelta(days=day),
        provisioning_state=state,
    )


def replica(
    region: str,
    ordinal: int = 0,
    state: ReplicaState = ReplicaState.COMPLETED,
    kind: StorageAccountType = LRS,
) -> Replica:
    key = SlotKey(pool_uid="pool", region=region, storage_account_type=kind, ordinal=ordinal)
    return Replica(
        uid=f"{key}", version_uid="version", slot=Slot(uid=str(key), key=key, zone="1", bucket="b"), state=state
    )


def names(chosen: tuple[ImageVersion, ...]) -> list[str]:
    return [str(each.name) for each in chosen]


def test_bases_are_named_newest_and_highest_lower_versions() -> None:
    candidates = [version("1.0.0", day=1), version("1.9.0", day=2), version("1.10.0", day=3), version("3.0.0", day=4)]
    new = VersionName.parse("2.0.0")
    assert names(choose_bases(candidates, new=new, named=[])) == ["3.0.0", "1.10.0"]
    assert names(choose_bases(candidates, new=new, named=[VersionName(1, 0, 0)])) == ["1.0.0", "3.0.0", "1.10.0"]


def test_repeated_base_counts_once() -> None:
    candidates = [version("1.0.0", day=1)]
    assert names(choose_bases(candidates, new=VersionName(2, 0, 0), named=[VersionName(1, 0, 0)])) == ["1.0.0"]


def test_three_bases_at_most_with_named_versions_first() -> None:
    candidates = [version(f"{n}.0.0", day=n) for n in range(1, 8)]
    named = [VersionName(n, 0, 0) for n in (3, 1, 2, 5)]
    assert names(choose_bases(candidates, new=VersionName(7, 0, 1), named=named)) == ["3.0.0", "1.0.0", "2.0.0"]


def test_first_version_has_no_base() -> None:
    assert choose_bases([], new=VersionName(1, 0, 0), named=[VersionName(1, 0, 0)]) == ()


versions = st.lists(
    st.builds(
        lambda n, day: version(f"{n}.0.0", day=day),
        st.integers(0, 20),
        st.integers(0, 9),
    ),
    unique_by=lambda each: each.name,
)


@given(versions, st.integers(0, 20), st.lists(st.integers(0, 20), max_size=5))
def test_bases_are_distinct_with_named_versions_first(
    candidates: list[ImageVersion], new: int, named: list[int]
) -> None:
    wanted = [VersionName(n, 0, 0) for n in named]
    chosen = choose_bases(candidates, new=VersionName(new, 0, 0), named=wanted)
    assert len(chosen) <= BASES_MAX
    assert len({each.uid for each in chosen}) == len(chosen)
    assert all(each in candidates for each in chosen)
    there = list(dict.fromkeys(name for name in wanted if any(each.name == name for each in candidates)))
    assert [each.name for each in chosen][: len(there)] == there[:BASES_MAX]
    if candidates and len(there) < BASES_MAX:
        assert max(each.published_at for each in chosen) == max(each.published_at for each in candidates)


def test_latest_is_the_highest_version() -> None:
    here = [replica("westus2")]
    found = find_latest([(version("1.9.0", day=9), here), (version("1.10.0", day=1), here)], "westus2")
    assert found is not None
    assert str(found.name) == "1.10.0"


def test_latest_needs_a_complete_replica_in_the_region_only() -> None:
    new = version("2.0.0", state=ProvisioningState.UPDATING)
    old = version("1.0.0")
    both = [
        (new, [replica("westus2"), replica("eastus", state=ReplicaState.REPLICATING)]),
        (old, [replica("westus2"), replica("eastus")]),
    ]
    assert find_latest(both, "westus2") == new
    assert find_latest(both, "eastus") == old
    assert find_latest(both, "northeurope") is None


def test_latest_skips_excluded_deleted_and_damaged_versions() -> None:
    here = [replica("westus2"), replica("eastus")]
    excluded = (version("5.0.0", excluded=True), here)
    there = (version("4.0.0", excluded_in="westus2"), here)
    going = (version("6.0.0", state=ProvisioningState.DELETING), here)
    damaged = (version("7.0.0"), [replica("westus2", state=ReplicaState.DEGRADED)])
    plain = (version("1.0.0"), here)
    every = [excluded, there, going, damaged, plain]
    assert find_latest(every, "westus2") == plain[0]
    assert find_latest(every, "eastus") == there[0]


def test_complete_replicas_of_the_region_are_ordered_by_slot() -> None:
    replicas = [
        replica("westus2", 2),
        replica("westus2", 0, kind=ZRS),
        replica("westus2", 1, state=ReplicaState.DEGRADED),
        replica("westus2", 0),
        replica("eastus", 0),
    ]
    fit = [
        (each.slot.key.ordinal, each.slot.key.storage_account_type) for each in healthy_replicas(replicas, "westus2")
    ]
    assert fit == [(0, LRS), (0, ZRS), (2, LRS)]


@given(st.integers(1, 10), st.integers(0, 1000), st.integers(0, 300))
def test_round_robin_counts_differ_by_one_at_most(count: int, begin: int, machines: int) -> None:
    fit = [replica("westus2", ordinal).slot for ordinal in range(count)]
    given_out = Counter(next_slot(turn, fit).key.ordinal for turn in range(begin, begin + machines))
    shares = [given_out[ordinal] for ordinal in range(count)]
    assert max(shares) - min(shares) <= 1
