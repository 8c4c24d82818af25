"""Has anything become worse? A run's ratios against `bench/baseline.json`.

A baseline holds ratios and never seconds, so that it can be compared on another machine: the ratio figures of the cases
(imgstore against its peers, in one run), and of each micro-case of tests/bench how its time compares with that of the
reference micro-case in the same run. Of all of them more is better.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results import RESULTS_FOLDER, Result, Unit, read_results

BASELINE = Path(__file__).parent / "baseline.json"
MICRO_TESTS = Path(__file__).parent.parent / "tests/bench/test_bench_micro.py"
REFERENCE = "test_reference"
"""The micro-case that the others are compared with: BLAKE3 over the same bytes, which nobody here can change."""
TOLERANCE = 0.15
"""So much less may be chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One ratio, then and now."""

    name: str
    was: float | None
    """None where the baseline does not have it."""
    now: float | None
    """None where the run did not measure it."""

    @property
    def worse_by(self) -> float:
        """By which part of what it was it has become less; negative where it has become more."""
        return 0.0 if not self.was or self.now is None else 1 - self.now / self.was

    def __str__(self) -> str:
        if self.was is None:
            return f"{self.name}: {self.now:g}, new"
        if self.now is None:
            return f"{self.name}: {self.was:g}, not in this run"
        word = f"{abs(self.worse_by):.0%} {'worse' if self.worse_by > 0 else 'better'}" if self.worse_by else "the same"
        return f"{self.name}: {self.was:g} -> {self.now:g}, {word}"


_NOT_COMPARED = {"choices", "frames"}
"""Its ratios tell of ways that imgstore does not go."""


def case_ratios(results: Mapping[str, Result]) -> dict[str, float]:
    """The ratio figures of results, by case and name; none of quick runs."""
    return {
        f"{case}.{name}": figure.value
        for case, result in results.items()
        if not result.quick and case not in _NOT_COMPARED
        for name, figure in result.figures.items()
        if figure.unit is Unit.RATIO
    }


def micro_ratios(document: Mapping[str, Any]) -> dict[str, float]:
    """How many times each micro-case is done while the reference is done once, from pytest-benchmark's document.

    Raises:
        LookupError: the reference is not in it.
    """
    medians = {each["name"]: each["stats"]["median"] for each in document["benchmarks"]}
    if REFERENCE not in medians:
        raise LookupError(f"found {sorted(medians)}, expected {REFERENCE} among them: run `python -m bench micro`")
    reference = medians.pop(REFERENCE)
    return {
        f"micro.{name.removeprefix('test_')}": float(f"{reference / median:.4g}") for name, median in medians.items()
    }


def changes(baseline: Mapping[str, float], run: Mapping[str, float]) -> Iterator[Change]:
    """Every ratio of either, the worst first."""
    names = dict.fromkeys([*baseline, *run])
    found = (Change(name=name, was=baseline.get(name), now=run.get(name)) for name in names)
    yield from sorted(found, key=lambda change: -change.worse_by)


def read_baseline(path: Path = BASELINE) -> dict[str, float]:
    """The ratios of a baseline; nothing where there is none."""
    if not path.exists():
        return {}
    return {name: float(value) for name, value in json.loads(path.read_text())["ratios"].items()}


def write_baseline(ratios: Mapping[str, float], path: Path = BASELINE) -> None:
    path.write_text(json.dumps({"schema": 1, "ratios": dict(sorted(ratios.items()))}, indent=2) + "\n")


# -- the tools ---------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS_FOLDER, help="the run's results")
    parser.add_argument("--micro", type=Path, metavar="FILE", help="what `python -m bench micro FILE` wrote")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="compared with what")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="a part by which a ratio may be less")
    parser.add_argument("--write", action="store_true", help="make this run the baseline; what it lacks stays")


def use(given: argparse.Namespace) -> int:
    """Compares, tells, and gives the exit code: 1 where something became worse by more than the tolerance."""
    run = case_ratios(read_results(given.results))
    if given.micro:
        run |= micro_ratios(json.loads(given.micro.read_text()))
    baseline = read_baseline(given.baseline)
    if given.write:
        write_baseline({**baseline, **run}, given.baseline)
        return 0
    worse = 0
    for change in changes(baseline, run):
        is_worse = change.worse_by > given.tolerance
        worse += is_worse
        print(f"{'WORSE ' if is_worse else '      '}{change}")
    print(f"{worse} of {len(run)} became worse by more than {given.tolerance:.0%}")
    return 1 if worse else 0


def add_micro_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="where pytest-benchmark's JSON goes, for `compare --micro`"
    )


def run_micro(given: argparse.Namespace) -> int:
    """Runs the micro-cases with clocks, which the test suite runs once each without."""
    alone = ["-n", "0", "--benchmark-enable", "--benchmark-only"]
    words = [sys.executable, "-m", "pytest", str(MICRO_TESTS), "-q", *alone]
    return subprocess.run([*words, f"--benchmark-json={given.file}"], check=False).returncode
