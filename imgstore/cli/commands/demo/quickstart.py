"""``imgstore quickstart``: a tour of the main features with a real disk."""

import os
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from imgstore.cli.commands.operator.billing.bill import lines_and_total
from imgstore.cli.framework import global_options
from imgstore.cli.framework.command import Command
from imgstore.cli.framework.output import table_text
from imgstore.cli.framework.progress import human_seconds
from imgstore.cli.framework.session import open_session
from imgstore.domain.reports import QuickstartSummary
from imgstore.domain.text.byte_counts import format_bytes
from imgstore.operations.billing import statements
from imgstore.operations.demo import quickstart as operations
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import quickstart_json
from imgstore.wire.responses.statement import statement_json


@click.command(cls=Command, example="imgstore quickstart")
@click.argument("disk", required=False, type=click.Path(path_type=Path))
@click.pass_context
def quickstart(ctx: click.Context, disk: Path | None) -> Json:
    """Publish, replicate, export and bill a disk in less than a minute.

    The command stores DISK, or a sample of 1 GiB, and replicates the disk to two more regions. The command then creates
    managed disks, exports and compares a disk, publishes a changed version, and prints the bill. DISK is only read.

    Without --home the command works in a new home in the temporary folder, with directories as stores.
    """
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="imgstore-quickstart-"))
    options, environ = _place(ctx, folder)
    for_people = options.output is None and options.query is None
    removal = _removal(options, folder)

    unwritten: list[OSError] = []

    def say(text: str) -> None:
        """Print a step. An error of standard output is reported at the end of the work."""
        if for_people or not options.only_show_errors:
            try:
                click.echo(text, err=not for_people)
            except OSError as error:
                unwritten.append(error)

    say(removal)
    with open_session(options, environ) as session:
        summary = session.run(operations.run, disk=disk, folder=folder, say=say)
        bill = statement_json(session.run(statements.show_bill))
    if not for_people:
        facts = {"home": str(options.data_home), "folder": str(folder), "bill": bill}
        return quickstart_json(summary) | facts
    say(f"\nThe bill\n{table_text(lines_and_total(bill))}\n")
    say(_summarize(summary, bill, time.monotonic() - began))
    say(removal)
    if unwritten:
        raise unwritten[0]
    return None


def _place(ctx: click.Context, folder: Path) -> tuple[global_options.Globals, Mapping[str, str]]:
    """Choose the home. A new home ignores the environment, so that the command does not change a real installation."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("IMGSTORE_")}
    on_the_line = global_options.of(ctx, bare)
    if on_the_line.home_given:
        return global_options.of(ctx), os.environ
    return replace(on_the_line, home=folder / "home"), bare


def _removal(options: global_options.Globals, folder: Path) -> str:
    beside = f" and in {options.home}" if options.home_given else ""
    return f"The result is in {folder}{beside}. To remove the folder: rm -r {shlex.quote(str(folder))}"


def _summarize(summary: QuickstartSummary, bill: Json, seconds: float) -> str:
    fewer = summary.whole_copies_bytes // max(1, summary.second_delivered_bytes)
    facts = {
        "the disk": f"{format_bytes(summary.virtual_bytes)}, stored, replicated and billed",
        "1.0.0": f"{format_bytes(summary.first_delivered_bytes)} moved between regions",
        "1.0.1": f"{format_bytes(summary.second_delivered_bytes)} moved; whole copies: "
        f"{format_bytes(summary.whole_copies_bytes)}, {fewer:,} times as much",
        "round robin": f"two disks of one region use replicas {' and '.join(map(str, summary.replicas_used))}",
        "the export": "equals the source" if summary.identical else "DIFFERS from the source",
        "the bill": f"{bill['total']} {bill['currency']} so far",
        "duration": human_seconds(seconds),
    }
    return "\n".join(["Summary", *(f"  {name + ':':<13}{fact}" for name, fact in facts.items())])
