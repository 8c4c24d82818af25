"""``imgstore worker`` as a person, cron and a service manager run it; and --no-wait, which leaves work to it."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home

CREATE = (
    f"sig image-version create -g {GROUP} -r {GALLERY} -i {DEFINITION} -e 1.0.0 --os-vhd-uri disk.raw "
    "--target-regions southcentralus eastus --no-wait"
)
SHOW = f"sig image-version show -g {GROUP} -r {GALLERY} -i {DEFINITION} -e 1.0.0 --expand ReplicationStatus"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
    return tmp_path / "home"


def run(home: Path, line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env={"IMGSTORE_HOME": str(home)})


def ok(home: Path, line: str) -> Any:
    result = run(home, line)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_no_wait_and_a_worker_for_once(home: Path) -> None:
    result = run(home, CREATE)
    assert result.exit_code == 0, result.output
    assert "no worker was seen in the last minute: start `imgstore worker`" in result.stderr
    made = json.loads(result.stdout)
    assert made["properties"]["provisioningState"] == "Creating"
    assert [each["state"] for each in made["properties"]["replicationStatus"]["summary"]] == [
        "Completed",
        "Replicating",
    ]
    report = ok(home, "worker --once")
    assert report == {
        "completed": 1, "failed": [], "resting": 0, "nextRetryAt": None, "versionsWithoutSource": 0,
    }  # fmt: skip
    assert ok(home, SHOW)["properties"]["replicationStatus"]["aggregatedState"] == "Completed"
    row, asked, *_ = ok(home, f"monitor activity-log list -g {GROUP}")
    assert row["caller"].startswith("worker ")
    assert (row["operationName"]["value"], row["status"]["value"]) == ("imgstore/replicas/write", "Succeeded")
    assert (row["description"], row["resourceId"]) == ("eastus/0", made["id"])
    assert asked["operationName"]["value"] == "Microsoft.Compute/galleries/images/versions/write"
    # Invariant H2.
    assert "no worker" not in run(home, CREATE).stderr, "nothing is left to be made"


def test_a_single_run_of_a_worker_reports_its_failure(home: Path) -> None:
    ok(home, CREATE)
    zone = home / "regions" / "imgstore-eastus"
    zone.parent.mkdir(exist_ok=True)
    zone.symlink_to(zone)
    result = run(home, "worker --once")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert len(report["failed"]) == report["resting"] == 1
    assert report["nextRetryAt"]


def test_no_other_command_takes_no_wait(home: Path) -> None:
    result = run(home, f"sig delete -g {GROUP} -r {GALLERY} --no-wait")
    assert (result.exit_code, "--no-wait of 'az sig delete' is not supported" in result.output) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_with_success_on_sigterm(home: Path, number: int) -> None:
    environ = {**os.environ, "IMGSTORE_HOME": str(home)}
    line = [sys.executable, "-m", "imgstore", "worker", "--poll-seconds", "0.1"]
    with subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, text=True) as process:
        while not (listed := ok(home, "worker list")):
            assert process.poll() is None
        assert [(each["pid"], each["replicas"]) for each in listed] == [(process.pid, 0)]
        assert "no worker" not in run(home, CREATE).stderr
        while ok(home, SHOW)["properties"]["provisioningState"] != "Succeeded":
            assert process.poll() is None
        process.send_signal(number)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert (process.returncode, report["completed"]) == (0, 1)
    assert ok(home, "worker list") == []
