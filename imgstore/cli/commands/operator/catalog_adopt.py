"""``imgstore catalog adopt``: newer objects of the buckets in an older catalog."""

from pathlib import Path

import click

from imgstore.cli.commands.operator.catalog_rebuild import skip_zone
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import Rows, columns
from imgstore.cli.framework.passphrases import passphrase_file, read_passphrase
from imgstore.cli.framework.session import open_session
from imgstore.operations.recovery.recovery_file import read_recovery_file
from imgstore.wire.json_text import Json
from imgstore.wire.responses.recovery import adoption_json

_RESOURCES = columns(Kind="kind", Name="name", Change="change", ChangedAt="changedAt")


def _table(body: Json) -> Rows:
    return _RESOURCES(body["resources"])


@click.command(
    cls=Command,
    table=_table,
    example="imgstore catalog adopt -o table\nimgstore catalog adopt --yes",
)
@click.option(
    "--recovery-file",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A recovery file that is newer than the catalog, with the keys of newer galleries.",
)
@passphrase_file()
@skip_zone
@options.yes
def adopt(file: Path | None, passphrase_file: Path | None, skipped: tuple[str, ...], *, yes: bool) -> Answer:
    """Take newer objects of the buckets into a catalog that is older than its buckets.

    Use the command after a restore of the catalog from a backup. The command compares each resource of the catalog with the
    newest state in the buckets, and lists new, changed and deleted resources with the time of the change.

    Without --yes the command changes nothing. With --yes the catalog takes all listed changes in one transaction, and counts
    as current again. A resource that exists only in the catalog stays, and so does a later change in the catalog. Stop
    servers and workers first.

    A gallery that is newer than the catalog and not in the recovery file gets a new fingerprint key. The activity log names
    the adoption. The exit code is 1 if something is missing.
    """
    keys = None if file is None else read_recovery_file(file, read_passphrase(passphrase_file, confirms=False))[0]
    from imgstore.operations.recovery.adopt import adopt_newer  # noqa: PLC0415 - `--help` does not load numpy

    with open_session(may_read_only=not yes) as session:
        report = session.run(adopt_newer, dry_run=not yes, keys=keys, skipped=skipped)
        if report.resources and not yes:
            session.warn(f"nothing was changed: {len(report.resources)} resources are newer in the buckets. Use --yes")
        return Answer(body=adoption_json(report), exit_code=0 if report.is_complete else 1)
