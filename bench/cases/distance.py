"""Far off: v2 into a region, to it, from it, and out of a bucket there, so many milliseconds there and back.

toxiproxy holds back what goes between us and the far engine. Bandwidth is left as it is, and a connection is made at
once, which spares those who make many. Peers move the whole object: s5cmd there and back, rclone from engine to engine.
What imgstore publishes straight out of the far bucket stands against s5cmd fetching it first and imgstore publishing
that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.disks import DiskName, raw_path
from bench.engines import SOURCE_REGION, TARGET_REGION, Bucket, Site
from bench.installation import Installation
from bench.measuring import Case, Found, Samples, World, in_turn, new_file, same_content, timed, warm
from bench.peers import RCLONE, S5CMD, Place
from bench.results import Chart, Door, Figure, Unit, ratio
from imgstore.testing.latency_proxy import start_toxiproxy

ROUND_TRIPS_MS = (0, 20, 80, 200)
"""Next door; within a country; across one ocean; to the other side of the world."""
KEY, COPY = "v2.raw", "copy.raw"
"""Of v2 in the far bucket; and in the near one, from where it goes across and is taken away again."""
_JOBS = {"into": "s5cmd", "across": "rclone", "out": "s5cmd", "source": "fetched"}
"""What is done, and the peer that does the same."""
_NOTES = (
    "into: a file is published in the far region; across: a version in the near region is brought to the far one",
    "out: it is written from there into a file; source: a file in a far bucket is published in the near region",
    "fetched: s5cmd brings that file here, and imgstore publishes it then",
    "bandwidth is not limited, nor is the making of connections",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """A home on two regions, and a bucket of whole objects beside each. The far ones are at the end of a way."""

    installation: Installation
    near: Bucket
    far: Bucket


def measure_distance(world: World) -> Found:
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    trips = world.sized(ROUND_TRIPS_MS, ROUND_TRIPS_MS[1:2])
    with start_toxiproxy(world.scratch / "toxiproxy") as ways:
        way = ways.to(world.site.regions[1].engine)
        sides = _sides(world, [replace(each, engine=way.engine) for each in world.site.regions[1:]], disk)
        for number in range(world.rounds):
            for trip in trips:
                way.set_round_trip(trip / 1000)
                for run in in_turn([_ours, _theirs], number):
                    run(world, samples, sides, disk, f"{trip}", number)
    figures = samples.figures()
    _compare(figures, trips)
    return Found(figures=figures, charts=_charts(figures, trips), notes=_NOTES)


def _sides(world: World, beyond: Sequence[Bucket], disk: Path) -> _Sides:
    whole = [world.bucket("whole-objects", region) for region in world.site.regions]
    for bucket, key in zip(whole, (COPY, KEY), strict=True):
        bucket.engine.client().upload_file(str(disk), bucket.name, key)
    far = replace(whole[1], engine=beyond[0].engine)
    installation = Installation.make(world.scratch / "far", Site(regions=(world.site.source, *beyond)))
    source = {"IMGSTORE_SOURCE_S3_ENDPOINT": far.engine.endpoint}
    return _Sides(
        installation=replace(installation, environment={**installation.environment, **source}), near=whole[0], far=far
    )


def _ours(world: World, samples: Samples, sides: _Sides, disk: Path, trip: str, number: int) -> None:
    here, there, out = (sides.installation.make_gallery(f"{verb}{trip}x{number}") for verb in ("here", "there", "out"))
    warm(disk)
    timed(samples, f"imgstore_near_{trip}_seconds", Door.PUBLIC, here.publish, "1.0.0", disk)
    timed(samples, f"imgstore_into_{trip}_seconds", Door.PUBLIC, there.publish, "1.0.0", disk, region=TARGET_REGION)
    both = SOURCE_REGION, TARGET_REGION
    timed(samples, f"imgstore_across_{trip}_seconds", Door.PUBLIC, here.retarget, "1.0.0", both)
    with new_file(world, "out.raw") as file:
        timed(samples, f"imgstore_out_{trip}_seconds", Door.PUBLIC, here.export, "1.0.0", TARGET_REGION, file)
        same_content(disk, file)
    source = f"s3://{sides.far.name}/{KEY}"
    timed(samples, f"imgstore_source_{trip}_seconds", Door.PUBLIC, out.publish, "1.0.0", source)


def _theirs(world: World, samples: Samples, sides: _Sides, disk: Path, trip: str, _number: int) -> None:
    place = Place(bucket=sides.far, folder=world.scratch)
    if "s5cmd" in world.roll.present:
        warm(disk)
        timed(samples, f"s5cmd_into_{trip}_seconds", Door.PEER, S5CMD.upload, disk, place, COPY)
        with new_file(world, "out.raw") as file:
            timed(samples, f"s5cmd_out_{trip}_seconds", Door.PEER, S5CMD.download, place, KEY, file)
    if "rclone" in world.roll.present:
        sides.far.forget(COPY)
        timed(samples, f"rclone_across_{trip}_seconds", Door.PEER, RCLONE.across, sides.near, sides.far, COPY)
    sides.far.forget(COPY)


def _compare(figures: dict[str, Figure], trips: Sequence[int]) -> None:
    """Adds what fetching first takes, and the ratios."""
    for trip in trips:
        parts = [figures.get(f"{name}_{trip}_seconds") for name in ("s5cmd_out", "imgstore_near")]
        if parts[0] and parts[1]:
            seconds = parts[0].value + parts[1].value
            said = "s5cmd's download, then imgstore's ingest"
            figures[f"fetched_source_{trip}_seconds"] = Figure(
                value=seconds, unit=Unit.SECONDS, door=Door.DERIVED, said=said
            )
        for job, peer in _JOBS.items():
            if theirs := figures.get(f"{peer}_{job}_{trip}_seconds"):
                ours = figures[f"imgstore_{job}_{trip}_seconds"]
                figures[f"{job}_{trip}_ratio"] = ratio(theirs, ours, f"{peer}'s seconds / imgstore's")


def _charts(figures: dict[str, Figure], trips: Sequence[int]) -> list[Chart]:
    """For each job a line of imgstore and one of its peer."""
    return [
        Chart(
            name=job,
            title=f"{job}: seconds, until the command returned",
            lines={
                name: {str(trip): f"{name}_{job}_{trip}_seconds" for trip in trips}
                for name in ("imgstore", peer)
                if f"{name}_{job}_{trips[0]}_seconds" in figures
            },
            below="milliseconds there and back",
        )
        for job, peer in _JOBS.items()
    ]


CASES = (
    Case(
        name="distance",
        title="v2 into, to and from a region that is 0 to 200 ms away, and out of a bucket there",
        measure=measure_distance,
        peers=("s5cmd", "rclone"),
    ),
)
