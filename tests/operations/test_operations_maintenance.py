"""What workers do unasked: lost redundancy is shown and made good, deletions end, scrubs and collections come round."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput, StoreUnreachable
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import Replica, Slot
from imgstore.domain.settings.maintenance import MaintenanceKind
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.operations.activity_log import list_activity
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scheduler import MaintenanceRunner
from imgstore.operations.maintenance.scrub import list_scrubs, scrub
from imgstore.operations.maintenance.worker import run_worker
from imgstore.operations.stores import regions
from imgstore.regions import Locator
from imgstore.stores.directory import DirectoryStore
from imgstore.wire.responses.replication import replication_status_json
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    collect,
    create_sample_gallery,
    delete,
    open_home,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

ZONED = ["westus2=1=Standard_ZRS"]
DAY = timedelta(days=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """Of the database and of the process."""
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    return clock


@pytest.fixture
def home(tmp_path: Path, clock: ManualClock) -> Iterator[Installation]:
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        create_sample_gallery(installation)
        yield installation


@contextmanager
def zone_down(monkeypatch: pytest.MonkeyPatch, zone: str) -> Iterator[None]:
    """Nothing can be written into a zone of westus2, whose name ends so."""
    real = DirectoryStore.put

    def put(store: DirectoryStore, key: str, *args: object, **kwargs: object) -> object:
        if store.name.endswith(f"westus2/zone-{zone}"):
            raise StoreUnreachable("The zone is away.", hint="a test")
        return real(store, key, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put", put)
        yield


def work(installation: Installation, **settings: int) -> None:
    changed = replace(installation, maintenance=replace(installation.maintenance, **settings))
    run_worker(changed, ADMIN, once=True)


def activity(installation: Installation) -> list[tuple[str, str, str]]:
    """What workers did: action, outcome and detail, the first thing first."""
    rows = list_activity(installation, ADMIN, within=timedelta(days=400), events_max=100)
    return [
        (row.action, row.outcome, row.detail or "") for row in reversed(rows) if row.principal.startswith("worker ")
    ]


def turns(installation: Installation) -> dict[str, str | None]:
    with installation.catalog.reading() as transaction:
        return {turn.name.split("/")[0]: turn.outcome for turn in transaction.maintenance_tasks.list()}


def test_gaps_of_a_returned_zone_are_shown_and_repaired(
    home: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zone_down(monkeypatch, "3"):
        publish(home, samples.first, targets=ZONED, location="westus2")
        view = show(home)
        assert states(view) == {"westus2/0": ReplicaState.COMPLETED}
        (gap,) = view.gaps
        assert (gap.zone, gap.objects > 2) == ("3", True)
        (region,) = replication_status_json(view.version.target_regions, view.replicas, {}, view.gaps)["summary"]
        assert region["state"] == "Completed"
        assert f"zone 3 misses {gap.objects} objects" in region["details"]
        assert region["replicas"][0]["zoneGaps"][0]["objects"] == gap.objects
        assert regions.count_missed_objects(home, ADMIN) == {("westus2", "3"): gap.objects}
    work(home)
    assert show(home).gaps == ()
    zones = list((home.home / "regions" / "imgstore-westus2").glob("zone-*"))
    held = [
        {path.relative_to(zone) for path in (zone / "pools").rglob("*") if path.is_file() and "works" not in path.parts}
        for zone in zones
    ]
    assert len(held) == 3
    assert held[0] == held[1] == held[2]
    assert ("imgstore/scrub", "Succeeded", "") in activity(home)
    assert (turns(home)["repairs"] or "").endswith("to the zones of westus2 that missed them")
    audit(home)


def test_zone_that_stays_down_is_tried_again_after_an_interval(
    home: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    with zone_down(monkeypatch, "3"):
        publish(home, samples.first, targets=ZONED, location="westus2")
        work(home)
        assert show(home).gaps != ()
    work(home)
    assert show(home).gaps != (), "it was asked again at once"
    clock.advance(301)
    work(home)
    assert show(home).gaps == ()


def test_due_deletions_are_finished(home: Installation, samples: SampleImages, clock: ManualClock) -> None:
    with home.catalog.transaction() as transaction:
        gallery = transaction.galleries.get(home.subscription, GROUP, GALLERY)
        assert gallery is not None
        transaction.galleries.update(replace(gallery, soft_delete_enabled=True, soft_delete_retention_days=3))
    publish(home, samples.first, targets=["southcentralus"])
    delete(home)
    work(home)
    with home.catalog.reading() as transaction:
        assert len(transaction.versions.list_soft_deleted()) == 1
    clock.advance(3 * 86_400 + 1)
    work(home)
    with home.catalog.reading() as transaction:
        assert transaction.versions.list_all() == []
        assert transaction.ledger.open_intervals(all_slots(home)[0].uid) == [], "it is billed on"
    done = "1 versions whose retention has passed ended"
    assert ("imgstore/maintenance/deletions", "Succeeded", done) in activity(home)


def test_a_slot_is_scrubbed_when_it_is_due_and_repaired(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    publish(home, samples.first, targets=["southcentralus=2"])
    work(home)
    segment = min(path for path in (home.home / "regions").rglob("*") if object_keys.is_segment_key(str(path)))
    segment.write_bytes(b"x")
    work(home)
    assert segment.read_bytes() == b"x", "nothing is due yet"
    clock.advance(7 * 86_400)
    work(home)
    assert segment.read_bytes() != b"x"
    assert [action for action, outcome, _ in activity(home) if outcome == "Succeeded"].count("imgstore/scrub") == 2
    assert set(states(show(home)).values()) == {ReplicaState.COMPLETED}
    audit(home)


def test_a_slot_with_a_degraded_replica_is_scrubbed_sooner(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    """Two replicas are damaged in different places: neither can be restored by itself, and each has what the other lacks."""
    publish(home, samples.first, targets=["southcentralus=2"])
    work(home)
    slots = {path.parent.parent.parent for path in (home.home / "regions").rglob("segments/*/*")}
    hurt = [sorted(slot.rglob("segments/*/*"))[number] for number, slot in enumerate(sorted(slots))]
    before = [path.read_bytes() for path in hurt]
    for path in hurt:
        path.write_bytes(b"x")
    for slot in all_slots(home):
        scrub_without_repair(home, slot.uid)
    assert set(states(show(home)).values()) == {ReplicaState.DEGRADED}
    clock.advance(86_400)
    work(home)
    assert [path.read_bytes() for path in hurt] == before
    clock.advance(86_400)
    work(home)
    assert set(states(show(home)).values()) == {ReplicaState.COMPLETED}
    audit(home)


def scrub_without_repair(home: Installation, slot_uid: str) -> None:
    """A read finds a replica damaged."""
    from imgstore.operations.slots.degrade import degrade

    with home.catalog.reading() as transaction:
        slot = transaction.slots.get(slot_uid)
    names = [
        name
        for name in home.access(slot).list_segments().present
        if name in home.access(slot).find_damaged([name], workers=1)
    ]
    degrade(home, slot, names, "read")


def test_garbage_is_collected_daily(home: Installation, samples: SampleImages, clock: ManualClock) -> None:
    publish(home, samples.first, targets=["southcentralus"])
    delete(home)
    work(home)
    for _ in range(2):
        assert any(object_keys.is_segment_key(str(path)) for path in (home.home / "regions").rglob("*"))
        clock.advance(86_400 + 1)
        work(home)
    assert not any(object_keys.is_segment_key(str(path)) for path in (home.home / "regions").rglob("*"))
    assert [action for action, _, _ in activity(home)].count("imgstore/gc") == 2


def test_nothing_is_collected_while_a_zone_is_not_ready(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    publish(home, samples.first, targets=["southcentralus"])
    delete(home)
    work(home)
    (slot,) = all_slots(home)
    mark = home.home / f"regions/imgstore-southcentralus/zone-{slot.zone}/{object_keys.FORMAT_KEY}"
    kept = mark.read_bytes()
    mark.write_bytes(kept.replace(b"southcentralus", b"eastus"))
    clock.advance(86_400 + 1)
    with open_home(home.home, effects=Effects(now=clock.now)) as other:  # Which has not seen the zone before.
        run_worker(other, ADMIN, once=True)
        assert "not ready" in (turns(other)["gc"] or "")
        with other.catalog.reading() as transaction:
            assert transaction.deletion_marks.list(all_slots(other)[0].uid) == []
    mark.write_bytes(kept)
    clock.advance(86_400 + 1)
    work(home)
    assert "failed" not in (turns(home)["gc"] or "failed")


def test_an_interval_of_0_disables_a_kind(home: Installation, samples: SampleImages) -> None:
    publish(home, samples.first, targets=ZONED, location="westus2")
    off = dict.fromkeys((f"{kind}_interval_seconds" for kind in MaintenanceKind), 0)
    work(home, **off)
    assert turns(home) == {}
    work(home)
    assert turns(home).keys() == set(MaintenanceKind)


def test_a_worker_trims_the_activity_log(home: Installation, clock: ManualClock) -> None:
    with home.catalog.transaction() as transaction:
        for number in range(2_500):
            transaction.activity.add(
                principal=f"stranger {number}",
                action="a",
                scope="/",
                outcome="Succeeded",
                detail=None,
                started_at=clock.now(),
                finished_at=clock.now(),
            )
    work(home, activity_rows_max=1_000)
    assert len(list_activity(home, ADMIN, within=DAY, events_max=9_999)) == 1_000
    clock.advance(DAY.total_seconds() * 3)
    work(home, activity_days=2)
    assert len(list_activity(home, ADMIN, within=4 * DAY, events_max=9_999)) < 10


def test_one_of_two_workers_runs_a_task(home: Installation, clock: ManualClock) -> None:
    work(home)
    clock.advance(301)
    with home.catalog.reading() as transaction:
        turn = next(each for each in transaction.maintenance_tasks.list() if each.name == "deletions")
    with home.catalog.transaction() as transaction:
        first = transaction.maintenance_tasks.lease(turn, holder="another/host/1/1", lease_seconds=60)
        assert first is not None
        assert transaction.maintenance_tasks.lease(turn, holder="me", lease_seconds=60) is None
    done_at = {turn.name: turn.done_at for turn in _rows(home) if turn.name != "revisions"}
    work(home)
    now = {turn.name: turn.done_at for turn in _rows(home) if turn.name != "revisions"}
    assert now == done_at, "the other one is at it"
    clock.advance(61)
    work(home)
    (row,) = (turn for turn in _rows(home) if turn.name == "deletions")
    assert (row.done_at, row.holder) == (clock.now(), None)
    with home.catalog.transaction() as transaction:
        transaction.maintenance_tasks.complete("deletions", first, "late")
        assert not transaction.maintenance_tasks.renew("deletions", first, lease_seconds=60)
    assert turns(home)["deletions"] == "nothing to do"


def _rows(home: Installation) -> list:  # type: ignore[type-arg]
    with home.catalog.reading() as transaction:
        return transaction.maintenance_tasks.list()


def test_scrub_keeps_the_bandwidth_and_stops_on_request(home: Installation, samples: SampleImages) -> None:
    publish(home, samples.first, targets=["southcentralus"])
    moved: list[int] = []
    (done,) = scrub(home, ADMIN, ScrubRequest(pace=moved.append))
    assert sum(moved) == done.read_bytes > 0

    def stop(_length: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scrub(home, ADMIN, ScrubRequest(pace=stop))


def test_bandwidth_limit_is_kept(home: Installation, samples: SampleImages, clock: ManualClock) -> None:
    """By the clock of the process, whose waiting this test counts."""
    from imgstore.domain.host.stop_signal import StopSignal
    from imgstore.operations.maintenance.pace import make_pace

    class Counted(StopSignal):
        waited = 0.0

        def wait(self, seconds: float) -> None:
            Counted.waited += seconds
            clock.advance(seconds)

    stop = Counted()
    pace: Callable[[int], None] = make_pace(1_000, check=stop.check, wait=stop.wait, monotonic=clock.monotonic)
    for _ in range(10):
        pace(1_000)
    assert Counted.waited == pytest.approx(9, abs=0.01), "the first second is the burst"


def test_scrub_keeps_its_rate_and_reports_age_bytes_and_seconds(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    publish(home, samples.first, targets=["southcentralus"])
    object.__setattr__(home, "effects", Effects(now=clock.now, monotonic=clock.monotonic, wait=clock.wait))
    before, waits = clock.monotonic(), len(clock.waits)
    (done,) = scrub(home, ADMIN, ScrubRequest(bytes_per_second_max=1_000_000))
    waited = sum(clock.waits[waits:])
    assert waited == pytest.approx(done.read_bytes / 1_000_000 - 1, abs=0.01), "the first second is the burst"
    assert done.seconds == pytest.approx(clock.monotonic() - before)
    assert done.bytes_per_second == round(done.read_bytes / done.seconds)
    clock.advance(3600)
    (status,) = list_scrubs(home, ADMIN)
    assert status.last is not None
    assert (status.last.began_at, status.last.objects) == (done.began_at, done.objects)
    assert status.last.complete_at == status.last.ended_at


def test_unavailable_region_delays_no_other_region(
    home: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    """A replica is leaving a region that regions.yaml no longer has; a version leaves one whose store is dead."""
    for version in ("1.0.0", "1.0.1", "1.0.2"):
        publish(home, samples.first, version, targets=["southcentralus", "eastus"])
    with home.catalog.transaction() as transaction:
        for replica in show(home, "1.0.0").replicas:
            if replica.slot.key.region == "eastus":
                transaction.replicas.move(replica.uid, ReplicaState.DELETING)
    real = Locator.store

    def store(locator: Locator, slot: Slot) -> object:
        if slot.key.region == "eastus":
            raise InvalidInput("The region is not known.", hint="a test")
        return real(locator, slot)

    with monkeypatch.context() as patch:
        patch.setattr(Locator, "store", store)
        with pytest.raises(InvalidInput):
            delete(home, "1.0.2")
        left = [replica.slot.key.region for replica in replicas_of(home, "1.0.2")]
        assert left == ["eastus"], "it is billed on where its store answers"
        delete_softly(home, "1.0.1")
        clock.advance(3 * 86_400 + 1)
        work(home)
        assert "failed" not in (turns(home)["deletions"] or "failed")
        collect(home)
    clock.advance(86_400)
    work(home)
    with home.catalog.reading() as transaction:
        assert [str(version.name) for version in transaction.versions.list_all()] == ["1.0.0"]
    assert states(show(home)) == {"southcentralus/0": ReplicaState.COMPLETED}


def replicas_of(home: Installation, name: str) -> list[Replica]:
    with home.catalog.reading() as transaction:
        (found,) = (version for version in transaction.versions.list_all() if str(version.name) == name)
        return transaction.replicas.list(found.uid)


def delete_softly(home: Installation, version: str) -> None:
    with home.catalog.transaction() as transaction:
        gallery = transaction.galleries.get(home.subscription, GROUP, GALLERY)
        assert gallery is not None
        transaction.galleries.update(replace(gallery, soft_delete_enabled=True, soft_delete_retention_days=3))
    delete(home, version)


def test_long_scrub_delays_no_deletion_and_is_released(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    """At a byte a second the scrub takes months."""
    publish(home, samples.first, targets=["southcentralus"])
    publish(home, samples.first, "1.0.1", targets=["southcentralus"])
    work(home)
    delete_softly(home, "1.0.1")
    clock.advance(7 * 86_400)
    slow = replace(home, maintenance=replace(home.maintenance, bytes_per_second_max=1))
    runner = MaintenanceRunner(slow, ADMIN)
    try:
        while len(_versions(home)) > 1:
            assert runner.poll(once=True), "the scrub runs all the while"
            runner.wait(0.05)
        (scrubbing,) = (turn for turn in _rows(home) if turn.name.startswith("scrub"))
        assert scrubbing.holder == home.keeper.holder
    finally:
        runner.close()
    (scrubbing,) = (turn for turn in _rows(home) if turn.name.startswith("scrub"))
    assert (scrubbing.holder, scrubbing.done_at < clock.now() - 6 * DAY) == (None, True), "it is due yet"


def _versions(home: Installation) -> list[str]:
    with home.catalog.reading() as transaction:
        return [str(version.name) for version in transaction.versions.list_all()]


def test_worker_with_once_ends_with_any_intervals(
    home: Installation, samples: SampleImages, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home, samples.first, targets=["southcentralus", "eastus"])
    looks = itertools.count()

    def now(_session: Session) -> datetime:
        assert next(looks) < 2_000, "it does not end"
        clock.advance(1)
        return clock.now()

    with monkeypatch.context() as patch:
        patch.setattr(Session, "now", now)
        work(home, **dict.fromkeys((f"{kind}_interval_seconds" for kind in MaintenanceKind), 1))
    assert turns(home).keys() == {"deletions", "revisions", "ledger", "activity", "scrub", "gc"}


def test_longest_permitted_intervals_do_not_overflow(home: Installation, samples: SampleImages) -> None:
    publish(home, samples.first, targets=ZONED, location="westus2")
    work(home, **dict.fromkeys((f"{kind}_interval_seconds" for kind in MaintenanceKind), 36_500 * 86_400))
    assert turns(home)["repairs"] == "nothing to do"


def test_repairs_need_a_current_catalog(home: Installation, samples: SampleImages, clock: ManualClock) -> None:
    """A checkpoint of a later catalog is seen by the worker that runs on, before it touches what zones missed."""
    publish(home, samples.first, targets=ZONED, location="westus2")
    work(home)
    with home.catalog.transaction() as transaction:  # As a restored backup has it.
        transaction._session.connection.exec_driver_sql("DELETE FROM checkpoints")
    clock.advance(301)
    work(home, deletions_interval_seconds=0)
    assert (turns(home)["repairs"] or "").startswith("failed: The catalog is older than its buckets")
