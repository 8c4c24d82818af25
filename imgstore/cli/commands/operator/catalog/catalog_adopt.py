"""``imgstore catalog adopt``: newer objects of the buckets, or the buckets of another installation."""

from pathlib import Path

import click

from imgstore.cli.commands.operator.catalog.catalog_rebuild import skip_zone
from imgstore.cli.commands.operator.catalog.recovery_problems import describe_problems
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import Rows, columns, print_next_steps, print_warnings
from imgstore.cli.framework.passphrases import passphrase_file, read_passphrase
from imgstore.cli.framework.session import open_session
from imgstore.domain.errors import InvalidInput
from imgstore.domain.recovery import BucketAdoptionReport
from imgstore.operations.recovery.recovery_file import read_recovery_file
from imgstore.wire.json_text import Json
from imgstore.wire.responses.recovery import adoption_json, bucket_adoption_json

_RESOURCES = columns(Kind="kind", Name="name", Change="change", ChangedAt="changedAt")


def _table(body: Json) -> Rows:
    return _RESOURCES(body["resources"])


@click.command(
    cls=Command,
    table=_table,
    example="imgstore catalog adopt -o table\nimgstore catalog adopt --yes\n"
    "imgstore catalog adopt --region eastus --recovery-file other.recovery -o table",
)
@click.option(
    "--recovery-file",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A recovery file that is newer than the catalog. With --region: the recovery file of the other installation.",
)
@passphrase_file()
@click.option(
    "--region",
    "regions",
    multiple=True,
    metavar="NAME",
    help="Take over the bucket of another installation in this region. May be repeated.",
)
@click.option(
    "--partial",
    "is_partial",
    is_flag=True,
    help="With --region: adopt the rest if signatures are wrong, or works of the other installation are not finished.",
)
@skip_zone
@options.yes
def adopt(
    file: Path | None,
    passphrase_file: Path | None,
    regions: tuple[str, ...],
    skipped: tuple[str, ...],
    *,
    is_partial: bool,
    yes: bool,
) -> Answer:
    """Take newer objects of the buckets, or the buckets of another installation, into the catalog.

    Without --region: use the command after a restore of the catalog from a backup. The command compares each resource of the
    catalog with the newest state in the buckets, and lists new, changed and deleted resources with the time of the change.
    A resource that exists only in the catalog stays, and so does a later change in the catalog. A gallery that is newer than
    the catalog and not in the recovery file gets a new fingerprint key.

    With --region: take over the bucket of a foreign or reset installation, with all galleries, versions, disks and machines
    that the bucket describes. Resources keep their subscription. Access rights, settings and the ledger do not come.
    Storage is billed from the adoption on. Afterwards the other installation cannot use the bucket.

    Without --yes the command changes nothing. Stop the servers and workers of each installation first. The activity log names
    the adoption. The exit code is 1 if something is missing.
    """
    if is_partial and not regions:
        raise InvalidInput(
            "--partial needs --region.",
            found="--partial without --region",
            expected="the region of a bucket of another installation",
            hint="without --region the command reports problems and takes the rest",
            target="partial",
        )
    keys = None if file is None else read_recovery_file(file, read_passphrase(passphrase_file, confirms=False))[0]
    # `--help` does not load numpy.
    from imgstore.operations.recovery.adopt import adopt_newer  # noqa: PLC0415
    from imgstore.operations.recovery.adopt_buckets import adopt_buckets  # noqa: PLC0415

    with open_session(may_read_only=not yes) as session:
        if regions:
            adopted = session.run(
                adopt_buckets, regions=regions, keys=keys, dry_run=not yes, skipped=skipped, is_partial=is_partial
            )
            print_warnings(describe_problems(adopted), quiet=session.quiet)
            steps = _next_steps(adopted)
            print_next_steps(steps, quiet=session.quiet)
            body = bucket_adoption_json(adopted) | {"nextSteps": steps}
            return Answer(body=body, exit_code=0 if adopted.is_complete else 1)
        report = session.run(adopt_newer, dry_run=not yes, keys=keys, skipped=skipped)
        print_warnings(describe_problems(report), quiet=session.quiet)
        if not report.resources and not report.checkpoints and report.is_complete:
            session.warn("nothing to adopt: the catalog has each change that its buckets describe")
        elif report.resources and not yes:
            session.warn(f"nothing was changed: {len(report.resources)} resources are newer in the buckets. Use --yes")
        return Answer(body=adoption_json(report), exit_code=0 if report.is_complete else 1)


def _next_steps(report: BucketAdoptionReport) -> list[str]:
    if not report.is_done:
        return [f"nothing was changed: use --yes to take over the buckets of {', '.join(report.regions)}"]
    others = [each for each in report.subscriptions if each.casefold() != report.own_subscription.casefold()]
    return [
        *(f"list the adopted galleries: imgstore --subscription {each} sig list" for each in others),
        "write the new keys to the recovery file: imgstore catalog recovery-file FILE --overwrite",
        "check the stored content: imgstore scrub",
    ]
