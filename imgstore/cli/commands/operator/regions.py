"""``imgstore regions``: the regions, their zones and buckets."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import click

from imgstore.cli.framework import global_options, options
from imgstore.cli.framework.command import Answer, Group, require_confirmation
from imgstore.cli.framework.output import Rows, columns
from imgstore.cli.framework.session import Session
from imgstore.domain.storage.sizes import GIB
from imgstore.domain.text.byte_counts import format_bytes
from imgstore.operations.recovery.recovery_cover import find_recovery_cover
from imgstore.operations.stores import regions as operations
from imgstore.operations.stores.analysis import PlannedZone, analyze_zones, plan_zone_analysis
from imgstore.operations.stores.catalog_checks import accept_catalog as accept
from imgstore.policy.diagnosis import judge_recovery_file
from imgstore.regions import ZoneReport, load_regions
from imgstore.stores.analysis import AnalysisSettings
from imgstore.wire.json_text import Json
from imgstore.wire.responses.analysis import analyzed_zone_json
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
    Warnings="warnings",
)


def _zones_table(body: Json) -> Rows:
    return _ZONES([zone | {"warnings": "; ".join(zone.get("warnings", ())) or None} for zone in body])


def _check_table(body: Json) -> Rows:
    if not any("analysis" in zone for zone in body):
        return _zones_table(body)
    return [row for zone in body for row in _analysis_rows(zone)]


def _analysis_rows(zone: Json) -> Rows:
    place = {"Zone": f"{zone['region']}/{zone['zone']}"}
    if zone["analysis"] is None:
        return [place | {"Check": None, "Outcome": "not ready", "Found": zone["problem"], "WhatToDo": None}]
    return [
        place | {"Check": each["check"], "Outcome": each["outcome"], "Found": each["found"], "WhatToDo": each["hint"]}
        for each in zone["analysis"]["checks"]
    ]


_DEFAULTS: Final = AnalysisSettings()
_EXTENT: Final = frozenset({"objects", "rounds", "object_bytes_max", "watch_seconds"})
"""The options with the extent of an analysis."""
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


def _check_extent(*, analyze: bool, **others: Any) -> dict[str, Any]:
    """Refuse the options of an analysis without --analyze."""
    given = options.list_given(_EXTENT)
    if given and not analyze:
        raise click.UsageError(f"{', '.join(given)} needs --analyze, which tests the stores.")
    return {"analyze": analyze, **others}


@click.group(cls=Group)
def regions() -> None:
    """List, check and initialize regions."""


@regions.command("list", table=_list_table, example="imgstore regions list -o table")
def list_(session: Session) -> Json:
    """List the regions of regions.yaml with their storage types."""
    return [region_json(each) for each in session.run(operations.list_regions)]


@regions.command(
    table=_check_table,
    example="imgstore regions check westus2 -o table\nimgstore regions check westus2 --analyze -o table",
    read_options=_check_extent,
)
@_names
@click.option("--analyze", is_flag=True, help="Prove or disprove the properties that imgstore needs from each store.")
@click.option(
    "--objects",
    type=click.IntRange(10, 100_000),
    metavar="NUMBER",
    help=f"With --analyze: objects to list. Default: {_DEFAULTS.objects}, which need a second page.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1_000),
    metavar="NUMBER",
    help=f"With --analyze: repetitions of each check, which find rarer faults. Default: {_DEFAULTS.rounds}.",
)
@click.option(
    "--max-object-bytes",
    "object_bytes_max",
    type=click.IntRange(10, 5 * GIB),
    metavar="BYTES",
    help=f"With --analyze: size of the largest object, which needs 4 times as much memory. "
    f"Default: {_DEFAULTS.object_bytes_max}.",
)
@click.option(
    "--watch-seconds",
    type=click.FloatRange(0, 3_600),
    metavar="SECONDS",
    help=f"With --analyze: time in which late requests may arrive. Default: {_DEFAULTS.watch_seconds:g}.",
)
@click.option("-y", "--yes", is_flag=True, help="With --analyze: run without a confirmation.")
def check(session: Session, names: tuple[str, ...], *, analyze: bool, yes: bool, **extent: float | None) -> Answer:
    """Check every zone: response, round trip time, bucket, identity, rights and free space.

    The command puts a small object into each used zone and deletes the object. So the command finds missing rights, a full
    store, versioning, object lock and MFA delete.

    For a region with three zones the command also prints the number of objects that a zone has missed. Workers copy missed
    objects to the zone. The circuit of a zone is open while the zone does not answer a host.

    The command also warns if the installation has keys that are not in the newest recovery file (`imgstore catalog
    recovery-file`).

    With --analyze the command tests each store with objects under a prefix of its own, and deletes the objects. The command
    first prints the number of requests and bytes, which may cost money, and asks for a confirmation at a terminal.

    The exit code is 1 if a zone is not ready, or if a property of a store is disproved.
    """
    given = {name: value for name, value in extent.items() if value is not None}
    if analyze:
        return _analyze(session, names, replace(_DEFAULTS, **given), yes=yes)  # type: ignore[arg-type]
    reports = session.run(operations.check_regions, names=names)
    missed = session.run(operations.count_missed_objects)
    _warn_without_recovery_file(session)
    return _answer(session, reports, missed)


def _analyze(session: Session, names: tuple[str, ...], settings: AnalysisSettings, *, yes: bool) -> Answer:
    planned = session.run(plan_zone_analysis, names=names, settings=settings)
    totals = [each.planned for each in planned if each.planned is not None]
    if not session.quiet:
        for zone in planned:
            click.echo(f"{zone.name} {zone.report.store}: {_announce(zone)}", err=True)
        requests = sum(each.request_count for each in totals)
        wire_bytes = format_bytes(sum(each.wire_bytes for each in totals))
        charge = ", which a provider may charge" if any(not each.is_directory for each in planned) else ""
        click.echo(f"In all: {requests:,} requests and {wire_bytes}{charge}.", err=True)
    if totals and not yes and sys.stdin.isatty():
        require_confirmation("Analyze these stores?", refusal="Nothing was analyzed")
    done = session.run(analyze_zones, planned, settings=settings)
    body = [analyzed_zone_json(each.report, each.analysis) for each in done]
    failed = any(not zone["ready"] or zone["analysis"] is None or zone["analysis"]["disproved"] for zone in body)
    return Answer(body=body, exit_code=1 if failed else 0)


def _announce(zone: PlannedZone) -> str:
    planned = zone.planned
    if planned is None:
        return f"cannot be analyzed: {zone.report.problem}"
    if zone.store is not None and zone.store.refusal is not None:
        return f"is not tested with objects: {zone.store.refusal}"
    methods = ", ".join(f"{count:,} {method}" for method, count in planned.requests.items())
    return (
        f"{planned.request_count:,} requests ({methods}), {format_bytes(planned.sent_bytes)} to the store and "
        f"{format_bytes(planned.received_bytes)} from the store"
    )


@regions.command(
    table=_zones_table,
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
def init(session: Session, names: tuple[str, ...], zone: str | None, *, replaced: bool) -> Answer:
    """Create missing buckets. No other command creates a bucket.

    A zone with content keeps its store. Another store in the zone's place is refused unless --replaced is given. The exit
    code is 1 if a zone is not ready.
    """
    return _answer(session, session.run(operations.init_regions, names=names, zone=zone, replaced=replaced))


@regions.command(example="imgstore regions policy\nimgstore regions policy westus2 --read-only > policy.json")
@_names
@click.option("--read-only", is_flag=True, help="Permit reading only, for a home that cannot be written.")
def policy(names: tuple[str, ...], *, read_only: bool) -> Json:
    """Print the least-privilege policy for the buckets of regions.yaml. No home is needed.

    The policy permits exactly the actions that imgstore sends, for the keys that imgstore uses. Attach the policy to the user
    with the credentials of the zones. The document has the policy language of AWS, which other S3 servers accept as well.

    After `imgstore regions init` the right s3:CreateBucket may be removed. A source `s3://...` of an image needs
    s3:GetObject for its own bucket in addition.
    """
    found = load_regions(global_options.of(click.get_current_context()).regions, os.environ)
    return dict(operations.create_regions_policy(found, names=names, read_only=read_only))


@regions.command("accept-catalog", example="imgstore regions accept-catalog --yes")
@options.yes
def accept_catalog(session: Session, *, yes: bool) -> Json:
    """Accept a catalog that is older than its buckets, for example after a restore from a backup.

    Look for a newer backup first. Versions and disks that were stored after the backup are not in the catalog, and cannot be
    shown, exported or billed. Resources that were deleted after the backup are listed and cannot be read. `imgstore gc` lists
    objects that the catalog does not know and never deletes them.

    Without --yes the command asks for a confirmation. Without a terminal the command changes nothing and exits with 1.
    """
    if not yes:
        require_confirmation("Use this catalog although it is older than its buckets?", refusal="Nothing was changed")
    problems = session.run(accept)
    for problem in problems:
        session.warn(f"{problem}; the zone may show again that the catalog is older")
    return {"accepted": True, "zonesNotReached": problems}


def _warn_without_recovery_file(session: Session) -> None:
    finding = judge_recovery_file(session.run(find_recovery_cover))
    if finding.next_step is not None:
        session.warn(f"{finding.found}: run `{finding.next_step}`")


def _answer(session: Session, reports: list[ZoneReport], missed: Mapping[tuple[str, str], int] | None = None) -> Answer:
    """Make the report of the zones, with the number of missed objects where the number is known."""
    circuits = session.run(operations.list_circuits)
    now = session.installation.effects.now()
    body = [zone_json(each, circuits.get((each.region, each.zone), ()), now) for each in reports]
    if missed is not None:
        body = [
            zone | {"missedObjects": missed.get((each.region, each.zone), 0)}
            for zone, each in zip(body, reports, strict=True)
        ]
    return Answer(body=body, exit_code=0 if all(each["ready"] for each in body) else 1)
