"""Tests that each non-final state has a command that takes the state over, also without a complete replica.

The table is in docs/internals/states.md (invariant R16). For each row, a process is killed in the state, with the only
replica of its version Degraded if the row is about a replica. Each command of the row is then run once.
"""

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from imgstore.domain.disks.signed_urls import AccessLevel, DiskState
from imgstore.domain.errors import StoreError
from imgstore.domain.resources import DiskKind
from imgstore.domain.states import ProvisioningState, ReplicaState, WorkState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.storage.works import WorkKind
from imgstore.formats.vhd_layout import TYPE_FIXED, pack_footer
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from tests.support import crash_process
from tests.support.crash_scenes import CrashScene
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    audit,
    audit_served,
    expire_collectors,
    export,
    publish,
    show,
    states,
)

STATES: Final = Path(__file__).parents[2] / "docs" / "internals" / "states.md"
HERE: Final = "southcentralus"
PROFILE: Final[Mapping[str, Any]] = {"image": f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0", "location": HERE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A state in which a process was killed."""

    state: str
    """The state as in `crash_process.present_states`."""
    job: str
    """The killed command."""
    orders: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[CrashScene], None] = lambda _scene: None
    """The preparation of the scene."""
    takers: Mapping[str, Callable[[CrashScene, Installation], object]]
    """The commands of the table that take the state over."""
    signals: tuple[int, ...] = (signal.SIGKILL,)


def again(job: str, **orders: Any) -> Callable[[CrashScene, Installation], object]:
    """Run the command in this process."""

    def act(scene: CrashScene, installation: Installation) -> None:
        crash_process.run(job, {"home": str(scene.folder / "home"), **orders_of(scene, orders)}, installation)

    return act


def create(scene: CrashScene, installation: Installation) -> None:
    """Run the first create of the version again."""
    publish(installation, scene.expected["1.0.0"], targets=[HERE])


def create_without_source(scene: CrashScene, installation: Installation) -> None:
    """Run the version's create without its source. All bytes have arrived, so nothing is read again."""
    source = scene.expected["1.0.0"]
    source.rename(source.with_suffix(".gone"))
    try:
        publish(installation, source, targets=[HERE])
    finally:
        source.with_suffix(".gone").rename(source)


def collect(_scene: CrashScene, installation: Installation) -> None:
    """Run `gc` after the lease of the killed collector has expired."""
    expire_collectors(installation)
    crash_process.run("gc", {}, installation)


def abandon(_scene: CrashScene, installation: Installation) -> None:
    """Run `gc` a week after the last lease."""
    with installation.catalog.transaction() as transaction:
        for work in transaction.works.list_open():
            keeper = installation.keeper
            lease = transaction.works.lease(work.uid, holder=keeper.holder, lease_seconds=30, steal=True)
            transaction.works.release(lease)
    maintenance_gc.collect(installation, ADMIN, grace=timedelta(0), patience=timedelta(0))


@contextmanager
def hidden_segment(scene: CrashScene) -> Iterator[None]:
    """Hide a segment of 1.0.0 for a while."""
    path = min(path for path in (scene.folder / "home" / "regions").rglob("*") if object_keys.is_segment_key(str(path)))
    path.rename(path.with_suffix(".away"))
    try:
        yield
    finally:
        path.with_suffix(".away").rename(path)


def degrade(scene: CrashScene) -> None:
    """Degrade all replicas of 1.0.0 by a read during which a segment is missing."""
    with hidden_segment(scene), scene.open() as installation:
        with pytest.raises(StoreError):
            export(installation, scene.folder / "out" / "x.raw", HERE)
        assert states(show(installation)) == {f"{HERE}/0": ReplicaState.DEGRADED}


def make_disk_and_degrade(scene: CrashScene) -> None:
    scene.run_job("disk", name="d1", location=HERE, version="1.0.0")
    degrade(scene)


def degrade_and_make_image(scene: CrashScene) -> None:
    degrade(scene)
    scene.run_job("image", name="i1", source=str(scene.expected["1.0.0"]), data=[])


def make_machine(scene: CrashScene) -> None:
    scene.run_job("machine", machine={"name": "m1", **PROFILE})
    degrade(scene)


def two_replicas(scene: CrashScene) -> None:
    scene.run_job("retarget", targets=[f"{HERE}=2"])


def make_vhd(scene: CrashScene) -> None:
    data = scene.expected["1.0.0"].read_bytes()
    footer = pack_footer(virtual_bytes=len(data), disk_type=TYPE_FIXED, disk_digest=bytes(32))
    (scene.folder / "upload.vhd").write_bytes(data + footer)


def upload(scene: CrashScene) -> None:
    """Create a disk that waits for its upload, and send the upload."""
    make_vhd(scene)
    scene.run_job("upload", **orders_of(scene, UPLOAD))


def withdraw(scene: CrashScene) -> None:
    """Delete all content of 1.0.0, which is then published again."""
    scene.run_job("delete", version="1.0.0")


def leave_garbage(scene: CrashScene) -> None:
    withdraw(scene)


def mark(scene: CrashScene) -> None:
    withdraw(scene)
    with scene.open() as installation:
        crash_process.run("gc", {}, installation)


def fail_as_before(scene: CrashScene) -> None:
    """Set the state that earlier releases used after a failed restore: Failed."""
    degrade(scene)
    with scene.open() as installation, installation.catalog.transaction() as transaction:
        replica = show(installation).replicas[0]
        transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
        transaction.replicas.record_failure(replica.uid, error="x", attempts=1, retry_at=transaction.now())


SOURCE: Final = {"source": "1.0.0", "version": "1.0.0", "targets": [HERE]}
RESTORERS: Final = {"scrub": again("scrub"), "worker": again("worker"), "image-version create": create_without_source}
ENDERS: Final = {"gc": collect, "worker": again("worker")}
"""Commands that complete started deletions."""
DISK: Final[Mapping[str, Any]] = {"name": "d1", "location": HERE, "version": "1.0.0"}
FILE: Final[Mapping[str, Any]] = {"name": "s1", "source": "1.0.0", "kind": DiskKind.SNAPSHOT}
UPLOAD: Final[Mapping[str, Any]] = {"name": "up", "file": "upload.vhd"}
IMAGE: Final[Mapping[str, Any]] = {"name": "i1", "source": "1.0.0", "data": []}

LEFT: Final = (
    Left(
        state="version Creating",
        job="publish",
        orders=SOURCE,
        before=withdraw,
        takers={"image-version create": create, "image-version delete": again("delete")},
    ),
    Left(
        state="version Updating",
        job="retarget",
        orders={"targets": [HERE, "eastus"]},
        before=degrade,
        takers={"worker": again("worker"), "image-version update": again("retarget", targets=[HERE, "eastus"])},
    ),
    Left(state="version Failed", job="export", takers=RESTORERS),
    Left(
        state="version Deleting",
        job="delete",
        before=degrade,
        takers={"image-version delete": again("delete"), **ENDERS},
    ),
    Left(
        state="replica Pending",
        job="publish",
        orders=SOURCE,
        before=withdraw,
        takers={"image-version create": create, "image-version delete": again("delete")},
    ),
    Left(
        state="replica Replicating",
        job="scrub",
        before=degrade,
        takers=RESTORERS,
        signals=(signal.SIGKILL, signal.SIGINT),
    ),
    Left(state="replica Degraded", job="export", takers=RESTORERS),
    Left(state="replica Failed", job="", before=fail_as_before, takers=RESTORERS),
    Left(
        state="replica Deleting",
        job="retarget",
        orders={"targets": [HERE]},
        before=two_replicas,
        takers={"image-version update": again("retarget", targets=[HERE]), **ENDERS},
    ),
    Left(
        state="disk Creating",
        job="disk",
        orders=DISK,
        takers={"disk create": again("disk", **DISK), "disk delete": again("delete disk", name="d1")},
    ),
    Left(
        state="disk Deleting",
        job="delete disk",
        orders={"name": "d1"},
        before=make_disk_and_degrade,
        takers={"disk delete": again("delete disk", name="d1"), **ENDERS},
    ),
    Left(
        state="snapshot Creating",
        job="disk of a file",
        orders=FILE,
        before=degrade,
        takers={
            "snapshot create": again("disk of a file", **FILE),
            "snapshot delete": again("delete disk", name="s1", kind=DiskKind.SNAPSHOT),
        },
    ),
    Left(
        state="image Creating",
        job="image",
        orders=IMAGE,
        before=degrade,
        takers={
            "image create": again("image", **IMAGE),
            "image delete": again("delete image", name="i1"),
        },
    ),
    Left(
        state="image Deleting",
        job="delete image",
        orders={"name": "i1"},
        before=degrade_and_make_image,
        takers={"image delete": again("delete image", name="i1"), **ENDERS},
    ),
    Left(
        state="machine Creating",
        job="machine",
        orders={"machine": {"name": "m1", **PROFILE}},
        takers={
            "vm create": again("machine", machine={"name": "m1", **PROFILE}),
            "vm delete": again("delete machine", name="m1"),
        },
    ),
    Left(
        state="machine Deleting",
        job="delete machine",
        orders={"name": "m1"},
        before=make_machine,
        takers={"vm delete": again("delete machine", name="m1"), **ENDERS},
    ),
    Left(
        state="upload ReadyToUpload",
        job="revoke",
        orders=UPLOAD,
        before=upload,
        takers={"disk revoke-access": again("revoke", **UPLOAD), "disk delete": again("delete disk", **UPLOAD)},
    ),
    Left(
        state="upload ActiveUpload",
        job="upload",
        orders=UPLOAD,
        before=make_vhd,
        takers={"disk revoke-access": again("revoke", **UPLOAD)},
    ),
    Left(
        state="grant active",
        job="grant",
        orders={"name": "d1", "level": AccessLevel.READ},
        before=make_disk_and_degrade,
        takers={"disk revoke-access": again("revoke", name="d1")},
    ),
    Left(
        state="segment Condemned",
        job="gc",
        before=leave_garbage,
        takers={"gc": collect, "image-version create": create},
    ),
    Left(state="segment Deleting", job="gc", before=leave_garbage, takers={"gc": collect}),
    Left(
        state="ingest Open",
        job="publish",
        orders=SOURCE,
        before=withdraw,
        takers={"image-version create": create, "gc": abandon},
    ),
    Left(
        state="copy Open",
        job="retarget",
        orders={"targets": [HERE, "eastus"]},
        takers={"worker": again("worker"), "gc": abandon},
    ),
    Left(
        state="disk-work Open",
        job="disk",
        orders=DISK,
        takers={"disk create": again("disk", **DISK), "gc": abandon},
    ),
    Left(
        state="removal Open",
        job="retarget",
        orders={"targets": [HERE]},
        before=two_replicas,
        takers={"image-version update": again("retarget", targets=[HERE]), **ENDERS},
    ),
    Left(state="maintenance-turn Leased", job="worker", before=degrade, takers={"worker": again("worker")}),
    Left(
        state="export Open",
        job="export",
        orders={"path": "x.raw"},
        takers={"image-version delete": again("delete")},
    ),
)
"""Every tested row, in the order of the table."""

ELSEWHERE: Final = {
    "operation InProgress": "tests/cli/test_cli_serve.py::test_an_operation_survives_the_servers_end",
    "deployment Running": "tests/cli/test_cli_serve.py::test_a_deployment_survives_a_killed_server",
}
"""Rows that need a server, with kills in other tests."""

FINAL: Final = frozenset(
    {
        "version Succeeded",
        "replica Completed",
        "disk Succeeded",
        "snapshot Succeeded",
        "image Succeeded",
        "machine Succeeded",
        "segment Condemned",
    }
)
"""States without an action, except a segment marked for deletion after its grace period."""


def table() -> dict[str, set[str]]:
    """Return the rows of the table: state to the commands that take the state over."""
    section = STATES.read_text(encoding="utf-8")
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return {f"{row[0].strip()} {row[1].strip()}": {each.strip(" `") for each in row[2].split(",")} for row in rows}


def test_the_table_and_the_scenes_agree() -> None:
    driven = {each.state: set(each.takers) for each in LEFT}
    assert {state: takers for state, takers in table().items() if state in driven} == driven
    assert table().keys() - driven.keys() == ELSEWHERE.keys()


@pytest.mark.parametrize("state", ELSEWHERE)
def test_the_rows_that_are_driven_elsewhere_are(state: str) -> None:
    path, name = ELSEWHERE[state].split("::")
    text = (STATES.parents[2] / path).read_text(encoding="utf-8")
    assert "SIGKILL" in text
    assert f"\ndef {name}(" in text


def test_every_state_that_is_not_final_is_in_the_table() -> None:
    rows = table()
    for state in ReplicaState:
        assert (f"replica {state}" in rows) == (state is not ReplicaState.COMPLETED)
    for resource in ("version", "disk", "image", "machine"):
        wanted = {ProvisioningState.CREATING, ProvisioningState.DELETING}
        assert {each for each in wanted if f"{resource} {each}" in rows} == wanted
    kinds = {"disk-work" if kind is WorkKind.DISK else kind.value for kind in WorkKind}
    assert {f"{kind} {WorkState.OPEN}" for kind in kinds} <= rows.keys()
    waiting = {DiskState.READY_TO_UPLOAD, DiskState.ACTIVE_UPLOAD}
    assert {f"upload {state}" for state in waiting} <= rows.keys()


@pytest.fixture(scope="session")
def lone(tmp_path_factory: pytest.TempPathFactory) -> CrashScene:
    """A home with one version that has one replica, created once and copied for each test."""
    scene = CrashScene(folder=tmp_path_factory.mktemp("lone"))
    scene.prepare()
    disk = make_raw(scene.folder / "1.0.0.raw", seed=8, virtual_bytes=12 * MIB, content_bytes=6 * MIB)
    scene.expected["1.0.0"] = disk
    with scene.open() as installation:
        publish(installation, disk, targets=[HERE])
    return scene


def choose_quick() -> set[tuple[str, str]]:
    """Return the rows of the usual run: each state and each command at least once."""
    chosen, seen = set[tuple[str, str]](), set[str]()
    for left in LEFT:
        takers = [each for each in left.takers if each not in seen] or [next(iter(left.takers))]
        seen.update(takers)
        chosen.update((left.state, taker) for taker in takers)
    return chosen


QUICK: Final = choose_quick()
ROWS: Final = [
    pytest.param(
        left,
        taker,
        number,
        id=f"{left.state}-{taker}{'-interrupted' * (number == signal.SIGINT)}",
        marks=[] if (left.state, taker) in QUICK else [pytest.mark.long],
    )
    for left in LEFT
    for taker in left.takers
    for number in left.signals
]


@pytest.mark.parametrize(("left", "taker", "number"), ROWS)
def test_a_state_that_a_process_died_in_is_taken_over(
    tmp_path: Path, lone: CrashScene, left: Left, taker: str, number: int
) -> None:
    shutil.copytree(lone.folder / "home", tmp_path / "home")
    for name in ("out", "served"):
        (tmp_path / name).mkdir()
    scene = CrashScene(folder=tmp_path, expected={**lone.expected, "upload": lone.expected["1.0.0"]})
    left.before(scene)
    if left.job == "export":
        # The read that finds the damage is what is killed; the segment is there again afterwards.
        hidden = nullcontext() if left.state == "export Open" else hidden_segment(scene)
        with hidden:
            crash_and_repeat(scene, left, number)
    elif left.job:
        crash_and_repeat(scene, left, number)
    with scene.open() as installation:
        with installation.catalog.reading() as transaction:
            assert left.state in crash_process.present_states(transaction)
        left.takers[taker](scene, installation)
        with installation.catalog.reading() as transaction:
            standing = crash_process.present_states(transaction)
        resource = left.state.split()[0]
        about = {"version", "replica"} if resource in ("version", "replica") else {resource}
        left_over = {each for each in standing if each.split()[0] in about} - FINAL
        assert not left_over, f"{taker} left {left_over}"
        if "version Succeeded" in standing:  # Else the audit does not know where the segments came from.
            audit(installation, quiet="export Open" not in standing, struck=True)
        audit_served(installation, scene.expected, scene.folder / "served")


def crash_and_repeat(scene: CrashScene, left: Left, number: int) -> None:
    orders = orders_of(scene, {"path": "x.raw", "location": HERE, **left.orders})
    assert scene.run_job(left.job, watch=left.state, number=number, **orders) == 0, "it ended before it was struck"


def orders_of(scene: CrashScene, orders: Mapping[str, Any]) -> dict[str, Any]:
    """Return the orders with the paths of this scene instead of names."""
    paths = {
        "source": scene.expected["1.0.0"],
        "path": scene.folder / "out" / "x.raw",
        "file": scene.folder / "upload.vhd",
    }
    return {key: str(paths.get(key, value)) if key in paths else value for key, value in orders.items()}
