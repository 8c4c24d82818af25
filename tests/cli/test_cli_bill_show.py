"""The filters and months of `bill show`: a value that selects no charge by mistake is refused, and never a bill of 0."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from tests.support.sample_gallery import open_home
from tests.support.sealed_ledger import add_entries


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
