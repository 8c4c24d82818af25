"""``imgstore bill``: moved bytes, stored bytes and their cost."""

import click

from imgstore.cli.commands.operator import bill_log
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import Rows, columns
from imgstore.cli.framework.session import Session
from imgstore.domain.errors import InvalidInput
from imgstore.ledger.months import Month
from imgstore.operations.billing import statements
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
    """Make the rows of the statement, with the totals as the last rows."""
    totals = [
        line
        for each in body["totals"]
        for line in (
            {"Kind": "total", "UnitPrice": each["currency"], "Amount": each["amount"]},
            {"Kind": "due", "UnitPrice": each["currency"], "Amount": each["due"]},
        )
    ]
    return [*_LINES(body["rows"]), *totals]


@click.group(cls=Group)
def bill() -> None:
    """Show moved and stored bytes, and their cost."""


@bill.command(table=lines_and_total, example="imgstore bill show --month 2026-11 -o table")
@click.option("--month", metavar="YYYY-MM", help="Month in UTC. Default: all months.")
def show(session: Session, month: str | None) -> Json:
    """Show the statement: bytes across regions, copies inside a region, and storage by time.

    Amounts are exact. The amount due is rounded half to even to the minor unit of the currency.
    """
    return statement_json(session.run(statements.show_bill, month=None if month is None else _read_month(month)))


def _read_month(text: str) -> Month:
    month = Month.parse(text)
    if month is None:
        raise InvalidInput(
            f"'{text}' is no month.",
            found=repr(text),
            expected="a year and a month such as 2026-11",
            hint="write four digits, a dash and two digits",
            target="--month",
        )
    return month


for _command in (bill_log.prove, bill_log.verify, bill_log.checkpoint, bill_log.seal, bill_log.rotate_key):
    bill.add_command(_command)
