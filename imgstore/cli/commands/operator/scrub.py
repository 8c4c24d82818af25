"""``imgstore scrub``: check and repair of stored objects."""

from datetime import date

import click

from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.requests import ScrubRequest
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.wire.json_text import Json
from imgstore.wire.responses.maintenance import scrub_json

_SLOTS = columns(
    Region="region",
    StorageAccountType="storageAccountType",
    Replica="replica",
    Objects="objects",
    ReadBytes="readBytes",
    Damaged="damaged",
    Repaired="repaired",
    Unrepaired="unrepairedCount",
    RestoredReplicas="restoredReplicas",
    UnrestoredReplicas="unrestoredReplicaCount",
    Problem="problem",
)


def _table(body: Json) -> list[dict[str, Json]]:
    return [dict(row) for row in _SLOTS(body["slots"])]


@click.command(
    cls=Command, table=_table, example="imgstore scrub --sample 10 -o table\nimgstore scrub --region westus2"
)
@click.option(
    "--sample",
    "percent",
    type=click.FloatRange(0, 100),
    default=100.0,
    show_default=True,
    metavar="PERCENT",
    help="Percentage of segments to read. All manifests are read.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Number that selects the sample. Default: a new number every day.",
)
@click.option("--region", metavar="REGION", help="Scrub this region only. Default: every region.")
@click.option("--dry-run", is_flag=True, help="Report damage and repair nothing.")
@click.option("--from-start", is_flag=True, help="Read each slot from the beginning, also after an interrupted scrub.")
def scrub(
    session: Session, *, percent: float, seed: int | None, region: str | None, dry_run: bool, from_start: bool
) -> Answer:
    """Read stored objects, check the objects and repair damage.

    The command compares every segment and manifest of versions and disks with its digest. A damaged or missing object is
    restored from another zone, else from another replica, of the same region first. The exit code is 1 if damage remains or
    an object could not be read. With --dry-run the exit code is 1 if damage exists.

    A scrub that was interrupted less than a day ago resumes where the scrub stopped, slot by slot.
    """
    request = ScrubRequest(
        percent=percent,
        seed=date.today().toordinal() if seed is None else seed,  # noqa: DTZ011 - any day will do
        region=region,
        dry_run=dry_run,
        takes_any_seed=seed is None,
        from_start=from_start,
    )
    done = session.run(maintenance_scrub.scrub, request)
    wrong = any(each.unrepaired or each.unrestored or each.problem for each in done)
    return Answer(body=scrub_json(request, done), exit_code=1 if wrong else 0)
