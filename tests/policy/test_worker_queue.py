"""The next replicas of a worker: fair, within limits, not before the next attempt, with growing back-off."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.resources import Replica, Slot, SlotKey, StorageAccountType
from imgstore.domain.states import ReplicaState
from imgstore.policy.worker_queue import (
    QueuedVersion,
    WorkerLimits,
    backoff_seconds,
    full_regions,
    next_steps,
    startable_steps,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PENDING, COMPLETED, FAILED = ReplicaState.PENDING, ReplicaState.COMPLETED, ReplicaState.FAILED


def replica(version: str, region: str, ordinal: int = 0, state: ReplicaState = PENDING) -> Replica:
    key = SlotKey(pool_uid="p", region=region, storage_account_type=StorageAccountType.STANDARD_LRS, ordinal=ordinal)
    slot = Slot(uid=f"{region}-{ordinal}", key=key, zone="1", bucket="b")
    return Replica(uid=f"{version}/{region}/{ordinal}", version_uid=version, slot=slot, state=state)


def version(uid: str, *regions: str, busy: frozenset[str] = frozenset()) -> QueuedVersion:
    """Return a version that is complete in "home", with replicas to make in `regions`."""
    replicas = [replica(uid, "home", state=COMPLETED), *(replica(uid, region) for region in regions)]
    return QueuedVersion(uid=uid, source_region="home", replicas=replicas, busy=busy)


def chosen(*queue: QueuedVersion, at_work: dict[str, int] | None = None, all_: int = 4, each: int = 2) -> list[str]:
    limits = WorkerLimits(replicas=all_, replicas_per_region=each)
    return [step.replica.uid for step in next_steps(queue, now=NOW, at_work=at_work or {}, limits=limits)]


def test_versions_alternate_in_queue_order() -> None:
    assert chosen(version("large", "a", "b", "c"), version("small", "a", "b")) == [
        "large/a/0", "small/a/0", "large/b/0", "small/b/0",
    ]  # fmt: skip


def test_limits_in_total_and_per_region() -> None:
    assert chosen(version("v", "a", "b", "c"), all_=2) == ["v/a/0", "v/b/0"]
    assert chosen(version("v", "a"), version("w", "a"), version("x", "a", "b")) == ["v/a/0", "w/a/0", "x/b/0"]
    assert chosen(version("v", "a", "b"), at_work={"a": 2, "c": 1}) == ["v/b/0"]
    assert chosen(version("v", "a"), at_work={"c": 4}) == []
    assert full_regions({"a": 2, "b": 1}, WorkerLimits(replicas_per_region=2)) == {"a"}


def test_replica_of_another_worker_is_ignored() -> None:
    assert chosen(version("v", "a", "b", busy=frozenset({"v/a/0"}))) == ["v/b/0"]


def test_failed_replica_waits_until_retry_at() -> None:
    failed = replace(replica("v", "a", state=FAILED), retry_at=NOW + timedelta(seconds=1))
    queued = replace(version("v"), replicas=[replica("v", "home", state=COMPLETED), failed])
    assert startable_steps(queued, NOW) == []
    assert [step.replica for step in startable_steps(queued, NOW + timedelta(seconds=1))] == [failed]


def test_version_without_a_complete_replica_is_skipped() -> None:
    assert startable_steps(replace(version("v"), replicas=[replica("v", "home"), replica("v", "a")]), NOW) == []


@given(
    regions=st.lists(st.lists(st.sampled_from("abcd"), unique=True), max_size=6),
    at_work=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
    all_=st.integers(1, 6),
    each=st.integers(1, 3),
)
def test_limits_hold_and_no_capacity_is_idle(
    regions: list[list[str]], at_work: dict[str, int], all_: int, each: int
) -> None:
    queue = [version(f"v{number}", *names) for number, names in enumerate(regions)]
    uids = chosen(*queue, at_work=at_work, all_=all_, each=each)
    into = Counter(at_work) + Counter(uid.split("/")[1] for uid in uids)
    room = max(0, all_ - sum(at_work.values()))
    assert len(uids) == len(set(uids)) <= room
    assert all(into[region] <= max(each, at_work.get(region, 0)) for region in into)
    left = {f"v{number}/{name}/0" for number, names in enumerate(regions) for name in names} - set(uids)
    assert len(uids) == room or all(into[uid.split("/")[1]] >= each for uid in left)


@pytest.mark.parametrize(("attempts", "mean"), [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (5000, 3600)])
def test_backoff_grows_with_each_failure(attempts: int, mean: float) -> None:
    assert backoff_seconds(attempts, 0.0) == mean / 2
    assert backoff_seconds(attempts, 0.5) == mean
    assert backoff_seconds(attempts, 1 - 2**-32) == pytest.approx(1.5 * mean)


def test_ten_thousand_target_regions_are_planned_in_linear_time() -> None:
    """Half of the regions are complete. The limit is a loose bound of the work."""
    replicas = [replica("v", f"r{number}", state=COMPLETED if number % 2 else PENDING) for number in range(10_000)]
    queued = QueuedVersion(uid="v", source_region="r1", replicas=replicas, busy=frozenset())
    began = process_time()
    assert len(startable_steps(queued, NOW)) == 5_000
    assert process_time() - began < 2
