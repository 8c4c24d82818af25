"""``imgstore gc``: deletion of unreferenced objects after a grace period."""

from datetime import timedelta
from typing import Any, Final

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Command, require_confirmation
from imgstore.cli.framework.output import columns, table_text
from imgstore.cli.framework.session import open_session
from imgstore.domain.text.durations import format_duration
from imgstore.operations.disks.uploads import sweep_uploads
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.maintenance.unknown_objects import UNKNOWN_GRACE_DAYS, list_unknown, remove_unknown
from imgstore.operations.slots.stale_works import WORK_ABANDON_DAYS
from imgstore.operations.what_if.collection import forecast_collection
from imgstore.policy.gc_plan import GcReport
from imgstore.wire.json_text import Json
from imgstore.wire.responses.forecast import collection_forecast_json
from imgstore.wire.responses.maintenance import gc_report_json, unknown_objects_json

_PLAN = columns(
    Pool="owner",
    Region="region",
    StorageAccountType="storageAccountType",
    Replica="replica",
    Objects="objects",
    StoredBytes="storedBytes",
    Unreferenced="unreferenced.objects",
    UnreferencedBytes="unreferenced.storedBytes",
    InGraceBytes="inGrace.storedBytes",
    HeldBytes="held.storedBytes",
    UnfinishedDeletes="unfinishedDelete.objects",
    TakeoverAt="unfinishedDelete.takeoverAt",
    DeletableBytes="deletable.storedBytes",
    CollectedBytes="collected.storedBytes",
    KeptBytes="keptAsOldVersions.storedBytes",
    OldestOpenWork="oldestOpenWork.openedAt",
    UnknownManifests="unknownManifestCount",
    Problem="problem",
)


_UNKNOWN = columns(
    Slot="slot",
    Key="key",
    StoredBytes="storedBytes",
    FirstSeenAt="firstSeenAt",
    Segments="names.segments",
    SegmentBytes="names.storedBytes",
    RemovableAt="removableAt",
    KeptBecause="keptBecause",
    Removed="removed",
)


def _unknown_table(body: Json) -> list[dict[str, Json]]:
    return [dict(row) for row in _UNKNOWN(body["objects"])]


def _table(body: Json) -> list[dict[str, Json]]:
    if "objects" in body:
        return _unknown_table(body)
    owned = [{**slot, "owner": slot["gallery"] or slot["subscription"] or slot["poolKind"]} for slot in body["slots"]]
    return [dict(row) for row in _PLAN(owned)]


_DAYS_MAX: Final = 36_500
"""A century. A longer period leads to dates that databases cannot represent."""


_FORECAST: Final = columns(
    Region="region",
    StorageAccountType="storageAccountType",
    DeletedBytes="deletedBytes",
    DeletedPerMonth="deletedPerMonth",
    InGraceBytes="inGraceBytes",
    Problem="problem",
)


def _forecast(*, grace_hours: float, work_abandon_days: float, unknown: bool, **_given: Any) -> Answer:
    """Predict the effects of a collection by region and storage account type."""
    if unknown:
        raise click.UsageError("--what-if does not go with --unknown, which lists the objects without --remove.")
    grace, patience = timedelta(hours=grace_hours), timedelta(days=work_abandon_days)
    with open_session() as session:
        found = session.run(forecast_collection, grace=grace, patience=patience)
        body = collection_forecast_json(found, session.installation.regions.currency)
    return Answer(
        body=body,
        exit_code=1 if any(each["problem"] for each in body["regions"]) else 0,
        table=lambda body: _FORECAST(body["regions"]),
    )


@click.command(
    cls=Command,
    table=_table,
    example="imgstore gc --dry-run -o table\nimgstore gc --what-if -o table\nimgstore gc --yes\n"
    "imgstore gc --unknown -o table",
    forecast=_forecast,
)
@options.fraction(
    "--grace-hours",
    least=0,
    most=24 * _DAYS_MAX,
    default=maintenance_gc.GRACE_HOURS,
    show_default=True,
    unit="HOURS",
    text="Keep an unreferenced object for this time after the mark for deletion.",
)
@options.fraction(
    "--work-abandon-days",
    least=0,
    most=_DAYS_MAX,
    default=WORK_ABANDON_DAYS,
    show_default=True,
    unit="DAYS",
    text="Abandon an interrupted work this long after the end of its lease. 0: at the end of the lease.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option(
    "--unknown",
    is_flag=True,
    help="List manifests that the catalog does not know, and collect nothing. Late requests leave such manifests.",
)
@click.option("--remove", is_flag=True, help="With --unknown: remove manifests after the end of their grace period.")
@options.fraction(
    "--unknown-grace-days",
    least=0,
    most=_DAYS_MAX,
    default=UNKNOWN_GRACE_DAYS,
    show_default=True,
    unit="DAYS",
    text="Keep an unknown manifest for this time after its discovery.",
)
@options.yes
def gc(
    *,
    grace_hours: float,
    work_abandon_days: float,
    dry_run: bool,
    unknown: bool,
    remove: bool,
    unknown_grace_days: float,
    yes: bool,
) -> Answer | None:
    """Delete objects that no version, disk or open work names.

    The command prints the plan first, by slot. An unreferenced object is marked for deletion, and a later run deletes the
    object after the grace period. Manifests that the catalog does not know are reported and kept, with all their segments.
    An interrupted ingest or copy protects its objects until the work is abandoned.

    A bucket with versioning keeps deleted objects as old versions. The command deletes old versions by id and reports the
    versions that stay, for example under a retention.

    Without --yes the command asks for a confirmation. Without a terminal the command deletes nothing and exits with 1. The
    exit code is also 1 if a slot could not be read.

    --unknown lists the manifests that the catalog does not know, with slot, key, size, age and protected segments.
    --unknown --remove removes the unknown manifests whose grace period is over.
    """
    if remove and not unknown:
        raise click.UsageError("--remove is for --unknown.")
    if unknown:
        return _gc_unknown(unknown_grace_days, remove=remove and not dry_run, yes=yes)
    grace, patience = timedelta(hours=grace_hours), timedelta(days=work_abandon_days)
    with open_session() as session:
        plan = session.run(maintenance_gc.plan_collection, grace=grace, patience=patience)
        body = gc_report_json(plan, dry_run=True)
        if dry_run:
            for line in (*_unfinished_lines(plan), *_old_version_lines(plan)):
                session.warn(line)
            return _answer(body)
        if not session.quiet or not yes:
            click.echo(table_text(_table(body)) or "No objects are stored yet.", err=True)
            for sweep in plan.old_versions:
                if sweep.removed:
                    click.echo(
                        f"Old versions to be deleted in {sweep.region}/{sweep.zone}, unless the store keeps them: "
                        f"{sweep.removed} with {sweep.removed_bytes} bytes",
                        err=True,
                    )
            for work in body["abandonedWorks"]:
                since = work["unleasedSince"]
                click.echo(
                    f"To be abandoned: {work['kind']} for {work['owner']}, without a lease since {since}", err=True
                )
        if not yes:
            _confirm()
        done = session.run(maintenance_gc.collect, grace=grace, patience=patience)
        for line in (*_unfinished_lines(done), *_old_version_lines(done)):
            session.warn(line)
        sweep_uploads(session.installation)
        return _answer(gc_report_json(done, dry_run=False))


def _gc_unknown(grace_days: float, *, remove: bool, yes: bool) -> Answer:
    grace = timedelta(days=grace_days)
    with open_session() as session:
        found = session.run(list_unknown, grace=grace)
        if remove and any(one.is_removable for each in found for one in each.objects):
            if not yes:
                click.echo(
                    table_text(_unknown_table(unknown_objects_json(found, grace_days=grace_days, dry_run=True))),
                    err=True,
                )
                _confirm()
            found = session.run(remove_unknown, grace=grace)
        body = unknown_objects_json(found, grace_days=grace_days, dry_run=not remove)
        return Answer(body=body, exit_code=1 if body["problems"] else 0)


def _unfinished_lines(collection: GcReport) -> list[str]:
    """Report segments that another collector is deleting. Writers of the segments are refused until its lease ends."""
    return [
        f"{report.slot.key}: {unfinished.segments} segments are in delete in progress by a collector that ended, or is at "
        f"work; can be taken over at {unfinished.takeover_at:%H:%M:%S} UTC (in {format_duration(unfinished.wait)})"
        for report in collection.slots
        if report.survey is not None and (unfinished := report.survey.plan.unfinished) is not None
    ]


def _old_version_lines(collection: GcReport) -> list[str]:
    """Report the old versions that stay in buckets with versioning. The owner of the bucket pays for these bytes."""
    lines = []
    for sweep in collection.old_versions:
        where = f"{sweep.region}/{sweep.zone}: versioning of {sweep.store} is {sweep.versioning.state.value.lower()}"
        if sweep.problem is not None:
            deleted = f"the {sum(sweep.kept_keys.values())} bytes deleted now" if sweep.kept_keys else "deleted objects"
            lines.append(
                f"{where}, and {deleted} may stay as old versions, which are billed: {sweep.problem}; permit "
                "s3:ListBucketVersions and s3:DeleteObjectVersion, or let a lifecycle rule expire noncurrent versions"
            )
        elif sweep.kept:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in sweep.reasons.most_common())
            lines.append(
                f"{where}, and {sweep.kept} old versions with {sweep.kept_bytes} bytes stay and are billed: {reasons}; "
                f"{_KEPT_REMEDY}"
            )
    return lines


_KEPT_REMEDY: Final = (
    "permit s3:DeleteObjectVersion, wait for the end of a retention or legal hold, or let a lifecycle rule expire "
    "noncurrent versions"
)


def _answer(body: Json) -> Answer:
    return Answer(body=body, exit_code=1 if any(slot["problem"] for slot in body["slots"]) else 0)


def _confirm() -> None:
    require_confirmation("Collect this?", refusal="Nothing was collected")
