"""The queue on both engines: what is due, in whose turn, and that two who look at once do not take the same."""

from dataclasses import replace
from datetime import timedelta

import pytest
from catalog_values import World, settle, slot, uid

from imgstore.catalog import Catalog, Facts
from imgstore.domain.errors import WorkHeld
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, Replica
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import WorkKind

pytest_plugins = ["catalog_fixtures"]

PENDING, REPLICATING, COMPLETED = ReplicaState.PENDING, ReplicaState.REPLICATING, ReplicaState.COMPLETED
FAILED = ReplicaState.FAILED


def queued(
    facts: Facts, world: World, number: int, state: ReplicaState = PENDING, source: ReplicaState = COMPLETED
) -> tuple[ImageVersion, Replica]:
    """A version with one replica at its source and one in another slot."""
    version = replace(world.version, uid=uid(), name=VersionName(9, 0, number))
    facts.versions.add(version)
    for ordinal, each in ((50, source), (51, state)):
        made = slot(facts, world.pool.uid, ordinal=ordinal)
        replica = Replica(uid=uid(), version_uid=version.uid, slot=made, state=each)
        facts.replicas.add(replica)
    return version, replica


def test_what_is_due_in_the_order_of_turns(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        first, second = (queued(facts, world, number)[0].uid for number in (1, 2))
        queued(facts, world, 3, COMPLETED)
        queued(facts, world, 4, source=PENDING)
        assert set(facts.queue.due(limit=9)) == {first, second}
        assert facts.queue.without_source() == 1 + (world.version.uid in facts.queue.due(limit=9))
        facts.queue.serve(first)
        assert facts.queue.due(limit=9) == [second, first]
        facts.queue.serve(second)
        assert facts.queue.due(limit=1) == [first]
        assert facts.queue.due(limit=9, offset=1) == [second]
        region = slot(facts, world.pool.uid, ordinal=51).key.region
        assert facts.queue.due(limit=9, full_regions=[region]) == []


def test_a_failed_replica_is_due_at_its_time(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        version, replica = queued(facts, settle(facts), 1, REPLICATING)
        later = facts.now() + timedelta(hours=1)
        facts.replicas.failed(replica.uid, error="no answer", attempts=1, retry_at=later)
        assert facts.queue.due(limit=9) == []
        assert facts.queue.resting() == (1, later)
        facts.replicas.retry_now(version.uid)
        assert facts.queue.due(limit=9) == [version.uid]
        assert facts.queue.resting() == (0, None)


def test_who_replicates_is_left_alone_until_its_lease_runs_out(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        version, replica = queued(facts, settle(facts), 1, REPLICATING)
        assert facts.queue.due(limit=9) == [version.uid], "nobody is at it"
        work = facts.works.open(kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=version.uid, plan={}, pins=[])
        lease = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        assert facts.queue.due(limit=9) == []
        assert facts.queue.under_way([version.uid]) == {replica.uid: "a"}
        assert facts.queue.holders() == {"a"}
        assert facts.queue.due(limit=9, dead=["a"]) == [version.uid]
        facts.works.renew(lease, lease_seconds=-1)
        assert facts.queue.due(limit=9) == [version.uid]
        assert facts.queue.under_way([version.uid]) == {}


@pytest.mark.parametrize("catalog", ["postgresql"], indirect=True)
@pytest.mark.engine("postgresql")
def test_a_version_in_anothers_hand_is_passed_by(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        version, replica = queued(facts, settle(facts), 1)
        work = facts.works.open(kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=version.uid, plan={}, pins=[])
    with catalog.transaction() as one, catalog.transaction() as other:
        assert one.queue.hold(version.uid)
        assert not other.queue.hold(version.uid)
        one.works.lease(work.uid, holder="a", lease_seconds=60)
        with pytest.raises(WorkHeld):
            other.works.lease(work.uid, holder="b", lease_seconds=60, wait=False)
