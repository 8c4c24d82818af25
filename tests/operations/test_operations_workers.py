"""Workers: each replica once, whoever dies; fair, bounded, patient with what fails, and aloud about what is not theirs."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.errors import AccessDenied
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.reports import WorkerReport
from imgstore.domain.resources import Slot
from imgstore.domain.settings.replication import ReplicationRoute, ReplicationSettings
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import VersionView
from imgstore.operations.installation import Installation, Tuning
from imgstore.operations.maintenance.worker import has_living_worker, list_workers, run_worker
from imgstore.operations.replication import copy as replication_copy
from imgstore.operations.versions import create as versions_create
from imgstore.policy.worker_queue import WorkerLimits
from imgstore.regions.model import Bandwidth
from imgstore.stores import TokenBucket
from imgstore.stores.interface import ObjectStore
from tests.support.faulty_store import FaultyStore
from tests.support.manual_clock import ManualClock
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    audit,
    audit_served,
    charges,
    create_sample_gallery,
    create_version,
    open_home,
    publish,
    request,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

COMPLETED, FAILED = ReplicaState.COMPLETED, ReplicaState.FAILED
HERE_AND_EAST = ["southcentralus", "eastus"]


def ask(
    installation: Installation, source: Path, version: str = "1.0.0", targets: Sequence[str] = HERE_AND_EAST
) -> VersionView:
    """Publish, and leave the rest to workers."""
    return create_version(installation, ADMIN, request(version, targets), os_vhd_uri=str(source), wait=False)


def work(installation: Installation, **more: Any) -> WorkerReport:
    return run_worker(installation, ADMIN, once=True, **more)


def small(folder: Path, seed: int) -> Path:
    return make_raw(folder / f"{seed}.raw", seed=seed, virtual_bytes=4 * MIB, content_bytes=MIB)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The database's clock, in the test's hand."""
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    return clock


@pytest.fixture
def east(empty: Installation, monkeypatch: pytest.MonkeyPatch) -> Callable[[], FaultyStore]:
    """The store of eastus, which can be made to fail."""
    made: list[FaultyStore] = []
    real = empty.locator.store

    def store(slot: Slot) -> ObjectStore:
        if slot.key.region != "eastus":
            return real(slot)
        if not made:
            made.append(FaultyStore(real(slot)))
        return made[0]

    monkeypatch.setattr(empty.locator, "store", store)

    def faulty() -> FaultyStore:
        assert made, "nobody went to eastus yet"
        return made[0]

    return faulty


# -- one worker -------------------------------------------------------------------------------------------------------


def test_worker_makes_replicas_without_a_waiting_command(
    empty: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    view = ask(empty, samples.first, targets=["southcentralus=2", "westus2=1=Standard_ZRS", "eastus"])
    assert states(view)["southcentralus/0"] is COMPLETED
    assert list(states(view).values()).count(ReplicaState.PENDING) == 3
    assert view.version.provisioning_state is ProvisioningState.CREATING
    report = work(empty)
    assert (report.completed, report.failed) == (3, {})
    assert show(empty).version.provisioning_state is ProvisioningState.SUCCEEDED
    audit(empty)
    audit_served(empty, {"1.0.0": samples.first}, tmp_path)
    assert work(empty).completed == 0


def test_version_without_source_is_reported(
    empty: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions_create, "_make_source", lambda *_: True)  # as if killed before the bytes came
    view = ask(empty, samples.first)
    report = work(empty)
    assert (report.completed, report.without_source) == (0, 1)
    assert set(states(show(empty)).values()) == {ReplicaState.PENDING}
    assert view.version.uid == show(empty).version.uid


def test_failed_replica_is_retried_after_a_rest(
    empty: Installation, samples: SampleImages, clock: ManualClock, east: Callable[[], FaultyStore], tmp_path: Path
) -> None:
    empty.access(
        next(
            each.slot
            for each in ask(empty, samples.first, targets=[*HERE_AND_EAST, "northeurope"]).replicas
            if each.slot.key.region == "eastus"
        )
    )
    east().die()
    waits: list[float] = []
    for attempt in range(1, 4):
        assert len(work(empty).failed) == 1
        failed = next(each for each in show(empty).replicas if each.state is FAILED)
        assert failed.attempts == attempt
        assert failed.retry_at is not None
        waits.append((failed.retry_at - clock.now()).total_seconds())
        assert states(show(empty))["northeurope/0"] is COMPLETED
        clock.advance(waits[-1] - 1)
        report = work(empty)
        assert (report.completed, report.failed, report.waiting_for_retry) == (0, {}, 1), "it did not rest"
        assert report.next_retry_at == failed.retry_at
        clock.advance(2)
    assert [15 <= waits[0] < 45, 30 <= waits[1] < 90, 60 <= waits[2] < 180] == [True] * 3
    audit_served(empty, {"1.0.0": samples.first}, tmp_path)
    east().heal()
    assert work(empty).completed == 1
    healed = next(each for each in show(empty).replicas if each.slot.key.region == "eastus")
    assert (healed.state, healed.attempts, healed.retry_at) == (COMPLETED, 0, None)
    assert show(empty).version.provisioning_state is ProvisioningState.SUCCEEDED
    # Invariants R7 and R9.
    audit(empty)


def test_command_does_not_wait_for_the_retry_time(
    empty: Installation, samples: SampleImages, clock: ManualClock, east: Callable[[], FaultyStore]
) -> None:
    empty.access(next(each.slot for each in ask(empty, samples.first).replicas if each.slot.key.region == "eastus"))
    east().die()
    assert len(work(empty).failed) == 1
    east().heal()
    assert work(empty).completed == 0
    ask(empty, samples.first)
    assert work(empty).completed == 1, "the repeat with --no-wait did not wake the workers"
    assert set(states(show(empty)).values()) == {COMPLETED}


def test_versions_are_served_round_robin(empty: Installation, tmp_path: Path) -> None:
    """One replica at a time: the version with many replicas does not keep the other waiting for all of them."""
    ask(empty, small(tmp_path, 1), "1.0.0", ["southcentralus=4", "eastus=3"])
    ask(empty, small(tmp_path, 2), "2.0.0")
    work(empty, limits=WorkerLimits(replicas=1, replicas_per_region=1))
    arrived = sorted(
        (each.completed_at, view.version.name)
        for view in (show(empty, "1.0.0"), show(empty, "2.0.0"))
        for each in view.replicas
        if each.completed_at is not None
    )
    order = [str(name) for _, name in arrived]
    assert order.index("2.0.0", 2) == 3, order  # two sources, one of the large version, then the small one
    audit(empty)


def test_stopped_worker_releases_its_lease(tmp_path: Path, samples: SampleImages) -> None:
    stop = threading.Event()

    def stopping(event: ProgressEvent) -> None:
        if "eastus" in event.task and event.stage is Stage.STARTED:
            stop.set()

    with open_home(tmp_path / "home", stopping) as installation:
        create_sample_gallery(installation)
        ask(installation, samples.first)
        assert run_worker(installation, ADMIN, stop=stop).completed == 0
        assert states(show(installation))["eastus/0"] is ReplicaState.REPLICATING
        with installation.catalog.reading() as transaction:
            [left] = transaction.works.list_open()
        assert left.holder is None
        assert list_workers(installation, ADMIN) == []
    with open_home(tmp_path / "home") as installation:
        assert work(installation).completed == 1
        audit(installation, struck=True)
        with installation.catalog.reading() as transaction:
            assert transaction.works.get(left.uid).state == "Completed", (
                "another work was opened beside the one that stood"
            )


def test_a_worker_that_cannot_use_the_catalog_names_the_cause_and_tries_again(tmp_path: Path) -> None:
    stop, notes = threading.Event(), list[str]()

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(tmp_path / "home" / "catalog.sqlite")) as connection, connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    def repair(event: ProgressEvent) -> None:
        if event.task == "worker":
            notes.append(event.detail)
            rename("away", "workers")
            stop.set()

    with open_home(tmp_path / "home", repair) as installation:
        rename("workers", "away")
        run_worker(installation, ADMIN, stop=stop)
    assert "cannot continue and tries again" in notes[0]
    assert "no such table: workers" in notes[0]


def test_only_an_administrator_runs_a_worker(empty: Installation) -> None:
    with pytest.raises(AccessDenied):
        run_worker(empty, Principal(name="nobody", grants=(Grant(role=Role.READER, scope="/"),)), once=True)


def test_list_contains_only_live_workers(empty: Installation, clock: ManualClock) -> None:
    assert not has_living_worker(empty)
    with empty.catalog.transaction() as transaction:
        transaction.workers.record_heartbeat("w1", "elsewhere/boot/7/1")
        transaction.workers.record_heartbeat(
            "w2", empty.keeper.holder.rsplit("/", 1)[0] + "/0"
        )  # a process of ours that is gone
    assert [each.uid for each in list_workers(empty, ADMIN)] == ["w1"]
    assert has_living_worker(empty)
    clock.advance(61)
    assert not has_living_worker(empty)
    assert list_workers(empty, ADMIN) == []


# -- many workers -----------------------------------------------------------------------------------------------------

_WORKER = """
import os, signal, sys
from pathlib import Path
from imgstore.bootstrap import Settings, open_installation
from imgstore.policy.worker_queue import WorkerLimits
from imgstore.operations.maintenance.worker import run_worker
from tests.support.sample_gallery import ADMIN
from tests.support.crash_process import StepCounter
home, database, fatal = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
steps = StepCounter(fatal, signal.SIGKILL)
with open_installation(Settings(home=Path(home), database=database, environ={})) as installation:
    for name in ("fsync", "rename", "link", "unlink"):
        steps.around(os, name)
    print("ready", flush=True)
    sys.stdin.readline()
    steps.wrap_commits()
    print(run_worker(installation, ADMIN, once=True, limits=WorkerLimits(replicas=2)).completed)
"""

VERSIONS = 12
REGIONS = ("southcentralus", "eastus", "westus2", "northeurope")
FATAL = (5, 17, 0, 26, 0, 43, 60, 0)
"""Of eight workers five die: while the first lease is taken, while bytes move, around the record."""


def play(home: Path, database: str, folder: Path) -> None:
    expected: dict[str, Path] = {}
    with open_home(home, database=database or None) as installation:
        create_sample_gallery(installation)
        for number in range(VERSIONS):
            name = f"1.0.{number}"
            expected[name] = small(folder, number)
            ask(installation, expected[name], name, REGIONS)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(home), database, str(fatal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for fatal in FATAL
    ]
    for each in workers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in workers:  # all at once, whatever each took to start
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    told = [each.communicate()[0] for each in workers]
    codes = [each.returncode for each in workers]
    assert codes.count(-signal.SIGKILL) >= 3, f"most died too late to matter: {codes}"
    assert set(codes) <= {0, -signal.SIGKILL}
    with open_home(home, database=database or None) as installation:
        work(installation)  # what the last to die held, if nobody was left to go on with it
        for name in expected:
            view = show(installation, name)
            assert set(states(view).values()) == {COMPLETED}, f"{name}: {states(view)}, {told}"
            assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
        rows = [row for row in charges(installation) if row.kind == "egress"]
        assert len({(row.party.version, row.target) for row in rows}) == len(rows) == VERSIONS * (len(REGIONS) - 1)
        with installation.catalog._database.engine.connect() as connection:
            tokens = connection.exec_driver_sql(
                "SELECT slot_uid, owner_uid, token FROM works WHERE kind = 'copy'"
            ).all()
        assert len({(row[0], row[1]) for row in tokens}) == len(tokens) == VERSIONS * (len(REGIONS) - 1)
        taken_over = sum(row[2] - 1 for row in tokens)
        held_by_the_dead = codes.count(-signal.SIGKILL) * 2
        assert taken_over <= held_by_the_dead, "a work was taken from one who lived"
        audit(installation, struck=True)
        (folder / "served").mkdir()
        audit_served(installation, expected, folder / "served")


def test_eight_workers_on_one_queue_on_sqlite(tmp_path: Path) -> None:
    play(tmp_path / "home", "", tmp_path)


@pytest.mark.engine("postgresql")
def test_eight_workers_on_one_queue_on_postgresql(tmp_path: Path, postgresql: str) -> None:
    # Invariant R11.
    play(tmp_path / "home", postgresql, tmp_path)


def test_copies_keep_within_the_bandwidth_of_their_pair(
    empty: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what crosses that pair is held back, and only as far as it must."""
    clock = ManualClock()
    limit = 100_000
    monkeypatch.setattr(
        empty.locator, "_new_bucket", lambda bytes_per_second: TokenBucket(bytes_per_second, clock.monotonic)
    )
    object.__setattr__(
        empty, "tuning", Tuning(copy_workers=1, threads_max=1)
    )  # threads that wait together would wait on this clock
    pairs = Bandwidth(pairs={("southcentralus", "eastus"): limit})
    object.__setattr__(empty.regions, "bandwidth", pairs)
    monkeypatch.setattr(replication_copy, "_wait_for_stop", lambda _stop, seconds: clock.wait(seconds))
    publish(empty, samples.first, targets=["southcentralus", "westus2"])
    assert clock.waits == []
    publish(empty, samples.first, "1.0.1", targets=HERE_AND_EAST)
    delivered = sum(row.delivered_bytes for row in charges(empty) if row.target == "eastus")
    assert delivered > 10 * limit
    last = 4 * MIB + 1024  # is not waited for
    assert (delivered - last) / limit - 1 <= clock.monotonic() <= delivered * 1.01 / limit


@pytest.mark.parametrize("route", ReplicationRoute)
def test_a_damaged_version_stops_no_other_version(tmp_path: Path, route: ReplicationRoute) -> None:
    """A row that no code can read ends neither the worker nor the copies of other versions. The queue reads routes."""
    notes: list[str] = []

    def listen(event: ProgressEvent) -> None:
        if event.stage is Stage.NOTE:
            notes.append(event.detail)

    with open_home(tmp_path / "home", listen, replication=ReplicationSettings(route=route)) as installation:
        create_sample_gallery(installation)
        versions = [ask(installation, small(tmp_path, number), f"1.0.{number}").version for number in range(3)]
        damaged = versions[1].uid
        with closing(sqlite3.connect(installation.home / "catalog.sqlite")) as database, database:
            database.execute("UPDATE manifests SET segment_ids = x'00' WHERE owner_uid = ?", [damaged])
        report = work(installation)
        assert (report.completed, list(report.failed)) == (2, [damaged])
        for number in (0, 2):
            assert set(states(show(installation, f"1.0.{number}")).values()) == {COMPLETED}
        assert len([each for each in notes if damaged in each]) == 1
