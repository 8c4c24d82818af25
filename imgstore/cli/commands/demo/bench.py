"""``imgstore bench``: the speed of an installation's regions."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Command, require_confirmation
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session, open_session
from imgstore.cli.framework.stop_signals import handle_sigterm_as_sigint
from imgstore.domain.reports import BenchPlan
from imgstore.domain.text.byte_counts import format_bytes
from imgstore.domain.text.decimals import decimal_text
from imgstore.operations.demo import bench as demo_bench
from imgstore.operations.demo.sample_disk import make_sample
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import bench_json, bench_plan_json

_ROWS = columns(
    Region="region",
    UploadSeconds="uploadSeconds",
    ReplicateSeconds="replicateSeconds",
    DeliveredBytes="deliveredBytes",
    PlacementSeconds="placementSeconds",
    FirstReadSeconds="firstReadSeconds",
    DiskSeconds="diskSeconds",
)


def _table(body: Json) -> list[dict[str, Json]]:
    """Make a row for each region. The row of the source region shows the upload."""
    uploads = [body.get("uploadSeconds"), *[None] * len(body["targetRegions"])]
    regions = body.get("regions") or [{"region": name} for name in (body["location"], *body["targetRegions"])]
    rows = [each | {"uploadSeconds": seconds} for each, seconds in zip(regions, uploads, strict=True)]
    return [dict(row) for row in _ROWS(rows)]


@click.command(
    cls=Command,
    table=_table,
    example="imgstore bench --dry-run\nimgstore bench golden.vhd -l southcentralus --target-regions westus2 --yes -o table",
)
@click.argument("disk", required=False, type=click.Path(path_type=Path))
@options.location(help="The region that stores the disk. Default: the first region.")
@options.words(
    "--target-regions", metavar="REGION ...", help="Regions for copies. '' is no region. Default: every other region."
)
@options.number(
    "--disks", least=1, default=5, show_default=True, text="Number of managed disks to create in each region."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and the largest possible cost, and change nothing.")
@options.yes
def bench(
    *,
    disk: Path | None,
    location: str | None,
    target_regions: Sequence[str] | None,
    disks: int,
    dry_run: bool,
    yes: bool,
) -> Json:
    """Measure the regions, and remove all test data.

    The command stores DISK, or a sample of 1 GiB, copies the disk to other regions and creates managed disks there. The
    command then reads the first MiB of a disk, exports the disk, and prints the seconds of each step. DISK is only read.

    The test data is in a resource group and a gallery of its own. Both are removed at the end, also after an error or an
    interruption. Bytes between regions stay on the bill. The largest possible cost is printed before the start, and needs a
    confirmation unless --yes is given.
    """
    targets = None if target_regions is None else [name for name in target_regions if name]
    with (
        handle_sigterm_as_sigint(),
        open_session() as session,
        tempfile.TemporaryDirectory(prefix="imgstore-bench-") as temporary,
    ):
        folder = Path(temporary)
        path = disk or make_sample(folder).path
        with demo_bench.open_disk_file(session.installation, path) as reader:
            plan = session.run(demo_bench.plan_bench, reader, location=location, target_regions=targets)
            if dry_run:
                return bench_plan_json(plan)
            _agree(session, plan, yes=yes)
            report = session.run(demo_bench.run_bench, plan, reader, folder=folder, disks_each=disks, say=_say(session))
    return bench_json(report)


def _say(session: Session) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not session.quiet:
            click.echo(text, err=True)

    return say


def _agree(session: Session, plan: BenchPlan, *, yes: bool) -> None:
    """Print the largest cost, and exit without an agreement."""
    if not (session.quiet and yes):
        click.echo(_describe_plan(plan), err=True)
    if not yes:
        require_confirmation("Begin?", refusal="Nothing was measured")


def _describe_plan(plan: BenchPlan) -> str:
    price, month = decimal_text(plan.egress_price_max), decimal_text(plan.storage_price_per_month_max)
    return (
        f"A disk of {format_bytes(plan.virtual_bytes)} with {format_bytes(plan.data_bytes)} of data is stored in {plan.source}"
        f" and copied to {', '.join(plan.targets) or 'no other region'}.\n"
        f"The run costs at most {price} {plan.currency} for {format_bytes(plan.egress_bytes_max)} between regions, and"
        f" {month} {plan.currency} a month for {format_bytes(plan.stored_bytes_max)} while the bytes are stored.\n"
        f"All test data is in the resource group {plan.group}, and is removed at the end."
    )
