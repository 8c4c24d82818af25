"""``imgstore bill``: moved bytes, stored bytes and their cost."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import click

from imgstore.cli.commands.operator.billing import bill_export, bill_log, bill_plot, bill_reconcile
from imgstore.cli.framework.command import Answer, Group
from imgstore.cli.framework.months import month_option
from imgstore.cli.framework.output import Rows, columns, fixed_columns
from imgstore.cli.framework.session import Session
from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import region_key
from imgstore.ledger.months import Month
from imgstore.ledger.statements.grouped_statement import TAG_PREFIX, Property
from imgstore.operations.billing import corrections, explanations, shared_storage, statements
from imgstore.wire.json_text import Json
from imgstore.wire.responses.parties import party_path
from imgstore.wire.responses.statement import (
    entry_json,
    explanation_json,
    grouped_statement_json,
    shared_storage_json,
    statement_json,
)

_LINES = fixed_columns(
    Month="month",
    Kind="kind",
    Group="group",
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
    Currency="currency",
    Time="time",
    Entries="entries",
)
_SUMS = fixed_columns(
    Name="name", DeliveredBytes="deliveredBytes", ByteHours="byteHours", Amount="amount", Currency="currency"
)
_BYTES_UNIT: Final = Decimal(1)


def lines_and_total(body: Json) -> Rows:
    """Make the table of the statement: a line for each charge, and the totals in the last rows."""
    lines = [
        {
            "Month": row["month"],
            "Kind": row["kind"],
            "Owner": party_path(row),
            "Region": _region(row),
            "Quantity": _quantity(row),
            "Amount": Decimal(row["amount"]),
            "Currency": row["currency"],
        }
        for row in body["rows"]
    ]
    return [*lines, *_totals(body, "Kind", "Owner")]


def _charges_sheet(body: Json) -> tuple[Sequence[str], Rows]:
    """Make the CSV document of the charges, with the entries of a charge separated by blanks."""
    return _LINES([row | {"entries": " ".join(row["entries"])} for row in body["rows"]])


def _region(row: Json) -> str:
    here = f"{row['target']} #{row['replica']}"
    return here if row["source"] in {None, row["target"]} else f"{row['source']} > {here}"


def _quantity(row: Json) -> str:
    if row["source"] is not None:
        return f"{row['deliveredBytes']:,} B"
    hours = Decimal(row["byteHours"])
    return f"{hours.quantize(_BYTES_UNIT) if hours >= 1 else hours:,f} B h"


_PARTS = columns(
    Month="month",
    PriceList="priceList",
    Line="line",
    TierBegin="tierBegin",
    Before="before",
    Quantity="quantity",
    UnitPrice="unitPrice",
    Amount="amount",
    Currency="currency",
)


def _explanation_rows(body: Json) -> Rows:
    return _PARTS(body["parts"])


_ROUNDING_NOTE: Final = "rounded half to even"


def _totals(body: Json, heading: str, note: str | None = None) -> Rows:
    """Make the rows of the totals. The column `note`, or the name of the amount due, has the rule of rounding."""
    rows: list[Mapping[str, Json]] = []
    for each in body["totals"]:
        total, due = {heading: "total"}, {heading: f"due, {_ROUNDING_NOTE}"}
        if note is not None:
            total, due = total | {note: "exact"}, {heading: "due", note: _ROUNDING_NOTE}
        rows.append(total | {"Amount": Decimal(each["amount"]), "Currency": each["currency"]})
        # The amount due keeps all digits of the minor unit, for example 5.10.
        rows.append(due | {"Amount": each["due"], "Currency": each["currency"]})
    return rows


def _sums_and_total(body: Json) -> Rows:
    sums = [
        {
            "Name": row["name"],
            "DeliveredBytes": row["deliveredBytes"],
            "ByteHours": Decimal(row["byteHours"]),
            "Amount": Decimal(row["amount"]),
            "Currency": row["currency"],
        }
        for row in body["rows"]
    ]
    return [*sums, *_totals(body, "Name")]


_SHARED: Final = ("Region", "Type", "Replica", "StoredBytes", "Payer", "SharedWith")


def _shared_rows(body: Json) -> Rows:
    return [
        {
            "Region": row["region"],
            "Type": row["storageAccountType"],
            "Replica": row["replica"],
            "StoredBytes": row["storedBytes"],
            "Payer": party_path(row["payer"]),
            "SharedWith": ", ".join(map(party_path, row["sharedWith"])),
        }
        for row in body["rows"]
    ]


def _shared_and_total(body: Json) -> Rows:
    return [*_shared_rows(body), {"Region": "total", "StoredBytes": body["storedBytes"]}]


@click.group(cls=Group)
def bill() -> None:
    """Show moved and stored bytes, and their cost."""


@bill.command(
    example="imgstore bill show --month 2026-11 -o table\n"
    "imgstore bill show --month 2026-11 --by tag:team --filter region=westus2 -o csv\n"
    "imgstore bill show --shared -o table",
)
@month_option("--month", help="Month in UTC. Default: all months.")
@click.option(
    "--by",
    metavar="PROPERTY",
    help=f"Add up the charges by a property: {', '.join(Property)} or {TAG_PREFIX}NAME. Default: no sums.",
)
@click.option(
    "--filter",
    "filters",
    metavar="PROPERTY=VALUE",
    multiple=True,
    help="Show the charges with this value of a property alone. Needs --by. May be repeated.",
)
@click.option("--all-subscriptions", is_flag=True, help="Add up the charges of all subscriptions. Needs --by.")
@click.option("--shared", is_flag=True, help="Show the bytes that are shared now, instead of the charges.")
def show(
    session: Session,
    month: Month | None,
    by: str | None,
    filters: tuple[str, ...],
    *,
    all_subscriptions: bool,
    shared: bool,
) -> Answer:
    """Show the statement: bytes across regions, copies inside a region, and storage by time.

    Amounts are exact. The amount due is rounded half to even to the minor unit of the currency. `-o json` has all facts of
    a charge. `-o csv` has a line for each charge or sum, without the totals.

    With --shared, show the stored bytes that several versions or disks name. The payer has the bytes on the bill. After the
    deletion of the payer, the first of the others pays.
    """
    if shared:
        if month is not None or by is not None or filters or all_subscriptions:
            raise click.UsageError(
                "--shared shows the bytes of now, and cannot be used with other options of the bill."
            )
        found = shared_storage_json(session.run(shared_storage.list_shared_storage))
        return Answer(body=found, table=_shared_and_total, sheet=lambda body: (_SHARED, _shared_rows(body)))
    if by is None:
        if filters or all_subscriptions:
            raise click.UsageError("--filter and --all-subscriptions need --by, for example --by region")
        body = statement_json(session.run(statements.show_bill, month=month))
        return Answer(body=body, table=lines_and_total, sheet=_charges_sheet)
    sums = session.run(
        statements.group_bill,
        by=_read_property(by, "--by"),
        month=month,
        filters=_read_filters(filters),
        all_subscriptions=all_subscriptions,
    )
    return Answer(body=grouped_statement_json(sums), table=_sums_and_total, sheet=lambda body: _SUMS(body["rows"]))


@bill.command(
    table=_explanation_rows,
    example='imgstore bill explain "$(imgstore bill show --query "rows[0].entries[0]" -o tsv)" -o table',
)
@click.argument("entry")
@click.option("--segments", "with_segments", is_flag=True, help="List each segment behind the bytes, too.")
def explain(session: Session, entry: str, *, with_segments: bool) -> Json:
    """Explain the amount of an entry: bytes, segments, rule, price list, line of regions.yaml and tiers.

    ENTRY is the key of a transfer or the uid of a storage interval. `bill show -o json` names the entries of each row.
    The segments are those that the catalog knows now: later deletions may have changed their owners.
    """
    return explanation_json(session.run(explanations.explain_entry, entry), with_segments=with_segments)


def _read_filters(texts: Iterable[str]) -> Mapping[str, str]:
    """Return the wanted value of each property. A text without a value, or a second value, would select no charge."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        prop = _read_property(name, "--filter")
        if not sign:
            raise click.BadParameter(f"'{text}' has no value. Write for example {text}=VALUE.", param_hint="--filter")
        if prop.casefold() in {each.casefold() for each in found}:
            raise click.BadParameter(
                f"The property '{prop}' has several values. A charge has one value: run the command for each value.",
                param_hint="--filter",
            )
        found[prop] = region_key(value) if prop == Property.REGION else value
    return found


def _read_property(text: str, option: str) -> str:
    if text in set(Property) or (text.startswith(TAG_PREFIX) and text != TAG_PREFIX):
        return text
    raise InvalidInput(
        f"'{text}' is no property of a charge.",
        found=repr(text),
        expected=f"one of {', '.join(Property)}, or {TAG_PREFIX} with the name of a tag",
        hint="use for example --by region, or --filter tag:team=web with --by version",
        target=option,
    )


@bill.command(
    example="imgstore bill correct 2f0c8a52-8e0f-4c52-b2cf-4a59a1e1b8d4 --bytes -1000000 --reason 'ticket 17'"
)
@click.argument("entry", metavar="ENTRY")
@click.option(
    "--bytes", "corrected_bytes", type=int, required=True, metavar="N", help="Bytes to add, or to take if negative."
)
@click.option("--reason", required=True, metavar="TEXT", help="Reason, which the activity log shows.")
def correct(session: Session, entry: str, corrected_bytes: int, reason: str) -> Json:
    """Correct the bytes of a transfer, for operators.

    ENTRY is the key of a transfer. The command adds rows of the kind `correction` to the ledger, at the price of the
    transfer, and changes no other row. All corrections together cannot take more bytes than the transfer has. The bill of
    the present month has the correction. A repeated command corrects again.
    """
    return [entry_json(row) for row in session.run(corrections.correct_entry, entry, corrected_bytes, reason)]


for _command in (
    bill_export.export,
    bill_plot.plot,
    bill_reconcile.reconcile,
    bill_log.prove,
    bill_log.verify,
    bill_log.checkpoint,
    bill_log.seal,
    bill_log.rotate_key,
):
    bill.add_command(_command)
