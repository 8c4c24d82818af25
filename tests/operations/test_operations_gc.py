"""Garbage collection: an object without a reference is deleted after its grace, and no other object is."""

import filecmp
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreError, WorkHeld
from imgstore.domain.resources import Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.garbage import GcState
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks import disks as disk_operations
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.maintenance.gc import plan_collection
from imgstore.operations.slots import completion
from imgstore.policy.gc_plan import GcReport, SlotReport
from imgstore.stores.directory import DirectoryStore
from imgstore.testing.engines import S3Engine
from tests.support.crash_scenes import create_minio_scene
from tests.support.manual_clock import ManualClock
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_collected,
    audit_served,
    charges,
    collect,
    content,
    create_sample_gallery,
    delete,
    expire_collectors,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]

DAY = 24.0
SOURCE = ["southcentralus"]


def other_disk(folder: Path, seed: int = 77) -> Path:
    return make_raw(folder / f"other-{seed}.raw", seed=seed, virtual_bytes=16 * MIB, content_bytes=9 * MIB)


def segments(installation: Installation) -> dict[str, set[bytes]]:
    return {str(slot.key): set(content(installation, slot).segments) for slot in all_slots(installation)}


def reports(collection: GcReport) -> dict[str, SlotReport]:
    return {str(report.slot.key): report for report in collection.slots}


def condemned(installation: Installation) -> dict[str, GcState]:
    with installation.catalog.reading() as transaction:
        return {
            each.name.hex(): each.gc_state
            for slot in all_slots(installation)
            for each in transaction.deletion_marks.list(slot.uid)
        }


def source_slot(installation: Installation) -> Slot:
    return next(slot for slot in all_slots(installation) if str(slot.key) == "southcentralus/Standard_LRS/0")


def condemn_everything_unnamed(installation: Installation) -> None:
    collect(installation, DAY)
    assert set(condemned(installation).values()) <= {GcState.MARKED}


def test_a_home_without_garbage_loses_nothing(published: Installation) -> None:
    before = segments(published)
    done = collect(published)
    assert [report.problem for report in done.slots] == [None] * 4
    assert [dict(report.collected) for report in done.slots] == [{}] * 4
    assert done.removed_segment_rows == done.removed_pools == 0
    assert segments(published) == before
    audit_collected(published)
    audit(published, collected=True)


def test_deleted_version_leaves_segments_of_other_versions(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    publish(published, samples.second, "1.0.1")
    publish(published, other_disk(tmp_path), "1.0.2")
    delete(published, "1.0.2")
    delete(published, "1.0.0")
    before = segments(published)
    plan = maintenance_gc.plan_collection(published, ADMIN, grace=timedelta(0))
    assert segments(published) == before
    done = collect(published)
    for where, report in reports(done).items():
        assert report.survey is not None
        assert report.survey.plan.unreferenced == reports(plan)[where].survey.plan.unreferenced  # type: ignore[union-attr]
        assert report.survey.plan.deletable == report.survey.plan.unreferenced
        assert len(report.survey.plan.unreferenced) >= 2
        gone = {object_keys.segment_name(key) for key in report.collected if object_keys.is_segment_key(key)}
        assert before[where] - gone == segments(published)[where]
    audit_collected(published)
    audit(published, collected=True)
    audit_served(published, {"1.0.1": samples.second}, _made(tmp_path / "served"))
    with published.catalog.reading() as transaction:
        pool = source_slot(published).key.pool_uid
        left = {row.name for row in transaction.segments.rows(pool, transaction.segments.all_ids(pool))}
    assert left == set().union(*segments(published).values())
    # Invariant G11.
    assert done.removed_segment_rows >= 2


def test_grace_begins_with_the_mark(published: Installation) -> None:
    delete(published)
    before = segments(published)
    first = collect(published, DAY)
    assert segments(published) == before
    plan = reports(first)["southcentralus/Standard_LRS/0"].survey.plan  # type: ignore[union-attr]
    assert plan.in_grace == plan.unreferenced
    assert plan.deletable == {}
    collect(published, DAY)
    assert segments(published) == before
    _age_condemnations(published, timedelta(hours=25))
    collect(published, DAY)
    assert set().union(*segments(published).values()) == set()
    assert condemned(published) == {}
    # Invariant G5.
    audit_collected(published)


def test_disk_keeps_its_segments(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    make_disk(published, "d1", "westus2")
    delete(published)
    collect(published)
    audit_collected(published)
    audit(published, collected=True)
    assert len(segments(published)["westus2/Standard_ZRS/0"]) > 1
    assert segments(published)["eastus/Standard_LRS/0"] == set()
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)


def test_unfinished_ingest_keeps_its_segments(
    empty: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = other_disk(tmp_path)
    _fail_at_put(monkeypatch, object_keys.FINGERPRINTS)
    for _ in range(2):  # The second run takes the work up again; what the first one sent stays its own.
        with pytest.raises(StoreError):
            publish(empty, source, targets=SOURCE)
    monkeypatch.undo()
    sent = segments(empty)
    assert len(sent["southcentralus/Standard_LRS/0"]) >= 2
    for _ in range(2):
        done = collect(empty)
        plan = done.slots[0].survey.plan  # type: ignore[union-attr]
        assert plan.held == plan.unreferenced
    assert segments(empty) == sent
    assert condemned(empty) == {}
    put = _counted_puts(monkeypatch)
    publish(empty, source, targets=SOURCE)
    assert [key for key in put if object_keys.is_segment_key(key)] == [], "what was there was sent again"
    # Invariant G2.
    audit(empty)


@pytest.mark.parametrize("step_back_days", [0, 2])
def test_segments_listed_by_an_open_work_are_not_deleted(
    published: Installation, samples: SampleImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_back_days: int
) -> None:
    """It is condemned after the work's listing, which showed it: the work leaves it unsent.

    So it is if the database's clock steps back between the two: the catalog's sequence orders them (invariant G3).
    """
    delete(published)
    real = DirectoryStore.put
    done: list[GcReport] = []

    def collecting_put(store: DirectoryStore, key: str, *args: object, **kwargs: object) -> object:
        if object_keys.FINGERPRINTS in key and not done:
            present = Session.now
            monkeypatch.setattr(Session, "now", lambda session: present(session) - timedelta(days=step_back_days))
            done.append(collect(published))  # Its listing is long done.
        return real(store, key, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(DirectoryStore, "put", collecting_put)
    publish(published, samples.first, "1.0.1", targets=SOURCE)
    (report,) = (
        each for each in done[0].slots if each.slot.key.region == "southcentralus" and not each.slot.key.ordinal
    )
    assert report.survey is not None
    assert report.survey.plan.held == report.survey.plan.unreferenced != {}
    audit_served(published, {"1.0.1": samples.first}, _made(tmp_path / "served"))
    collect(published)
    audit_collected(published)


def test_marked_segments_are_unmarked_for_a_new_version(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    delete(published)
    condemn_everything_unnamed(published)
    assert condemned(published) != {}
    publish(published, samples.first, "2.0.0")
    assert condemned(published) == {}
    collect(published)
    audit_served(published, {"2.0.0": samples.first}, _made(tmp_path / "served"))
    audit_collected(published)


def test_marked_segments_count_as_absent_for_ingest_and_copy(
    published: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is put once more in each slot, whatever the listings show."""
    delete(published)
    lay = segments(published)
    condemn_everything_unnamed(published)
    put = _counted_puts(monkeypatch)
    publish(published, samples.first, "2.0.0", targets=["southcentralus=2"])
    again = [key for key in put if object_keys.is_segment_key(key)]
    assert len(again) == sum(len(names) for where, names in lay.items() if where.startswith("southcentralus"))
    # Not asked for here: still condemned, for its grace.
    assert len(condemned(published)) == len(lay["eastus/Standard_LRS/0"])


def test_writer_waits_for_a_collector(samples: SampleImages, tmp_path: Path) -> None:
    """The collector was killed in the middle; its segments are deleted once its lease is over."""
    clock = ManualClock()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        expire_collectors(installation)
        collect(installation)

    effects = Effects(wait=wait, monotonic=clock.monotonic)
    with open_home(tmp_path / "home", effects=effects) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=SOURCE)
        delete(installation)
        _leave_deleting(installation)
        publish(installation, samples.first, "2.0.0", targets=SOURCE)
        assert waits
        assert condemned(installation) == {}
        audit_served(installation, {"2.0.0": samples.first}, _made(tmp_path / "served"))


def test_writer_fails_after_waiting_for_a_collector(samples: SampleImages, tmp_path: Path) -> None:
    clock = ManualClock()
    effects = Effects(wait=clock.advance, monotonic=clock.monotonic)
    with open_home(tmp_path / "home", effects=effects) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=SOURCE)
        delete(installation)
        _leave_deleting(installation)
        with pytest.raises(WorkHeld, match="imgstore gc") as caught:
            publish(installation, samples.first, "2.0.0", targets=SOURCE)
        with installation.catalog.reading() as transaction:
            leases = {each.lease_expires_at for each in transaction.deletion_marks.list(source_slot(installation).uid)}
        (lease_ends,) = leases - {None}
        assert lease_ends is not None
        free_at = lease_ends + timedelta(seconds=installation.tuning.delete_seconds_max)
        assert f"{free_at:%Y-%m-%d %H:%M:%S} UTC (in " in str(caught.value.found), "not when the segments are free"
        planned = plan_collection(installation, ADMIN, grace=timedelta(0))
        for report in planned.slots:
            assert report.survey is not None
            assert report.survey.plan.unfinished is not None
            assert report.survey.plan.unfinished.takeover_at == free_at
        assert show(installation, "2.0.0").replicas[0].state is ReplicaState.FAILED
        collect(installation)
        assert set(condemned(installation).values()) == {GcState.DELETING}, "taken over before its lease was over"
        expire_collectors(installation)
        collect(installation)
        publish(installation, samples.first, "2.0.0", targets=SOURCE)
        audit_served(installation, {"2.0.0": samples.first}, _made(tmp_path / "served"))


@pytest.mark.parametrize("sentence", GcState)
def test_completion_is_refused_while_a_segment_is_marked(
    empty: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch, sentence: GcState
) -> None:
    """Behind the back of those who write the manifest's row."""
    real = completion.complete_replica

    def complete(installation: Installation, *args: object, **kwargs: object) -> None:
        slot = source_slot(installation)
        name, size = next(iter(content(installation, slot).segments.items()))
        with installation.catalog.transaction() as transaction:
            transaction.deletion_marks.add(slot.uid, {name: size})
            if sentence is GcState.DELETING:
                transaction.deletion_marks.begin_deleting(
                    slot.uid, [name], token="t", lease_expires_at=transaction.now()
                )
        real(installation, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("imgstore.operations.replication.ingest.complete_replica", complete)
    with pytest.raises(WorkHeld, match="imgstore gc"):
        publish(empty, samples.first, targets=SOURCE)
    assert show(empty).replicas[0].state is ReplicaState.FAILED
    # Invariant G9.
    assert charges(empty) == []


def test_slow_collector_sends_no_request(published: Installation) -> None:
    delete(published)
    before = segments(published)
    slow = replace(published, tuning=replace(published.tuning, collect_lease_seconds=100.0))
    done = collect(slow)
    assert all("too slow" in (report.problem or "") for report in done.slots)
    assert segments(published) == before
    assert set(condemned(published).values()) == {GcState.DELETING}
    expire_collectors(published)
    collect(published)
    audit_collected(published)
    assert condemned(published) == {}


def test_unknown_manifest_is_kept_and_reported(published: Installation) -> None:
    slot = source_slot(published)
    access = published.access(slot)
    (known,) = content(published, slot).manifests
    body = access.store.get(slot.prefix + known)
    delete(published)
    unknown = object_keys.manifest_key("somebody", "os")
    access.put_manifest(unknown, body)
    done = reports(collect(published))
    report = done[str(slot.key)]
    assert report.survey is not None
    assert report.survey.unknown_manifests == (unknown,)
    assert report.survey.plan.unreferenced == {}
    assert len(segments(published)[str(slot.key)]) > 1
    assert segments(published)["eastus/Standard_LRS/0"] == set()


def test_unreadable_unknown_manifest_stops_only_its_slot(published: Installation) -> None:
    slot = source_slot(published)
    delete(published)
    published.access(slot).store.put(slot.prefix + object_keys.manifest_key("somebody", "os"), b"nonsense")
    done = reports(collect(published))
    assert done[str(slot.key)].problem is not None
    assert len(segments(published)[str(slot.key)]) > 1
    assert segments(published)["eastus/Standard_LRS/0"] == set()


def test_pool_is_removed_with_its_last_owner(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    make_disk(published, "d1", "eastus")
    delete(published)
    definitions.delete_definition(published, ADMIN, group=GROUP, gallery=GALLERY, name=DEFINITION)
    galleries.delete_gallery(published, ADMIN, group=GROUP, name=GALLERY)
    assert collect(published).removed_pools == 0
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)
    disk_operations.delete_disk(published, ADMIN, group=GROUP, name="d1")
    done = collect(published)
    assert done.removed_pools == 1
    with published.catalog.reading() as transaction:
        assert transaction.pools.list() == []
    left = [path for path in (published.home / "regions").rglob("*") if path.is_file() and path.name != "FORMAT"]
    # Deletions of resources are kept for 30 days.
    assert [path for path in left if not {"zone", "installation"} & set(path.parts)] == []
    create_sample_gallery(published)
    publish(published, samples.first)
    # Invariant S3.
    audit(published, collected=True)


def test_publishing_races_collection(samples: SampleImages, tmp_path: Path) -> None:
    # Invariant G10.
    race(samples, tmp_path)


def test_publishing_races_collection_on_postgresql(samples: SampleImages, tmp_path: Path, postgresql: str) -> None:
    race(samples, tmp_path, database=postgresql)


def race(samples: SampleImages, tmp_path: Path, **settings: Any) -> None:
    """Two installations on one home: one collects without grace all the while, the other publishes and deletes."""
    disks = {"a": samples.first, "b": samples.second, "c": other_disk(tmp_path)}
    failures: list[BaseException] = []
    with open_home(tmp_path / "home", **settings) as writer, open_home(tmp_path / "home", **settings) as collector:
        create_sample_gallery(writer)
        over = False

        def run() -> None:
            try:
                while not over:
                    assert [report.problem for report in collect(collector).slots if report.problem] == []
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        thread = Thread(target=run)
        thread.start()
        try:
            expected: dict[str, Path] = {}
            for number, letter in enumerate("abacbca"):
                version = f"1.0.{number}"
                publish(writer, disks[letter], version, targets=["southcentralus=2", "westus2=1=Standard_ZRS"])
                expected[version] = disks[letter]
                if number % 2:
                    delete(writer, f"1.0.{number - 1}")
                    delete(writer, version)
        finally:
            over = True
            thread.join()
        assert failures == []
        audit_served(writer, expected, _made(tmp_path / "served"))
        collect(writer)
        audit_collected(writer)
        audit(writer, collected=True)


@pytest.mark.engine("minio")
def test_collected_on_minio(tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]]) -> None:
    scene = create_minio_scene(tmp_path, minio_cluster(3), "collected")
    scene.prepare()
    one = scene.expected["1.0.0"] = other_disk(tmp_path, 1)
    two = other_disk(tmp_path, 2)
    with scene.open() as installation:
        publish(installation, one, "1.0.0", targets=["southcentralus", "westus2=1=Standard_ZRS"])
        before = segments(installation)
        publish(installation, two, "1.0.1", targets=["southcentralus", "westus2=1=Standard_ZRS"])
        delete(installation, "1.0.1")
        collect(installation)
        assert segments(installation) == before
        audit(installation, collected=True)
        audit_served(installation, scene.expected, scene.folder / "served")


def test_versions_are_right_after_their_base_is_collected(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """The second version stands on the first one's segments; the first goes."""
    publish(published, samples.second, "1.0.1")
    delete(published, "1.0.0")
    collect(published)
    export(published, tmp_path / "x.raw", version="1.0.1")
    assert filecmp.cmp(tmp_path / "x.raw", samples.second, shallow=False)
    publish(published, samples.first, "1.0.2")
    audit(published, collected=True)
    audit_collected(published)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _age_condemnations(installation: Installation, age: timedelta) -> None:
    with installation.catalog.transaction() as transaction:
        for slot in all_slots(installation):
            for each in transaction.deletion_marks.list(slot.uid):
                transaction._session.connection.exec_driver_sql(
                    "UPDATE condemned SET since = ? WHERE slot_uid = ? AND name = ?",
                    ((each.since - age).strftime("%Y-%m-%d %H:%M:%S.%f"), slot.uid, each.name),
                )


def _leave_deleting(installation: Installation) -> None:
    """As a collector does that is killed before it sends anything."""
    slow = replace(installation, tuning=replace(installation.tuning, delete_seconds_max=1000.0))
    collect(slow)
    assert set(condemned(installation).values()) == {GcState.DELETING}


def _fail_at_put(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    real = DirectoryStore.put

    def put(store: DirectoryStore, key: str, *args: object, **kwargs: object) -> object:
        if part in key:
            raise StoreError("The store fails.", found="a test")
        return real(store, key, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(DirectoryStore, "put", put)


def _counted_puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    real, seen = DirectoryStore.put, list[str]()

    def put(store: DirectoryStore, key: str, *args: object, **kwargs: object) -> object:
        seen.append(key)
        return real(store, key, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(DirectoryStore, "put", put)
    return seen
