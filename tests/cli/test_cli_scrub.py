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


def told(result: Result, code: int) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


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


def test_rate_is_kept_and_a_wrong_rate_is_refused(home: Path) -> None:
    refused = run(home, "--rate", "fast")
    assert (refused.exit_code, "'fast' is not a bandwidth" in refused.stderr) == (1, True)
    done = told(run(home, "--rate", "1GB/s"), 0)
    for slot in done["slots"]:
        assert slot["beganAt"]
        assert slot["resumedFrom"] is None
        assert slot["bytesPerSecond"] > 0


def test_status_needs_a_line_without_options_of_a_scrub(tmp_path: Path) -> None:
    refused = run(tmp_path, "--status", "--rate", "1MB/s", "--sample=100", "--dry-run")
    assert (refused.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "without --sample, --dry-run, --rate" in refused.stderr
    assert told(run(tmp_path, "--status", "--only-show-errors"), 0) == []


def test_status_shows_when_each_slot_was_last_read(home: Path) -> None:
    before = told(run(home, "--status"), 0)
    assert [(each["lastScrubbed"], each["lastSample"], each["lostObjects"]) for each in before] == [(None, None, 0)] * 4
    told(run(home, "--sample", "50", "--seed", "1"), 0)
    sampled = told(run(home, "--status"), 0)
    assert {each["lastScrubbed"] for each in sampled} == {None}, "a sample reads not all objects"
    assert {each["lastSample"]["samplePercent"] for each in sampled} == {50.0}
    told(run(home), 0)
    told(run(home, "--sample", "50", "--seed", "1"), 0)
    after = told(run(home, "--status"), 0)
    assert all(each["lastScrubbed"] < each["lastSample"]["endedAt"] for each in after)
    assert all(each["ageSeconds"] >= 0 and each["runningSince"] is None for each in after)
    table = run(home, "--status", "-o", "table")
    assert table.exit_code == 0
    assert all(name in table.stdout for name in ("LastScrubbed", "AgeSeconds", "LostObjects"))


def test_lost_ranges_are_listed_in_json_and_in_the_table(home: Path) -> None:
    """Every copy of each segment of all slots is lost."""
    for path in (home / "regions").rglob("segments/*/*"):
        path.unlink()
    body = told(run(home), 1)
    for slot in body["slots"]:
        (loss,) = slot["losses"]
        (disk,) = loss["disks"]
        assert (disk["disk"], loss["intactDisks"], disk["moreLostRanges"]) == ("os", [], 0)
        assert disk["lostBytes"] == sum(each["length"] for each in disk["lostRanges"]) > 0
    status = run(home, "--status", "-o", "table")
    assert f"os {disk['lostBytes']} bytes at {disk['lostRanges'][0]['offset']}+" in " ".join(status.stdout.split())
    rest = len(disk["lostRanges"]) - 3
    assert f"and {rest} more" in " ".join(status.stdout.split())
