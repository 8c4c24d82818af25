"""``imgstore scrub`` as a person and a script meet it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from tests.support.sample_gallery import SampleImages

pytest_plugins = ["tests.support.published_gallery"]


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    """With a segment of eastus flipped."""
    shutil.copytree(samples.home, tmp_path / "home")
    path = next((tmp_path / "home/regions/imgstore-eastus").rglob("segments/*/*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return tmp_path / "home"


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["scrub", "--home", str(home), *words], prog_name="imgstore")


def told(result: Result, code: int) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    body: dict[str, Any] = json.loads(result.stdout)
    return body


def test_found_repaired_and_sound(home: Path) -> None:
    only = told(run(home, "--dry-run", "--region", "eastus"), 1)
    (slot,) = only["slots"]
    assert (slot["damaged"], slot["repaired"], slot["unrepairedCount"]) == (1, 0, 1)
    assert slot["unrepaired"][0].startswith("segments/")
    mended = told(run(home, "--seed", "4"), 0)
    assert (mended["seed"], mended["samplePercent"], mended["dryRun"]) == (4, 100.0, False)
    assert sum(each["damaged"] for each in mended["slots"]) == sum(each["repaired"] for each in mended["slots"]) == 1
    assert sum(each["restoredReplicas"] for each in mended["slots"]) == 1
    again = run(home, "-o", "table")
    assert again.exit_code == 0
    assert all(name in again.stdout for name in ("Region", "StorageAccountType", "Replica", "Objects"))
    assert "scrub eastus/0: completed" in again.stderr


def test_a_sample_is_a_percentage(home: Path) -> None:
    assert run(home, "--sample", "101").exit_code == 2
    assert told(run(home, "--sample", "0"), 0)["samplePercent"] == 0.0
