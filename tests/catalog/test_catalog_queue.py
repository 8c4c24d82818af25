"""The queue on both engines: due versions, their order, and workers that look at once."""

from dataclasses import replace
from datetime import timedelta

import pytest
from catalog_values import World, settle, slot, uid

from imgstore.catalog import Catalog, Transaction
from imgstore.domain.errors import WorkHeld
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, Replica
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import WorkKind

pytest_plugins = ["catalog_fixtures"]

PENDING, REPLICATING, COMPLETED = ReplicaState.PENDING, ReplicaState.REPLICATING, ReplicaState.COMPLETED
FAILED = ReplicaState.FAILED


def queued(
    transaction: Transaction, world: World, number: int, state: ReplicaState = PENDING, source: ReplicaState = COMPLETED
) -> tuple[ImageVersion, Replica]:
    """Return a version with a replica in the source slot and a replica in another slot."""
    version = replace(world.version, uid=uid(), name=VersionName(9, 0, number))
    transaction.versions.add(version)
    for ordinal, each in ((50, source), (51, state)):
        made = slot(transaction, world.pool.uid, ordinal=ordinal)
        replica = Replica(uid=uid(), version_uid=version.uid, slot=made, state=each)
        transaction.replicas.add(replica)
    return version, replica


def test_versions_are_due_longest_unserved_first(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        first, second = (queued(transaction, world, number)[0].uid for number in (1, 2))
        queued(transaction, world, 3, COMPLETED)
        queued(transaction, world, 4, source=PENDING)
        assert set(transaction.queue.list_due(limit=9)) == {first, second}
        assert transaction.queue.count_without_source() == 1 + (
            world.version.uid in transaction.queue.list_due(limit=9)
        )
        transaction.queue.mark_served(first)
        assert transaction.queue.list_due(limit=9) == [second, first]
        transaction.queue.mark_served(second)
        assert transaction.queue.list_due(limit=1) == [first]
        assert transaction.queue.list_due(limit=9, offset=1) == [second]
        region = slot(transaction, world.pool.uid, ordinal=51).key.region
        assert transaction.queue.list_due(limit=9, full_regions=[region]) == []


def test_failed_replica_is_due_at_its_retry_time(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        version, replica = queued(transaction, settle(transaction), 1, REPLICATING)
        later = transaction.now() + timedelta(hours=1)
        transaction.replicas.record_failure(replica.uid, error="no answer", attempts=1, retry_at=later)
        assert transaction.queue.list_due(limit=9) == []
        assert transaction.queue.waiting_retries() == (1, later)
        transaction.replicas.retry_now(version.uid)
        assert transaction.queue.list_due(limit=9) == [version.uid]
        assert transaction.queue.waiting_retries() == (0, None)


def test_replicating_replica_is_due_after_its_lease_expires(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        version, replica = queued(transaction, settle(transaction), 1, REPLICATING)
        assert transaction.queue.list_due(limit=9) == [version.uid], "nobody is at it"
        work = transaction.works.open(
            kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=version.uid, plan={}, pins=[]
        )
        lease = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        assert transaction.queue.list_due(limit=9) == []
        assert transaction.queue.holders_by_replica([version.uid]) == {replica.uid: "a"}
        assert transaction.queue.holders() == {"a"}
        assert transaction.queue.list_due(limit=9, dead=["a"]) == [version.uid]
        transaction.works.renew(lease, lease_seconds=-1)
        assert transaction.queue.list_due(limit=9) == [version.uid]
        assert transaction.queue.holders_by_replica([version.uid]) == {}


@pytest.mark.parametrize("catalog", ["postgresql"], indirect=True)
@pytest.mark.engine("postgresql")
def test_locked_version_is_skipped(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        version, replica = queued(transaction, settle(transaction), 1)
        work = transaction.works.open(
            kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=version.uid, plan={}, pins=[]
        )
    with catalog.transaction() as one, catalog.transaction() as other:
        assert one.queue.try_lock(version.uid)
        assert not other.queue.try_lock(version.uid)
        one.works.lease(work.uid, holder="a", lease_seconds=60)
        with pytest.raises(WorkHeld):
            other.works.lease(work.uid, holder="b", lease_seconds=60, wait=False)
