"""``imgstore monitor activity-log``: the log of activities with principal, time and result."""

import re
from datetime import timedelta

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.operations import activity_log as operations_activity_log
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import activity_json

_TABLE = columns(
    Time="eventTimestamp",
    Caller="caller",
    Operation="operationName.value",
    Status="status.value",
    Description="description",
    Resource="resourceId",
)
_OFFSET = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?", re.IGNORECASE)
_EXAMPLE = """
imgstore monitor activity-log list --offset 7d -o table
imgstore monitor activity-log list -g rg --max-events 10 --query "[?status.value != 'Succeeded']"
"""


@click.group(cls=Group)
def monitor() -> None:
    """Show the activity log."""


@monitor.group("activity-log", cls=Group)
def activity_log() -> None:
    """Show the log with a row for every activity."""


def _offset(text: str) -> timedelta:
    found = _OFFSET.fullmatch(text)
    if not text or found is None:
        raise click.BadParameter(f"'{text}' is no span of days and hours: 6h, 7d, 1d12h.")
    days, hours = (int(each or 0) for each in found.groups())
    try:
        return timedelta(days=days, hours=hours)
    except OverflowError as error:
        raise click.BadParameter(f"'{text}' is too long.") from error


@activity_log.command("list", table=_TABLE, example=_EXAMPLE)
@options.some_group
@click.option("--resource-id", metavar="ID", help="Show events of this resource and of resources below only.")
@click.option(
    "--offset",
    type=_offset,
    default="6h",
    show_default=True,
    metavar="1d2h",
    help="Show events of this period, which ends now.",
)
@options.number("--max-events", least=1, default=50, show_default=True, text="Largest number of events to show.")
def list_(session: Session, group: str | None, resource_id: str | None, offset: timedelta, max_events: int) -> Json:
    """List the activities of principals, workers, collections and scrubs, the newest first."""
    found = session.run(
        operations_activity_log.list_activity,
        group=group,
        resource_id=resource_id,
        within=offset,
        events_max=max_events,
    )
    return [activity_json(each) for each in found]
