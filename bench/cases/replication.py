"""Across: four versions into a second region, one version into one, three and nine, and one to ten replicas in one."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from bench.cases.uploads import VERSIONS
from bench.disks import DiskName, raw_path
from bench.engines import REGIONS, SOURCE_REGION, TARGET_REGION, Bucket
from bench.installation import Gallery
from bench.measuring import Case, Found, Samples, World, at_once, in_turn, timed, warm
from bench.peers import MC, RCLONE, S5CMD, Place
from bench.processes import Finished
from bench.results import Chart, Door, Figure, Goal, Unit, ratio

BOTH = (SOURCE_REGION, TARGET_REGION)
KEY = "whole-disk"
VERSIONS_NOTES = (
    "r2 is published after v3: the versions before it are v1, v2 and v3",
    "ingest is into the source region alone; publish is the same command with the other region as a second target",
    "replicate is what publish does after the source region is complete, timed inside: plan, copy, confirm, record",
    "a whole copy is rclone's, from one engine to the other, its start-up included",
)


def measure_versions(world: World) -> Found:
    samples = world.samples()
    for number in range(world.rounds):
        galleries = world.galleries(f"ingest{number}", f"publish{number}", f"inside{number}")
        for disk in DiskName:
            path, version = raw_path(world.disks, disk), VERSIONS[disk]
            warm(path)
            timed(samples, f"{disk}_ingest_seconds", Door.PUBLIC, galleries[0].publish, version, path)
            _publish(world, samples, galleries[1], disk)
            _publish_inside(world, samples, galleries[2], disk)
        _copy_whole(world, samples)
    figures = samples.figures()
    goals = []
    for disk in (DiskName.V3, DiskName.R2):
        figures[f"{disk}_fewer_bytes"] = ratio(
            figures["whole_copy_bytes"], figures[f"{disk}_delivered_bytes"], "bytes of a whole copy / as billed"
        )
        figures[f"{disk}_faster"] = ratio(
            figures["whole_copy_seconds"], figures[f"{disk}_replicate_inside_seconds"], "a whole copy's seconds / ours"
        )
        goals += [
            Goal.of(f"{disk}_fewer_bytes", figures, at_least=1000),
            Goal.of(f"{disk}_faster", figures, at_least=100),
        ]
    return Found(figures=figures, goals=goals, notes=VERSIONS_NOTES)


def _publish(world: World, samples: Samples, gallery: Gallery, disk: DiskName) -> None:
    """Publishes in both regions; tells what it added to each, by the stores' own listings and by the bill."""
    path, version, sides = raw_path(world.disks, disk), VERSIONS[disk], world.site.regions[:2]
    before = [side.stored_bytes() for side in sides]
    samples.settle()
    finished = gallery.publish(version, path, BOTH)
    samples.add(f"{disk}_publish_seconds", finished.seconds, Unit.SECONDS, Door.PUBLIC)
    stored, arrived = (side.stored_bytes() - was for side, was in zip(sides, before, strict=True))
    said = "growth of the {} region's bucket: segments, manifest and all else"
    samples.add(f"{disk}_stored_bytes", stored, Unit.BYTES, Door.STORE, said.format("source"))
    samples.add(f"{disk}_arrived_bytes", arrived, Unit.BYTES, Door.STORE, said.format("target"))
    samples.add(f"{disk}_delivered_bytes", gallery.delivered_bytes(version), Unit.BYTES, Door.PUBLIC, "as billed")


def _publish_inside(world: World, samples: Samples, gallery: Gallery, disk: DiskName) -> None:
    samples.settle()
    target = world.site.regions[1]
    requests = target.requests()
    timing = gallery.publish_inside(VERSIONS[disk], raw_path(world.disks, disk), BOTH)
    requests = target.requests() - requests
    said = "that the target's engine answered, by its counters"
    samples.add(f"{disk}_target_requests", requests, Unit.REQUESTS, Door.STORE, said)
    ingested = timing.completed[SOURCE_REGION]
    samples.add(f"{disk}_ingest_inside_seconds", ingested, Unit.SECONDS, Door.INSIDE)
    samples.add(f"{disk}_replicate_inside_seconds", timing.seconds - ingested, Unit.SECONDS, Door.INSIDE)


def _copy_whole(world: World, samples: Samples) -> None:
    source, target = _whole_sides(world, 1)
    timed(samples, "whole_copy_seconds", Door.PEER, RCLONE.across, source, target, KEY)
    samples.add("whole_copy_bytes", target.stored_bytes(), Unit.BYTES, Door.STORE)
    source.forget()
    target.forget()


def _whole_sides(world: World, count: int) -> Sequence[Bucket]:
    """Buckets for whole objects in the source region, v2 in it, and in `count` others, empty."""
    sides = [world.bucket("whole-objects", side) for side in world.site.regions[: count + 1]]
    for side in sides:
        side.forget()
    S5CMD.upload(raw_path(world.disks, DiskName.V2), Place(bucket=sides[0], folder=world.scratch), KEY)
    return sides


REGION_COUNTS = (1, 3, 9)
Copy = Callable[[Bucket, Bucket, str], Finished]
"""(source, target, key): one object from one engine to another."""


def measure_replicate(world: World) -> Found:
    """v2, complete in the source region, into one, three and nine others."""
    samples, notes = world.samples(), dict[str, str]()
    disk = raw_path(world.disks, DiskName.V2)
    copiers: Mapping[str, Copy] = {"rclone": RCLONE.across, "mc": partial(MC.across, folder=world.scratch)}
    for number in range(world.rounds):
        for count in REGION_COUNTS:
            for name in in_turn([*(name for name in copiers if name in world.roll.present), "imgstore"], number):
                if name == "imgstore":
                    (gallery,) = world.galleries(f"replicate{count}x{number}")
                    gallery.publish("1.0.0", disk)
                    targets = REGIONS[: count + 1]
                    label = f"imgstore_{count}_seconds"
                    timed(samples, label, Door.PUBLIC, gallery.retarget, "1.0.0", targets)
                    delivered = gallery.delivered_bytes("1.0.0")
                    samples.add(f"imgstore_{count}_bytes", delivered, Unit.BYTES, Door.PUBLIC, "as billed")
                elif _has_room(world, disk.stat().st_size * (count + 1)):
                    _copy_to_many(world, samples, name, copiers[name], count)
                else:
                    notes[f"{name}{count}"] = f"{name} to {count}: not enough room here for so many whole objects"
    figures = samples.figures()
    for count in REGION_COUNTS:
        theirs = [figures[f"{name}_{count}_seconds"] for name in copiers if f"{name}_{count}_seconds" in figures]
        if theirs:
            least = min(theirs, key=lambda figure: figure.value)
            ours = figures[f"imgstore_{count}_seconds"]
            figures[f"replicate_{count}_ratio"] = ratio(least, ours, "the best peer's seconds / imgstore's")
    told = ("peers copy the whole object to all regions at once, a process each", *notes.values())
    return Found(
        figures=figures, charts=[_by_number(figures, "seconds", "to other regions", REGION_COUNTS)], notes=told
    )


def _has_room(world: World, needed_bytes: int) -> bool:
    return shutil.disk_usage(world.scratch).free > needed_bytes * 1.1


def _copy_to_many(world: World, samples: Samples, name: str, copy: Copy, count: int) -> None:
    source, *targets = _whole_sides(world, count)
    timed(samples, f"{name}_{count}_seconds", Door.PEER, at_once, [partial(copy, source, to, KEY) for to in targets])
    for side in (source, *targets):
        side.forget()


def _by_number(figures: dict[str, Figure], unit: str, below: str, counts: Sequence[int]) -> Chart:
    """A line for each contestant that has a figure for every number."""
    names = dict.fromkeys(name.split("_")[0] for name in figures if name.endswith(f"_{counts[0]}_{unit}"))
    lines = {
        name: {str(count): f"{name}_{count}_{unit}" for count in counts if f"{name}_{count}_{unit}" in figures}
        for name in names
    }
    return Chart(name=unit, title=f"{unit}, by how many", lines=lines, below=below)


REPLICA_COUNTS = (1, 2, 4, 7, 10)


def measure_replicas(world: World) -> Found:
    """v2 published with so many replicas in its one region: each a deep copy."""
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    for number in range(world.rounds):
        for count in in_turn(REPLICA_COUNTS, number):
            (gallery,) = world.galleries(f"replicas{count}x{number}")
            warm(disk)
            before, targets = world.site.source.stored_bytes(), [f"{SOURCE_REGION}={count}"]
            timed(samples, f"imgstore_{count}_seconds", Door.PUBLIC, gallery.publish, "1.0.0", disk, targets)
            grown = world.site.source.stored_bytes() - before
            samples.add(f"imgstore_{count}_bytes", grown, Unit.BYTES, Door.STORE, "growth of the region's bucket")
    figures = samples.figures()
    return Found(figures=figures, charts=[_by_number(figures, "seconds", "replicas in the region", REPLICA_COUNTS)])


CASES = (
    Case(
        name="versions",
        title="four versions of one image: ingest, stored bytes, replication, against a whole copy",
        measure=measure_versions,
        peers=("s5cmd", "rclone"),
    ),
    Case(
        name="replicate",
        title="v2 to 1, 3 and 9 other regions",
        measure=measure_replicate,
        peers=("s5cmd", "rclone", "mc"),
        regions=len(REGIONS),
    ),
    Case(name="replicas", title="v2 with 1 to 10 replicas in one region", measure=measure_replicas, regions=1),
)
