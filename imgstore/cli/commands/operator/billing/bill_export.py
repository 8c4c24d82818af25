"""``imgstore bill export``: the bill as a FOCUS data set."""

from pathlib import Path

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Command
from imgstore.cli.framework.months import month_option
from imgstore.cli.framework.output import csv_lines
from imgstore.cli.framework.session import Session
from imgstore.domain.host.private_files import FILE_MODE
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.ledger.months import Month
from imgstore.ledger.statements.focus import FocusVersion
from imgstore.operations.billing import focus_export


@click.command(
    cls=Command,
    example="imgstore bill export --focus 1.2 --month 2026-11 --file november.csv\n"
    "imgstore bill export --focus 1.4 --from 2026-01 --to 2026-12 --file year.csv",
)
@options.choice(
    "--focus", members=tuple(FocusVersion), required=True, help="Version of the FinOps FOCUS specification."
)
@month_option("--month", help="Month in UTC. Default: all months.")
@month_option("--from", "first", help="First month in UTC.")
@month_option("--to", "last", help="Last month in UTC, included.")
@click.option(
    "--file", type=click.Path(path_type=Path), metavar="FILE", help="File of the rows. Default: standard output."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(
    session: Session,
    focus: FocusVersion,
    month: Month | None,
    first: Month | None,
    last: Month | None,
    file: Path | None,
    *,
    overwrite: bool,
) -> None:
    """Write the bill as a FOCUS data set: CSV in UTF-8 with a header.

    Each transfer and each period of storage has a row for each tier of its price. Costs are decimals with all digits.
    """
    if month is not None and (first or last):
        raise click.UsageError("--month is for one month, and --from and --to are for several months.")
    rows = session.run(focus_export.export_focus, focus=focus, first=month or first, last=month or last)
    lines = (line.encode() for line in csv_lines(focus.columns, rows))
    if file is None:
        for line in lines:
            click.echo(line, nl=False)
        return
    pending = PendingFile(file, overwrite=overwrite, mode=FILE_MODE)
    try:
        offset = 0
        for line in lines:
            pending.write(line, offset)
            offset += len(line)
        pending.publish()
    finally:
        pending.discard()
