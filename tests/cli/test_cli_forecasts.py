"""`--what-if` of each command prints the effects on the bill, and changes nothing (invariant M16)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from tests.support.forecast_check import reading_only
from tests.support.sample_gallery import SampleImages, make_disk, open_home

pytest_plugins = ["tests.support.published_gallery"]

VERSION = ("-g", "rg", "-r", "g1", "-i", "ubuntu", "-e")
WIDER = ("--target-regions", "southcentralus=2", "northeurope")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, samples: SampleImages) -> Path:
    """With a version and a disk."""
    folder = tmp_path_factory.mktemp("forecasts") / "home"
    shutil.copytree(samples.home, folder)
    with open_home(folder) as installation:
        make_disk(installation, "d1")
    return folder


def run(home: Path, *words: str) -> Result:
    """Run a command, and check that no file and no row changes."""
    with open_home(home) as installation, reading_only(installation):
        return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore")


def told(home: Path, *words: str) -> Any:
    result = run(home, *words, "--what-if")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_forecasts_of_versions_and_disks(home: Path, samples: SampleImages) -> None:
    create = ("sig", "image-version", "create", *VERSION, "1.0.1", "--os-vhd-uri", str(samples.second))
    new = told(home, *create, *WIDER)
    assert 0 < new["deliveredBytes"] < new["wholeCopies"]["deliveredBytes"]
    assert isinstance(new["egress"], str), "a number would lose digits"
    wider = told(home, "sig", "image-version", "update", *VERSION, "1.0.0", *WIDER)
    assert {each["region"]: each["storedBytes"] > 0 for each in wider["regions"]} == {
        "eastus": False,
        "northeurope": True,
        "westus2": False,
    }
    gone = told(home, "sig", "image-version", "delete", *VERSION, "1.0.0")
    (heir,) = (each for each in gone["payers"] if each["disk"] == "d1")
    assert heir["storedBytesAfter"] > heir["storedBytesBefore"] > 0
    image = ("--gallery-image-reference", "rg/g1/ubuntu", "-l", "westus2")
    assert told(home, "disk", "create", "-g", "rg", "-n", "d2", *image)["storedBytes"] > 0
    far = ("--gallery-image-reference", "rg/g1/ubuntu", "-l", "northeurope", "--allow-remote")
    (region,) = told(home, "disk", "create", "-g", "rg", "-n", "d2", *far)["regions"]
    assert (region["region"], region["deliveredBytes"] > 0) == ("northeurope", True)
    copy = ("--source", "d1", "-l", "northeurope", "--allow-remote")
    assert told(home, "snapshot", "create", "-g", "rg", "-n", "s2", *copy)["regions"] == [region]
    file = ("--source", str(samples.second), "-l", "eastus")
    assert told(home, "disk", "create", "-g", "rg", "-n", "d3", *file)["storedBytes"] > 0
    assert told(home, "disk", "delete", "-g", "rg", "-n", "d1")["storedBytes"] < 0
    assert {each["inGraceBytes"] for each in told(home, "gc")["regions"]} == {0}


def test_tables_and_notes(home: Path) -> None:
    result = run(home, "sig", "image-version", "delete", *VERSION, "1.0.0", "--what-if", "-o", "table")
    heading, _, *rows = result.stdout.splitlines()
    assert heading.split() == ["Region", "DeliveredBytes", "Egress", "StoredBytes", "StoragePerMonth", "Seconds"]
    assert [row.split("  ")[0] for row in rows[-2:]] == ["total", "whole copies"]
    assert "WARNING: Next payer: rg/d1 pays for" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("disk", "create", "-g", "rg", "-n", "u", "--upload-type", "Upload", "--upload-size-bytes", "8589935104"),
        ("gc", "--unknown"),
    ],
)
def test_options_without_a_forecast_are_refused(home: Path, words: tuple[str, ...]) -> None:
    result = run(home, *words, "--what-if")
    assert result.exit_code == 2
    assert "--what-if" in result.stderr
