"""``imgstore inspect``: format and safety checks of a disk file. The command needs no installation."""

from pathlib import Path

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import Rows
from imgstore.domain.disks.sources import DiskFormat
from imgstore.operations.disks.verify import inspect_file
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import inspection_json


def _table(body: Json) -> Rows:
    """Make a row for each fact: the format, Azure's verdict, and each check."""
    transaction = ("format", "virtualBytes", "fileBytes", "dataBytes", "hyperVGeneration")
    azure = "yes" if body["azure"]["ready"] else "no: " + "; ".join(body["azure"]["reasons"])
    return [
        *({"What": fact, "Found": str(body[fact])} for fact in transaction if body[fact] is not None),
        {"What": "Azure would take it", "Found": azure},
        *({"What": f"check {each['name']}", "Found": _outcome(each)} for each in body["checks"]),
        *({"What": "note", "Found": note} for note in body["notes"]),
    ]


def _outcome(check: Json) -> str:
    return f"{'passed' if check['passed'] else 'FAILED'}: {check['detail']}"


@click.command(cls=Command, table=_table, example="imgstore inspect disk.vhd -o table")
@click.argument("file", type=click.Path(path_type=Path))
@options.source_format
def inspect(file: Path, source_format: DiskFormat | None) -> Answer:
    """Show the format of a disk file, its safety checks, and whether Azure accepts the disk.

    The exit code is 1 if a safety check failed.
    """
    found = inspect_file(file, source_format=source_format)
    return Answer(body=inspection_json(found), exit_code=0 if all(check.passed for check in found.checks) else 1)
