"""A run against the baseline: what got worse is said, and by how much."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from test_bench_results import result

from bench import compare
from bench.compare import BASELINE, case_ratios, changes, micro_ratios, read_baseline, write_baseline
from bench.results import read_results, write_result


def micro(**medians: float) -> dict[str, Any]:
    return {"benchmarks": [{"name": name, "stats": {"median": median}} for name, median in medians.items()]}


def use(*words: str | Path) -> int:
    parser = ArgumentParser()
    compare.add_arguments(parser)
    return compare.use(parser.parse_args([str(word) for word in words]))


def test_a_baseline_holds_ratios_alone() -> None:
    ratios = read_baseline()
    assert ratios
    assert set(json.loads(BASELINE.read_text())) == {"schema", "ratios"}
    assert not [name for name in ratios if "seconds" in name or "bytes_per" in name]


def test_the_baseline_is_no_older_than_the_results() -> None:
    kept = read_baseline()
    for name, value in case_ratios(read_results()).items():
        assert kept[name] == value, f"{name}: `python -m bench compare --write` was forgotten"


def test_a_quick_run_has_no_ratios() -> None:
    assert case_ratios({"upload": result()}) == {"upload.speed_ratio": 10.5}
    assert case_ratios({"upload": result(quick=True)}) == {}


def test_micro_cases_are_compared_with_the_reference() -> None:
    assert micro_ratios(micro(test_reference=0.002, test_slow=0.008, test_quick=0.001)) == {
        "micro.slow": 0.25,
        "micro.quick": 2.0,
    }
    with pytest.raises(LookupError, match="expected test_reference"):
        micro_ratios(micro(test_slow=0.008))


def test_the_worst_comes_first() -> None:
    told = [
        str(change)
        for change in changes({"a": 2.0, "b": 4.0, "c": 1.0, "e": 1.0}, {"a": 2.5, "b": 2.0, "d": 3.0, "e": 1.0})
    ]
    assert told == [
        "b: 4 -> 2, 50% worse",
        "c: 1, not in this run",
        "e: 1 -> 1, the same",
        "d: 3, new",
        "a: 2 -> 2.5, 25% better",
    ]


@pytest.mark.parametrize(("was", "code"), [(10.5, 0), (11.0, 0), (13.0, 1)])
def test_the_exit_code_is_1_when_a_ratio_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], was: float, code: int
) -> None:
    write_result(tmp_path, result())
    write_baseline({"upload.speed_ratio": was}, tmp_path / "baseline")
    assert use("--results", tmp_path, "--baseline", tmp_path / "baseline") == code
    assert ("WORSE upload.speed_ratio: 13 -> 10.5, 19% worse" in capsys.readouterr().out) == (code == 1)


def test_a_new_baseline_keeps_rows_that_the_run_does_not_have(tmp_path: Path) -> None:
    write_result(tmp_path, result())
    (tmp_path / "micro").write_text(json.dumps(micro(test_reference=1.0, test_x=2.0)))
    write_baseline({"dense.upload_ratio": 0.8, "upload.speed_ratio": 1.0}, tmp_path / "baseline")
    words = "--results", tmp_path, "--micro", tmp_path / "micro", "--baseline", tmp_path / "baseline", "--write"
    assert use(*words) == 0
    assert read_baseline(tmp_path / "baseline") == {
        "dense.upload_ratio": 0.8,
        "micro.x": 0.5,
        "upload.speed_ratio": 10.5,
    }
