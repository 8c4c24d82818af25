"""The code of the previous revision and this code run on one catalog during an upgrade (invariant L7)."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from imgstore.catalog.schema import REVISION
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.states import ProvisioningState
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.maintenance.worker import list_workers, run_worker
from tests.support.make_old_home import FIRST, SECOND, THIRD, Image, extract_code
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    audit,
    collect,
    create_sample_gallery,
    create_version,
    export,
    open_home,
    publish,
    request,
    show,
)

BEFORE: Final = f"{int(REVISION) - 1:04d}"
REGIONS: Final = ("southcentralus", "eastus")
NAMES: Final = ("-g", GROUP, "-r", GALLERY, "-i", DEFINITION)


@dataclass(frozen=True, slots=True)
class Before:
    """The last code of the previous revision."""

    code: Path
    environment: dict[str, str]

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command line during the block."""
        command = [sys.executable, "-m", "imgstore", *words]
        with subprocess.Popen(
            command, cwd=self.code, env=self.environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def run(self, *words: str) -> None:
        """Run a command line to its end."""
        command = [sys.executable, "-m", "imgstore", *words]
        done = subprocess.run(
            command, cwd=self.code, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"


pytestmark = pytest.mark.long


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.engine("postgresql"))])
def database(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgresql"))


@pytest.fixture
def before(tmp_path: Path, database: str | None) -> Before:
    code = tmp_path / "before"
    try:
        extract_code(BEFORE, code)
    except (KeyError, OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the history of the repository has no code of revision {BEFORE}: {error}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMGSTORE_")}
    address = {} if database is None else {"IMGSTORE_DATABASE": database.replace("+psycopg", "")}
    return Before(code, environment | address | {"IMGSTORE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(code)})


def start_version(installation: Installation, version: str, image: Image, folder: Path) -> None:
    """Publish a version into the source region, and leave the copy to workers."""
    asked = request(version, REGIONS)
    create_version(installation, ADMIN, asked, wait=False, os_vhd_uri=str(image.write(folder)))


def await_version(installation: Installation, version: str, process: subprocess.Popen[str]) -> None:
    pause = threading.Event()
    while show(installation, version).version.provisioning_state is not ProvisioningState.SUCCEEDED:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        pause.wait(0.1)


def test_worker_and_commands_of_the_code_before(before: Before, database: str | None, tmp_path: Path) -> None:
    """A worker of the previous code runs during the upgrade, and then makes a replica of a version of this code."""
    before.run("group", "create", "-n", GROUP, "-l", "southcentralus")
    with before.started("worker") as worker, open_home(tmp_path / "home", database=database) as installation:
        create_sample_gallery(installation)
        start_version(installation, "1.0.0", FIRST, tmp_path)
        await_version(installation, "1.0.0", worker)
        (listed,) = list_workers(installation, ADMIN)
        assert listed.code_revision in (None, BEFORE)
        # A new process of the previous code opens the expanded catalog, and its version has bases of this code.
        second = SECOND.write(tmp_path)
        words = ("sig", "image-version", "create", *NAMES, "-e", "2.0.0", "--os-vhd-uri", str(second))
        before.run(*words, "--target-regions", *REGIONS, "--no-wait")
        publish(installation, THIRD.write(tmp_path), "3.0.0", REGIONS)
        before.run("gc", "--yes")
        before.run("scrub")
        await_version(installation, "2.0.0", worker)
    with open_home(tmp_path / "home", database=database) as installation:
        run_worker(installation, ADMIN, once=True)
        collect(installation)
        assert not any(each.damaged for each in scrub(installation, ADMIN, ScrubRequest()))
        audit(installation, collected=True)
        for version, image in (("1.0.0", FIRST), ("2.0.0", SECOND), ("3.0.0", THIRD)):
            export(installation, tmp_path / "exported.raw", "eastus", version)
            assert (tmp_path / "exported.raw").read_bytes() == image.content()
