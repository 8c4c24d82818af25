"""``imgstore worker``: workers, and the list of live workers."""

import textwrap

import click

from imgstore.cli.framework import global_options, options, output
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session, open_session
from imgstore.cli.framework.stop_signals import handle_sigterm_as_sigint
from imgstore.operations.maintenance.worker import POLL_SECONDS, list_workers, run_worker
from imgstore.policy.worker_queue import WorkerLimits
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import worker_json, worker_report_json

_WORKERS = columns(Host="host", Pid="pid", StartedAt="startedAt", SeenAt="seenAt", Replicas="replicas")
_LIMITS = WorkerLimits()
_EXAMPLE = """
imgstore worker --once
imgstore worker list -o table
"""


class _Runs(Group):
    """A group that runs a command of its own if the line names no command."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        with formatter.section("Example"):
            formatter.write(textwrap.indent(_EXAMPLE.strip() + "\n", " " * formatter.current_indent))


@click.group(cls=_Runs, invoke_without_command=True)
@click.option("--once", is_flag=True, help="Run the present work and exit. The exit code is 1 if a replica failed.")
@options.fraction(
    "--poll-seconds",
    least=0.1,
    default=POLL_SECONDS,
    unit="SECONDS",
    text=f"Seconds between two checks for work. Default: {POLL_SECONDS:g}.",
)
@options.number(
    "--replicas-at-once",
    least=1,
    default=_LIMITS.replicas,
    text=f"Largest number of replicas in progress. Default: {_LIMITS.replicas}.",
)
@options.number(
    "--replicas-at-once-per-region",
    least=1,
    default=_LIMITS.replicas_per_region,
    text=f"Largest number of replicas in progress in one region. Default: {_LIMITS.replicas_per_region}.",
)
@click.pass_context
def worker(
    ctx: click.Context, *, once: bool, poll_seconds: float, replicas_at_once: int, replicas_at_once_per_region: int
) -> None:
    """Make missing replicas and run maintenance, until SIGTERM or SIGINT.

    Any number of workers share the work, on any machines that reach the database and the stores. A failed replica is tried
    again after 30 seconds at first, and after an hour at most. A worker needs a version that is complete in its source region:
    repeat an interrupted `image-version create`.
    """
    if ctx.invoked_subcommand is not None:
        return
    limits = WorkerLimits(replicas=replicas_at_once, replicas_per_region=replicas_at_once_per_region)
    with open_session() as session, handle_sigterm_as_sigint():
        report = session.run(run_worker, once=once, limits=limits, poll_seconds=poll_seconds)
    if report.without_source:
        session.warn(
            f"{report.without_source} versions are incomplete in their source region: repeat their `image-version create`"
        )
    output.emit(worker_report_json(report), global_options.of(ctx), output.scalars)
    if once and report.failed:
        ctx.exit(1)


@worker.command("list", table=_WORKERS, example="imgstore worker list -o table")
def list_(session: Session) -> Json:
    """List the live workers, with the number of replicas in progress."""
    return [worker_json(each) for each in session.run(list_workers)]
