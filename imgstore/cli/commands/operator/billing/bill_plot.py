"""``imgstore bill plot``: a chart of the cost by day and region."""

from pathlib import Path
from typing import Final

import click

from imgstore.cli.framework.command import Command
from imgstore.cli.framework.months import month_option
from imgstore.cli.framework.session import Session
from imgstore.domain.errors import InvalidInput
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.ledger.months import Month
from imgstore.operations.billing.statements import list_daily_costs
from imgstore.wire.json_text import Json
from imgstore.wire.responses.statement import total_json

_FORMATS: Final = ("svg", "png")


@click.command(
    cls=Command,
    example="imgstore bill plot --month 2026-11 --file cost.svg\nimgstore bill plot --file cost.png --overwrite",
)
@month_option("--month", help="Month in UTC. Default: the current month.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="File of the chart, with the end .svg or .png.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def plot(session: Session, month: Month | None, file: Path, *, overwrite: bool) -> Json:
    """Draw the cost of a month by day and region, as SVG or PNG.

    Each day has a bar with a color for each region. Each currency has a chart. The description in the file has the
    numbers of the chart as CSV. The command needs the extra `plot`.
    """
    from imgstore.cli.commands.operator.billing.cost_chart import draw_costs  # noqa: PLC0415

    file_format = file.suffix.lower().removeprefix(".")
    if file_format not in _FORMATS:
        raise InvalidInput(
            f"The format of the chart {file} is unknown.",
            found=repr(file.suffix),
            expected="a name that ends with .svg or .png",
            hint="write for example --file cost.svg",
            target="--file",
        )
    costs = session.run(list_daily_costs, month=month)
    picture = draw_costs(costs, session.installation.subscription, file_format)
    pending = PendingFile(file, overwrite=overwrite)
    try:
        pending.write(picture, 0)
        pending.publish()
    finally:
        pending.discard()
    return {
        "file": str(file),
        "month": str(costs[0].month),
        "totals": [total_json(each.total) for each in costs],
        "regions": sorted({region for each in costs for region in each.regions}),
    }
