"""A home on which two operations meet: one is held at a chosen moment while the other runs completely.

The held call is a call of a store, or of a step between two transactions, so no test depends on speed. On PostgreSQL, a
call inside a transaction may also be held. The other operation then runs until its end, or until it waits for a lock.
"""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import psycopg
from sqlalchemy import make_url

from imgstore.domain.effects import Effects
from imgstore.domain.errors import ImageNotAvailable, ImgstoreError, NotFound
from imgstore.domain.reports import SlotScrub, WorkerReport
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import MIB
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.disks import disks
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.maintenance.worker import run_worker
from imgstore.operations.replication import copy as replication_copy
from imgstore.policy.worker_queue import WorkerLimits
from tests.support.sample_disks import make_raw, patch_disk
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    all_slots,
    audit,
    audit_collected,
    audit_served,
    charges,
    collect,
    create_sample_gallery,
    create_version,
    delete,
    make_disk,
    named_segments,
    open_home,
    publish,
    request,
)

PATIENCE_SECONDS: Final = 60.0
"""The time limit of an immediate event in a test."""

_LOOK_SECONDS: Final = 0.01
_ANOTHER: Final = "another"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A home for both operations, and its expected versions.

    1.0.0 is complete in southcentralus (twice) and in eastus, and the managed disk d0 in eastus depends on it. 1.1.0 is
    complete in southcentralus, and a worker must copy it to eastus. Segments that 1.2.0 adds to 1.0.0 are stored in
    southcentralus, and segments that 1.1.0 adds are stored in eastus. No manifest names these segments: both are left
    of deleted versions.
    """

    folder: Path
    database: str | None = None
    expected: dict[str, Path] = field(default_factory=dict)
    """The raw disk of each possible version."""

    def open(self) -> AbstractContextManager[Installation]:
        """Open the installation in this process."""
        return open_home(self.folder / "home", database=self.database)

    @contextmanager
    def another(self, effects: Effects) -> Iterator[Installation]:
        """Open the installation as a process of another machine."""
        database = self.database and make_url(self.database).update_query_dict({"application_name": _ANOTHER})
        url = database and database.render_as_string(hide_password=False)
        with open_home(self.folder / "home", effects=effects, database=url or None) as installation:
            installation.keeper.holder = f"{_ANOTHER}/boot/1/1"
            yield installation

    def waits_for_lock(self) -> bool:
        """Return whether a transaction of `another` waits for a lock of another transaction, on PostgreSQL."""
        assert self.database is not None
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock' AND datname = current_database()"
        with psycopg.connect(self.database.replace("+psycopg", ""), autocommit=True) as connection:
            return bool(connection.execute(query, [_ANOTHER]).fetchall()[0][0])

    def copied(self, folder: Path, database: str | None = None) -> "Stage":
        """Copy the stage to a separate home."""
        shutil.copytree(self.folder / "home", folder / "home")
        return Stage(folder=folder, database=database, expected=self.expected)


def prepare(folder: Path, database: str | None = None) -> Stage:
    """Create the home that each pair copies."""
    first = make_raw(folder / "first.raw", seed=5, virtual_bytes=12 * MIB, content_bytes=4 * MIB)
    second = patch_disk(first, folder / "second.raw", seed=6, blocks=200)
    third = patch_disk(first, folder / "third.raw", seed=7, blocks=200)
    expected = {"1.0.0": first, "1.1.0": second, "1.2.0": third, "1.3.0": third, "1.4.0": second}
    stage = Stage(folder=folder, database=database, expected=expected)
    with stage.open() as installation:
        create_sample_gallery(installation)
        publish(installation, first, targets=["southcentralus=2", "eastus"])
        make_disk(installation, "d0", "eastus")
        publish(installation, third, "0.1.0", ["southcentralus"])
        delete(installation, "0.1.0")
        publish(installation, second, "0.2.0", ["southcentralus", "eastus"])
        delete(installation, "0.2.0")
        ask(installation, stage, "1.1.0", ["southcentralus", "eastus"])
    return stage


def ask(installation: Installation, stage: Stage, version: str, targets: Sequence[str]) -> None:
    """Publish, and leave all regions except the source region to workers."""
    source = str(stage.expected[version])
    create_version(installation, ADMIN, request(version, targets), os_vhd_uri=source, wait=False)


def work(installation: Installation, limits: WorkerLimits | None = None) -> WorkerReport:
    """Run a worker until it can begin nothing more."""
    report = run_worker(installation, ADMIN, once=True, limits=limits or WorkerLimits())
    assert report.failed == {}
    return report


def scrub_all(installation: Installation) -> list[SlotScrub]:
    """Scrub everything."""
    done = scrub(installation, ADMIN, ScrubRequest())
    assert [each.problem for each in done if each.problem] == []
    return done


def collect_all(installation: Installation) -> None:
    """Collect without a grace period."""
    assert [report.problem for report in collect(installation).slots if report.problem] == []


def damage(installation: Installation) -> None:
    """Change a segment of 1.0.0 in eastus without the store's knowledge."""
    with installation.catalog.reading() as transaction:
        row = next(row for slot in slots_in(installation, "eastus") for row in transaction.manifests.in_slot(slot.uid))
        slot = transaction.slots.get(row.slot_uid)
    name = min(named_segments(installation.locator.store(slot), slot, row.body_key))
    (path,) = (installation.home / "regions" / slot.bucket).glob(f"zone-*/{slot.prefix}{object_keys.segment_key(name)}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def slots_in(installation: Installation, region: str) -> list[Slot]:
    """Return the slots of a region."""
    return [slot for slot in all_slots(installation) if slot.key.region == region]


# -- two at once ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation of a person or a process."""

    kind: str
    """The row in the locking table."""
    act: Callable[[Stage, Installation], object]
    makes: frozenset[str] = frozenset()
    """Versions and disks that exist afterwards."""
    removes: frozenset[str] = frozenset()
    """Versions and disks that do not exist afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The moment before the first matching call."""

    owner: Any
    """The module or class of the function."""
    name: str
    key: str = ""
    """A part of an object's key, for a call of a store."""
    region: str = ""
    """The region of the slot, for a call about a slot."""

    def fits(self, arguments: tuple[Any, ...]) -> bool:
        """Return whether the call matches."""
        if self.region and not arguments[0].label.startswith(self.region):
            return False
        if not self.key:
            return True
        named = arguments[1]
        return any(self.key in key for key in ([named] if isinstance(named, str) else named))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The ends of both operations, and whether the second waited for the first."""

    held: ImgstoreError | None
    whole: ImgstoreError | None
    waited: bool


class Meeting:
    """One operation that is held at a moment while another runs."""

    def __init__(self, moment: Moment, blocked: Callable[[], bool] = lambda: False) -> None:
        """Prepare the meeting without running anything.

        Args:
            moment: the moment at which the first operation is held.
            blocked: whether the second operation waits for a lock of the first.
        """
        self.effects = Effects(wait=self._let_go)
        """Of the second: where it waits for a collector it lets the first go on."""
        self._moment, self._blocked = moment, blocked
        self._reached, self._open = threading.Event(), threading.Event()
        self._once = threading.Lock()
        self._held: Future[object] = Future()

    def run(self, held: Callable[[], object], whole: Callable[[], object]) -> Ends:
        """Hold the first operation while the second runs, then release the first."""
        moment = self._moment
        with (
            ThreadPoolExecutor(2) as pool,
            mock.patch.object(moment.owner, moment.name, self._gate()),
            mock.patch.object(replication_copy, "_wait_for_copies", self._watch(replication_copy._wait_for_copies)),
            mock.patch.object(replication_copy, "_LOOK_SECONDS", _LOOK_SECONDS),
        ):
            try:
                self._held = pool.submit(held)
                while not self._reached.wait(_LOOK_SECONDS):
                    assert not self._held.done(), f"it never came to {moment}: {self._held.exception()}"
                second = pool.submit(whole)
                while not (second.done() or self._open.is_set() or self._blocked()):
                    wait([second], _LOOK_SECONDS)
                waited = not second.done()
            finally:
                self._open.set()
            return Ends(held=_error(self._held), whole=_error(second), waited=waited)

    def _gate(self) -> Callable[..., object]:
        real = getattr(self._moment.owner, self._moment.name)

        def gate(*arguments: Any, **more: Any) -> object:
            if self._moment.fits(arguments) and self._once.acquire(blocking=False):
                self._reached.set()
                assert self._open.wait(PATIENCE_SECONDS), "the other neither ends nor waits"
            return real(*arguments, **more)

        return gate

    def _watch(self, real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Release the first operation if the second waits for its replicas."""

        def ended(busy: Mapping[Any, str], elsewhere: Collection[str], stop: threading.Event) -> Iterator[Any]:
            if not busy and self._reached.is_set() and not self._open.is_set():
                self._let_go(0)
                return iter(())  # Look again at once.
            return real(busy, elsewhere, stop)

        return ended

    def _let_go(self, _seconds: float) -> None:
        self._open.set()
        wait([self._held], PATIENCE_SECONDS)


def _error(future: Future[object]) -> ImgstoreError | None:
    """Return the error of a refusal. Any other error fails the test."""
    error = future.exception(PATIENCE_SECONDS)
    if error is not None and not isinstance(error, ImgstoreError):
        raise error
    return error


# -- afterwards -------------------------------------------------------------------------------------------------------


def settle(stage: Stage, installation: Installation, ended: Sequence[tuple[Operation, ImgstoreError | None]]) -> None:
    """Repeat refused operations, complete all works, and check for lost, leftover and doubly charged content.

    Raises:
        AssertionError: a promise of the design is broken.
    """
    gone = {
        id(operation) for operation, error in ended if error and not _repeated(stage, installation, operation, error)
    }
    work(installation)
    assert [key for each in scrub_all(installation) for key in each.unrepaired] == []
    collect_all(installation)
    present = _present(installation)
    removed = frozenset().union(*(operation.removes for operation, _ in ended))
    for operation, _ in ended:
        if id(operation) not in gone:
            assert operation.makes - removed <= present, f"{operation.makes} should be there, beside {present}"
            assert not operation.removes & present, f"{operation.removes} should be gone, but {present} are there"
    audit_collected(installation)
    audit(installation, collected=True)
    _audit_charges(installation)
    served = stage.folder / "served"
    served.mkdir()
    audit_served(installation, stage.expected, served)


def _repeated(stage: Stage, installation: Installation, operation: Operation, error: ImgstoreError) -> bool:
    """Repeat the command; False if its object no longer exists."""
    if type(error) is NotFound:
        return False
    try:
        operation.act(stage, installation)
    except (NotFound, ImageNotAvailable):
        return False
    return True


def _present(installation: Installation) -> frozenset[str]:
    """Return the visible versions and disks, after a check of their states."""
    views = gallery_versions.list_versions(installation, ADMIN, group=GROUP, gallery=GALLERY, definition=DEFINITION)
    made = disks.list_disks(installation, ADMIN)
    for view in views:
        wanted = {each.name: each.regional_replica_count for each in view.version.target_regions}
        complete = Counter(each.slot.key.region for each in view.replicas if each.state is ReplicaState.COMPLETED)
        assert complete == wanted, f"{view.version.name}: {complete}, wanted {wanted}"
        assert len(view.replicas) == sum(wanted.values())
        assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert {each.provisioning_state for each in made} <= {ProvisioningState.SUCCEEDED}
    return frozenset(str(view.version.name) for view in views) | {each.name for each in made}


def _audit_charges(installation: Installation) -> None:
    """Check that each version was charged once per region."""
    rows = [row for row in charges(installation) if row.kind is ChargeKind.EGRESS]
    crossings = Counter((row.party.version, row.target) for row in rows)
    assert set(crossings.values()) <= {1}, f"charged twice: {crossings}"
