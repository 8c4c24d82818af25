"""``imgstore regions``: where bytes are kept."""

import sys
from collections.abc import Mapping

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Group
from imgstore.cli.framework.output import Rows, columns
from imgstore.cli.framework.session import Session, opened
from imgstore.operations.stores import regions as operations
from imgstore.operations.stores.catalog_checks import accept_catalog as accept
from imgstore.regions import ZoneReport
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import region_json, zone_json

_ZONES = columns(
    Region="region",
    Zone="zone",
    Store="store",
    Ready="ready",
    AnswerSeconds="answerSeconds",
    MissedObjects="missedObjects",
    Circuit="circuit",
    Problem="problem",
)
_names = click.argument("names", nargs=-1, metavar="[REGION]...")


def _list_table(body: Json) -> Rows:
    return [
        {
            "Name": region["name"],
            "DisplayName": region["displayName"],
            "Policy": region["policy"],
            "StorageAccountTypes": ", ".join(region["storageAccountTypes"]),
            "Zones": ", ".join(zone["endpoint"] or "directory" for zone in region["zones"]),
        }
        for region in body
    ]


@click.group(cls=Group)
def regions() -> None:
    """List, check and initialize regions."""


@regions.command("list", table=_list_table, example="imgstore regions list -o table")
def list_() -> Json:
    """List the regions of regions.yaml and what each can offer."""
    with opened() as session:
        return [region_json(each) for each in operations.list_regions(session.installation, session.principal)]


@regions.command(table=_ZONES, example="imgstore regions check westus2 -o table")
@_names
def check(names: tuple[str, ...]) -> Answer:
    """Try every zone: does it answer, after how long, is its bucket there, is it ours?

    Of zones of a region with three, also how many objects they are known to miss: workers copy them there.

    The circuits show what each host saw of it: a zone whose circuit is open is left alone while others can serve.

    The exit code is 1 if a zone is not ready.
    """
    with opened() as session:
        reports = operations.check_regions(session.installation, session.principal, names=names)
        missed = operations.missed_objects(session.installation, session.principal)
        return _answer(session, reports, missed)


@regions.command(
    table=_ZONES,
    example="imgstore regions init\nimgstore regions init --zone westus2/1\n"
    "imgstore regions init --zone eastus/1 --replaced",
)
@_names
@click.option(
    "--zone",
    metavar="REGION/ZONE",
    help="Initialize this zone only: repair the zone's marks, or prepare an empty zone for `imgstore scrub`.",
)
@click.option(
    "--replaced",
    is_flag=True,
    help="Accept another store for the zone. The former content counts as lost: replicas without "
    "another copy become Degraded, and `imgstore scrub` restores the replicas.",
)
def init(names: tuple[str, ...], zone: str | None, *, replaced: bool) -> Answer:
    """Make the buckets that are missing; nothing else ever makes one.

    A zone that holds content keeps its store: another store in its place is refused until --replaced says that the
    former one is gone. The exit code is 1 if a zone is not ready.
    """
    with opened() as session:
        reports = operations.init_regions(
            session.installation, session.principal, names=names, zone=zone, replaced=replaced
        )
        return _answer(session, reports)


@regions.command("accept-catalog", example="imgstore regions accept-catalog --yes")
@options.yes
def accept_catalog(*, yes: bool) -> Json:
    """Use a catalog that is older than its buckets, for example one that was restored from a backup.

    First look for a newer backup. What was stored after the backup is not in this catalog: its versions and disks cannot
    be shown, exported or billed, and what was deleted since is listed and cannot be read. From then on objects that the
    catalog does not know are listed by `imgstore gc` and never deleted.

    Without --yes it asks; where there is no terminal to ask at, nothing is changed and the exit code is 1.
    """
    with opened() as session:
        if not yes:
            _confirm()
        problems = accept(session.installation, session.principal)
        for problem in problems:
            session.warn(f"{problem}; it may show again that the catalog is older")
        return {"accepted": True, "zonesNotReached": problems}


def _confirm() -> None:
    if not sys.stdin.isatty():
        click.echo("Nothing was changed: there is no terminal to ask at. Use --yes.", err=True)
    elif click.confirm("Use this catalog although it is older than its buckets?", err=True):
        return
    else:
        click.echo("Nothing was changed.", err=True)
    click.get_current_context().exit(1)


def _answer(session: Session, reports: list[ZoneReport], missed: Mapping[tuple[str, str], int] | None = None) -> Answer:
    """The zones, with the number of objects that they are known to miss, where it was looked for."""
    circuits = operations.list_circuits(session.installation, session.principal)
    now = session.installation.effects.now()
    body = [zone_json(each, circuits.get((each.region, each.zone), ()), now) for each in reports]
    if missed is not None:
        body = [
            zone | {"missedObjects": missed.get((each.region, each.zone), 0)}
            for zone, each in zip(body, reports, strict=True)
        ]
    return Answer(body=body, exit_code=0 if all(each["ready"] for each in body) else 1)
