"""``imgstore bill reconcile``: compare the bill with the manifests and the listings of the stores."""

from pathlib import Path
from typing import Final

import click

from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.months import month_option
from imgstore.cli.framework.output import Rows
from imgstore.cli.framework.saved_outputs import read_saved_output
from imgstore.cli.framework.session import Session
from imgstore.domain.errors import InvalidInput
from imgstore.domain.text.strict_json import read_json
from imgstore.ledger.months import Month
from imgstore.ledger.traffic import EndpointReading, compare_readings
from imgstore.operations.diagnosis.reconcile import reconcile as reconcile_bill
from imgstore.operations.diagnosis.traffic_readings import read_traffic
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reconciliation import counters_json, read_counters, reconciliation_json, traffic_json

_COUNTERS_BYTES_MAX: Final = 64 * 1024 * 1024


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
    traffic = [
        {
            "Kind": "traffic" if each["agrees"] else "TRAFFIC",
            "Subject": f"{each['endpoint']}: {each['unexplainedBytes']} of {each['receivedBytes']} received bytes have no name",
        }
        for each in body.get("traffic", [])
    ]
    count = body["differenceCount"]
    text = "bill, manifests and listings agree to the byte" if body["agrees"] else f"differences: {count}"
    return [*slots, *differences, *traffic, {"Kind": "agrees" if body["agrees"] else "DIFFERS", "Subject": text}]


@click.command(
    cls=Command,
    table=_table,
    example="imgstore bill reconcile -o table\nimgstore bill reconcile --counters > begin.json\n"
    "imgstore bill reconcile --counters-before begin.json",
)
@month_option("--month", help="Month in UTC of the transfers and overlaps. Default: all months.")
@click.option("--counters", is_flag=True, help="Add the traffic counters of the stores, which must be MinIO.")
@click.option(
    "--counters-before",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare the traffic since an earlier output of --counters.",
)
def reconcile(session: Session, month: Month | None, file: Path | None, *, counters: bool) -> Answer:
    """Compare the bill with the manifests and the listings of all slots, for operators. Nothing is changed.

    For each slot, the bytes of the open intervals, of the complete manifests, and of the listing without overhead must be
    equal. Overhead is listed by kind: fingerprints, boot packs, revisions, notes, works in progress, and unreferenced segments. Each
    difference names an object or an owner. No owner may be billed twice at the same time. With --counters-before, at most
    0.5% of the bytes that each store received may have no name. The exit code is 1 if something differs.
    """
    if month is not None and (counters or file is not None):
        raise click.UsageError("--month cannot be used with the counters, which count since the start of a store.")
    begin = None if file is None else _read_counters(file)
    report = session.run(reconcile_bill, month=month)
    body, agrees = reconciliation_json(report), report.agrees
    if counters or begin is not None:
        readings = session.run(read_traffic, report)
        body["counters"] = counters_json(readings)
        if begin is not None:
            compared = [
                compare_readings(endpoint, begin[endpoint], reading)
                for endpoint, reading in readings.items()
                if endpoint in begin
            ]
            agrees = agrees and len(compared) == len(readings) and all(each.agrees for each in compared)
            body["traffic"] = [traffic_json(each) for each in compared]
    return Answer(body=body | {"agrees": agrees}, exit_code=0 if agrees else 1)


def _read_counters(file: Path) -> dict[str, EndpointReading]:
    command, target = "imgstore bill reconcile --counters", "--counters-before"
    text = read_saved_output(file, noun="output", command=command, bytes_max=_COUNTERS_BYTES_MAX, target=target)
    try:
        return read_counters(read_json(text))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"The output {file} has no counters.",
            found="other content",
            expected=f"the output of `{command}`",
            hint=f"save the output first: {command} > begin.json",
            target=target,
        ) from error
