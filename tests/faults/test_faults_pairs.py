"""Tests of every pair of the locking table: one operation is held at a critical moment while the other runs completely.

Both orders are tested if the order matters. Each test states both ends. Refused operations are repeated. Afterwards
every byte is right, every transfer is charged once, and the stores contain exactly the named objects (`pairs_stage`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from pairs_stage import (
    Meeting,
    Moment,
    Operation,
    Stage,
    ask,
    collect_all,
    damage,
    prepare,
    scrub_all,
    settle,
    slots_in,
    work,
)

from imgstore.catalog.storage.deletion_marks import DeletionMarks
from imgstore.catalog.storage.ledger import Ledger
from imgstore.catalog.storage.manifests import Manifests
from imgstore.catalog.storage.replicas import Replicas
from imgstore.catalog.storage.works import Works
from imgstore.domain.errors import Conflict, ImageNotAvailable, ImgstoreError, NotFound, WorkHeld
from imgstore.domain.names import VersionName
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.object_keys import segment_key
from imgstore.operations.disks import disks
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.operations.maintenance import worker as replication_worker
from imgstore.operations.replication import copy as replication_copy
from imgstore.operations.replication import ingest as replication_ingest
from imgstore.operations.replication import slot_copy
from imgstore.operations.replication import targets as removing
from imgstore.operations.slots import removal, restore
from imgstore.policy.worker_queue import WorkerLimits
from imgstore.stores.directory import DirectoryStore
from imgstore.testing.engines import PostgreSQL
from imgstore.transfer.slot_access import SlotAccess
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    all_slots,
    charges,
    delete,
    export,
    export_disk,
    make_disk,
    publish,
    retarget,
    show,
    update,
)

LOCKING: Final = Path(__file__).parents[2] / "docs" / "internals" / "locking.md"

# -- who meets --------------------------------------------------------------------------------------------------------


def publishing_of(version: str, *bases: str) -> Operation:
    """Publish with 1.0.0 as base, which reuses its stored segments."""
    named = [VersionName.parse(base) for base in bases]

    def act(stage: Stage, installation: Installation) -> object:
        return publish(installation, stage.expected[version], version, ["southcentralus"], bases=named)

    return Operation(kind="publish", act=act, makes=frozenset({version}))


def disk_of(version: str, name: str = "d1", region: str = "eastus") -> Operation:
    return Operation(
        kind="create disk",
        act=lambda _stage, installation: make_disk(installation, name, region, version),
        makes=frozenset({name}),
    )


def export_of(version: str, name: str = "one") -> Operation:
    return Operation(
        kind="export",
        act=lambda stage, installation: export(installation, stage.folder / f"{name}.raw", "eastus", version),
    )


def targets_of(version: str, *targets: str) -> Operation:
    return Operation(kind="change targets", act=lambda _stage, installation: retarget(installation, targets, version))


def held_up(change: Operation) -> Operation:
    """The replica to remove still exists at the end, because a disk needs its manifest."""

    def act(stage: Stage, installation: Installation) -> None:
        change.act(stage, installation)
        with installation.catalog.reading() as transaction:
            leaving = {
                each.state for slot in all_slots(installation) for each in transaction.replicas.in_slot(slot.uid)
            }
        assert ReplicaState.DELETING in leaving, "nothing kept it"

    return Operation(kind=change.kind, act=act)


def deletion_of(version: str) -> Operation:
    return Operation(
        kind="delete version",
        act=lambda _stage, installation: delete(installation, version),
        removes=frozenset({version}),
    )


def disk_deletion_of(name: str) -> Operation:
    return Operation(
        kind="delete disk",
        act=lambda _stage, installation: disks.delete_disk(installation, ADMIN, group=GROUP, name=name),
        removes=frozenset({name}),
    )


PUBLISH: Final = publishing_of("1.2.0", "1.0.0")
PUBLISH_THE_SAME_DISK: Final = publishing_of("1.3.0", "1.0.0")
PUBLISH_WITHOUT_BASE: Final = publishing_of("1.2.0")
REPLICATE: Final = Operation(kind="replicate", act=lambda _stage, installation: work(installation))
"""Of 1.1.0 to eastus."""
REPLICATE_ONE: Final = Operation(
    kind="replicate",
    act=lambda _stage, installation: work(installation, WorkerLimits(replicas=1)),
)
MAKE: Final = disk_of("1.0.0")
MAKE_ANOTHER: Final = disk_of("1.0.0", "d2")
MAKE_SOUTH: Final = disk_of("1.0.0", "d1", "southcentralus")
MAKE_ANOTHER_SOUTH: Final = disk_of("1.0.0", "d2", "southcentralus")
MAKE_OF_THE_COPIED: Final = disk_of("1.1.0")
EXPORT: Final = export_of("1.0.0")
EXPORT_AGAIN: Final = export_of("1.0.0", "two")
EXPORT_OF_THE_COPIED: Final = export_of("1.1.0")
EXPORT_DISK: Final = Operation(
    kind="export", act=lambda stage, installation: export_disk(installation, stage.folder / "d0.raw", "d0")
)
LEAVE: Final = targets_of("1.0.0", "southcentralus=2")
TAG: Final = Operation(
    kind="change targets", act=lambda _stage, installation: update(installation, "1.0.0", tags={"a": "1"})
)
LEAVE_BASE: Final = targets_of("1.0.0", "southcentralus=1=Standard_ZRS", "eastus")
LEAVE_SOURCE: Final = targets_of("1.1.0", "southcentralus=1=Standard_ZRS", "eastus")
LEAVE_PUBLISHED: Final = targets_of("1.2.0", "southcentralus=1=Standard_ZRS")
LEAVE_COPIED: Final = targets_of("1.1.0", "southcentralus")
DELETE: Final = deletion_of("1.0.0")
DELETE_PUBLISHED: Final = deletion_of("1.2.0")
DELETE_COPIED: Final = deletion_of("1.1.0")
DELETE_DISK: Final = disk_deletion_of("d0")
DELETE_MADE: Final = disk_deletion_of("d1")
COLLECT: Final = Operation(kind="collect", act=lambda _stage, installation: collect_all(installation))
SCRUB: Final = Operation(kind="scrub", act=lambda _stage, installation: scrub_all(installation))

# -- where it is held -------------------------------------------------------------------------------------------------

WORK_OPEN: Final = Moment(owner=replication_ingest, name="find_damaged")
"""Publish: the work is open, and nothing was listed."""
LISTED: Final = Moment(owner=DirectoryStore, name="put", key="/fingerprints/")
"""Publish: the slot was listed, and listed segments are not sent again."""
ROWS_IN: Final = Moment(owner=DirectoryStore, name="put", key="/manifests/")
"""Publish, replicate: the rows are written, before the put of the manifest.

Make: pinned, before the put of the reference.
"""
ALL_IN: Final = Moment(owner=replication_ingest, name="complete_replica")
CLAIMED: Final = Moment(owner=slot_copy, name="plan_segments")
"""Replicate: the marks of needed segments are removed, before the listing."""
COPYABLE_KINDS: Final = Moment(owner=replication_copy, name="complete_replica")
READING: Final = Moment(owner=DirectoryStore, name="get", key="/segments/")
"""Export: pinned, before the read of the first segment."""
TOMBSTONE: Final = Moment(owner=removing, name="remove_replica")
"""Change targets: the replica is Deleting."""
LEFT: Final = Moment(owner=removal, name="remove_start_markers")
"""Change targets: the manifest rows are removed. The replica's row and the removal's work exist."""
MARKED: Final = Moment(owner=removal, name="_remove_owner")
"""Delete: the tombstone exists."""
ROWS_GONE: Final = Moment(owner=SlotAccess, name="remove", key="manifests/")
"""Delete: the rows are removed, before the objects."""
SURVEYED: Final = Moment(owner=maintenance_gc, name="_mark_segments")
DELETING: Final = Moment(owner=SlotAccess, name="remove", key="segments/")
"""Collect: the batch is recorded, before the request. In eastus first."""
DELETING_SOUTH: Final = Moment(owner=SlotAccess, name="remove", key="segments/", region="southcentralus")
FOUND: Final = Moment(owner=maintenance_scrub, name="_repair")
DEGRADED: Final = Moment(owner=DirectoryStore, name="put", key="/segments/")
"""Scrub: the replica is Degraded, before the put of the segment."""
READ_RIGHT: Final = Moment(owner=restore, name="complete_replica")
"""Scrub: the whole replica was read, before its state Completed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two operations, the moment of the hold, and both ends."""

    held: Operation
    at: Moment
    whole: Operation
    held_ends: type[ImgstoreError] | None = None
    whole_ends: type[ImgstoreError] | None = None
    waits: bool = False
    """Whether the second operation waits for the first."""
    may_end: tuple[type[ImgstoreError] | None, ...] = ()
    """Other allowed ends: after a wait, both operations run at the same time."""

    @property
    def pair(self) -> frozenset[str]:
        """The cell of the table."""
        return frozenset({self.held.kind, self.whole.kind})


def case(
    held: Operation,
    at: Moment,
    whole: Operation,
    whole_ends: type[ImgstoreError] | None = None,
    held_ends: type[ImgstoreError] | None = None,
    *,
    waits: bool = False,
    may_end: tuple[type[ImgstoreError] | None, ...] = (),
) -> Case:
    return Case(held=held, at=at, whole=whole, held_ends=held_ends, whole_ends=whole_ends, waits=waits, may_end=may_end)


CASES: Final = (
    # publish
    case(PUBLISH, LISTED, PUBLISH, waits=True),
    case(PUBLISH, LISTED, PUBLISH_THE_SAME_DISK),
    case(PUBLISH, ROWS_IN, REPLICATE),
    case(REPLICATE, ROWS_IN, PUBLISH),
    case(PUBLISH, ALL_IN, MAKE),
    case(MAKE, ROWS_IN, PUBLISH),
    case(PUBLISH, ALL_IN, EXPORT),
    case(EXPORT, READING, PUBLISH),
    case(PUBLISH, LISTED, LEAVE_PUBLISHED, WorkHeld),
    case(PUBLISH, WORK_OPEN, held_up(LEAVE_BASE)),
    case(LEAVE, TOMBSTONE, PUBLISH),
    case(PUBLISH, LISTED, DELETE_PUBLISHED, WorkHeld),
    case(PUBLISH, WORK_OPEN, DELETE, WorkHeld),
    case(DELETE, ROWS_GONE, PUBLISH_WITHOUT_BASE),
    case(PUBLISH, ROWS_IN, DELETE_DISK),
    case(DELETE_DISK, ROWS_GONE, PUBLISH),
    case(PUBLISH, LISTED, COLLECT),
    case(PUBLISH, ROWS_IN, COLLECT),
    case(PUBLISH, ALL_IN, COLLECT),
    case(COLLECT, SURVEYED, PUBLISH),
    case(COLLECT, DELETING_SOUTH, PUBLISH, waits=True),
    case(PUBLISH, ROWS_IN, SCRUB),
    case(SCRUB, FOUND, PUBLISH),
    # replicate
    case(REPLICATE, ROWS_IN, REPLICATE),
    case(REPLICATE, COPYABLE_KINDS, MAKE_OF_THE_COPIED, ImageNotAvailable),
    case(MAKE, ROWS_IN, REPLICATE),
    case(REPLICATE, COPYABLE_KINDS, EXPORT_OF_THE_COPIED, ImageNotAvailable),
    case(EXPORT, READING, REPLICATE),
    case(REPLICATE, ROWS_IN, LEAVE_COPIED, waits=True),
    case(REPLICATE, CLAIMED, LEAVE_SOURCE, waits=True),
    case(REPLICATE, CLAIMED, LEAVE),
    case(LEAVE, LEFT, REPLICATE),
    case(REPLICATE, COPYABLE_KINDS, DELETE_COPIED, WorkHeld),
    case(REPLICATE, CLAIMED, DELETE),
    case(DELETE_COPIED, MARKED, REPLICATE),
    case(REPLICATE, COPYABLE_KINDS, DELETE_DISK),
    case(DELETE_DISK, ROWS_GONE, REPLICATE),
    case(REPLICATE, CLAIMED, COLLECT),
    case(REPLICATE, ROWS_IN, COLLECT),
    case(COLLECT, SURVEYED, REPLICATE),
    case(COLLECT, DELETING, REPLICATE, waits=True),
    case(REPLICATE, COPYABLE_KINDS, SCRUB),
    case(SCRUB, FOUND, REPLICATE),
    case(SCRUB, READ_RIGHT, REPLICATE),
    # create disk
    case(MAKE, ROWS_IN, MAKE, waits=True),
    case(MAKE, ROWS_IN, MAKE_ANOTHER),
    case(MAKE, ROWS_IN, EXPORT),
    case(EXPORT, READING, MAKE),
    case(MAKE, ROWS_IN, held_up(LEAVE)),
    case(LEAVE, LEFT, MAKE, ImageNotAvailable),
    case(MAKE, ROWS_IN, DELETE, WorkHeld),
    case(DELETE, MARKED, MAKE, ImageNotAvailable),
    case(MAKE, ROWS_IN, DELETE_MADE, WorkHeld),
    case(MAKE, ROWS_IN, DELETE_DISK),
    case(DELETE_DISK, ROWS_GONE, MAKE),
    case(MAKE, ROWS_IN, COLLECT),
    case(COLLECT, DELETING, MAKE),
    case(MAKE, ROWS_IN, SCRUB),
    case(SCRUB, DEGRADED, MAKE, ImageNotAvailable),
    # export
    case(EXPORT, READING, EXPORT_AGAIN),
    case(EXPORT, READING, held_up(LEAVE)),
    case(LEAVE, TOMBSTONE, EXPORT, ImageNotAvailable),
    case(EXPORT, READING, DELETE, WorkHeld),
    case(DELETE, MARKED, EXPORT, ImageNotAvailable),
    case(EXPORT_DISK, READING, DELETE_DISK, WorkHeld),
    case(DELETE_DISK, MARKED, EXPORT_DISK, NotFound),
    case(EXPORT, READING, COLLECT),
    case(COLLECT, DELETING, EXPORT),
    case(EXPORT_DISK, READING, SCRUB),
    case(SCRUB, DEGRADED, EXPORT_DISK),
    # change targets
    case(LEAVE, TOMBSTONE, LEAVE),
    case(LEAVE, LEFT, LEAVE),
    case(LEAVE, LEFT, DELETE, WorkHeld),
    case(DELETE, MARKED, LEAVE, NotFound),
    case(LEAVE, TOMBSTONE, DELETE_DISK),
    case(LEAVE, LEFT, DELETE_DISK),
    case(DELETE_DISK, ROWS_GONE, LEAVE),
    case(LEAVE, TOMBSTONE, COLLECT),
    case(COLLECT, SURVEYED, LEAVE),
    case(LEAVE, TOMBSTONE, SCRUB),
    case(SCRUB, FOUND, LEAVE),
    case(SCRUB, READ_RIGHT, LEAVE, waits=True),
    # delete version
    case(DELETE, ROWS_GONE, DELETE),
    case(DELETE, MARKED, DELETE_DISK),
    case(DELETE_DISK, MARKED, DELETE),
    case(DELETE, ROWS_GONE, COLLECT),
    case(COLLECT, SURVEYED, DELETE),
    case(DELETE, MARKED, SCRUB),
    case(SCRUB, FOUND, DELETE),
    case(SCRUB, READ_RIGHT, DELETE, WorkHeld),
    # delete disk
    case(DELETE_DISK, ROWS_GONE, DELETE_DISK),
    case(DELETE_DISK, ROWS_GONE, COLLECT),
    case(COLLECT, SURVEYED, DELETE_DISK),
    case(DELETE_DISK, ROWS_GONE, SCRUB),
    case(SCRUB, FOUND, DELETE_DISK),
    # collect and scrub
    case(COLLECT, SURVEYED, COLLECT),
    case(COLLECT, DELETING, COLLECT),
    case(COLLECT, DELETING, SCRUB),
    case(SCRUB, FOUND, COLLECT),
    case(SCRUB, DEGRADED, COLLECT),
    case(SCRUB, DEGRADED, SCRUB),
    case(SCRUB, READ_RIGHT, SCRUB),
)


# -- inside a transaction, where rows are locked ----------------------------------------------------------------------

CHOSEN: Final = Moment(owner=Works, name="open")
"""Make: the replica was chosen and the row written, before the work."""
PINNED: Final = Moment(owner=Works, name="lease")
"""Make, export: the replica was chosen and its manifest pinned, not visible yet."""
RECORDED: Final = Moment(owner=Works, name="update_plan")
"""Publish: the manifest's row names its segments."""
COMPLETING: Final = Moment(owner=Works, name="complete")
CHARGING: Final = Moment(owner=Ledger, name="add")
MOVING: Final = Moment(owner=Replicas, name="move")
"""Replicate: begins a replica. Change targets: creates a tombstone. Scrub: degrades a replica."""
CONDEMNING: Final = Moment(owner=DeletionMarks, name="add")
TAKING: Final = Moment(owner=DeletionMarks, name="begin_deleting")
COUNTING_USERS: Final = Moment(owner=Manifests, name="count_body_users")
"""Change targets, delete: a row is removed, before the decision about the object."""

INSIDE: Final = (
    case(PUBLISH, COMPLETING, LEAVE_PUBLISHED, waits=True),
    case(PUBLISH, COMPLETING, DELETE_PUBLISHED, waits=True, may_end=(NotFound,)),
    case(PUBLISH, RECORDED, COLLECT, waits=True),
    case(COLLECT, CONDEMNING, REPLICATE, waits=True),
    case(REPLICATE, MOVING, REPLICATE),
    case(REPLICATE, MOVING, LEAVE_COPIED, waits=True),
    case(REPLICATE, MOVING, DELETE_COPIED, WorkHeld, waits=True, may_end=(None,)),
    case(SCRUB, MOVING, REPLICATE, waits=True),
    case(MAKE, PINNED, LEAVE, waits=True),
    case(MAKE, PINNED, DELETE, Conflict, waits=True),
    case(EXPORT, PINNED, LEAVE, waits=True),
    case(EXPORT, PINNED, DELETE, Conflict, waits=True),
    case(EXPORT_DISK, PINNED, DELETE_DISK, Conflict, waits=True),
    case(SCRUB, MOVING, MAKE, waits=True),
    case(LEAVE, MOVING, LEAVE, waits=True),
    case(LEAVE, MOVING, DELETE, waits=True, may_end=(WorkHeld, NotFound)),
    case(LEAVE, COUNTING_USERS, DELETE_DISK, waits=True),
    case(DELETE_DISK, COUNTING_USERS, DELETE, waits=True),
    case(DELETE_DISK, COUNTING_USERS, DELETE_DISK, waits=True, may_end=(NotFound,)),
    case(COLLECT, TAKING, COLLECT, waits=True),
)

ELSEWHERE: Final = {
    "publish/publish": "operations/test_operations_versions.py::test_a_worker_that_lost_its_lease_changes_nothing",
    "publish/change targets": "operations/test_operations_target_regions.py::test_update_during_the_ingest_is_not_lost",
    "publish/collect": "operations/test_operations_gc.py::test_publishing_races_collection_on_postgresql",
    "replicate/replicate": "operations/test_operations_workers.py::test_eight_workers_on_one_queue_on_postgresql",
    "replicate/change targets": "operations/test_operations_target_regions.py::"
    "test_region_removed_during_its_copy_stops_only_this_copy",
    "create disk/create disk": "catalog/test_catalog_works.py::test_sixteen_threads_place_evenly",
    "create disk/change targets": "operations/test_operations_target_regions.py::"
    "test_disk_made_during_the_removal_of_its_region_is_complete_or_refused",
    "export/export": "operations/test_operations_versions.py::test_many_read_the_same_replica_at_once",
    "change targets/change targets": "operations/test_operations_target_regions.py::"
    "test_two_concurrent_updates_of_a_version",
    "collect/collect": "faults/test_faults_gc.py::test_killed_now_and_then",
}
"""Other tests of some pairs: parallel runs, races without a held moment, and killed processes."""


@pytest.fixture(autouse=True)
def _looks_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not let a worker wait two seconds if other workers hold every version."""
    monkeypatch.setattr(replication_worker, "_LOOKS_MAX", 2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return prepare(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def prepared_rows(postgresql_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with postgresql_server.database() as url:
        yield prepare(tmp_path_factory.mktemp("rows"), url)


@pytest.fixture
def rows(prepared_rows: Stage, postgresql_server: PostgreSQL, tmp_path: Path) -> Iterator[Stage]:
    """The stage on PostgreSQL."""
    with postgresql_server.database(like=prepared_rows.database) as url:
        yield prepared_rows.copied(tmp_path, url)


def told(case: Case) -> str:
    names = {id(value): name for name, value in globals().items() if name.isupper()}
    whole = names.get(id(case.whole), case.whole.kind.replace(" ", "_"))
    return f"{names[id(case.held)]}-{names[id(case.at)]}-{whole}".lower()


@pytest.mark.parametrize("case", CASES, ids=told)
def test_one_is_held_while_the_other_runs(prepared: Stage, tmp_path: Path, case: Case) -> None:
    meet(prepared.copied(tmp_path), Meeting(case.at), case)


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("case", INSIDE, ids=told)
def test_one_is_held_inside_its_transaction(rows: Stage, case: Case) -> None:
    # Invariant L3.
    meet(rows, Meeting(case.at, rows.waits_for_lock), case)


def remove_unnamed_segments(installation: Installation, region: str) -> None:
    """Remove the segments that no complete manifest of a region names. A copy pays for no segment that its slot holds."""
    for slot in slots_in(installation, region):
        with installation.catalog.reading() as transaction:
            ids = transaction.manifests.segment_ids_in_slot(slot.uid)
            named = {segment_key(row.name) for row in transaction.segments.rows(slot.key.pool_uid, ids)}
        store = installation.locator.store(slot)
        listed = [info.key.removeprefix(slot.prefix) for info in store.list(f"{slot.prefix}segments/")]
        store.delete([f"{slot.prefix}{key}" for key in listed if key not in named])


@pytest.mark.engine("postgresql")
def test_of_two_versions_that_come_to_a_region_at_once_the_first_pays_for_what_they_share(rows: Stage) -> None:
    with rows.open() as installation:
        ask(installation, rows, "1.4.0", ["southcentralus", "eastus=1=Premium_LRS"])
        remove_unnamed_segments(installation, "eastus")
    both = case(REPLICATE_ONE, CHARGING, REPLICATE, waits=True)
    meet(rows, Meeting(both.at, rows.waits_for_lock), both)
    with rows.open() as installation:
        came = {row.party.version: row.delivered_bytes for row in charges(installation) if row.target == "eastus"}
    assert sorted([came["1.1.0"] > 0, came["1.4.0"] > 0]) == [False, True]


@pytest.mark.engine("postgresql")
def test_two_disks_at_once_use_different_replicas(rows: Stage) -> None:
    both = case(MAKE_SOUTH, CHOSEN, MAKE_ANOTHER_SOUTH, waits=True)
    meet(rows, Meeting(both.at, rows.waits_for_lock), both)
    with rows.open() as installation:
        made = disks.list_disks(installation, ADMIN)
    assert {each.replica for each in made if each.name != "d0"} == {0, 1}


@pytest.mark.engine("postgresql")
def test_of_two_changes_of_a_version_at_once_none_is_lost(rows: Stage) -> None:
    both = case(LEAVE, MOVING, TAG, waits=True)
    meet(rows, Meeting(both.at, rows.waits_for_lock), both)
    with rows.open() as installation:
        version = show(installation).version
    assert (dict(version.tags), [each.name for each in version.target_regions]) == ({"a": "1"}, ["southcentralus"])


def tables() -> list[list[list[str]]]:
    """Return the cells of the two tables of the page, without the lines below their heads."""
    chapter = LOCKING.read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in chapter.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip(" *") for cell in line.strip()[1:-1].split("|")] for line in (lines[0], *lines[2:])]
        for lines in blocks
    ]


def table() -> set[frozenset[str]]:
    """Return the pairs of the locking table: first row, first column, and non-empty cells."""
    head, *body = tables()[0]
    return {
        frozenset({name, column}) for name, *cells in body for column, cell in zip(head[1:], cells, strict=True) if cell
    }


def test_every_pair_of_the_table_has_a_case() -> None:
    pairs, driven = table(), {each.pair for each in (*CASES, *INSIDE)}
    assert len(pairs) == 45
    # Invariant L5.
    assert pairs == driven, f"no test: {pairs - driven}; not in the table: {driven - pairs}"


@pytest.mark.parametrize("pair", ELSEWHERE)
def test_what_drives_a_pair_elsewhere_is_there(pair: str) -> None:
    path, name = ELSEWHERE[pair].split("::")
    assert frozenset(pair.split("/")) in table()
    assert f"def {name}(" in (Path(__file__).parents[1] / path).read_text(encoding="utf-8")


def meet(stage: Stage, meeting: Meeting, case: Case) -> None:
    with stage.open() as one, stage.another(meeting.effects) as other:
        if "scrub" in case.pair:
            damage(one)
        ends = meeting.run(lambda: case.held.act(stage, one), lambda: case.whole.act(stage, other))
        assert _kind(ends.held) in (case.held_ends, *case.may_end), f"{ends}"
        assert _kind(ends.whole) in (case.whole_ends, *case.may_end), f"{ends}"
        for error in (ends.held, ends.whole):
            assert error is None or not error.message.startswith("The manifest"), "a person is told of a row"
        assert ends.waited == case.waits
        settle(stage, one, [(case.held, ends.held), (case.whole, ends.whole)])


def _kind(error: ImgstoreError | None) -> type[ImgstoreError] | None:
    return None if error is None else type(error)
