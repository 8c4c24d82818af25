"""``imgstore catalog restore``."""

from dataclasses import replace
from pathlib import Path
from shlex import quote

import click

from imgstore.cli.commands.operator.catalog.catalog_backup import backup_json
from imgstore.cli.framework import global_options, progress
from imgstore.cli.framework.command import Command
from imgstore.cli.framework.output import print_next_steps
from imgstore.cli.framework.session import open_session
from imgstore.domain.errors import ImgstoreError
from imgstore.operations.recovery.restore import RestoreReport, RestoreRequest, record_restore, restore_backup
from imgstore.wire.json_text import Json


@click.command(
    cls=Command,
    example="imgstore catalog restore gallery.tar --home /srv/imgstore\n"
    "imgstore catalog restore gallery.tar --home /srv/imgstore --database postgresql://imgstore@db.example/imgstore",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def restore(file: Path) -> Json:
    """Restore a backup into the home of --home, which must be empty, and an empty database.

    The folder `regions` of a home may exist: the folder contains the stored segments of zones without an endpoint. The
    command checks every digest of the file before the first write. A backup of PostgreSQL needs an empty database in
    --database.

    Run an interrupted command again with the same options. Until the restore is finished, other commands refuse the home.

    Afterwards the command compares the catalog with the buckets, and prints the next steps.
    """
    options = global_options.of(click.get_current_context())
    request = RestoreRequest(file=file, home=options.data_home, database=options.database)
    with progress.show_progress(quiet=options.only_show_errors) as subscriber:
        report = restore_backup(request, subscriber)
    if options.regions is None:
        options = replace(options, regions=report.regions_file)
    newer = problem = None
    try:
        with open_session(options) as session:
            newer = session.run(record_restore, report.backup.description.created_at)
    except ImgstoreError as error:
        problem = str(error)
    steps = _next_steps(report, options, newer=newer, problem=problem)
    print_next_steps(steps, quiet=options.only_show_errors)
    return {
        "home": str(options.data_home),
        "database": report.place,
        **backup_json(report.backup),
        "newerBuckets": newer,
        "problem": problem,
        "nextSteps": steps,
    }


def _next_steps(
    report: RestoreReport, options: global_options.Globals, *, newer: str | None, problem: str | None
) -> list[str]:
    steps = []
    if report.regions_file is not None:
        steps.append(f"use the restored regions: export IMGSTORE_REGIONS={quote(str(report.regions_file))}")
    if options.database is not None:
        steps.append("name the database in each command: export IMGSTORE_DATABASE=URL")
    if problem is not None:
        steps.append(f"the restored home cannot be opened yet: {problem}")
    if newer is not None:
        steps.append(
            f"the buckets are newer than the backup ({newer}): restore a newer backup, read the newer objects with "
            "`imgstore catalog adopt`, or accept the loss with `imgstore regions accept-catalog`"
        )
    return [*steps, "check the zones: imgstore regions check -o table"]
