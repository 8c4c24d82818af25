"""The database's clock steps back: no time that was set before holds anything back for longer than it may."""

from datetime import timedelta

import pytest
from catalog_values import settle, uid
from test_catalog_queue import REPLICATING, queued

from imgstore.catalog import Catalog
from imgstore.catalog.database import Session
from imgstore.domain.works import WorkKind

pytest_plugins = ["catalog_fixtures"]


def test_times_that_lie_too_far_ahead_are_corrected(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    present = Session.now
    monkeypatch.setattr(Session, "now", lambda session: present(session) + timedelta(days=400))
    with catalog.transaction() as facts:
        world = settle(facts)
        resting, failed = queued(facts, world, 1, REPLICATING)
        facts.replicas.failed(failed.uid, error="no answer", attempts=1, retry_at=facts.now() + timedelta(hours=1))
        copying, replica = queued(facts, world, 2, REPLICATING)
        work = facts.works.open(kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=copying.uid, plan={}, pins=())
        facts.works.lease(work.uid, holder="elsewhere/boot/1/1", lease_seconds=30)
        facts.condemned.add(world.slot.uid, {b"x" * 32: 7})
        facts.deletions.begin(world.slot.uid, ["manifests/a/os"], token="t", until=facts.now() + timedelta(minutes=2))
        facts.workers.seen(uid(), "elsewhere/boot/1/1")
    monkeypatch.undo()
    with catalog.transaction() as facts:
        assert facts.queue.due(limit=9) == [], "what waits for the old time waits a year"
        assert facts.clock_steps.correct() == 5
        assert facts.clock_steps.correct() == 0
    with catalog.transaction() as facts:
        assert set(facts.queue.due(limit=9)) == {resting.uid, copying.uid}
        assert facts.works.lease(work.uid, holder="here/boot/1/1", lease_seconds=30).token == 2
        now = facts.now()
        assert facts.condemned.list(world.slot.uid)[0].since <= now
        until = facts.deletions.pending_until(world.slot.uid, ["manifests/a/os"])
        assert until is not None
        assert timedelta(minutes=3) < until - now < timedelta(hours=1), "the request may still be on its way"
        assert all(worker.seen_at <= now for worker in facts.workers.list())


def test_times_that_are_set_ahead_stay(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        _, failed = queued(facts, world, 1, REPLICATING)
        facts.replicas.failed(failed.uid, error="no answer", attempts=9, retry_at=facts.now() + timedelta(minutes=90))
        version, replica = queued(facts, world, 2, REPLICATING)
        work = facts.works.open(kind=WorkKind.COPY, slot_uid=replica.slot.uid, owner_uid=version.uid, plan={}, pins=())
        facts.works.lease(work.uid, holder="elsewhere/boot/1/1", lease_seconds=300)
        assert facts.clock_steps.correct() == 0
