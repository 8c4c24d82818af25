"""``imgstore bill reconcile``: compare the bill with the manifests and the listings of the stores."""

import click

from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.months import month_option
from imgstore.cli.framework.output import Rows
from imgstore.cli.framework.session import Session
from imgstore.ledger.months import Month
from imgstore.operations.diagnosis.reconcile import reconcile as reconcile_bill
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reconciliation import reconciliation_json


def _table(body: Json) -> Rows:
    slots = [
        {
            "Kind": "slot",
            "Subject": each["slot"],
            "Billed": each["billedBytes"],
            "Manifests": each["namedBytes"],
            "Listed": each["listedBytes"],
            "Overhead": sum(each["overhead"].values()),
        }
        for each in body["slots"]
    ]
    differences = [
        {
            "Kind": each["kind"],
            "Subject": f"{each['slot']} {each['name'] or each['subject']}",
            "Billed": "",
            "Manifests": each["expectedBytes"],
            "Listed": each["foundBytes"],
            "Overhead": "",
        }
        for each in body["differences"]
    ]
    count = body["differenceCount"]
    text = "bill, manifests and listings agree to the byte" if body["agrees"] else f"differences: {count}"
    return [*slots, *differences, {"Kind": "agrees" if body["agrees"] else "DIFFERS", "Subject": text}]


@click.command(cls=Command, table=_table, example="imgstore bill reconcile -o table")
@month_option("--month", help="Month in UTC of the transfers and overlaps. Default: all months.")
def reconcile(session: Session, month: Month | None) -> Answer:
    """Compare the bill with the manifests and the listings of all slots, for operators. Nothing is changed.

    For each slot, the bytes of the open intervals, of the complete manifests, and of the listing without overhead must be
    equal. Overhead is listed by kind: fingerprints, revisions, notes, works in progress, and unreferenced segments. Each
    difference names an object or an owner. No owner may be billed twice at the same time. The exit code is 1 if something
    differs.
    """
    report = session.run(reconcile_bill, month=month)
    return Answer(body=reconciliation_json(report), exit_code=0 if report.agrees else 1)
