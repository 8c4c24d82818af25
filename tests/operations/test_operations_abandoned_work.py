"""Abandoned works: a work without a lease keeps the segments that it may need for a week, and no longer."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.errors import NotFound, WorkHeld
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.maintenance.worker import run_worker
from imgstore.operations.replication import copy as replication_copy
from imgstore.operations.replication import ingest as replication_ingest
from imgstore.operations.slots.stale_works import abandon_stale_works
from imgstore.policy.gc_plan import GcReport
from imgstore.transfer.slot_access import SlotAccess
from tests.support.manual_clock import ManualClock
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    all_slots,
    audit,
    audit_collected,
    charges,
    collect,
    content,
    delete,
    make_disk,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

DAY_SECONDS = 86_400.0
SOURCE = ["southcentralus"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The database's clock, in the test's hand."""
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    return clock


@pytest.fixture
def killed(clock: ManualClock, empty: Installation, samples: SampleImages, tmp_path: Path) -> Installation:
    """1.0.0 stands, 1.0.1 was killed before its manifest was put."""
    publish(empty, samples.first, "1.0.0", SOURCE)
    kill_publishing(empty, other(tmp_path))
    clock.advance(60)
    return empty


def other(folder: Path, seed: int = 77) -> Path:
    """Made once: a file that was written anew is another source, and its work begins anew."""
    file = folder / f"{seed}.raw"
    return file if file.exists() else make_raw(file, seed=seed, virtual_bytes=16 * MIB, content_bytes=5 * MIB)


def crash(*_args: object, **_more: object) -> None:
    raise KeyboardInterrupt


def kill_publishing(installation: Installation, source: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlotAccess, "put_manifest", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(installation, source, "1.0.1", SOURCE)


def open_works(installation: Installation) -> list[Work]:
    with installation.catalog.reading() as transaction:
        return transaction.works.list_open()


def lying(installation: Installation) -> int:
    return sum(len(content(installation, slot).segments) for slot in all_slots(installation))


def planned(installation: Installation) -> GcReport:
    return maintenance_gc.plan_collection(installation, ADMIN, grace=timedelta(0))


def test_killed_ingest_delays_deletions_for_a_week(killed: Installation, clock: ManualClock, tmp_path: Path) -> None:
    publish(killed, other(tmp_path, 78), "1.0.2", SOURCE)
    delete(killed, "1.0.2")
    before = lying(killed)
    clock.advance(6 * DAY_SECONDS)
    assert planned(killed).abandoned == collect(killed).abandoned == []
    assert lying(killed) == before, "held back by the work"
    with pytest.raises(WorkHeld, match=r"a manifest of it is in use"):
        delete(killed, "1.0.0")
    clock.advance(DAY_SECONDS)
    assert [work.kind for work in planned(killed).abandoned] == [WorkKind.INGEST]
    assert len(open_works(killed)) == 1, "a plan changes nothing"
    assert [work.kind for work in collect(killed).abandoned] == [WorkKind.INGEST]
    assert open_works(killed) == []
    with pytest.raises(NotFound):
        show(killed, "1.0.0")  # Its deletion had begun, and the collection has finished it.
    for _ in range(2):
        collect(killed)
    assert lying(killed) == 0, "what the two versions named, and what 1.0.1 had sent"
    audit(killed, collected=True)
    audit_collected(killed)


def test_segments_of_an_abandoned_work_wait_for_the_grace(killed: Installation, clock: ManualClock) -> None:
    clock.advance(8 * DAY_SECONDS)
    before = lying(killed)
    collect(killed, grace_hours=24)
    collect(killed, grace_hours=24)
    assert lying(killed) == before
    clock.advance(DAY_SECONDS)
    collect(killed, grace_hours=24)
    assert 0 < lying(killed) < before, "1.0.0 stays"


def test_version_of_an_abandoned_work_fails_and_can_be_repeated(
    killed: Installation, clock: ManualClock, tmp_path: Path
) -> None:
    clock.advance(8 * DAY_SECONDS)
    collect(killed)
    view = show(killed, "1.0.1")
    assert view.version.provisioning_state is ProvisioningState.FAILED
    assert [(each.state, each.error) for each in view.replicas] == [
        (ReplicaState.FAILED, "abandoned: no process resumed the work after 2026-05-01T00:00:00+00:00")
    ]
    collect(killed)
    assert publish(killed, other(tmp_path), "1.0.1", SOURCE).version.provisioning_state is ProvisioningState.SUCCEEDED
    audit(killed, collected=True)


def test_the_week_begins_at_the_end_of_the_last_lease(killed: Installation, clock: ManualClock, tmp_path: Path) -> None:
    clock.advance(6 * DAY_SECONDS)
    kill_publishing(killed, other(tmp_path))
    clock.advance(2 * DAY_SECONDS)
    assert collect(killed).abandoned == []
    clock.advance(5 * DAY_SECONDS)
    assert len(collect(killed).abandoned) == 1


def test_leased_work_is_never_abandoned(killed: Installation, clock: ManualClock) -> None:
    clock.advance(8 * DAY_SECONDS)
    work = open_works(killed)[0]
    with killed.catalog.transaction() as transaction:
        transaction.works.lease(work.uid, holder="elsewhere/boot/1/2", lease_seconds=30)
    assert abandon_stale_works(killed, timedelta(0)) == []
    clock.advance(31)
    assert [each.uid for each in abandon_stale_works(killed, timedelta(0))] == [work.uid], "asked for"


def test_manifest_stored_before_the_abandonment_is_kept_with_its_segments(
    clock: ManualClock, empty: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(replication_ingest, "complete_replica", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(empty, samples.first, "1.0.0", SOURCE)
    before = lying(empty)
    clock.advance(8 * DAY_SECONDS)
    done = [collect(empty) for _ in range(2)]
    assert len(done[0].abandoned) == 1
    assert lying(empty) == before
    assert [len(report.survey.unknown_manifests) for report in done[1].slots if report.survey] == [1], "and it is told"
    delete(empty, "1.0.0")
    for _ in range(2):
        collect(empty)
    assert lying(empty) == 0


def test_abandoned_copy_is_resumed_by_workers(
    clock: ManualClock, empty: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(replication_copy, "complete_replica", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(empty, samples.first, "1.0.0", [*SOURCE, "eastus"])
    clock.advance(8 * DAY_SECONDS)
    assert [work.kind for work in collect(empty).abandoned] == [WorkKind.COPY]
    assert states(show(empty)) == {"southcentralus/0": ReplicaState.COMPLETED, "eastus/0": ReplicaState.FAILED}
    assert run_worker(empty, ADMIN, once=True).completed == 1
    assert states(show(empty))["eastus/0"] is ReplicaState.COMPLETED
    # The abandoned work stored the segments, and the completed work found them in the slot (M2).
    assert [row.delivered_bytes for row in charges(empty)] == [0]
    audit(empty, adopted=True)


def test_abandoned_disk_does_not_pin_its_version(
    clock: ManualClock, empty: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(empty, samples.first, "1.0.0", SOURCE)
    with monkeypatch.context() as patch:
        patch.setattr(SlotAccess, "put_manifest", crash)
        with pytest.raises(KeyboardInterrupt):
            make_disk(empty, "d1")
    clock.advance(8 * DAY_SECONDS)
    assert open_works(empty)[0].pins, "so its version can't go"
    assert [work.kind for work in collect(empty).abandoned] == [WorkKind.DISK]
    assert make_disk(empty, "d1").provisioning_state is ProvisioningState.SUCCEEDED, "the same command goes on"
    audit(empty)
    delete(empty)
