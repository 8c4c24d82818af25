"""``imgstore bench`` as a person and a script meet it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks import export as disks_export
from tests.support.sample_disks import make_raw


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "golden.raw", seed=9, virtual_bytes=16 * MIB, content_bytes=5 * MIB)


def run(tmp_path: Path, *words: str | Path) -> Result:
    line = ["bench", "--home", str(tmp_path / "home"), *map(str, words)]
    return CliRunner().invoke(main, line, prog_name="imgstore")


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "home").rglob("*") if path.is_file() and "replica-0" in path.parts]


def test_the_cost_is_printed_and_nothing_is_written(tmp_path: Path, disk: Path) -> None:
    plan = told(run(tmp_path, disk, "--dry-run", "--target-regions", "westus2"))
    assert (plan["location"], plan["targetRegions"]) == ("southcentralus", ["westus2"])
    assert plan["atMost"]["deliveredBytes"] == plan["dataBytes"] > 5 * MIB
    assert plan["atMost"]["egress"] > 0
    assert kept(tmp_path) == []


def test_figures_for_each_region(tmp_path: Path, disk: Path) -> None:
    result = run(tmp_path, disk, "--yes", "--disks", "2", "--target-regions", "westus2", "eastus")
    body = told(result)
    assert [each["region"] for each in body["regions"]] == ["southcentralus", "westus2", "eastus"]
    assert body["uploadSeconds"] > 0
    assert body["regions"][1]["replicateSeconds"] > 0
    assert "The run costs at most" in result.stderr
    assert "imgstore-bench" in result.stderr
    assert kept(tmp_path) == []


def test_as_a_table(tmp_path: Path, disk: Path) -> None:
    result = run(tmp_path, disk, "--yes", "--disks", "1", "--target-regions", "", "-o", "table", "--only-show-errors")
    assert result.exit_code == 0, result.output
    head, _, line = result.stdout.splitlines()
    assert head.split()[:2] == ["Region", "UploadSeconds"]
    assert line.split()[0] == "southcentralus"
    assert result.stderr == ""


def test_without_a_terminal_a_confirmation_option_is_required(tmp_path: Path, disk: Path) -> None:
    result = run(tmp_path, disk)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "The run costs at most" in result.stderr
    assert "Use --yes" in result.stderr
    assert kept(tmp_path) == []


def test_a_polite_kill_leaves_nothing_either(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks_export, "export_disk", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    result = run(tmp_path, disk, "--yes", "--disks", "1", "--target-regions", "westus2")
    assert result.exit_code == 130, result.output
    assert kept(tmp_path) == []
    assert told(CliRunner().invoke(main, ["group", "list", "--home", str(tmp_path / "home")])) == []
