"""A home of commit e6cc63d opens, and its unfinished work continues.

`data/home-of-e6cc63d.tar.xz` was made by that commit's commands: version 1.0.0 with three replicas, a disk d1, a deleted
version 0.9.0 whose segment is marked for deletion, a copy of version 2.0.0 to eastus that was killed in the middle, and
a server that was killed while its operation created version 3.0.0 from a disk d2.
"""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imgstore.operations.leases import this_host

ARCHIVE = Path(__file__).parent / "data" / "home-of-e6cc63d.tar.xz"
VERSION = ("sig", "image-version")
DEFINITION = ("-g", "rg", "-r", "golden", "-i", "ubuntu")


class OldHome:
    """The extracted home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        self.environment = os.environ | {"IMGSTORE_HOME": str(folder / "home")}
        # The killed server of the archive becomes a process of this boot of this host: without a lease, only such a
        # process is known to be dead.
        with closing(sqlite3.connect(folder / "home/catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE operations SET holder = ? WHERE status = 'InProgress'", [f"{this_host()}/1/0"])

    def run(self, *words: str) -> Any:
        """Run a command, which must succeed, and return its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "imgstore", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout else None

    def replicas(self, version: str) -> dict[str, str]:
        """The state of each region of a version."""
        shown = self.run(*VERSION, "show", *DEFINITION, "-e", version, "--expand", "ReplicationStatus")
        return {each["region"]: each["state"] for each in shown["properties"]["replicationStatus"]["summary"]}

    def verify(self, version: str, file: str, region: str) -> None:
        """Compare the stored image in a region with the file that it was made from."""
        image = f"rg/golden/ubuntu/{version}"
        assert self.run("verify", "--file", file, "--image", image, "--location", region)["matches"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> OldHome:
    return OldHome(tmp_path_factory.mktemp("old"))


def test_old_content_is_served(home: OldHome) -> None:
    assert set(home.replicas("1.0.0").values()) == {"Completed"}
    home.verify("1.0.0", "first.raw", "westus2")
    home.run("disk", "export", "-g", "rg", "-n", "d1", "--file", "d1.raw")
    assert (home.folder / "d1.raw").read_bytes() == (home.folder / "first.raw").read_bytes()


def test_an_open_copy_is_completed(home: OldHome) -> None:
    assert home.replicas("2.0.0")["East US"] != "Completed"
    home.run("worker", "--once")
    assert set(home.replicas("2.0.0").values()) == {"Completed"}
    home.verify("2.0.0", "second.raw", "eastus")


def test_an_operation_in_progress_is_completed(home: OldHome) -> None:
    (operation,) = home.run("operation", "list", "--status", "InProgress")
    line = [sys.executable, "-m", "imgstore", "serve", "--dev-tls", "--port", "0"]
    with subprocess.Popen(line, env=home.environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert any(re.match("az login", text) for text in server.stdout)
            until = time.monotonic() + 120
            while (status := home.run("operation", "show", "--name", operation["name"])["status"]) == "InProgress":
                assert time.monotonic() < until, "the operation did not end"
        finally:
            server.terminate()
    assert status == "Succeeded"
    assert set(home.replicas("3.0.0").values()) == {"Completed"}
    home.verify("3.0.0", "third.raw", "northeurope")


def test_marked_segments_are_collected(home: OldHome) -> None:
    before = sum(
        slot["inGrace"]["objects"] + slot["deletable"]["objects"] for slot in home.run("gc", "--dry-run")["slots"]
    )
    assert before >= 1
    report = home.run("gc", "--yes", "--grace-hours", "0")
    assert sum(slot["collected"]["objects"] for slot in report["slots"]) >= 1
    home.verify("1.0.0", "first.raw", "southcentralus")
    assert not any(slot["damaged"] for slot in home.run("scrub")["slots"])
