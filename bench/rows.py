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
        reason="every block is hashed by a call of its own on one thread while others compress on the same two cores, and "
        "the engine takes a quarter of them (without the start: `imgstore_upload_inside_seconds`)",
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
        reason="every segment is compared with its name, unpacked, and every piece compared with its digest; the file is "
        "synced before it gets its name; the start of the command is in it",
    ),
    *(
        Row(
            job=f"bring {disk} to a region that has v2",
            figure=f"versions.{disk}_replicate_inside_seconds",
            goal=f"versions.{disk}_faster",
            limit=Slowest(
                starts=0,
                steps=(
                    Step(rate="engine_requests_rate", amount=f"versions.{disk}_target_requests"),
                    Step(rate="engine_put_rate", amount=f"versions.{disk}_delivered_bytes"),
                ),
            ),
            reason="requests, not bytes: a listing, a handful of segments, the manifest put and read back, transactions",
        )
        for disk in (DiskName.V3, DiskName.R2)
    ),
    *(
        row
        for case, length in DENSE_BYTES.items()
        for row in (
            Row(
                job=f"{length >> 30} GiB of random data, up",
                figure=f"{case}.imgstore_upload_seconds",
                goal=f"{case}.upload_ratio",
                limit=Slowest(
                    steps=(
                        Step(rate="engine_put_rate", amount=length),
                        Step(rate="blake3_blocks_rate", amount=length),
                    ),
                ),
                reason="each block is looked up for nothing, on cores that the engine wants too; s5cmd does no such "
                "thing",
            ),
            Row(
                job=f"{length >> 30} GiB of random data, down",
                figure=f"{case}.imgstore_export_seconds",
                goal=f"{case}.download_ratio",
                limit=Slowest(
                    steps=(
                        Step(rate="engine_get_rate", amount=length),
                        Step(rate="disk_write_rate", amount=length),
                    ),
                ),
                reason="two digests a byte, a request for every 4 MiB, the start of the command, and the sync, which s5cmd "
                f"leaves to the system: with it, its own time is `{case}.s5cmd_download_durable_seconds`",
            ),
        )
    ),
    Row(
        job="take in v1, v2, v3 and r2, as commands",
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
        reason="every piece is hashed as a whole besides, on the cores that compress and that the engine wants too; the "
        "peers are restic and borg",
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
        reason="three engines and imgstore share two cores; the peers are rclone and mc, which move the holes too",
    ),
    *(
        Row(
            job=f"{words}, {FAR_MS} ms there and back",
            figure=f"distance.imgstore_{job}_{FAR_MS}_seconds",
            goal=f"distance.{job}_{FAR_MS}_ratio",
            limit=Slowest(steps=steps),
            reason=f"{requests} one after another, and sixteen segments under way at once; {peer}",
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
                "the peer is s5cmd, whose file is not synced",
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
        reason="twenty commands on two cores, and one engine whatever the number of replicas: that number spreads load "
        "over servers, of which there is one here",
    ),
    Row(
        job="v2 through the blob door, as a disk",
        figure="blob.door_seconds",
        goal="blob.door_ratio",
        limit="blob.direct_seconds",
        reason="the peer is the direct path: the bytes go through TLS in one interpreter and lie in a spool before they "
        "are taken in as any file is",
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
        reason="a request for each segment, which is compared with its name; half of it is the start of the command",
    ),
    Row(
        job="collect what a deleted v2 leaves",
        figure="gc.gc_rate",
        limit="limits.engine_delete_rate",
        reason="the start of the command is more than half of it; then a listing, and what is to be deleted is written down "
        "before it is deleted, many objects a request",
    ),
    Row(
        job="a page of 100 of 10,000 versions, p99",
        figure="catalog.list_page_p99_seconds",
        limit="catalog.bare_page_p99_seconds",
        reason="one walk along an index and one query for the replicas; the rest is making rows into values",
    ),
    Row(
        job="placements, 16 threads on one version",
        figure="catalog.placements_per_second",
        limit="catalog.bare_placements_per_second",
        reason="all threads want the same counter's row, one transaction after another, on two cores with the server",
    ),
    Row(
        job="GET of a version over TLS, 8 clients, SQLite",
        figure="api.version_per_second",
        limit="api.plain_per_second",
        reason="one interpreter for all, of which HTTP and TLS take a tenth, as the limit shows; the rest are routes, layers "
        "and parameters, the answer's JSON with its ETag, and the look into the catalog",
    ),
    Row(
        job="the same, p99",
        figure="api.version_p99_seconds",
        limit="api.plain_p99_seconds",
        reason="eight clients wait for one interpreter: eight times what one answer takes of it, and a moment for the "
        "turns of its threads",
    ),
    Row(
        job="resident memory at 1 TiB, sparse",
        figure="memory.raw_1_tib_resident_bytes",
        limit="limits.start_resident_bytes",
        reason="the interpreter with its libraries; what the disk adds is its table of pieces",
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
