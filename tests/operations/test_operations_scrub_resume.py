"""A scrub that is killed in the middle of a slot: the next one reads the rest, and what either found is repaired."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.scrub_passes import ScrubPass, ScrubRunner
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.stores.directory import DirectoryStore
from tests.support.sample_gallery import (
    ADMIN,
    all_slots,
    audit,
    audit_collected,
    create_sample_gallery,
    open_home,
    publish,
    show,
    states,
)

DISK_BYTES = 80 * MIB
READ_FIRST = 8
"""Objects that the scrub reads at least before it is killed."""
SCRUB = """
import sys
from pathlib import Path
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.operations.maintenance import scrub_progress
from imgstore.operations.maintenance.scrub import scrub
from tests.support.sample_gallery import ADMIN, open_home

def pace(_length):
    sys.stdout.write("read\\n")  # one write: several threads read
    sys.stdout.flush()
    sys.stdin.readline()

home, slot_uid, runner = sys.argv[1:]
scrub_progress.SAVE_SECONDS = 0
with open_home(Path(home)) as installation:
    scrub(installation, ADMIN, ScrubRequest(slot_uid=slot_uid, pace=pace, runner=ScrubRunner(runner)))
"""
"""Reads on when it is told to."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    """A version in two slots of one region, in many segments."""
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, disk(tmp_path, 1), targets=["southcentralus=2"])
        yield installation


def disk(folder: Path, seed: int, disk_bytes: int = DISK_BYTES) -> Path:
    path = folder / f"{seed}.raw"
    path.write_bytes(random.Random(seed).randbytes(disk_bytes))
    return path


def keys_of(installation: Installation, slot: Slot, kinds: tuple[str, ...] = ("segments/", "manifests/")) -> list[str]:
    store = installation.locator.store(slot)
    found = (info.key.removeprefix(slot.prefix) for info in store.list(slot.prefix))
    return sorted(key for key in found if key.startswith(kinds))


def scrub_and_kill(installation: Installation, slot: Slot, runner: ScrubRunner = ScrubRunner.COMMAND) -> ScrubPass:
    """Scrub a slot in a process of its own, and kill it when it has read so many objects and saved that a segment was read."""
    command = [sys.executable, "-c", SCRUB, str(installation.home), slot.uid, runner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        read = 0
        while read < READ_FIRST or not find_pass(installation, slot, runner).position.startswith("segments/"):
            assert running.stdout.readline() == "read\n"
            running.stdin.write("\n")
            running.stdin.flush()
            read += 1
        running.kill()
    return find_pass(installation, slot, runner)


def find_pass(installation: Installation, slot: Slot, runner: ScrubRunner) -> ScrubPass:
    with installation.catalog.reading() as transaction:
        found = transaction.scrub_passes.find(slot.uid, runner)
    assert found is not None
    return found


@contextmanager
def counting(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Count the keys that a store is asked for in the slot. A scrub reads the revisions of owners in each run."""
    read: list[str] = []
    get = DirectoryStore.get

    def counted(store: DirectoryStore, key: str, *args: object) -> bytes:
        if key.startswith(slot.prefix) and not key.startswith(slot.prefix + object_keys.OWNERS):
            read.append(key.removeprefix(slot.prefix))
        return get(store, key, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "get", counted)
        yield read


def scrub_slot(installation: Installation, slot: Slot, **request: object) -> SlotScrub:
    (found,) = scrub(installation, ADMIN, ScrubRequest(slot_uid=slot.uid, **request))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("runner", list(ScrubRunner))
def test_resumed_scrub_reads_only_the_rest(
    home: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: ScrubRunner
) -> None:
    slot = all_slots(home)[0]
    there = keys_of(home, slot)
    begun = scrub_and_kill(home, slot, runner)
    first = [key for key in there if key <= begun.position]
    rest = [key for key in there if key > begun.position]
    assert 0 < len(first) < len(there)
    publish(home, disk(tmp_path, 2, 8 * MIB), "1.0.1", ["southcentralus=2"])  # Its objects lie on both sides.
    with counting(slot, monkeypatch) as read:
        found = scrub_slot(home, slot, runner=runner)
    assert set(read) & set(first) == set()
    assert set(rest) <= set(read)
    assert len(read) == len(set(read))
    assert (found.resumed_from, found.damaged, found.problem) == (begun.began_at, set(), None)
    assert found.objects == found.earlier_objects + len(read) == len(keys_of(home, slot))
    with counting(slot, monkeypatch) as read:
        found = scrub_slot(home, slot, runner=runner)
    every = set(keys_of(home, slot, ("fingerprints/", "manifests/", "segments/")))
    assert set(read) == every, "the next one begins at the beginning"
    # Invariant R17.
    assert (found.resumed_from, found.earlier_objects) == (None, 0)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: {"from_start": True},
        lambda: {"dry_run": True},
        lambda: {"runner": ScrubRunner.WORKER},
        lambda: {"percent": 50.0},
    ],
)
def test_scrub_from_start_reads_all_objects(
    home: Installation, monkeypatch: pytest.MonkeyPatch, request_of: Callable[[], dict[str, object]]
) -> None:
    slot = all_slots(home)[0]
    begun = scrub_and_kill(home, slot)
    with counting(slot, monkeypatch) as read:
        found = scrub_slot(home, slot, **request_of())
    assert (found.resumed_from, found.earlier_objects) == (None, 0)
    assert any(key <= begun.position for key in read)


def test_damage_on_both_sides_is_found_and_repaired(home: Installation, tmp_path: Path) -> None:
    slot = all_slots(home)[0]
    there = keys_of(home, slot)
    segments = [key for key in there if key.startswith("segments/")]
    harmed = {segments[0], segments[-1]}
    store = home.locator.store(slot)
    store.delete([slot.prefix + segments[0]])
    store.put(slot.prefix + segments[-1], b"x")
    begun = scrub_and_kill(home, slot)
    assert dict(begun.damaged) == {segments[0]: False}
    assert segments[0] <= begun.position < segments[-1]
    found = scrub_slot(home, slot)
    assert (found.damaged, found.unrepaired, found.restored) == (harmed, [], 1)
    assert found.resumed_from == begun.began_at
    assert set(states(show(home)).values()) == {ReplicaState.COMPLETED}
    assert keys_of(home, slot) == there
    audit(home)
    audit_collected(home)
