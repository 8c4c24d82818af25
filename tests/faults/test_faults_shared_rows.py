"""Tests of operations that share a row of the locking table: pins and refusals, as in the second table."""

from pathlib import Path
from typing import Final

import pytest
from pairs_stage import Meeting, Moment, Operation, Stage
from test_faults_pairs import COLLECT, DELETE, MARKED, ROWS_IN, Case, case, disk_deletion_of, meet, prepared, tables

from imgstore.domain.errors import WorkHeld
from imgstore.domain.names import VersionName
from imgstore.domain.requests import DiskRequest, ImageRequest, MachineRequest, OsProfile
from imgstore.domain.resources import DiskKind, ReplicationMode
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.machines.create import create_machine
from imgstore.operations.versions import shallow
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, create_version, make_disk, request

__all__ = ["prepared"]

HERE: Final = "southcentralus"
SOURCE: Final = "ds"
"""A disk of 1.0.0 that exists before the meeting."""


def disk_of(kind: str, name: str, source: str, disk_kind: DiskKind = DiskKind.DISK) -> Operation:
    """Create a disk or snapshot in southcentralus from another disk, or from the file of a version."""

    def act(stage: Stage, installation: Installation) -> object:
        said = str(stage.expected[source]) if source != SOURCE else source
        asked = DiskRequest(group=GROUP, name=name, source=said, location=HERE, kind=disk_kind)
        return create_from_source(installation, ADMIN, asked)

    return Operation(kind=kind, act=act, makes=frozenset({name}) if disk_kind is DiskKind.DISK else frozenset())


def version_of(kind: str, version: str, mode: ReplicationMode) -> Operation:
    """Create a version in southcentralus from that disk."""

    def act(stage: Stage, installation: Installation) -> object:
        stage.expected[version] = stage.expected["1.0.0"]
        asked = request(version, [HERE], location=HERE, replication_mode=mode)
        return create_version(installation, ADMIN, asked, os_snapshot=SOURCE)

    return Operation(kind=kind, act=act, makes=frozenset({version}))


def _image(_stage: Stage, installation: Installation) -> object:
    asked = ImageRequest(group=GROUP, name="i1", source=SOURCE, data_sources=[SOURCE])
    return images.create_image(installation, ADMIN, asked)


def _machine(_stage: Stage, installation: Installation) -> object:
    asked = MachineRequest(
        group=GROUP,
        name="m1",
        location=HERE,
        image=f"{GROUP}/{GALLERY}/{DEFINITION}/{VersionName.parse('1.0.0')}",
        profile=OsProfile(admin_username="u"),
    )
    return create_machine(installation, ADMIN, asked)


TAKE_IN: Final = disk_of("take in a file", "t1", "1.1.0")
TAKE_IN_A_SNAPSHOT: Final = disk_of("take in a file", "t1", "1.1.0", DiskKind.SNAPSHOT)
COPY: Final = disk_of("copy a disk", "c1", SOURCE)
COPY_TO_A_SNAPSHOT: Final = disk_of("copy a disk", "s1", SOURCE, DiskKind.SNAPSHOT)
IMAGE: Final = Operation(kind="make a managed image", act=_image)
MACHINE: Final = Operation(kind="make a machine", act=_machine)
STORED: Final = version_of("publish what is stored", "2.0.0", ReplicationMode.FULL)
SHALLOW: Final = version_of("publish a Shallow version", "2.0.0", ReplicationMode.SHALLOW)

DELETE_SOURCE: Final = disk_deletion_of(SOURCE)

REFERENCES: Final = Moment(owner=shallow, name="complete_replica")
"""Shallow: the manifests are put, and the version is not visible yet."""

CASES: Final = (
    case(TAKE_IN, ROWS_IN, TAKE_IN, waits=True),
    case(TAKE_IN, ROWS_IN, COLLECT),
    case(TAKE_IN_A_SNAPSHOT, ROWS_IN, COLLECT),
    case(STORED, ROWS_IN, DELETE_SOURCE, WorkHeld),
    case(STORED, ROWS_IN, COLLECT),
    case(SHALLOW, ROWS_IN, SHALLOW, waits=True),
    case(SHALLOW, ROWS_IN, DELETE_SOURCE, WorkHeld),
    case(SHALLOW, REFERENCES, COLLECT),
    case(COPY, ROWS_IN, COPY, waits=True),
    case(COPY, ROWS_IN, DELETE_SOURCE),
    case(COPY, ROWS_IN, DELETE, WorkHeld),
    case(COPY_TO_A_SNAPSHOT, ROWS_IN, COLLECT),
    case(IMAGE, ROWS_IN, DELETE_SOURCE),
    case(IMAGE, ROWS_IN, DELETE, WorkHeld),
    case(IMAGE, ROWS_IN, COLLECT),
    case(MACHINE, ROWS_IN, MACHINE, waits=True),
    case(MACHINE, ROWS_IN, DELETE, WorkHeld),
    case(DELETE, MARKED, COPY),
)

ELSEWHERE: Final = {
    "attach a disk to a machine, or detach": "cli/test_cli_vm_power.py::test_a_disk_without_a_server_is_refused_and_stays_free",
    "start a machine": "cli/test_cli_vm_power.py::test_killed_processes_leave_a_clear_state_and_the_next_start_works",
    "update instances of a scale set": "operations/test_operations_rolling_update.py::test_one_process_updates_a_set",
    "take in an upload": "operations/test_operations_uploads.py::test_open_upload_is_not_ingested",
    "delete a machine": "operations/test_operations_machines.py::test_deleting_a_machine_leaves_its_disks",
    "soft delete": "operations/test_operations_lifetimes.py::test_due_version_in_use_is_removed_after_the_read",
}


def told(case: Case) -> str:
    return f"{case.held.kind}-{case.at.name}-{case.whole.kind}".replace(" ", "_").lower()


@pytest.mark.parametrize("case", CASES, ids=told)
def test_one_is_held_while_the_other_runs(prepared: Stage, tmp_path: Path, case: Case) -> None:
    stage = prepared.copied(tmp_path)
    own = Stage(folder=stage.folder, expected={**stage.expected, SOURCE: stage.expected["1.0.0"]})
    with own.open() as installation:
        make_disk(installation, SOURCE, HERE, "1.0.0")
    meet(own, Meeting(case.at), case)


def test_every_row_of_the_second_table_has_a_case() -> None:
    rows, lines = tables()
    known = {name for name, *_ in rows[1:]}
    shared = {operation: row for operation, row, _ in lines[1:]}
    assert set(shared.values()) <= known
    driven = {each.kind for case in CASES for each in (case.held, case.whole)} - known
    assert driven | ELSEWHERE.keys() == shared.keys()


@pytest.mark.parametrize("operation", ELSEWHERE)
def test_what_is_driven_elsewhere_is_there(operation: str) -> None:
    path, name = ELSEWHERE[operation].split("::")
    assert f"def {name}(" in (Path(__file__).parents[1] / path).read_text(encoding="utf-8")
