"""Test the chart of the bill: its numbers equal the bill, and its bars have the heights of the numbers."""

import csv
import datetime as dt
import json
import re
import struct
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.commands.operator.billing.cost_chart import REGIONS_MAX, describe_costs, draw_costs
from imgstore.cli.main import main
from imgstore.ledger.months import Month
from imgstore.ledger.statements.daily_costs import DailyCosts
from imgstore.ledger.statements.statement import Total
from tests.support.sample_gallery import open_home
from tests.support.sealed_ledger import add_entries

SVG = "{http://www.w3.org/2000/svg}"
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


def run(home: Path, line: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *line.split(), "-o", "json"])


def ok(home: Path, line: str) -> object:
    result = run(home, line)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home with charges and storage in two regions in March 2026."""
    path = tmp_path_factory.mktemp("plot") / "home"
    with open_home(path) as installation:
        add_entries(installation, range(1, 9), closed=range(1, 4), opened=range(5, 6))
    return path


def numbers_of(svg: bytes) -> list[dict[str, str]]:
    (description,) = ET.fromstring(svg).iter(DESCRIPTION)
    return list(csv.DictReader((description.text or "").strip().splitlines()))


def make_costs(regions: Sequence[str], currency: str, month: Month, unit: str) -> DailyCosts:
    last = (month.end - month.begin).days
    amounts = {
        (dt.date(month.year, month.number, day), region): Decimal(unit) * day * (place + 1)
        for place, region in enumerate(regions)
        for day in (1, 2, last)
    }
    total = sum(amounts.values(), Decimal(0))
    return DailyCosts(
        month=month,
        total=Total(currency=currency, amount=total, due=round(total, 2)),
        regions=tuple(regions),
        amounts=amounts,
    )


@pytest.mark.parametrize("by", ["day", "region"])
def test_numbers_of_the_chart_equal_the_bill(home: Path, tmp_path: Path, by: str) -> None:
    file = tmp_path / "cost.svg"
    ok(home, f"bill plot --month 2026-03 --file {file}")
    numbers = numbers_of(file.read_bytes())
    bill = ok(home, f"bill show --month 2026-03 --by {by}")
    assert isinstance(bill, dict)
    assert {row["name"] for row in bill["rows"]} == {each[by] for each in numbers}
    assert len(numbers) > 30
    for row in bill["rows"]:
        drawn = sum(Decimal(each["amount"]) for each in numbers if each[by] == row["name"])
        assert abs(drawn - Decimal(row["amount"])) <= Decimal("1e-12") * len(numbers)


def test_bars_have_the_heights_of_the_numbers() -> None:
    """Each bar is a path of an SVG file. The scale is the same for all bars."""
    costs = make_costs(["westus2"], "USD", Month(2026, 2), "0.5")
    svg = ET.fromstring(draw_costs([costs], "sub", "svg"))
    bars = [each for each in svg.iter(f"{SVG}path") if "stroke: #ffffff" in each.get("style", "")]
    heights = []
    for bar in bars:
        places = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", bar.get("d", ""))]
        heights.append(max(places) - min(places))
    drawn = [height for height in heights[:28] if height]
    assert len(heights) >= 28
    assert [round(height / drawn[0], 3) for height in drawn] == [1, 2, 28]


@pytest.mark.parametrize("file_format", ["svg", "png"])
@pytest.mark.parametrize(
    "costs",
    [
        [make_costs([], "USD", Month(2026, 11), "1")],
        [make_costs(["westus2", "eastus"], "USD", Month(2026, 2), "-0.5")],
        [make_costs(["westus2"], "USD", Month(2026, 2), "0.000000000001")],
        [make_costs([f"region $x_{{{number}}}$" for number in range(REGIONS_MAX + 5)], "USD", Month(2026, 12), "9e9")],
        [make_costs(["a" * 90, "b"], "EUR", Month(2024, 2), "1"), make_costs(["b"], "JPY", Month(2024, 2), "100")],
    ],
    ids=["no cost", "corrections", "one region and small amounts", "many regions and large amounts", "two currencies"],
)
def test_all_inputs_give_a_picture(costs: list[DailyCosts], file_format: str) -> None:
    picture = draw_costs(costs, "3195b2f8-88ab-4df0-854e-6569c5414f7f", file_format)
    if file_format == "png":
        assert picture.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", picture[16:24])
        assert width >= 1_000
        assert height == 576 * len(costs)
        assert describe_costs(costs).splitlines()[0].encode() in picture
        return
    text = picture.decode()
    for each in costs:
        assert f"{each.total.due:,f} {each.total.currency}" in text
    assert ("no cost in this month" in text) == (not costs[0].regions)
    assert (">5 more<" in text) == (len(costs[0].regions) > REGIONS_MAX)
    assert len(numbers_of(picture)) == sum(len(each.amounts) for each in costs)
    assert picture == draw_costs(costs, "3195b2f8-88ab-4df0-854e-6569c5414f7f", file_format)


def test_file_is_replaced_only_on_request(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "COST.PNG"
    answer = ok(home, f"bill plot --file {file}")
    assert isinstance(answer, dict)
    assert answer["regions"] == ["eastus"]
    before = file.read_bytes()
    refused = run(home, f"bill plot --month 2026-03 --file {file}")
    assert (refused.exit_code, file.read_bytes()) == (1, before)
    ok(home, f"bill plot --month 2026-03 --file {file} --overwrite")
    assert file.read_bytes() != before
    assert [each.name for each in tmp_path.iterdir()] == ["COST.PNG"]


@pytest.mark.parametrize("name", ["cost", "cost.pdf", "cost.svg.gz"])
def test_other_formats_are_refused(home: Path, tmp_path: Path, name: str) -> None:
    refused = run(home, f"bill plot --file {tmp_path / name}")
    assert refused.exit_code == 1
    assert ".svg or .png" in refused.output
    assert not list(tmp_path.iterdir())


def test_missing_library_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = run(home, f"bill plot --file {tmp_path / 'cost.svg'}")
    assert refused.exit_code == 1
    assert "imgstore-gallery[plot]" in refused.output
    assert not list(tmp_path.iterdir())
