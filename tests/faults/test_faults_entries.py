"""Processes that are killed between the bytes and the entries of the ledger, in both orders (invariants M2, M4 and P3).

A process kills itself directly before or after the commit of an entry. Before the commit, bytes are stored and no entry
exists. The repeated command then adds the same entries as a command without a kill, and no entry twice.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgstore.catalog.engine.database import Database
from imgstore.catalog.storage.ledger import Ledger
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.billing.corrections import correct_entry
from imgstore.operations.disks.disks import create_disk
from imgstore.operations.installation import Installation
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    audit,
    charges,
    create_sample_gallery,
    open_home,
    publish,
    reference,
    retarget,
)

SOURCE, EAST = "southcentralus", "eastus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A command that adds an entry."""

    prepare: Callable[[Installation, Path], object]
    run: Callable[[Installation, Path], object]
    number: int = 1
    """The number of the transaction with entries, among all transactions of the command with entries."""
    is_repeated: bool = True
    """Whether a repeated command completes the work, and does not begin another work."""


def make_disk(installation: Installation, region: str, *, allow_remote: bool = False) -> None:
    request = DiskOfImageRequest(
        group=GROUP, name="d1", location=region, reference=reference("1.0.0"), allow_remote=allow_remote
    )
    create_disk(installation, ADMIN, request)


def correct(installation: Installation, _disk: Path) -> None:
    (key,) = [row.key for row in charges(installation) if row.kind is ChargeKind.EGRESS]
    correct_entry(installation, ADMIN, key, -1000, "ticket 17")


SCENES = {
    "publish": Scene(prepare=lambda _home, _disk: None, run=lambda home, disk: publish(home, disk, targets=[SOURCE])),
    "publish and replicate": Scene(
        prepare=lambda _home, _disk: None, run=lambda home, disk: publish(home, disk, targets=[SOURCE, EAST]), number=2
    ),
    "replicate": Scene(
        prepare=lambda home, disk: publish(home, disk, targets=[SOURCE]),
        run=lambda home, _disk: retarget(home, [SOURCE, f"{EAST}=2"]),
    ),
    "disk create": Scene(
        prepare=lambda home, disk: publish(home, disk, targets=[SOURCE]),
        run=lambda home, _disk: make_disk(home, SOURCE),
    ),
    "disk create from another region": Scene(
        prepare=lambda home, disk: publish(home, disk, targets=[SOURCE]),
        run=lambda home, _disk: make_disk(home, EAST, allow_remote=True),
    ),
    "bill correct": Scene(
        prepare=lambda home, disk: publish(home, disk, targets=[SOURCE, EAST]), run=correct, is_repeated=False
    ),
}


def kill_at_entry(home: Path, run: Callable[[Installation], object], number: int, *, is_committed: bool) -> None:
    """Run a command in a process that kills itself before or after the commit of an entry."""
    process = os.fork()
    if process == 0:
        try:
            with open_home(home) as installation:
                watch_entries(number, is_committed=is_committed)
                run(installation)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def watch_entries(number: int, *, is_committed: bool) -> None:
    """Send SIGKILL to this process before or after the commit with the given number, among commits with entries."""
    real: Callable[..., AbstractContextManager[Any]] = Database.writing
    added: list[str] = []
    commits = 0

    def note(name: str) -> None:
        method: Callable[..., Any] = getattr(Ledger, name)

        def noted(*args: Any, **words: Any) -> Any:
            added.append(name)
            return method(*args, **words)

        setattr(Ledger, name, noted)

    @contextmanager
    def watching(database: Database, *args: Any) -> Iterator[Any]:
        nonlocal commits
        with real(database, *args) as session:
            added.clear()
            yield session
            commits += bool(added)
            is_fatal = bool(added) and commits == number
            if is_fatal and not is_committed:
                os.kill(os.getpid(), signal.SIGKILL)
        if is_fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    note("add")
    note("open_interval")
    setattr(Database, "writing", watching)  # noqa: B010 - mypy takes no method for another


def entries(installation: Installation) -> list[tuple[object, ...]]:
    """Return the transfers and the storage intervals, without times and names that differ between two homes."""
    with installation.catalog.reading() as transaction:
        stored = transaction.ledger.intervals()
    transfers = [(row.kind.value, row.source or "", row.target, row.delivered_bytes) for row in charges(installation)]
    intervals = [("interval", each.region, str(each.replica), each.stored_bytes) for each in stored]
    return sorted([*transfers, *intervals])


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    return make_raw(path, seed=8, virtual_bytes=8 << 20, content_bytes=3 << 20)


@pytest.mark.parametrize("is_committed", [False, True], ids=["bytes first", "entry first"])
@pytest.mark.parametrize("name", SCENES)
def test_killed_between_bytes_and_entry(name: str, disk: Path, tmp_path: Path, *, is_committed: bool) -> None:
    scene = SCENES[name]
    for home in ("whole", "killed"):
        with open_home(tmp_path / home) as installation:
            create_sample_gallery(installation)
            scene.prepare(installation, disk)
            before = entries(installation)
    with open_home(tmp_path / "whole") as installation:
        scene.run(installation, disk)
        expected = entries(installation)
    kill_at_entry(tmp_path / "killed", lambda home: scene.run(home, disk), scene.number, is_committed=is_committed)
    with open_home(tmp_path / "killed") as installation:
        audit(installation, quiet=False)
        found = entries(installation)
        assert (len(found) > len(before)) == (is_committed or scene.number > 1)
        if scene.is_repeated or not is_committed:
            scene.run(installation, disk)
        assert entries(installation) == expected
        if name != "disk create from another region":
            audit(installation, struck=True)
