"""After a step of the database's clock, no earlier time delays a process for longer than its limit."""

from dataclasses import replace
from datetime import timedelta

import pytest
from catalog_values import settle, uid
from test_catalog_queue import REPLICATING, queued

from imgstore.catalog import Catalog
from imgstore.catalog.engine.database import Session
from imgstore.domain.settings.maintenance import MaintenanceKind, MaintenanceTask
from imgstore.domain.storage.circuits import CircuitState, ZoneHealth
from imgstore.domain.storage.works import WorkKind

pytest_plugins = ["catalog_fixtures"]


def test_times_too_far_in_the_future_are_corrected(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    present = Session.now
    monkeypatch.setattr(Session, "now", lambda session: present(session) + timedelta(days=400))
    with catalog.transaction() as transaction:
        world = settle(transaction)
        resting, failed = queued(transaction, world, 1, REPLICATING)
        transaction.replicas.record_failure(
            failed.uid, error="no answer", attempts=1, retry_at=transaction.now() + timedelta(hours=1)
        )
        copying, replica = queued(transaction, world, 2, REPLICATING)
        work = transaction.works.open(
            kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=copying.uid, plan={}, pins=()
        )
        transaction.works.lease(work.uid, holder="elsewhere/boot/1/1", lease_seconds=30)
        transaction.deletion_marks.add(world.slot.uid, {b"x" * 32: 7})
        transaction.deletions.begin(
            world.slot.uid, ["manifests/a/os"], token="t", until=transaction.now() + timedelta(minutes=2)
        )
        transaction.workers.record_heartbeat(uid(), "elsewhere/boot/1/1")
    monkeypatch.undo()
    with catalog.transaction() as transaction:
        assert transaction.queue.list_due(limit=9) == [], "what waits for the old time waits a year"
        assert transaction.clock_steps.correct() == 6
        assert transaction.clock_steps.correct() == 0
    with catalog.transaction() as transaction:
        assert set(transaction.queue.list_due(limit=9)) == {resting.uid, copying.uid}
        assert transaction.works.lease(work.uid, holder="here/boot/1/1", lease_seconds=30).token == 2
        now = transaction.now()
        assert transaction.deletion_marks.list(world.slot.uid)[0].since <= now
        until = transaction.deletions.pending_until(world.slot.uid, ["manifests/a/os"])
        assert until is not None
        assert timedelta(minutes=3) < until - now < timedelta(hours=1), "the request may still be on its way"
        assert all(worker.seen_at <= now for worker in transaction.workers.list())


def test_delete_from_before_the_step_keeps_a_lease(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector uses a monotonic clock and may send the request minutes after the step (invariant G6)."""
    present = Session.now
    monkeypatch.setattr(Session, "now", lambda session: present(session) + timedelta(days=400))
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.deletion_marks.add(world.slot.uid, {b"x" * 32: 7})
        ends_at = transaction.now() + timedelta(seconds=300)
        transaction.deletion_marks.begin_deleting(world.slot.uid, [b"x" * 32], token="t", lease_expires_at=ends_at)
    monkeypatch.undo()
    with catalog.transaction() as transaction:
        assert transaction.clock_steps.correct() == 2
        assert transaction.clock_steps.correct() == 0
        (segment,) = transaction.deletion_marks.list(world.slot.uid)
        assert segment.lease_expires_at is not None
        assert timedelta(seconds=300) < segment.lease_expires_at - transaction.now() < timedelta(hours=1)


def test_maintenance_removals_and_unknown_objects_do_not_wait_for_old_times(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = Session.now
    monkeypatch.setattr(Session, "now", lambda session: present(session) + timedelta(days=400))
    task = MaintenanceTask(kind=MaintenanceKind.GC, interval_seconds=86_400)
    with catalog.transaction() as transaction:
        world = settle(transaction)
        removal = transaction.works.open(
            kind=WorkKind.REMOVAL, slot_uid=world.slot.uid, owner_uid=uid(), plan={"keys": ["k"]}, pins=()
        )
        transaction.maintenance_tasks.register([task])
        assert (
            transaction.maintenance_tasks.lease(
                transaction.maintenance_tasks.list()[0], holder="elsewhere/boot/1/1", lease_seconds=60
            )
            is not None
        )
        transaction.unknown_objects.record(world.slot.uid, {"manifests/a/os": 7})
        transaction.zone_health.write(
            ZoneHealth(
                region=world.slot.key.region,
                zone="1",
                observer="here",
                state=CircuitState.OPEN,
                since_seconds=0,
                failures=3,
                probe_seconds=30,
                open_seconds=30,
                error="no answer",
            )
        )
    monkeypatch.undo()
    with catalog.transaction() as transaction:
        assert transaction.clock_steps.correct() == 6
        assert transaction.clock_steps.correct() == 0
        now = transaction.now()
        assert transaction.works.get(removal.uid).opened_at <= now
        (turn,) = transaction.maintenance_tasks.list()
        assert turn.lease_expires_at is not None
        assert max(turn.done_at, turn.lease_expires_at) <= now
        assert transaction.unknown_objects.list(world.slot.uid)[0].first_seen_at <= now
        (health,) = transaction.zone_health.list()
        assert health.since_seconds >= 0
        assert health.probe_seconds <= 0


def test_version_that_was_deleted_in_the_future_keeps_its_retention(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = Session.now
    with catalog.transaction() as transaction:
        version, _ = queued(transaction, settle(transaction), 1, REPLICATING)
        transaction.clock_steps.correct()
    monkeypatch.setattr(Session, "now", lambda session: present(session) + timedelta(days=400))
    with catalog.transaction() as transaction:
        ends_at = transaction.now() + timedelta(days=7)
        transaction.versions.update(replace(version, soft_deleted_at=transaction.now(), hard_deletion_at=ends_at))
    monkeypatch.undo()
    with catalog.transaction() as transaction:
        assert transaction.clock_steps.correct() == 1
        deleted = transaction.versions.by_uid(version.uid)
        now = transaction.now()
    assert deleted.soft_deleted_at is not None
    assert deleted.hard_deletion_at is not None
    assert deleted.soft_deleted_at <= now
    assert timedelta(days=6) < deleted.hard_deletion_at - now <= timedelta(days=7)


def test_times_within_the_limits_stay(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        _, failed = queued(transaction, world, 1, REPLICATING)
        transaction.replicas.record_failure(
            failed.uid, error="no answer", attempts=9, retry_at=transaction.now() + timedelta(minutes=90)
        )
        version, replica = queued(transaction, world, 2, REPLICATING)
        work = transaction.works.open(
            kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=version.uid, plan={}, pins=()
        )
        transaction.works.lease(work.uid, holder="elsewhere/boot/1/1", lease_seconds=300)
        assert transaction.clock_steps.correct() == 0
