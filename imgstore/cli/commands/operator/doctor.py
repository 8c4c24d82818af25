"""``imgstore doctor``: the health of an installation, for people and for monitoring."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from imgstore.bootstrap import check_catalog_not_lost, has_catalog
from imgstore.cli.framework import global_options, options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import make_settings, open_session
from imgstore.domain.diagnosis import Finding, Level, find_worst_level
from imgstore.domain.errors import ImgstoreError
from imgstore.operations.diagnosis.doctor import SECONDS_MAX, diagnose
from imgstore.policy.diagnosis import judge_error
from imgstore.wire.json_text import Json
from imgstore.wire.responses.diagnosis import diagnosis_json

_FINDINGS = columns(Level="level", Check="check", Subject="subject", Found="found", NextStep="nextStep")


def _table(body: Json) -> Sequence[dict[str, Json]]:
    return [dict(row) for row in _FINDINGS(body["findings"])]


@click.command(
    cls=Command,
    table=_table,
    example="imgstore doctor\nimgstore doctor -o json --query \"findings[?level!='ok']\"\n"
    "imgstore doctor --timeout-seconds 5 --tls-cert /etc/imgstore/server.pem",
)
@options.fraction(
    "--timeout-seconds",
    least=0.1,
    most=3_600,
    default=SECONDS_MAX,
    unit="SECONDS",
    text=f"Time limit of the checks. A store without an answer is an error. Default: {SECONDS_MAX:g}.",
)
@click.option(
    "--tls-cert",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check the expiry of this certificate, too. May be repeated.",
)
def doctor(timeout_seconds: float, certificates: tuple[Path, ...]) -> Answer:
    """Check the installation, and print a line for each finding with the next step.

    The command checks the recovery file, the catalog, workers, replicas, repairs, scrub, gc, maintenance tasks, unfinished
    works, scale sets and uploads, unsealed entries of the bill, the rights of files, certificates, disk space, and each zone. All zones are checked at the same time,
    and each used zone gets a small object, which is deleted at once.

    The exit code is 0 if all is well, 1 if there is a warning, and 2 if there is an error. A wrong line also has the exit code
    2, and prints no finding.
    """
    findings = _find(timeout_seconds, certificates)
    exit_code = find_worst_level(findings).exit_code
    if _is_for_people(global_options.of(click.get_current_context())):
        click.echo("\n".join(finding_lines(findings)))
        return Answer(body=None, exit_code=exit_code)
    return Answer(body=diagnosis_json(findings), exit_code=exit_code)


def _find(timeout_seconds: float, certificates: tuple[Path, ...]) -> list[Finding]:
    settings = make_settings(global_options.of(click.get_current_context()))
    try:
        if has_catalog(settings):
            with open_session() as session:
                return session.run(diagnose, seconds_max=timeout_seconds, certificates=certificates)
        check_catalog_not_lost(settings)
    except ImgstoreError as error:
        return [judge_error(error)]
    found = f"there is no installation in {settings.home}"
    step = "name the home with --home or IMGSTORE_HOME, or run `imgstore quickstart` for a first look"
    return [Finding(check="installation", level=Level.ERROR, found=found, next_step=step)]


def _is_for_people(given: global_options.Globals) -> bool:
    return given.output is None and given.query is None


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for each finding: level, check, subject, found and the next step."""
    checks = max((len(each.check) for each in findings), default=0)
    for each in findings:
        subject = "" if each.subject is None else f"{each.subject}: "
        step = "" if each.next_step is None else f"; next step: {each.next_step}"
        yield f"{each.level:<7}  {each.check:<{checks}}  {subject}{each.found}{step}"
