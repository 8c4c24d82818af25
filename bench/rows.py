"""The table of bench/README.md: figure, limit, distance and reason, row by row, reckoned from bench/results.

A limit is what the slowest of the steps that cannot be left out would take alone, at the rates of the case `limits`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.results import Figure, Result, Unit, show

V2_CONTENT_BYTES = 820_097_024
"""Blocks of v2 that are not all zero, as the disks' MANIFEST.json tells."""
DENSE_BYTES = {"dense": 8 << 30, "dense-short": 2 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that has to be done to bytes."""

    rate: str
    """The figure of `limits` that says how fast."""
    moved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    job: str
    figure: str
    """case.figure."""
    goal: str = ""
    """case.figure of the ratio that the design has a goal for."""
    steps: Sequence[Step] = ()
    """Empty where the limit is no rate of the machine's."""
    reason: str
    """What the distance is made of, as far as it is known."""


ROWS = (
    Row(
        job="upload v2, as a command",
        figure="upload.imgstore_upload_seconds",
        goal="upload.upload_ratio",
        steps=(
            Step(rate="blake3_blocks_rate", moved_bytes=V2_CONTENT_BYTES),
            Step(rate="segment_encode_rate", moved_bytes=V2_CONTENT_BYTES),
        ),
        reason="every block is hashed by a call of its own on one thread while others compress on the same two cores; "
        "the start of the command is in it (`imgstore_upload_inside_seconds` is without)",
    ),
    Row(
        job="write v2 as a raw file",
        figure="export.imgstore_export_seconds",
        goal="export.export_ratio",
        steps=(Step(rate="disk_write_rate", moved_bytes=V2_CONTENT_BYTES),),
        reason="every segment is compared with its name, unpacked, and every piece compared with its digest; the file is "
        "synced before it gets its name; the start of the command is in it",
    ),
    Row(
        job="bring v3 to a region that has v2",
        figure="versions.v3_replicate_inside_seconds",
        goal="versions.v3_faster",
        reason="requests, not bytes: a listing, a handful of segments, the manifest put and read back, transactions",
    ),
    Row(
        job="bring r2 to a region that has v2",
        figure="versions.r2_replicate_inside_seconds",
        goal="versions.r2_faster",
        reason="the same",
    ),
    *(
        row
        for case, length in DENSE_BYTES.items()
        for row in (
            Row(
                job=f"{length >> 30} GiB of random data, up",
                figure=f"{case}.imgstore_upload_seconds",
                goal=f"{case}.upload_ratio",
                steps=(
                    Step(rate="engine_put_rate", moved_bytes=length),
                    Step(rate="blake3_blocks_rate", moved_bytes=length),
                ),
                reason="each block is looked up for nothing, on cores that the engine wants too; s5cmd does no such "
                "thing",
            ),
            Row(
                job=f"{length >> 30} GiB of random data, down",
                figure=f"{case}.imgstore_export_seconds",
                goal=f"{case}.download_ratio",
                steps=(
                    Step(rate="engine_get_rate", moved_bytes=length),
                    Step(rate="disk_write_rate", moved_bytes=length),
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
        reason="four starts of the command are in it, and v1 and v2 as above; the peers are restic and borg",
    ),
    Row(
        job="v2 into three other regions, as a command",
        figure="replicate.imgstore_3_seconds",
        goal="replicate.replicate_3_ratio",
        reason="three engines and imgstore share two cores; the peers are rclone and mc, which move the holes too",
    ),
    Row(
        job="twenty disks at once, from one replica",
        figure="twenty.imgstore_1_seconds",
        reason="twenty commands on two cores, and one engine whatever the number of replicas: that number spreads load "
        "over servers, of which there is one here",
    ),
    Row(
        job="v2 through the blob door, as a disk",
        figure="blob.door_seconds",
        goal="blob.door_ratio",
        reason="the peer is the direct path: the bytes go through TLS in one interpreter and lie in a spool before they "
        "are taken in as any file is",
    ),
    Row(
        job="the server's memory while ten disks of 8 GiB are uploaded",
        figure="blob.server_peak_bytes",
        reason="the interpreter with its libraries, and a MiB or two for each connection",
    ),
    Row(
        job="scrub v2",
        figure="scrub.scrub_rate",
        reason="each segment fetched, hashed, decoded and its pieces hashed; the engine has the rest of two cores",
    ),
    Row(
        job="collect what a deleted v2 leaves",
        figure="gc.gc_rate",
        reason="a DELETE each, after the rows that say it may be deleted",
    ),
    Row(
        job="a page of 100 of 10,000 versions, p99",
        figure="catalog.list_page_p99_seconds",
        reason="one walk along an index and one query for the replicas; the rest is making rows into values",
    ),
    Row(
        job="placements, 16 threads on one version",
        figure="catalog.placements_per_second",
        reason="all threads want the same counter's row, one transaction after another, on two cores with the server",
    ),
    Row(
        job="GET of a version over TLS, 8 clients, SQLite",
        figure="api.version_per_second",
        reason="one interpreter for all, of which routes, layers and parameters take two fifths, HTTP and TLS a quarter, the "
        "answer's JSON with its ETag an eighth, and the look into the catalog as much; the clients take of the same cores",
    ),
    Row(
        job="the same, p99",
        figure="api.version_p99_seconds",
        reason="eight clients wait for one interpreter: eight times what one answer takes of it, and a moment for the "
        "turns of its threads",
    ),
    Row(
        job="resident memory at 1 TiB, sparse",
        figure="memory.raw_1_tib_resident_bytes",
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
    limit = _limit_seconds(row, results)
    told = {True: "-", False: NOT_MEASURED}[not row.steps]
    return [
        row.job,
        show(found) if found else NOT_MEASURED,
        _judged(row.goal, goal, results) if goal else "-",
        f"{limit:.2g} s" if limit else told,
        f"{found.value / limit:.1f} x" if limit and found else told,
        row.reason,
    ]


def _judged(name: str, ratio: Figure, results: Mapping[str, Result]) -> str:
    case, _, figure = name.partition(".")
    goals = [goal for goal in results[case].goals if goal.figure == figure and goal.at_least is not None]
    return show(ratio) + "".join(f" (goal {goal.at_least:g}{'' if goal.met else ', missed'})" for goal in goals)


def _limit_seconds(row: Row, results: Mapping[str, Result]) -> float | None:
    """What the slowest step takes alone, or None where a rate has not been measured."""
    rates = [(_figure(f"limits.{step.rate}", results), step) for step in row.steps]
    seconds = [step.moved_bytes / rate.value for rate, step in rates if rate is not None]
    return max(seconds) if seconds and len(seconds) == len(rates) else None


def _figure(name: str, results: Mapping[str, Result]) -> Figure | None:
    """A figure of a result that counts."""
    case, _, figure = name.partition(".")
    result = results.get(case)
    if result is None or result.quick:
        return None
    found = result.figures.get(figure)
    assert found is None or found.unit is not Unit.POWER, "rows tell what was measured"
    return found
