"""The home of each former schema revision opens, and its work continues (invariants B17 and L7).

`tests/support/make_old_home.py` made the homes in `data/homes` with the code of each revision: version 1.0.0 in two
regions, a managed disk, a deleted version, and a copy of version 2.0.0 that was killed. Later revisions also have marks for
deletion (0004), a soft-deleted version (0005), a data disk (0006), a snapshot (0007) and a machine (0011).
"""

import errno
import json
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from _pytest.mark import ParameterSet

from imgstore.catalog import Catalog
from imgstore.catalog.schema import REVISION
from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreError
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.ledger.statements.statement import AMOUNT_UNIT, make_statement
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.seal import seal_now
from imgstore.operations.ledger_log.verify import verify_log
from imgstore.operations.machines import machines
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.maintenance.worker import run_worker
from imgstore.testing.engines import PostgreSQL
from imgstore.wire.responses.statement import statement_json
from tests.support.make_old_home import BILL, DATA, DUMP, FIRST, HOMES, SECOND, THIRD
from tests.support.mounted_folder import mount_folder
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    all_slots,
    audit,
    collect,
    content,
    export,
    export_disk,
    open_home,
    publish,
    show,
)

FORMER: Final = [f"{number:04d}" for number in range(1, int(REVISION))]
REVISIONS: Final = sorted(path.name.split(".")[0] for path in HOMES.iterdir())
"""The revisions with a home. The home of the present revision may be there already."""
ON_POSTGRESQL: Final = ("0001", "0016", REVISIONS[-1])
"""The revisions whose homes on PostgreSQL are opened in each run. `-m long` opens all homes."""
CATALOG: Final = "catalog.sqlite"
REGIONS: Final = ("westus2", "eastus")


def list_homes() -> Iterator[ParameterSet]:
    """Yield revision and engine of each home."""
    for revision in REVISIONS:
        yield pytest.param((revision, "sqlite"), id=f"{revision}-sqlite")
        is_long = [] if revision in ON_POSTGRESQL else [pytest.mark.long]
        marks = [pytest.mark.engine("postgresql"), *is_long]
        yield pytest.param((revision, "postgresql"), id=f"{revision}-postgresql", marks=marks)


FIRST_HOMES: Final = list(list_homes())[:2]


def test_each_former_revision_has_a_home() -> None:
    """A new migration needs the home of the previous revision: `python -m tests.support.make_old_home REVISION`."""
    assert [each for each in REVISIONS if each < REVISION] == FORMER


@dataclass(frozen=True, slots=True)
class OldHome:
    """An extracted home."""

    revision: str
    folder: Path
    database: str | None

    @contextmanager
    def opened(self) -> Iterator[Installation]:
        """Open and upgrade the home."""
        with open_home(self.folder, database=self.database) as installation:
            yield installation

    @property
    def url(self) -> str:
        """The address of the catalog."""
        return self.database or f"sqlite:///{self.folder / CATALOG}"

    def bill(self) -> dict[str, Any]:
        """Return the bill that the code of the revision printed."""
        found: dict[str, Any] = json.loads((self.folder / BILL).read_text(encoding="utf-8"))
        return found


@pytest.fixture(params=list_homes())
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OldHome]:
    revision, engine = request.param
    with tarfile.open(HOMES / f"{revision}.tar.xz") as archive:
        members = [each for each in archive if each.name.startswith(engine)]
        archive.extractall(tmp_path, members, filter="data")
    folder = tmp_path / engine
    if engine == "sqlite":
        yield OldHome(revision, folder, None)
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    with server.database() as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute((folder / DUMP).read_bytes())
        yield OldHome(revision, folder, url)


def test_home_of_a_former_revision(home: OldHome, tmp_path: Path) -> None:
    with home.opened() as installation:
        check_bill(installation, home.bill())
        check_content(installation, home.revision, tmp_path / "exported.raw")
        publish_next_version(installation, tmp_path)
        complete_killed_copy(installation, tmp_path / "exported.raw")
        collect(installation)
        check_log(installation)
        scrubbed = scrub(installation, ADMIN, ScrubRequest())
        assert [each.damaged for each in scrubbed] == [set()] * len(scrubbed)
        assert scrubbed
        audit(installation, collected=True)


INTERRUPTED: Final = """
import os, signal, sys
import alembic.command
from sqlalchemy import Engine, event
from imgstore.catalog import Catalog
from imgstore.domain.effects import Effects
url, *revisions = sys.argv[1:]
def start(revision=None):
    child = os.fork()
    if child:
        return child
    def kill(connection, cursor, statement, *more):
        if f"SET version_num='{revision}'" in statement:
            os.kill(os.getpid(), signal.SIGKILL)
    event.listen(Engine, "before_cursor_execute", kill)
    Catalog.open(url, Effects()).close()
    os._exit(0)
for revision in revisions:
    print(os.waitpid(start(revision), 0)[1])
for child in [start(), start(), start()]:
    print(os.waitpid(child, 0)[1])
"""
"""Open a catalog in processes that kill themselves in a migration, and then in three processes at once."""


def interrupt(home: OldHome, *revisions: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, home.url, *revisions]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    statuses = [str(int(signal.SIGKILL))] * len(revisions) + ["0"] * 3
    assert done.stdout.split() == statuses, done.stderr
    with home.opened() as installation:
        check_bill(installation, home.bill())


@pytest.mark.parametrize("home", FIRST_HOMES, indirect=True)
def test_killed_upgrade_leaves_the_former_revision(home: OldHome) -> None:
    """A process is killed in each of these migrations, and three processes then upgrade at once."""
    interrupt(home, "0006", "0027", REVISION)


@pytest.mark.long
@pytest.mark.parametrize("home", FIRST_HOMES, indirect=True)
def test_upgrade_killed_in_each_migration(home: OldHome) -> None:
    interrupt(home, *FORMER[1:], REVISION)


@pytest.mark.parametrize("home", FIRST_HOMES[:1], indirect=True)
def test_upgrade_on_a_full_disk(home: OldHome, tmp_path: Path) -> None:
    home.folder.rename(tmp_path / "backing")
    with mount_folder(tmp_path, {}) as mounted:
        url = f"sqlite:///{mounted.path / CATALOG}"
        for file in (f"{CATALOG}-wal:write", f"{CATALOG}:write"):
            mounted.set_rules({file: errno.ENOSPC})
            with pytest.raises(StoreError, match=r"ENOSPC|full"):
                Catalog.open(url, Effects()).close()
            mounted.set_rules({})
            assert read_revision(mounted.path / CATALOG) == home.revision
        Catalog.open(url, Effects()).close()
        assert read_revision(mounted.path / CATALOG) == REVISION


def read_revision(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found)


def check_bill(installation: Installation, recorded: dict[str, Any]) -> None:
    """The bill of the recorded time is unchanged, row by row."""
    until = max(datetime.fromisoformat(row["time"][:26] + row["time"][-6:]) for row in recorded["rows"])
    with installation.catalog.reading() as transaction:
        rows, intervals = transaction.ledger.rows(), transaction.ledger.intervals()
        prices = transaction.price_lists.all()
    present = statement_json(make_statement(rows, intervals, prices, until=until))
    assert len(present["rows"]) == len(recorded["rows"])
    difference = abs(Decimal(present["total"]) - Decimal(str(recorded["total"])))
    assert difference <= len(recorded["rows"]) * AMOUNT_UNIT, "the code of some revisions rounded each row"
    for new, old in zip(in_order(present["rows"]), in_order(recorded["rows"]), strict=True):
        amounts = {key: Decimal(str(old[key])).quantize(AMOUNT_UNIT) for key in ("amount", "unitPrice", "byteHours")}
        assert {key: Decimal(new[key]).quantize(AMOUNT_UNIT) for key in amounts} == amounts
        assert {key: value for key, value in old.items() if key not in amounts}.items() <= new.items()


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows in an order without ties. The code of some revisions left the order of equal times open."""
    keys = ("time", "kind", "target", "replica")
    return sorted(rows, key=lambda row: (*(row[key] for key in keys), Decimal(str(row["byteHours"]))))


def check_log(installation: Installation) -> None:
    """The ledger is intact before and after its next sealing."""
    assert verify_log(installation, ADMIN).findings == []
    seal_now(installation, ADMIN)
    report = verify_log(installation, ADMIN)
    assert (report.findings, report.unsealed) == ([], [])


def check_content(installation: Installation, revision: str, path: Path) -> None:
    names = {"group": GROUP, "gallery": GALLERY, "definition": DEFINITION}
    listed = gallery_versions.list_versions(installation, ADMIN, **names)
    assert [str(each.version.name) for each in listed] == ["1.0.0", "2.0.0"]
    first = show(installation, "1.0.0")
    assert first.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert {each.slot.key.region: each.state for each in first.replicas} == dict.fromkeys(
        REGIONS, ReplicaState.COMPLETED
    )
    for region in REGIONS:
        export(installation, path, region, "1.0.0")
        assert path.read_bytes() == FIRST.content()
    if revision >= "0006":
        export(installation, path, "eastus", "1.0.0", lun=3)
        assert path.read_bytes() == DATA.content()
    export_disk(installation, path, "d1")
    assert path.read_bytes() == FIRST.content()
    if revision >= "0011":
        assert [each.machine.name for each in machines.list_machines(installation, ADMIN, group=GROUP)] == ["vm1"]
    # A list would remove the version, because the retention is over.
    with installation.catalog.reading() as transaction:
        deleted = transaction.versions.list_soft_deleted(first.version.definition_uid)
    assert [str(each.name) for each in deleted] == ([] if revision < "0005" else ["0.9.0"])


def publish_next_version(installation: Installation, folder: Path) -> None:
    """A new version stores the changed blocks only, because it finds the blocks of the former versions."""
    (slot,) = [each for each in all_slots(installation) if each.key.region == "westus2"]
    before = content(installation, slot).segments
    published = publish(installation, THIRD.write(folder), "3.0.0", REGIONS)
    assert published.version.provisioning_state is ProvisioningState.SUCCEEDED
    new = content(installation, slot).segments.keys() - before.keys()
    assert len(new) == 1
    export(installation, folder / "exported.raw", "eastus", "3.0.0")
    assert (folder / "exported.raw").read_bytes() == THIRD.content()


def complete_killed_copy(installation: Installation, path: Path) -> None:
    assert {each.slot.key.region: each.state for each in show(installation, "2.0.0").replicas}["eastus"] in (
        ReplicaState.REPLICATING,
        ReplicaState.PENDING,
    )
    run_worker(installation, ADMIN, once=True)
    assert {each.state for each in show(installation, "2.0.0").replicas} == {ReplicaState.COMPLETED}
    export(installation, path, "eastus", "2.0.0")
    assert path.read_bytes() == SECOND.content()
