"""The filters and months of `bill show`: a value that selects no charge by mistake is refused, and never a bill of 0."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, SampleImages, make_disk, open_home, publish
from tests.support.sealed_ledger import add_entries

DELETE = ["sig", "image-version", "delete", "-g", GROUP, "-r", GALLERY, "-i", DEFINITION, "-e", "2.0.0", "--yes"]

pytest_plugins = ["tests.support.published_gallery"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home with charges in two regions in March 2026."""
    path = tmp_path_factory.mktemp("show") / "home"
    with open_home(path) as installation:
        add_entries(installation, range(1, 9), closed=range(1, 4))
    return path


def show(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), "bill", "show", *words, "-o", "json"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--filter", "region"], "has no value"),
        (["--filter", "region=eastus", "--filter", "region=westus2"], "several values"),
        (["--filter", "tag:team=a", "--filter", "tag:Team=b"], "several values"),
        (["--month", "9999-12"], "is no month"),
        (["--month", "0000-01"], "is no month"),
    ],
)
def test_filters_and_months_without_charges_are_refused(home: Path, words: list[str], reason: str) -> None:
    result = show(home, "--by", "type", *words)
    assert result.exit_code, result.output
    assert reason in result.output


def test_a_filter_takes_each_name_of_a_region(home: Path) -> None:
    bills = [show(home, "--by", "type", "--filter", f"region={name}").stdout for name in ("westus2", "West US 2")]
    assert bills[0] == bills[1]
    assert Decimal(json.loads(bills[0])["totals"][0]["amount"]) > 0


def test_shared_bytes_name_the_payer_and_the_other_owners(published: Installation, samples: SampleImages) -> None:
    """JSON, table and CSV name the owners. The rows add up to the total."""
    publish(published, samples.second, "1.0.1", ["southcentralus"])
    make_disk(published, "d1", "southcentralus", "1.0.1")
    body = json.loads(show(published.home, "--shared").stdout)
    first, second, disk = (
        f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0",
        f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.1",
        f"{GROUP}/d1",
    )
    owners = {first: "1.0.0", second: "1.0.1", disk: None}
    for row in body["rows"]:
        assert row["payer"]["version"] in owners.values()
        assert row["payer"]["subscription"] == published.subscription
    assert body["storedBytes"] == sum(row["storedBytes"] for row in body["rows"]) > 0
    headings, lines = sheet(published.home, "--shared")
    assert headings == ["Region", "Type", "Replica", "StoredBytes", "Payer", "SharedWith"]
    assert {(row["Payer"], row["SharedWith"]) for row in lines} >= {(first, f"{second}, {disk}"), (second, disk)}
    assert sum(int(row["StoredBytes"]) for row in lines) == body["storedBytes"], "a document has no totals"
    table = CliRunner().invoke(main, ["--home", str(published.home), "bill", "show", "--shared", "-o", "table"]).stdout
    assert f"{second}, {disk}" in table
    assert table.splitlines()[-1].split() == ["total", str(body["storedBytes"])]
    refused = show(published.home, "--shared", "--by", "region")
    assert refused.exit_code == 2
    assert "--shared" in refused.output


def test_shared_bytes_of_an_empty_home_are_none(tmp_path: Path) -> None:
    assert json.loads(show(tmp_path / "home", "--shared").stdout) == {"rows": [], "storedBytes": 0}
    assert sheet(tmp_path / "home", "--shared") == (
        ["Region", "Type", "Replica", "StoredBytes", "Payer", "SharedWith"],
        [],
    )


def sheet(home: Path, *words: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the headings and the rows of a CSV document."""
    result = CliRunner().invoke(main, ["--home", str(home), "bill", "show", *words, "-o", "csv"])
    assert result.exit_code == 0, result.output
    reader = csv.DictReader(result.stdout.splitlines())
    rows = list(reader)
    return list(reader.fieldnames or ()), rows


@pytest.mark.parametrize("words", [[], ["--by", "region"]])
def test_csv_has_the_same_columns_without_charges_and_no_totals(home: Path, tmp_path: Path, words: list[str]) -> None:
    headings, rows = sheet(home, *words)
    assert sheet(tmp_path / "empty", *words) == (headings, [])
    total = json.loads(show(home, *words).stdout)["totals"][0]["amount"]
    assert sum(Decimal(row["Amount"]) for row in rows) == Decimal(total) > 0


def test_a_line_of_the_table_is_a_charge_and_csv_names_its_entry(published: Installation) -> None:
    body = json.loads(show(published.home).stdout)
    _, rows = sheet(published.home)
    assert [row["Entries"].split() for row in rows] == [row["entries"] for row in body["rows"]]
    assert {(row["Month"], row["Group"]) for row in rows} == {(row["month"], GROUP) for row in body["rows"]}
    table = CliRunner().invoke(main, ["--home", str(published.home), "bill", "show", "-o", "table"]).stdout
    assert table.count(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0") == len(body["rows"])
    assert "rounded half to even" in table


def test_an_explanation_says_why_the_segments_of_a_removed_version_are_unknown(
    published: Installation, samples: SampleImages
) -> None:
    publish(published, samples.second, "2.0.0", ["southcentralus", "eastus"])
    entry = next(
        row["entries"][0]
        for row in json.loads(show(published.home).stdout)["rows"]
        if row["version"] == "2.0.0" and row["kind"] == "egress"
    )

    def explain() -> dict[str, object]:
        result = CliRunner().invoke(main, ["--home", str(published.home), "bill", "explain", entry])
        return dict(json.loads(result.stdout))

    before = explain()
    assert before["segmentBytes"]
    assert before["segmentNote"] is None
    assert CliRunner().invoke(main, ["--home", str(published.home), *DELETE]).exit_code == 0
    after = explain()
    assert after["segmentBytes"] is None
    assert "removed" in str(after["segmentNote"])
    assert (after["bytes"], after["parts"]) == (before["bytes"], before["parts"])
