"""The segment cache of a host: a hit, an export with an empty and a full cache, and two exports at once."""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.disks import DiskName, raw_path
from bench.engines import SOURCE_REGION
from bench.installation import Gallery
from bench.measuring import Case, Found, Samples, World, at_once, new_file, same_content, timed, timed_write
from bench.results import Door, Goal, Unit, ratio
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.sizes import GIB, KIB, MIB
from imgstore.transfer.segment_cache import SegmentCache

_LIMITS = {"off": "0", "cold": str(10 * GIB), "warm": str(10 * GIB)}
_SEGMENTS = 16


def measure_cache(world: World) -> Found:
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    for _ in range(world.rounds):
        _measure_hits(samples, world)
    (gallery,) = world.galleries("cache")
    gallery.publish("1.0.0", disk)
    folder = Path(gallery.installation.environment["IMGSTORE_HOME"]) / "cache"
    source = world.site.source
    for number in range(world.rounds):
        # The cache is full after a cold export.
        for mode in ("off", "cold", "warm") if number % 2 == 0 else ("cold", "warm", "off"):
            with new_file(world, f"{mode}.raw") as file:
                if mode == "cold":
                    shutil.rmtree(folder, ignore_errors=True)
                before = source.moved_bytes()
                export = _with_limit(gallery, _LIMITS[mode]).export
                timed_write(samples, f"{mode}_export", Door.PUBLIC, export, "1.0.0", SOURCE_REGION, file)
                moved = source.moved_bytes() - before
                samples.add(f"{mode}_moved_bytes", moved, Unit.BYTES, Door.STORE)
                if number == 0:
                    same_content(disk, file)
        shutil.rmtree(folder, ignore_errors=True)
        files = [world.scratch / f"both-{each}.raw" for each in range(2)]
        before = source.moved_bytes()
        runs = [partial(_with_limit(gallery, _LIMITS["cold"]).export, "1.0.0", SOURCE_REGION, file) for file in files]
        timed(samples, "both_seconds", Door.PUBLIC, at_once, runs)
        said = "two exports by two commands at once, with an empty cache"
        samples.add("both_moved_bytes", source.moved_bytes() - before, Unit.BYTES, Door.STORE, said)
        for file in files:
            file.unlink()
    figures = samples.figures()
    pairs = {
        "cold_ratio": ("off_export_seconds", "cold_export_seconds", "without a cache / with an empty cache"),
        "warm_ratio": ("off_export_seconds", "warm_export_seconds", "without a cache / with a full cache"),
        "both_ratio": ("both_moved_bytes", "cold_moved_bytes", "bytes of two exports at once / of one"),
    }
    figures |= {name: ratio(figures[one], figures[other], said) for name, (one, other, said) in pairs.items()}
    goals = [Goal.of("cold_ratio", figures, at_least=0.8), Goal.of("both_ratio", figures, at_most=1.05)]
    return Found(figures=figures, goals=goals)


def _with_limit(gallery: Gallery, cache_bytes: str) -> Gallery:
    environment = {**gallery.installation.environment, "IMGSTORE_CACHE_BYTES": cache_bytes}
    return replace(gallery, installation=replace(gallery.installation, environment=environment))


def _measure_hits(samples: Samples, world: World) -> None:
    """Measure reads of 4 KiB, and the time that a miss takes longer, in this process."""
    folder = world.scratch / "hits"
    cache = SegmentCache(folder, GIB)
    segments = {digest_of(content): memoryview(content) for content in (os.urandom(4 * MIB) for _ in range(_SEGMENTS))}
    misses = [_seconds(partial(cache.blocks, name, partial(_give, blocks))) for name, blocks in segments.items()]
    samples.add("miss_seconds", statistics.median(misses), Unit.SECONDS, Door.INSIDE, "adds a segment of 4 MiB")
    name = next(iter(segments))
    blocks = segments[name]

    def locate() -> None:
        with cache.locate(name, 64 * KIB, 4 * KIB, partial(_give, blocks)):
            pass

    count = world.sized(20_000, 100)
    for kind, act in (
        ("hit", partial(cache.read, name, 64 * KIB, 4 * KIB, partial(_give, blocks))),
        ("locate", locate),
    ):
        seconds = sorted(_seconds(act) for _ in range(count))
        samples.add(f"{kind}_seconds", statistics.median(seconds), Unit.SECONDS, Door.INSIDE, "4 KiB, verified")
        samples.add(f"{kind}_p99_seconds", seconds[count * 99 // 100], Unit.SECONDS, Door.INSIDE)
    cache.close()
    shutil.rmtree(folder)


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _give(blocks: memoryview) -> memoryview:
    return blocks


CASES = (
    Case(
        name="cache",
        title="a hit of the segment cache; an export without, with an empty and with a full cache; two exports at once",
        measure=measure_cache,
        regions=1,
    ),
)
