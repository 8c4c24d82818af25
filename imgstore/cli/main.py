"""``imgstore``: the root command, and the messages and exit codes of errors.

Exit codes are az's: 0 success, 1 failure, 2 wrong line, 3 not found, 130 interrupted.
"""

import atexit
import gc
import os
import sys
import time
import traceback
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final, NoReturn

import click

from imgstore.cli.framework import global_options
from imgstore.cli.framework.command import Group, LazyCommand
from imgstore.cli.framework.progress import shown_failures
from imgstore.cli.framework.standard_streams import ReportStream, UnwrittenResult, drop_output, prepare_streams
from imgstore.domain.errors import ImgstoreError, NotFound, OutputError
from imgstore.domain.host.environment import strip_variables
from imgstore.domain.host.os_errors import advise, describe, find_os_error, host_fault
from imgstore.domain.host.private_files import keep_own_access
from imgstore.domain.text.strict_json import check_text

# numpy's BLAS starts a thread a core that spins for its work. There is none: this is a fifth of a short command's CPU.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

OBJECTS_BEFORE_COLLECTION: Final = 50_000
"""Threshold of the garbage collector. A start creates 100,000 lasting objects; scans of each 700 took 30 ms."""
_UNTOLD: Final = object()

_COMMANDS: Final = {
    name: LazyCommand(target=f"imgstore.cli.commands.{folder}.{name}:{name}", summary=summary)
    for folder, name, summary in (
        ("access", "group", "Manage resource groups."),
        ("galleries", "sig", "Manage galleries, image definitions and image versions."),
        ("machines", "disk", "Manage disks from image versions, disks, snapshots, files and uploads."),
        ("machines", "snapshot", "Manage full snapshots."),
        ("machines", "image", "Manage managed images."),
        ("machines", "vm", "Manage virtual machines, and run machines on this host with QEMU."),
        ("machines", "vmss", "Manage scale sets: equal machines from one image, over all replicas of a region."),
        ("access", "auth", "Manage tenants, principals, roles, issuers and keys."),
        ("operator.billing", "bill", "Show moved and stored bytes, and their cost."),
        ("operator.billing", "budget", "Manage the budgets of the subscription."),
        ("access", "account", "Show subscriptions."),
        ("operator", "operation", "List and cancel long-running operations of the API."),
        ("operator", "monitor", "Show the activity log."),
        ("operator", "status", "Show all galleries, unfinished replicas, zones, and what needs attention."),
        ("operator", "doctor", "Check the installation, and print a line for each finding with the next step."),
        ("operator", "regions", "List, check and initialize regions."),
        ("operator.catalog", "catalog", "Protect and recover the catalog of the installation."),
        ("operator.billing", "prices", "Show and apply the price lists of the installation."),
        ("operator", "cache", "Show and clear the segment cache of this host."),
        ("operator", "settings", "Show and apply the settings of the installation."),
        (
            "machines",
            "inspect",
            "Show the format of a disk file, its safety checks, and whether Azure accepts the disk.",
        ),
        ("machines", "verify", "Compare a disk file with a stored image."),
        ("operator", "serve", "Serve Azure's API for az and Azure's SDKs, until SIGTERM or SIGINT."),
        ("operator", "worker", "Make missing replicas and run maintenance, until SIGTERM or SIGINT."),
        ("operator", "gc", "Delete objects that no version, disk or open work names."),
        ("operator", "scrub", "Read stored objects, check the objects and repair damage."),
        ("demo", "bench", "Measure the regions, and remove all test data."),
        ("demo", "quickstart", "Publish, replicate, export and bill a disk in less than a minute."),
    )
}


class RootGroup(Group):
    """The root command. Every error ends here, with a message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a line that is not UTF-8, because the catalog and an answer cannot represent the words."""
        for word in args:
            try:
                check_text(os.fsencode(word).decode())  # Words are bytes, whatever encoding the locale names.
            except ValueError as error:
                raise click.UsageError(f"{word!a} is not valid UTF-8: {error}.", ctx) from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command of the line."""
        began = time.monotonic()
        try:
            result = super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click handles usage, --help and a closed output
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nInterrupted. Run the same command again to resume.", err=True)
            ctx.exit(130)
        except Exception as error:  # noqa: BLE001 - the outermost frame prints every error
            _tell(error, debug=global_options.is_set(ctx, "debug"), shown=shown_failures(ctx))
            ctx.exit(3 if isinstance(error, NotFound) else 1)
        if global_options.is_set(ctx, "verbose"):
            click.echo(f"Command ran in {time.monotonic() - began:.3f} seconds.", err=True)
        return result


def _tell(error: Exception, *, debug: bool, shown: Collection[str] = ()) -> None:
    """Print an error. The details of an error in `shown` are printed already, as the progress of a task."""
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True)
    if isinstance(error, UnwrittenResult):
        drop_output()
        error = OutputError(
            "The result cannot be written to standard output.",
            found=describe(error),
            expected="a file, pipe or terminal that accepts the result",
            hint=f"{advise(error, 'standard output')}; the work is done, and the `show` or `list` command shows the result",
            target="standard output",
        )
    elif (found := find_os_error(error)) is not None:
        error = host_fault(found)
    if isinstance(error, ImgstoreError):
        text = error.message if str(error) in shown else str(error)
        click.echo(f"ERROR: ({error.error_code}) {text}", err=True)
    else:
        click.echo(f"ERROR: {type(error).__name__}: {error}", err=True)
        if not debug:
            click.echo(
                "  This error is unexpected. what to do: run the command again with --debug and report the output",
                err=True,
            )
    for note in getattr(error, "__notes__", ()):
        click.echo(f"  {note}", err=True)


@click.group(cls=RootGroup, lazy=_COMMANDS, name="imgstore")
def main() -> None:
    """A self-hosted VM image gallery with the semantics of Azure's Shared Image Gallery.

    A first look: imgstore quickstart
    """


def start() -> None:
    """Run the root command in a process of its own: the entry point of the installed program."""
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    strip_variables(os.environ)
    keep_own_access()
    leaving = _Leaving(prepare_streams())
    atexit.register(leaving)  # first in, so last out
    try:
        _run()
    except SystemExit as end:
        leaving.code = end.code
        raise


def _run() -> NoReturn:
    try:
        main(prog_name="imgstore")
    except UnwrittenResult as error:  # of the first command's own --help or --version
        _tell(error, debug=False)
    sys.exit(1)


class _Leaving:
    """End the process after all threads and exit handlers.

    The interpreter would otherwise free every object, which takes 0.1 s.
    """

    def __init__(self, reports: ReportStream) -> None:
        self.code: object = _UNTOLD
        self._reports = reports

    def __call__(self) -> None:
        self._reports.end()
        code = 0 if self.code is None else self.code
        if not isinstance(code, int):
            return  # it ended by something else than the command's own end: the interpreter tells of that
        with suppress(OSError, ValueError):  # of a stream that can't take more the interpreter tells, too
            sys.stdout.flush()
            os._exit(code)
