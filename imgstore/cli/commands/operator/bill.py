"""``imgstore bill``: moved bytes, stored bytes and their cost."""

import click

from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import Rows, columns
from imgstore.cli.framework.session import Session
from imgstore.operations import billing
from imgstore.wire.json_text import Json
from imgstore.wire.responses.statement import statement_json

_LINES = columns(
    Kind="kind",
    Gallery="gallery",
    Definition="definition",
    Version="version",
    Disk="disk",
    Source="source",
    Target="target",
    Replica="replica",
    DeliveredBytes="deliveredBytes",
    ByteHours="byteHours",
    UnitPrice="unitPrice",
    Amount="amount",
)


def lines_and_total(body: Json) -> Rows:
    """Make the rows of the statement, with the total as the last row."""
    return [*_LINES(body["rows"]), {"Kind": "total", "UnitPrice": body["currency"], "Amount": body["total"]}]


@click.group(cls=Group)
def bill() -> None:
    """Show moved and stored bytes, and their cost."""


@bill.command(table=lines_and_total, example="imgstore bill show -o table")
def show(session: Session) -> Json:
    """Show the statement: bytes across regions, copies inside a region, and storage by time."""
    return statement_json(session.run(billing.show_bill))
