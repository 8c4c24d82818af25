"""``imgstore status``: all galleries, unfinished replicas, zones and findings, for people and for monitoring."""

from collections.abc import Iterator, Sequence

import click

from imgstore.cli.commands.operator.doctor import finding_lines
from imgstore.cli.framework import global_options, options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import columns, table_text
from imgstore.cli.framework.session import Session
from imgstore.domain.diagnosis import Level
from imgstore.domain.states import ReplicaState
from imgstore.domain.status import InstallationStatus, ReplicaStatus, ZoneStatus
from imgstore.domain.storage.circuits import CircuitState
from imgstore.domain.text.byte_counts import format_bytes
from imgstore.domain.text.durations import format_duration, format_time
from imgstore.operations.diagnosis.status import REPLICAS_MAX, read_status
from imgstore.wire.json_text import Json
from imgstore.wire.responses.status import status_json

_GALLERIES = columns(
    Group="resourceGroup",
    Gallery="gallery",
    Definitions="definitions",
    Versions="versions",
    **{state.value: f"replicas.{state.value}" for state in ReplicaState if state is not ReplicaState.DELETING},
)


def _table(body: Json) -> Sequence[dict[str, Json]]:
    return [dict(row) for row in _GALLERIES(body["galleries"])]


@click.command(
    cls=Command,
    table=_table,
    example="imgstore status\nimgstore status -o json --query \"replicas[?state=='Failed']\"\n"
    "imgstore status --max-replicas 1000 -o json --query 'unfinishedReplicas'",
)
@options.number(
    "--max-replicas",
    least=0,
    default=REPLICAS_MAX,
    show_default=True,
    text="Largest number of unfinished replicas to show, the worst first.",
)
def status(session: Session, max_replicas: int) -> Answer:
    """Show all galleries, unfinished replicas, zones, and what needs attention.

    Each unfinished replica has its progress, rate, remaining time and error. Zones are shown as processes saw them last: no
    store is asked, so the command answers at once. `imgstore doctor` asks each zone.

    The exit code is 0 if all is well, 1 if there is a warning, and 2 if there is an error, such as a failed replica.
    """
    found = session.run(read_status, replicas_max=max_replicas)
    given = global_options.of(click.get_current_context())
    if given.output is None and given.query is None:
        click.echo("\n".join(_lines(found)))
        return Answer(body=None, exit_code=found.level.exit_code)
    return Answer(body=status_json(found), exit_code=found.level.exit_code)


def _lines(status: InstallationStatus) -> Iterator[str]:
    counts = status.counts
    yield f"{status.place}, {format_time(status.now)}"
    yield (
        f"{counts.disks} disks, {counts.snapshots} snapshots, {counts.images} images, {counts.machines} machines, "
        f"{counts.running_machines} of them running"
    )
    yield ""
    yield table_text(_table(status_json(status))) or "no galleries yet: imgstore sig create --help"
    yield ""
    yield from _replica_lines(status)
    yield from (_zone_line(each) for each in status.zones if each.state is not CircuitState.CLOSED)
    closed = sum(each.state is CircuitState.CLOSED for each in status.zones)
    yield f"zones: {closed} of {len(status.zones)} used zones answer, as far as known"
    attention = [each for each in status.findings if each.level is not Level.OK]
    yield from finding_lines(attention)
    yield f"checks: {len(status.findings) - len(attention)} of {len(status.findings)} are well"


def _replica_lines(status: InstallationStatus) -> Iterator[str]:
    if not status.unfinished:
        yield "replicas: all are complete"
        return
    since = "" if status.queued_since is None else f", the oldest since {format_time(status.queued_since)}"
    yield f"replicas: {status.unfinished} are not complete, {status.queued} of them wait in the queue{since}"
    yield from (_replica_line(each) for each in status.replicas)
    if hidden := status.unfinished - len(status.replicas):
        yield f"... and {hidden} more: imgstore status --max-replicas {status.unfinished}"


def _replica_line(each: ReplicaStatus) -> str:
    replica = each.replica
    parts = [f"{replica.state}"]
    if replica.bytes_total:
        parts.append(f"{format_bytes(replica.bytes_done)} of {format_bytes(replica.bytes_total)}")
    if each.bytes_per_second is not None:
        parts.append(f"{format_bytes(each.bytes_per_second)}/s")
    if each.remaining is not None:
        parts.append(f"{format_duration(each.remaining)} left")
    if replica.error is not None:
        parts.append(" ".join(replica.error.split()))
    step = "" if each.next_step is None else f"; next step: {each.next_step}"
    return f"{each.level:<7}  {replica.image}  {replica.region}/{replica.ordinal}  {', '.join(parts)}{step}"


def _zone_line(zone: ZoneStatus) -> str:
    since = "" if zone.since is None else f" since {format_time(zone.since)}"
    error = "" if zone.error is None else f": {' '.join(zone.error.split())}"
    name = f"{zone.region}/{zone.zone}"
    return f"{Level.WARNING:<7}  zone  {name}: no answer{since}{error}; next step: imgstore regions check {zone.region}"
