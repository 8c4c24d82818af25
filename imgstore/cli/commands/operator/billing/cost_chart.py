"""Draw the cost of a month by day and region with matplotlib (extra `plot`)."""

import calendar
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from imgstore.cli.framework.output import csv_lines
from imgstore.domain.errors import ToolMissing
from imgstore.domain.extras import install_hint
from imgstore.ledger.statements.daily_costs import DailyCosts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REGIONS_MAX: Final = 12
"""The regions of a picture with an own color. Further regions are one part of a bar."""
NAME_CHARACTERS_MAX: Final = 28
"""Longer names are cut in the legend, so that the bars keep most of the width."""
_DIGITS: Final = 12
"""Digits after the point of an axis label."""
_SIZE_INCHES: Final = (11.0, 4.8)
_DOTS_PER_INCH: Final = 120
_OTHERS_COLOR: Final = "0.6"
_GRAYS: Final = (14, 15)
"""The places of gray in the palette, which is the color of further regions."""


def draw_costs(costs: Sequence[DailyCosts], subscription: str, file_format: str) -> bytes:
    """Return a picture with a chart for each currency. The description of the picture has all numbers.

    Args:
        costs: the costs of a month in each currency.
        subscription: the subscription, for the title.
        file_format: "svg" or "png".

    Raises:
        ToolMissing: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only pictures need the second that this import takes
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ToolMissing(
            "A chart needs matplotlib.",
            found="an installation without the extra `plot`",
            expected="the package of the extra `plot`",
            hint=install_hint("plot"),
            target="plot",
        ) from error
    with mpl.rc_context():
        mpl.rcdefaults()
        # Names are no formulas, and equal numbers give an equal file.
        mpl.rcParams.update({"svg.hashsalt": "imgstore", "svg.fonttype": "none", "text.parse_math": False})
        width, height = _SIZE_INCHES
        picture = Figure(figsize=(width, height * len(costs)), layout="constrained", facecolor="white")
        # A region has the same color in each chart.
        regions = dict.fromkeys(region for each in costs for region in each.regions)
        tab20 = mpl.color_sequences["tab20"]
        palette = [tab20[number] for number in (*range(0, 20, 2), *range(1, 20, 2)) if number not in _GRAYS]
        colors = dict(zip(list(regions)[:REGIONS_MAX], palette, strict=False))
        for axes, each in zip(picture.subplots(len(costs), squeeze=False)[:, 0], costs, strict=True):
            _draw(axes, each, colors)
        picture.suptitle(f"Subscription {subscription}", fontsize=9, color="0.35")
        about = {"Title": f"Cost by day and region, {costs[0].month}", "Description": describe_costs(costs)}
        unwanted = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
        made = io.BytesIO()
        picture.savefig(made, format=file_format, dpi=_DOTS_PER_INCH, metadata={**about, **unwanted})
    return made.getvalue()


def describe_costs(costs: Sequence[DailyCosts]) -> str:
    """Return all numbers of a chart as CSV: day, region, amount, currency."""
    rows = (
        {"day": str(day), "region": region, "amount": f"{amount:f}", "currency": each.total.currency}
        for each in costs
        for (day, region), amount in each.amounts.items()
    )
    return "\n".join(line.rstrip("\r\n") for line in csv_lines(("day", "region", "amount", "currency"), rows))


def _draw(axes: "Axes", costs: DailyCosts, colors: Mapping[str, Any]) -> None:
    days = [day.day for day in costs.days]
    series = [(_shorten(region), [region], colors[region]) for region in costs.regions if region in colors]
    rest = [region for region in costs.regions if region not in colors]
    if rest:
        series.append((f"{len(rest)} more", rest, _OTHERS_COLOR))
    # Corrections may make a part negative. Such parts are below the axis.
    above, below = [0.0] * len(days), [0.0] * len(days)
    for label, regions, color in series:
        heights = [float(sum(costs.amounts.get((day, region), 0) for region in regions)) for day in costs.days]
        bottoms = [high if height >= 0 else low for high, low, height in zip(above, below, heights, strict=True)]
        axes.bar(days, heights, bottom=bottoms, width=0.8, label=label, color=color, edgecolor="white", linewidth=0.4)
        above = [high + max(height, 0) for high, height in zip(above, heights, strict=True)]
        below = [low + min(height, 0) for low, height in zip(below, heights, strict=True)]
    total, month = costs.total, costs.month
    axes.set_title(
        f"Cost by day and region, {calendar.month_name[month.number]} {month.year}: {total.due:,f} {total.currency}",
        fontsize=12,
        loc="left",
    )
    axes.set_xlim(0.4, days[-1] + 0.6)
    axes.set_xticks(days, [str(day) for day in days], fontsize=8)
    axes.set_xlabel("day (UTC)")
    axes.set_ylabel(total.currency)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.{_DIGITS}f}".rstrip("0").rstrip("."))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if any(below):
        axes.axhline(0, color="black", linewidth=0.8)
    elif any(above):
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, 1)
        axes.set_yticks([0])
        axes.text(0.5, 0.5, "no cost in this month", transform=axes.transAxes, ha="center", color="0.35")
    if series:
        axes.legend(
            title="region",
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            fontsize=9,
            reverse=True,
        )


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS_MAX else f"{name[: NAME_CHARACTERS_MAX - 1]}…"
