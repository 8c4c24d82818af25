import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import jmespath
import pytest
import yaml

from imgstore.cli.framework.global_options import Globals
from imgstore.cli.framework.output import Table, columns, csv_lines, emit, scalars
from imgstore.wire.json_text import Json

ROWS = [
    {"name": "a", "id": "/x/a", "location": "westus", "count": 7, "tags": {"k": "v"}, "on": True, "none": None},
    {"name": "long\tname", "id": "/x/b", "location": "eastus", "count": 12345, "tags": {}, "on": False, "none": None},
]
BILL = {"total": Decimal("0.30"), "rows": [{"amount": Decimal("0.1")}, {"amount": Decimal("0.20")}]}


def printed(
    capsys: pytest.CaptureFixture[str],
    body: Json,
    output: str = "json",
    query: str | None = None,
    table: Table = scalars,
) -> str:
    compiled: Any = jmespath.compile(query) if query else None
    emit(body, Globals(output=output, query=compiled, home=Path("/h"), home_given=True), table)
    return capsys.readouterr().out


def test_json_is_the_whole_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, ROWS)) == ROWS


def test_nothing_is_printed_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("json", "yaml", "table", "tsv", "none"):
        assert printed(capsys, None, output) == ""
    assert printed(capsys, ROWS, "none") == ""
    assert printed(capsys, ROWS, query="[0].absent") == ""
    assert printed(capsys, [], "tsv") == ""
    assert printed(capsys, [], "json") == "[]\n"


def test_table_by_the_commands_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, ROWS, "table", table=columns(Name="name", Tag="tags.k", Count="count"))
    assert text.splitlines() == [
        "Name       Tag  Count",
        "---------  ---  -----",
        "a          v        7",
        "long name       12345",
    ]


def test_table_of_what_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    head = printed(capsys, ROWS, "table").splitlines()[0].split()
    assert head == ["Name", "Location", "Count", "On", "None"], "ids and what is nested are left out"
    assert printed(capsys, ROWS, "table", query="[].[name, count]").splitlines()[0].split() == ["Column1", "Column2"]
    assert printed(capsys, ROWS, "table", query="length(@)").split() == ["Result", "------", "2"]


def test_a_query_takes_the_place_of_the_commands_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, ROWS, "table", query="[].{Where: location}", table=columns(Name="name"))
    assert text.split() == ["Where", "------", "westus", "eastus"]


def test_tsv_has_a_row_a_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, ROWS, "tsv").splitlines()
    assert lines[0].split("\t") == ["a", "/x/a", "westus", "7", "", "true", "None"]
    assert lines[1].split("\t")[0] == "long name"
    assert printed(capsys, ROWS, "tsv", query="[].name").splitlines() == ["a", "long name"]
    assert printed(capsys, ROWS, "tsv", query="[0].location") == "westus\n"


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1-cmd|' /C calc'!A0", "@SUM(A1)", "-", "\uff1d1+1"])
def test_csv_has_no_formula_of_a_user(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A program for spreadsheets shows the apostrophe or hides it, and runs nothing (OWASP, CSV injection)."""
    printed_text = printed(capsys, [{"name": text}, {"name": f"a{text}"}], "csv")
    assert [row["Name"] for row in csv.DictReader(printed_text.splitlines())] == [f"'{text}", f"a{text}"]
    (_, line) = csv_lines(["Tags"], [{"Tags": f"\t{text}\r"}])
    assert next(csv.reader([line], strict=True))[0].startswith("'\t")


@pytest.mark.parametrize("number", ["-1", "+2", "-0.000001", "1e-7", "-1.5E+9", "0"])
def test_csv_keeps_numbers(number: str) -> None:
    assert list(csv_lines(["Amount"], [{"Amount": number}, {"Amount": None}, {"Amount": ""}])) == [
        "Amount\r\n",
        f"{number}\r\n",
        '""\r\n',
        '""\r\n',
    ]


def test_yaml_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert yaml.safe_load(printed(capsys, ROWS, "yaml")) == ROWS
    assert printed(capsys, "word", "yaml") == "word\n"
    assert printed(capsys, {"a": Decimal("0.10"), "b": Decimal(2)}, "yaml") == "a: 0.1\nb: 2\n"


def test_money_is_exact_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    read = json.loads(printed(capsys, BILL), parse_float=Decimal)
    assert sum(row["amount"] for row in read["rows"]) == read["total"] == Decimal("0.3")
    assert printed(capsys, BILL, "tsv", query="total") == "0.3\n"
    assert printed(capsys, BILL, "table", query="rows").split() == ["Amount", "------", "0.1", "0.2"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sum(rows[].amount)", "0.3"),
        ("avg(rows[].amount)", "0.15"),
        ("max_by(rows, &amount).amount", "0.2"),
        ("length(rows[?amount > `0.15`])", "1"),
        ("sort(rows[].amount)[0]", "0.1"),
        ("max([`1`, `2`])", "2"),
    ],
)
def test_money_can_be_reckoned_with_in_queries(capsys: pytest.CaptureFixture[str], query: str, expected: str) -> None:
    assert printed(capsys, BILL, query=query).strip() == expected


def test_a_query_that_does_not_fit_is_a_usage_error() -> None:
    with pytest.raises(click.UsageError, match="does not fit"):
        emit(ROWS, Globals(query=jmespath.compile("sum([].name)"), home=Path("/h"), home_given=True))
