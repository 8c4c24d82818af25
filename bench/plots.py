"""Charts of results, as SVG beside them: `bench/results/<case>-<chart>.svg`.

A chart holds no figures: it is drawn from the result's, and drawn again it is the same file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results import Chart, Figure, Result, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SCALES = {Unit.BYTES: (1e6, "MB"), Unit.BYTES_PER_SECOND: (1e6, "MB/s")}


def draw(folder: Path, result: Result) -> list[Path]:
    """Draws all charts of a result that have something to show; gives their paths.

    Raises:
        ImportError: matplotlib is not installed (the extra `bench` has it).
    """
    import matplotlib as mpl  # noqa: PLC0415 - costs a second that only pictures should pay
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415

    made = []
    with mpl.rc_context({"svg.hashsalt": "imgstore", "svg.fonttype": "none"}):
        for chart in result.charts:
            if not any(chart.lines.values()):
                continue
            picture = Picture(figsize=(7.5, 4.2), layout="constrained")
            _draw(picture.subplots(), chart, result.figures)
            picture.suptitle(f"{result.case}: {result.title}", fontsize=10)
            path = folder / f"{result.case}-{chart.name}.svg"
            picture.savefig(path, metadata={"Date": None, "Creator": None})
            made.append(path)
    return made


def _draw(axes: "Axes", chart: Chart, figures: Mapping[str, Figure]) -> None:
    unit = next(figures[name].unit for line in chart.lines.values() for name in line.values())
    _, named = _SCALES.get(unit, (1.0, unit.value))
    if all(_is_number(place) for line in chart.lines.values() for place in line):
        _draw_lines(axes, chart, figures)
    else:
        _draw_bars(axes, chart, figures)
    axes.set_title(chart.title, fontsize=9)
    axes.set_xlabel(chart.below)
    axes.set_ylabel(named)
    if len(chart.lines) > 1:
        axes.legend()


def _draw_lines(axes: "Axes", chart: Chart, figures: Mapping[str, Figure]) -> None:
    for name, line in chart.lines.items():
        points = [(float(place), _shown(figures[figure])) for place, figure in line.items()]
        axes.errorbar(
            [place for place, _ in points],
            [middle for _, (middle, _, _) in points],
            yerr=[[low for _, (_, low, _) in points], [high for _, (_, _, high) in points]],
            marker="o",
            capsize=3,
            label=name,
        )
    if chart.logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _draw_bars(axes: "Axes", chart: Chart, figures: Mapping[str, Figure]) -> None:
    places = list(dict.fromkeys(place for line in chart.lines.values() for place in line))
    width = 0.8 / len(chart.lines)
    for number, (name, line) in enumerate(chart.lines.items()):
        at = [places.index(place) + (number - (len(chart.lines) - 1) / 2) * width for place in line]
        shown = [_shown(figures[figure]) for figure in line.values()]
        spread: Any = [[low for _, low, _ in shown], [high for _, _, high in shown]]
        drawn = axes.bar(at, [middle for middle, _, _ in shown], width, yerr=spread, capsize=3, label=name)
        axes.bar_label(drawn, fmt="%.3g", fontsize=7)
    axes.set_xticks(range(len(places)), places, rotation=20 if len(places) > 4 else 0)


def _shown(figure: Figure) -> tuple[float, float, float]:
    """The median in the chart's unit, and how far the samples go below and above it."""
    scale, _ = _SCALES.get(figure.unit, (1.0, ""))
    samples = figure.samples or (figure.value,)
    return figure.value / scale, (figure.value - min(samples)) / scale, (max(samples) - figure.value) / scale


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
