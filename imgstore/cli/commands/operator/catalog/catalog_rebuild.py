"""``imgstore catalog rebuild``: a lost catalog from the buckets and the recovery file."""

from pathlib import Path
from shlex import quote

import click

from imgstore.bootstrap import Settings, open_rebuild
from imgstore.cli.commands.operator.catalog.recovery_problems import describe_problems
from imgstore.cli.framework import global_options, options, progress
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import Rows, print_next_steps, print_warnings
from imgstore.cli.framework.passphrases import passphrase_file, read_passphrase
from imgstore.cli.framework.session import make_settings, user_name
from imgstore.domain.recovery import RebuildReport
from imgstore.operations.recovery.recovery_file import read_recovery_file
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.wire.json_text import Json
from imgstore.wire.responses.recovery import rebuild_json

skip_zone = click.option(
    "--skip-zone",
    "skipped",
    multiple=True,
    metavar="REGION/ZONE",
    help="Give up the content of a lost zone. May be repeated.",
)


def _table(body: Json) -> Rows:
    deleted = body["deletedResources"]
    return [
        {"Kind": kind, "Found": count, "Deleted": deleted.get(kind, 0)}
        for kind, count in body["resources"].items()
        if count or deleted.get(kind)
    ]


@click.command(
    cls=Command,
    table=_table,
    example="imgstore catalog rebuild --recovery-file /media/usb/imgstore.recovery -o table\n"
    "imgstore catalog rebuild --recovery-file /media/usb/imgstore.recovery --yes",
)
@click.option(
    "--recovery-file",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="File of `imgstore catalog recovery-file`.",
)
@passphrase_file()
@skip_zone
@options.yes
def rebuild(file: Path, passphrase_file: Path | None, skipped: tuple[str, ...], *, yes: bool) -> Answer:
    """Rebuild a lost catalog from the buckets and the recovery file.

    Without --yes the command reads the buckets, prints the plan and writes nothing. With --yes the command fills an empty
    catalog. An interrupted rebuild is repeated with the same command.

    Each resource gets the newest state with a valid signature in the buckets. Works, operations, tokens and the activity
    log are not in the buckets. The report names refused objects, missing manifests, and the time for which the ledger has
    no entries.

    regions.yaml comes from the recovery file, unless --regions names a file. With --yes a regions.yaml that differs from
    imgstore's own is written into the home. Credentials of stores come from the environment or an AWS profile, as for
    all commands.

    The exit code is 1 if something is missing. `imgstore scrub` checks the content afterwards.
    """
    global_values = global_options.of(click.get_current_context())
    keys, _ = read_recovery_file(file, read_passphrase(passphrase_file, confirms=False))
    # `--help` does not load numpy.
    from imgstore.operations.recovery.rebuild import rebuild_catalog  # noqa: PLC0415

    settings = make_settings(global_values)
    with (
        progress.show_progress(quiet=global_values.only_show_errors) as subscriber,
        open_rebuild(settings, keys, subscriber, dry_run=not yes) as context,
    ):
        report = rebuild_catalog(context, user_name(), dry_run=not yes, skipped=skipped)
    print_warnings(describe_problems(report), quiet=global_values.only_show_errors)
    steps = (
        ["nothing was changed: use --yes to rebuild the catalog"] if not yes else _next_steps(settings, keys, report)
    )
    print_next_steps(steps, quiet=global_values.only_show_errors)
    return Answer(body=rebuild_json(report) | {"nextSteps": steps}, exit_code=0 if report.is_complete else 1)


def _next_steps(settings: Settings, keys: RecoveryKeys, report: RebuildReport) -> list[str]:
    steps = []
    if report.regions_file is not None:
        regions = quote(str(report.regions_file))
        steps.append(f"use the regions of the recovery file: export IMGSTORE_REGIONS={regions}")
    steps += [
        f"set the variable of regions.yaml: export {name}={quote(value)}"
        for name, value in keys.variables.items()
        if name not in settings.environ
    ]
    if report.new_pool_keys:
        steps.append("write the new keys to the recovery file: imgstore catalog recovery-file FILE --overwrite")
    return [*steps, "check the stored content: imgstore scrub"]
