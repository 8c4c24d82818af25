"""What a case found, as a value and as a file: `bench/results/<case>.json`.

A file tells what it was measured on and with, and for each figure through which door it was measured, so that a figure
can be quoted without its story. It names neither the machine nor any path.
"""

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

SCHEMA_VERSION = 1
RESULTS_FOLDER = Path(__file__).parent / "results"


class Unit(StrEnum):
    """What a figure counts."""

    SECONDS = "s"
    BYTES = "bytes"
    REQUESTS = "requests"
    PER_SECOND = "per second"
    """How many were done in a second."""
    RATIO = "x"
    """So many times faster, or fewer: the larger, the better for imgstore."""
    SHARE = "share"
    """A part of another figure: the smaller, the better for imgstore."""
    BYTES_PER_SECOND = "bytes per second"
    POWER = "power"
    """The p of what grows as size^p: 1 is in proportion, 0 is not at all; the slope in a plot of logarithms."""
    COUNT = "count"
    COEFFICIENT = "coefficient"


class Door(StrEnum):
    """Through which door a figure was measured."""

    PUBLIC = "public"
    """imgstore's command line in a process of its own, its start-up included: what a user waits for."""
    INSIDE = "inside"
    """imgstore.operations, called in a process that has started already: the engine alone."""
    API = "api"
    """`imgstore serve` in a process of its own, asked over TLS on loopback by clients in processes of theirs."""
    PEER = "peer"
    """Another program in a process of its own, its start-up included where the whole run is timed."""
    STORE = "store"
    """Told by the store itself, or by the file system: nobody under measurement was asked."""
    DERIVED = "derived"
    """Reckoned from other figures of the same result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number, and where it came from."""

    value: float
    """The median of `samples`, or what was reckoned."""
    unit: Unit
    door: Door
    samples: tuple[float, ...] = ()
    """Each round's, in order; empty for what is derived."""
    said: str = ""
    """What exactly was done, where the name does not say it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the design asks of one figure."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    met: bool

    @classmethod
    def of(
        cls, name: str, figures: Mapping[str, Figure], *, at_least: float | None = None, at_most: float | None = None
    ) -> Self:
        """The goal for figure `name`, judged."""
        value = figures[name].value
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        return cls(figure=name, at_least=at_least, at_most=at_most, met=met)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture of some of the figures, which holds none of its own."""

    name: str
    """Of its file, after the case's."""
    title: str
    lines: Mapping[str, Mapping[str, str]]
    """For each contestant: where it stands on the axis below, and the name of its figure there. Where all of these
    places are numbers it is a chart of lines, else one of bars."""
    below: str = ""
    """What the axis below counts."""
    logarithmic: bool = False
    """Both axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What it was measured on, without its name."""

    cores: int
    memory_bytes: int
    processor: str
    system: str
    python: str

    @classmethod
    def here(cls) -> Self:
        """This machine."""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            processor=_processor(),
            system=platform.system(),
            python=platform.python_version(),
        )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case, measured once through."""

    case: str
    title: str
    date: str
    """UTC, YYYY-MM-DD."""
    rounds: int
    """Medians are over so many; contestants take turns within each."""
    quick: bool
    """True where small disks stood in for the real ones: such figures prove that the case runs, and nothing else."""
    machine: Machine
    versions: Mapping[str, str]
    """Of imgstore, the engine and the peers."""
    figures: Mapping[str, Figure]
    goals: tuple[Goal, ...]
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document that its file holds."""
        return {"schema": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The result that a document holds.

        Raises:
            ValueError: the document is not one of ours, or contradicts itself; what is wrong is told.
        """
        fields = dict(document)
        if (schema := fields.pop("schema", None)) != SCHEMA_VERSION:
            raise ValueError(f"found schema {schema!r}, expected {SCHEMA_VERSION}: run the case again")
        try:
            fields["machine"] = Machine(**fields["machine"])
            fields["figures"] = {name: _figure(figure) for name, figure in fields["figures"].items()}
            fields["goals"] = tuple(Goal(**goal) for goal in fields["goals"])
            fields["notes"] = tuple(fields["notes"])
            fields["charts"] = tuple(Chart(**chart) for chart in fields.get("charts", ()))
            result = cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the document does not fit its schema: {error!r}") from error
        if faults := list(result.faults()):
            raise ValueError("; ".join(faults))
        return result

    def faults(self) -> list[str]:
        """Where the result contradicts itself."""
        wrong = [
            f"{name}: the value is not the median of its samples"
            for name, figure in self.figures.items()
            if not _agrees(figure)
        ]
        wrong += [
            f"a goal names {goal.figure}, which is no figure" for goal in self.goals if goal.figure not in self.figures
        ]
        drawn = {name for chart in self.charts for line in chart.lines.values() for name in line.values()}
        wrong += [f"a chart names {name}, which is no figure" for name in sorted(drawn - set(self.figures))]
        if not wrong:
            judged = (Goal.of(g.figure, self.figures, at_least=g.at_least, at_most=g.at_most) for g in self.goals)
            wrong += [
                f"the goal for {goal.figure} is judged wrongly"
                for goal, right in zip(self.goals, judged, strict=True)
                if goal != right
            ]
        datetime.strptime(self.date, "%Y-%m-%d").replace(tzinfo=UTC)
        return wrong


def _figure(document: Mapping[str, Any]) -> Figure:
    fields = {**document, "unit": Unit(document["unit"]), "door": Door(document["door"])}
    return Figure(**{**fields, "samples": tuple(document["samples"])})


def _agrees(figure: Figure) -> bool:
    return figure.door is Door.DERIVED or figure.value == statistics.median(figure.samples)


def median(samples: Sequence[float], unit: Unit, door: Door, said: str = "") -> Figure:
    """The figure of several rounds."""
    # To the microsecond: an answer of a server that does nothing takes one or two milliseconds.
    rounded = tuple(round(sample, 6) for sample in samples)
    return Figure(value=statistics.median(rounded), unit=unit, door=door, samples=rounded, said=said)


def ratio(other: Figure, ours: Figure, said: str) -> Figure:
    """How many times less `ours` is than `other`; nothing at all counts as one byte or a millisecond."""
    least = 1.0 if ours.unit is Unit.BYTES else 0.001
    return Figure(value=round(other.value / max(ours.value, least), 2), unit=Unit.RATIO, door=Door.DERIVED, said=said)


def power(points: Mapping[float, Figure], said: str) -> Figure:
    """The p of figures that grow as size^p: the slope of the straight line through their logarithms, least squares."""
    sizes = [math.log(size) for size in points]
    values = [math.log(max(figure.value, 1e-9)) for figure in points.values()]
    slope = statistics.linear_regression(sizes, values).slope
    return Figure(value=round(slope, 3), unit=Unit.POWER, door=Door.DERIVED, said=said)


def installed_versions(*distributions: str) -> dict[str, str]:
    """The versions of installed packages, by package."""
    return {distribution: version(distribution) for distribution in distributions}


def write_result(folder: Path, result: Result) -> Path:
    """Writes the file of a case; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.case}.json"
    path.write_text(json.dumps(result.to_json(), indent=2) + "\n")
    return path


def read_result(path: Path) -> Result:
    """The result in a file.

    Raises:
        ValueError: the file is not a result of that case.
    """
    try:
        result = Result.from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if result.case != path.stem:
        raise ValueError(f"{path.name}: found the result of case {result.case!r}, expected {path.stem!r}")
    return result


def read_results(folder: Path = RESULTS_FOLDER) -> dict[str, Result]:
    """All results in a folder, by case."""
    return {path.stem: read_result(path) for path in sorted(folder.glob("*.json"))}


def show(figure: Figure) -> str:
    """A figure as people read it: "3.5 s", "203 MB", "9.1 x". Three digits at most carry meaning, so no more stand."""
    match figure.unit:
        case Unit.BYTES:
            return f"{_digits(figure.value / 1e6)} MB"
        case Unit.SECONDS if figure.value < 0.0001:
            return f"{_digits(figure.value * 1e6)} us"
        case Unit.SECONDS if figure.value < 0.1:
            return f"{_digits(figure.value * 1e3)} ms"
        case Unit.SECONDS:
            return f"{_digits(figure.value)} s"
        case Unit.PER_SECOND:
            return f"{_digits(figure.value)} a second"
        case Unit.REQUESTS:
            return f"{figure.value:,.0f} requests"
        case Unit.SHARE:
            return f"{_digits(figure.value * 100)}%"
        case Unit.RATIO:
            return f"{_digits(figure.value)} x"
        case Unit.BYTES_PER_SECOND:
            return f"{_digits(figure.value / 1e6)} MB/s"
        case Unit.POWER:
            return f"size^{figure.value:.2f}"
        case Unit.COUNT:
            return f"{figure.value:,.0f}"
        case Unit.COEFFICIENT:
            return f"{figure.value:.3g}"


def _digits(value: float) -> str:
    places = 0 if value >= 100 else 1 if value >= 1 else 2
    return f"{value:,.{places}f}"
