"""Results keep to their schema, and README.md quotes them as they are."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench.cases import CASES
from bench.readme import DOCUMENTS, faults, quotations, rewritten
from bench.results import (
    RESULTS_FOLDER,
    Door,
    Figure,
    Goal,
    Machine,
    Result,
    Unit,
    median,
    ratio,
    read_result,
    read_results,
    show,
    write_result,
)


def result(**changes: Any) -> Result:
    figures = {
        "peer_seconds": median([21.0, 20.0, 25.0], Unit.SECONDS, Door.PEER),
        "imgstore_seconds": median([2.0, 2.5, 1.0], Unit.SECONDS, Door.PUBLIC),
    }
    figures["speed_ratio"] = ratio(figures["peer_seconds"], figures["imgstore_seconds"], "peer / imgstore")
    made = Result(
        case="upload",
        title="a title",
        date="2026-01-31",
        rounds=3,
        quick=False,
        machine=Machine(cores=2, memory_bytes=1 << 34, processor="a processor", system="Linux", python="3.11.7"),
        versions={"imgstore": "0.1"},
        figures=figures,
        goals=(Goal.of("speed_ratio", figures, at_least=8),),
        notes=("a note",),
    )
    return dataclasses.replace(made, **changes)


def test_every_result_that_is_kept_fits_its_schema_and_is_no_quick_one() -> None:
    for name, kept in read_results(RESULTS_FOLDER).items():
        assert name in CASES, f"bench/results/{name}.json belongs to no case"
        assert not kept.quick, f"bench/results/{name}.json was measured on small stand-ins"
        assert "imgstore" in kept.versions


def test_kept_results_contain_no_paths() -> None:
    for path in RESULTS_FOLDER.glob("*.json"):
        words = path.read_text().replace('"', " ").split()
        assert [word for word in words if word.startswith("/") and len(word) > 1] == [], path.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name + "/" + path.name)
def test_documents_quote_the_results(document: Path) -> None:
    assert list(faults(document.read_text(), read_results())) == []


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_result(write_result(tmp_path, result())) == result()


def test_the_ratio_and_the_goal_are_reckoned_from_the_medians() -> None:
    assert result().figures["speed_ratio"].value == 10.5
    assert result().goals[0].met


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("schema",), 0, "found schema 0"),
        (("date",), "31.1.2026", "does not match format"),
        (("surprise",), 1, "surprise"),
        (("figures", "peer_seconds", "unit"), "parsec", "parsec"),
        (("figures", "peer_seconds", "value"), 1.0, "not the median"),
        (("goals", 0, "figure"), "nothing", "no figure"),
        (("goals", 0, "met"), False, "judged wrongly"),
        (("machine", "cores"), None, None),
    ],
)
def test_a_result_that_contradicts_itself_is_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: object, told: str | None
) -> None:
    document = result().to_json()
    document = json.loads(json.dumps(document))
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (tmp_path / "upload.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=told or "does not fit"):
        read_result(tmp_path / "upload.json")


def test_a_file_that_is_named_after_another_case_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path, result()).rename(tmp_path / "export.json")
    with pytest.raises(ValueError, match="found the result of case 'upload', expected 'export'"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.456, Unit.SECONDS, "3.5 s"),
        (0.421, Unit.SECONDS, "0.42 s"),
        (0.0421, Unit.SECONDS, "42.1 ms"),
        (0.000003, Unit.SECONDS, "3.0 us"),
        (254.2, Unit.PER_SECOND, "254 a second"),
        (8_589_934_592, Unit.BYTES, "8,590 MB"),
        (3_712_345, Unit.BYTES, "3.7 MB"),
        (2314.9, Unit.RATIO, "2,315 x"),
        (9.12, Unit.RATIO, "9.1 x"),
    ],
)
def test_figures_are_shown_with_the_digits_that_mean_something(value: float, unit: Unit, text: str) -> None:
    assert show(Figure(value=value, unit=unit, door=Door.DERIVED)) == text


TEXT = "It is\n<!-- bench:upload.speed_ratio -->9.9 x<!-- /bench --> faster.\n"


def test_a_figure_that_differs_from_its_result_is_found_and_mended() -> None:
    results = {"upload": result()}
    assert list(faults(TEXT, results)) == ["line 2: upload.speed_ratio: found '9.9 x', expected '10.5 x'"]
    mended = rewritten(TEXT, results)
    assert list(faults(mended, results)) == []
    assert mended == TEXT.replace("9.9 x", "10.5 x")
    assert [quotation.text for quotation in quotations(mended)] == ["10.5 x"]


def test_a_figure_without_a_measurement_is_not_quoted() -> None:
    assert list(faults(TEXT, {})) == ["line 2: bench/results has no figure upload.speed_ratio"]
    with pytest.raises(LookupError, match=r"upload\.speed_ratio"):
        rewritten(TEXT, {})


def test_a_figure_of_a_quick_run_is_not_quoted() -> None:
    assert "small stand-ins" in next(iter(faults(TEXT, {"upload": result(quick=True)})))


@pytest.mark.parametrize("text", ["<!-- bench:upload -->9 x<!-- /bench -->", "\n<!-- bench:upload.speed_ratio -->9 x"])
def test_a_mark_that_does_not_read_as_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected <!-- bench:case"):
        list(quotations(text))
