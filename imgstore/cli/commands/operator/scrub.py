"""``imgstore scrub``: check and repair of stored objects."""

from datetime import date
from typing import Any, Final

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.requests import ScrubRequest
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_rate
from imgstore.wire.responses.maintenance import scrub_json, scrub_status_json

_SLOTS = columns(
    Region="region",
    StorageAccountType="storageAccountType",
    Replica="replica",
    Objects="objects",
    ReadBytes="readBytes",
    Seconds="seconds",
    BytesPerSecond="bytesPerSecond",
    BeganAt="beganAt",
    ResumedFrom="resumedFrom",
    Damaged="damaged",
    Repaired="repaired",
    Unrepaired="unrepairedCount",
    LostBytes="lostBytes",
    Lost="lost",
    RestoredReplicas="restoredReplicas",
    UnrestoredReplicas="unrestoredReplicaCount",
    Problem="problem",
)

_STATUS = columns(
    Region="region",
    StorageAccountType="storageAccountType",
    Replica="replica",
    LastScrubbed="lastScrubbed",
    AgeSeconds="ageSeconds",
    LastSample="lastSample.samplePercent",
    LastSampleAt="lastSample.endedAt",
    RunningSince="runningSince",
    LostObjects="lostObjects",
    LostBytes="lostBytes",
    Lost="lost",
)

_RANGES_IN_TABLE_MAX: Final = 3
"""The number of lost ranges of a disk in a table. The JSON has more."""


def _table(body: Json) -> list[dict[str, Json]]:
    if isinstance(body, list):
        return [dict(row) for row in _STATUS([*map(_with_losses, body)])]
    return [dict(row) for row in _SLOTS([*map(_with_losses, body["slots"])])]


def _with_losses(slot: dict[str, Json]) -> dict[str, Json]:
    """Return a slot with texts about the lost ranges of all owners."""
    disks = [disk for loss in slot["losses"] for disk in loss["disks"]]
    text = "; ".join(map(_format_loss, slot["losses"])) or None
    return {**slot, "lostBytes": sum(disk["lostBytes"] for disk in disks) or None, "lost": text}


def _format_loss(loss: Json) -> str:
    damaged = [disk for disk in loss["disks"] if disk["lostRanges"]]
    name = loss["id"].partition("/providers/")[2].partition("/")[2]
    return f"{name}: {', '.join(map(_format_ranges, damaged))}, intact: {', '.join(loss['intactDisks']) or 'none'}"


def _format_ranges(disk: Json) -> str:
    shown = [f"{each['offset']}+{each['length']}" for each in disk["lostRanges"][:_RANGES_IN_TABLE_MAX]]
    more = len(disk["lostRanges"]) - len(shown) + disk["moreLostRanges"]
    rest = f" and {more} more" if more else ""
    return f"{disk['disk']} {disk['lostBytes']} bytes at {' '.join(shown)}{rest}"


def _check_status(*, status: bool, **others: Any) -> dict[str, Any]:
    """Refuse the options of a scrub with --status, which reads nothing."""
    given = options.list_given(others)
    if status and given:
        raise click.UsageError(f"--status reads no object: run the command without {', '.join(given)}.")
    return {"status": status, **others}


@click.command(
    cls=Command,
    table=_table,
    read_options=_check_status,
    example="imgstore scrub --sample 10 --rate 50MB/s -o table\nimgstore scrub --region westus2\n"
    "imgstore scrub --status -o table",
)
@options.fraction(
    "--sample",
    "percent",
    least=0,
    most=100,
    default=100.0,
    show_default=True,
    unit="PERCENT",
    text="Percentage of segments to read. All manifests are read.",
)
@options.number(
    "--seed", least=0, unit="NUMBER", text="Number that selects the sample. Default: a new number every day."
)
@click.option("--region", metavar="REGION", help="Scrub this region only. Default: every region.")
@click.option("--dry-run", is_flag=True, help="Report damage and repair nothing.")
@click.option("--from-start", is_flag=True, help="Read each slot from the beginning, also after an interrupted scrub.")
@click.option(
    "--rate",
    "bytes_per_second_max",
    type=parse_rate,
    default="0",
    metavar="RATE",
    help="Largest bandwidth of reads and repairs, for example 50MB/s or 16MiB/s. Default: no limit.",
)
@click.option("--status", is_flag=True, help="Show the last scrub of each slot, and read nothing.")
def scrub(
    session: Session,
    *,
    percent: float,
    seed: int | None,
    region: str | None,
    dry_run: bool,
    from_start: bool,
    bytes_per_second_max: int,
    status: bool,
) -> Answer:
    """Read stored objects, check the objects and repair damage.

    The command compares every segment and manifest of versions and disks with its digest. A damaged or missing object is
    restored from another zone, else from another replica, of the same region first. The exit code is 1 if damage remains or
    an object could not be read. With --dry-run the exit code is 1 if damage exists.

    A scrub that was interrupted less than a day ago resumes where the scrub stopped, slot by slot.

    --status shows when all objects of each slot were last read, and the number of objects that no copy could repair.
    """
    if status:
        now = session.installation.effects.now()
        return Answer(body=[scrub_status_json(each, now) for each in session.run(maintenance_scrub.list_scrubs)])
    request = ScrubRequest(
        percent=percent,
        seed=date.today().toordinal() if seed is None else seed,  # noqa: DTZ011 - any day will do
        region=region,
        dry_run=dry_run,
        takes_any_seed=seed is None,
        from_start=from_start,
        bytes_per_second_max=bytes_per_second_max,
    )
    done = session.run(maintenance_scrub.scrub, request)
    wrong = any(each.unrepaired or each.unrestored or each.problem for each in done)
    return Answer(body=scrub_json(request, done), exit_code=1 if wrong else 0)
