"""The table of bench/README.md: figure, limit, distance and reason, row by row, reckoned from bench/results.

A limit is what the slowest of the steps that cannot be left out would take alone, at the rates of the case `limits`,
and before it the starts of the commands, if the figure has them in it; or what a program too simple to lose anything
made of the same job in the same run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.cases.exports import DISKS_AT_ONCE
from bench.disks import DiskName
from bench.results import Door, Figure, Result, Unit, show

V2_CONTENT_BYTES = 820_097_024
"""Blocks of v2 that are not all zero, as the disks' MANIFEST.json tells."""
V2_STORED_BYTES = "upload.imgstore_upload_stored_bytes"
FOUR_COMPARED_BYTES = 1_803_427_840
"""Blocks of v1, v2, v3 and r2 that are not all zero, in pieces that the version before does not have at this place."""
FOUR_PACKED_BYTES = 827_285_504
"""Of these, the blocks that no version before has."""
DENSE_BYTES = {"dense": 8 << 30, "dense-short": 2 << 30}
TARGETS = 3
FAR_MS = 80
CORES = 2
"""Of the machine that all results are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that has to be done, so many times or to so many bytes."""

    rate: str
    """The figure of `limits` that says how fast."""
    amount: int | str
    """Bytes, or how often; or the figure that says so, as case.figure."""
    times: int = 1
    """For so many disks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowest:
    """The limit of a job that takes seconds: the starts, then the slowest of its steps alone."""

    steps: Sequence[Step]
    starts: int = 1
    """Commands that are started one after another; of those beside each other, as many as come on one core."""


Limit = Slowest | str
"""Of steps, or a figure of the same unit as case.figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    job: str
    figure: str
    """case.figure."""
    goal: str = ""
    """case.figure of the ratio that the design has a goal for."""
    limit: Limit
    reason: str
    """What the distance is made of, as far as it is known."""


ROWS = (
    Row(
        job="upload v2, as a command",
        figure="upload.imgstore_upload_seconds",
        goal="upload.upload_ratio",
        limit=Slowest(
            steps=(
                Step(rate="blake3_blocks_rate", amount=V2_CONTENT_BYTES),
                Step(rate="segment_encode_rate", amount=V2_CONTENT_BYTES),
                Step(rate="engine_put_rate", amount=V2_STORED_BYTES),
            ),
        ),
        reason="a thread hashes each block by a separate call while other threads compress on the same two cores, and the "
        "engine takes a quarter of the cores (without the start: `imgstore_upload_inside_seconds`)",
    ),
    Row(
        job="write v2 as a raw file",
        figure="export.imgstore_export_seconds",
        goal="export.export_ratio",
        limit=Slowest(
            steps=(
                Step(rate="engine_get_rate", amount=V2_STORED_BYTES),
                Step(rate="segment_decode_rate", amount=V2_CONTENT_BYTES),
                Step(rate="disk_write_rate", amount=V2_CONTENT_BYTES),
            ),
        ),
        reason="each segment is compared with its name and unpacked, each piece is compared with its digest, and the file "
        "is synced before the rename; the figure includes the start of the command",
    ),
    *(
        Row(
            job=f"copy {disk} to a region with v2",
            figure=f"versions.{disk}_replicate_inside_seconds",
            goal=f"versions.{disk}_faster",
            limit=Slowest(
                starts=0,
                steps=(
                    Step(rate="engine_requests_rate", amount=f"versions.{disk}_target_requests"),
                    Step(rate="engine_put_rate", amount=f"versions.{disk}_delivered_bytes"),
                ),
            ),
            reason="requests and not bytes: a listing, a few segments, the manifest written and read back, transactions",
        )
        for disk in (DiskName.V3, DiskName.R2)
    ),
    *(
        row
        for case, length in DENSE_BYTES.items()
        for row in (
            Row(
                job=f"{length >> 30} GiB of random data, upload",
                figure=f"{case}.imgstore_upload_seconds",
                goal=f"{case}.upload_ratio",
                limit=Slowest(
                    steps=(
                        Step(rate="engine_put_rate", amount=length),
                        Step(rate="blake3_blocks_rate", amount=length),
                    ),
                ),
                reason="each block is looked up without a hit, on cores that the engine also needs; s5cmd does no look-up",
            ),
            Row(
                job=f"{length >> 30} GiB of random data, export",
                figure=f"{case}.imgstore_export_seconds",
                goal=f"{case}.download_ratio",
                limit=Slowest(
                    steps=(
                        Step(rate="engine_get_rate", amount=length),
                        Step(rate="disk_write_rate", amount=length),
                    ),
                ),
                reason="two digests for each byte, a request for each 4 MiB, the start of the command, and the sync, which "
                f"s5cmd leaves to the system (s5cmd with a sync: `{case}.s5cmd_download_durable_seconds`)",
            ),
        )
    ),
    Row(
        job="ingest of v1, v2, v3 and r2, as commands",
        figure="repositories.imgstore_four_seconds",
        goal="repositories.four_ratio",
        limit=Slowest(
            starts=4,
            steps=(
                Step(rate="blake3_blocks_rate", amount=FOUR_COMPARED_BYTES),
                Step(rate="segment_encode_rate", amount=FOUR_PACKED_BYTES),
                Step(rate="engine_put_rate", amount="repositories.imgstore_r2_total_bytes"),
            ),
        ),
        reason="each piece is also hashed as a whole, on the cores for compression and the engine; the peers are restic "
        "and borg",
    ),
    Row(
        job="v2 into three other regions, as a command",
        figure="replicate.imgstore_3_seconds",
        goal="replicate.replicate_3_ratio",
        limit=Slowest(
            steps=(
                Step(rate="engine_get_rate", amount=V2_STORED_BYTES),
                Step(rate="engine_put_rate", amount=V2_STORED_BYTES, times=TARGETS),
            ),
        ),
        reason="three engines and imgstore share two cores; the peers are rclone and mc, which also move holes",
    ),
    *(
        Row(
            job=f"{words}, {FAR_MS} ms round trip",
            figure=f"distance.imgstore_{job}_{FAR_MS}_seconds",
            goal=f"distance.{job}_{FAR_MS}_ratio",
            limit=Slowest(steps=steps),
            reason=f"{requests} in sequence, and sixteen parallel segments; {peer}",
        )
        for job, words, steps, requests, peer in (
            (
                "across",
                "v2 into another region",
                (
                    Step(rate="engine_get_rate", amount=V2_STORED_BYTES),
                    Step(rate="engine_put_rate", amount=V2_STORED_BYTES),
                ),
                "ten requests",
                "the peer is rclone",
            ),
            (
                "out",
                "v2 from a region as a raw file",
                (
                    Step(rate="engine_get_rate", amount=V2_STORED_BYTES),
                    Step(rate="segment_decode_rate", amount=V2_CONTENT_BYTES),
                    Step(rate="disk_write_rate", amount=V2_CONTENT_BYTES),
                ),
                "two requests",
                "the peer is s5cmd, without a sync of the file",
            ),
        )
    ),
    Row(
        job="twenty disks at once, from one replica",
        figure="twenty.imgstore_1_seconds",
        limit=Slowest(
            starts=DISKS_AT_ONCE // CORES,
            steps=(
                Step(rate="engine_get_rate", amount=V2_STORED_BYTES, times=DISKS_AT_ONCE),
                Step(rate="segment_decode_rate", amount=V2_CONTENT_BYTES, times=DISKS_AT_ONCE),
                Step(rate="disk_write_rate", amount=V2_CONTENT_BYTES, times=DISKS_AT_ONCE),
            ),
        ),
        reason="twenty commands on two cores; more replicas spread the load over more servers, but there is only one "
        "engine here",
    ),
    Row(
        job="v2 through the blob endpoint, as a disk",
        figure="blob.door_seconds",
        goal="blob.door_ratio",
        limit="blob.direct_seconds",
        reason="the peer is the direct path: the bytes go through TLS in a single interpreter into a spool, which is then "
        "ingested like any file",
    ),
    Row(
        job="the server's memory while ten disks of 8 GiB are uploaded",
        figure="blob.server_peak_bytes",
        limit="blob.server_idle_bytes",
        reason="the interpreter with its libraries, and a MiB or two for each connection",
    ),
    Row(
        job="scrub v2",
        figure="scrub.scrub_seconds",
        limit=Slowest(
            steps=(
                Step(rate="engine_get_rate", amount=V2_STORED_BYTES),
                Step(rate="blake3_rate", amount=V2_STORED_BYTES),
            ),
        ),
        reason="a request for each segment, which is compared with its name; half of the time is the start of the command",
    ),
    Row(
        job="garbage collection of a deleted v2",
        figure="gc.gc_rate",
        limit="limits.engine_delete_rate",
        reason="the start of the command is more than half of the time; the rest is a listing, and a record of each deletion "
        "before the request for many objects",
    ),
    Row(
        job="a page of 100 of 10,000 versions, p99",
        figure="catalog.list_page_p99_seconds",
        limit="catalog.bare_page_p99_seconds",
        reason="a walk along an index and a query for the replicas; the rest turns rows into values",
    ),
    Row(
        job="placements, 16 threads on one version",
        figure="catalog.placements_per_second",
        limit="catalog.bare_placements_per_second",
        reason="all threads need the row of the same counter, in successive transactions, on two cores with the server",
    ),
    Row(
        job="GET of a version over TLS, 8 clients, SQLite",
        figure="api.version_per_second",
        limit="api.plain_per_second",
        reason="a single interpreter, in which HTTP and TLS take a tenth, as the limit shows; the rest is routes, layers and "
        "parameters, the JSON of the answer with the ETag, and the query of the catalog",
    ),
    Row(
        job="GET of a version over TLS, p99",
        figure="api.version_p99_seconds",
        limit="api.plain_p99_seconds",
        reason="eight clients wait for a single interpreter: eight times the CPU of an answer, and a moment for the switches "
        "of threads",
    ),
    Row(
        job="resident memory at 1 TiB, sparse",
        figure="memory.raw_1_tib_resident_bytes",
        limit="limits.start_resident_bytes",
        reason="the interpreter with its libraries, and the table of pieces of the disk",
    ),
)

NOT_MEASURED = "not measured yet"
HEAD = "| job | figure | against the best peer | limit | distance | reason |\n|---|---|---|---|---|---|\n"


def table(results: Mapping[str, Result]) -> str:
    """The table, in Markdown."""
    return HEAD + "".join(f"| {' | '.join(_cells(row, results))} |\n" for row in ROWS)


def _cells(row: Row, results: Mapping[str, Result]) -> list[str]:
    found = _figure(row.figure, results)
    goal = _figure(row.goal, results) if row.goal else None
    limit = _limit(row.limit, results)
    return [
        row.job,
        show(found) if found else NOT_MEASURED,
        _judged(row.goal, goal, results) if goal else "-",
        show(limit) if limit else NOT_MEASURED,
        f"{_distance(found, limit):.1f} x" if limit and found else NOT_MEASURED,
        row.reason,
    ]


def _judged(name: str, ratio: Figure, results: Mapping[str, Result]) -> str:
    case, _, figure = name.partition(".")
    goals = [goal for goal in results[case].goals if goal.figure == figure and goal.at_least is not None]
    return show(ratio) + "".join(f" (goal {goal.at_least:g}{'' if goal.met else ', missed'})" for goal in goals)


def _limit(limit: Limit, results: Mapping[str, Result]) -> Figure | None:
    """None where anything that it is reckoned from has not been measured."""
    if isinstance(limit, str):
        return _figure(limit, results)
    alone = [_step_seconds(step, results) for step in limit.steps]
    seconds = [each for each in alone if each is not None]
    start = _figure("limits.start_seconds", results)
    if start is None or len(seconds) < len(alone):
        return None
    return Figure(value=limit.starts * start.value + max(seconds), unit=Unit.SECONDS, door=Door.DERIVED)


def _step_seconds(step: Step, results: Mapping[str, Result]) -> float | None:
    rate, amount = _figure(f"limits.{step.rate}", results), _amount(step.amount, results)
    return None if rate is None or amount is None else step.times * amount / rate.value


def _amount(amount: int | str, results: Mapping[str, Result]) -> float | None:
    if isinstance(amount, int):
        return amount
    found = _figure(amount, results)
    return found.value if found else None


def _distance(found: Figure, limit: Figure) -> float:
    """How many times worse than the limit."""
    assert found.unit is limit.unit, "a limit is told in what the figure is told in"
    more_is_better = found.unit in (Unit.PER_SECOND, Unit.BYTES_PER_SECOND)
    return limit.value / found.value if more_is_better else found.value / limit.value


def _figure(name: str, results: Mapping[str, Result]) -> Figure | None:
    """A figure of a result that counts."""
    case, _, figure = name.partition(".")
    result = results.get(case)
    if result is None or result.quick:
        return None
    found = result.figures.get(figure)
    assert found is None or found.unit is not Unit.POWER, "rows tell what was measured"
    return found
