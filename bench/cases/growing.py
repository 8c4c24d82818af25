"""Growth: seconds and memory against the size of the disk and against how many versions there are, with the slope."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.disks import BLOCK_BYTES, GIB, MIB
from bench.engines import SOURCE_REGION
from bench.measuring import Case, Found, Samples, World, new_file, timed, warm
from bench.results import Chart, Door, Figure, Unit, power
from bench.synthetic import make_sparse_raw

ISLANDS_PER_GIB = 256
"""MiB of data in each GiB of disk: a quarter, so a disk of 8 GiB is dearer than the real one."""


def measure_growth(world: World) -> Found:
    samples = world.samples()
    sizes = world.sized([GIB * each for each in (1, 2, 4, 8, 16)], [64 * MIB, 128 * MIB])
    counts = world.sized([1, 10, 20, 40, 80], [1, 3])
    for number in range(world.rounds):
        for size in sizes:
            _ingest(world, samples, number, size)
        _versions(world, samples, number, counts)
    figures = samples.figures()
    charts = []
    for kind, places, below in (
        ("size", [size // MIB for size in sizes], "MiB of disk"),
        ("count", counts, "versions"),
    ):
        for what, ways in (("seconds", ("ingest", "export")), ("resident_bytes", ("ingest",))):
            lines = {way: {str(place): f"{kind}_{place}_{way}_{what}" for place in places} for way in ways}
            _slopes(figures, kind, what, lines)
            charts.append(
                Chart(
                    name=f"{kind}-{what.replace('_', '-')}",
                    title=_title(figures, kind, what, ways),
                    lines=lines,
                    below=below,
                    logarithmic=True,
                )
            )
    return Found(figures=figures, charts=charts, notes=_NOTES)


_NOTES = (
    f"by size: {ISLANDS_PER_GIB} MiB of random data in each GiB of disk, each disk in a gallery of its own",
    "by count: versions of one disk of 1 GiB in one gallery, each with one MiB changed since the one before",
)


def _ingest(world: World, samples: Samples, number: int, size: int) -> None:
    (gallery,) = world.galleries(f"size{size // MIB}x{number}")
    name = f"size_{size // MIB}"
    with new_file(world, "growing.raw") as disk:
        make_sparse_raw(disk, size, islands=max(2, ISLANDS_PER_GIB * size // GIB))
        warm(disk)
        finished = timed(samples, f"{name}_ingest_seconds", Door.PUBLIC, gallery.publish, "1.0.0", disk)
    samples.add(f"{name}_ingest_resident_bytes", finished.peak_bytes, Unit.BYTES, Door.STORE)
    with new_file(world, "grown.raw") as file:
        timed(samples, f"{name}_export_seconds", Door.PUBLIC, gallery.export, "1.0.0", SOURCE_REGION, file)


def _versions(world: World, samples: Samples, number: int, counts: Sequence[int]) -> None:
    """One disk, patched again and again; measured when there are so many versions of it."""
    (gallery,) = world.galleries(f"count{number}")
    random = np.random.default_rng(number)
    with new_file(world, "patched.raw") as disk:
        make_sparse_raw(disk, world.sized(GIB, 64 * MIB), islands=world.sized(ISLANDS_PER_GIB, 8))
        for version in range(1, counts[-1] + 1):
            _patch(disk, random)
            if version not in counts:
                gallery.publish(f"1.0.{version}", disk)
                continue
            name = f"count_{version}"
            publish, said = gallery.publish, f"1.0.{version}"
            finished = timed(samples, f"{name}_ingest_seconds", Door.PUBLIC, publish, said, disk)
            samples.add(f"{name}_ingest_resident_bytes", finished.peak_bytes, Unit.BYTES, Door.STORE)
            with new_file(world, "grown.raw") as file:
                timed(samples, f"{name}_export_seconds", Door.PUBLIC, gallery.export, said, SOURCE_REGION, file)


def _patch(disk: Path, random: np.random.Generator) -> None:
    with disk.open("r+b") as file:
        offset = int(random.integers(0, disk.stat().st_size - MIB)) // BLOCK_BYTES * BLOCK_BYTES
        file.seek(offset)
        file.write(random.bytes(MIB))


def _slopes(figures: dict[str, Figure], kind: str, what: str, lines: Mapping[str, Mapping[str, str]]) -> None:
    for way, line in lines.items():
        points = {float(place): figures[name] for place, name in line.items()}
        figures[f"{kind}_{way}_{what}_power"] = power(points, f"{way}: {what} against {kind}")


def _title(figures: Mapping[str, Figure], kind: str, what: str, ways: Sequence[str]) -> str:
    slopes = ", ".join(f"{way} as {kind}^{figures[f'{kind}_{way}_{what}_power'].value:.2f}" for way in ways)
    return f"{what.replace('_', ' ')}: {slopes}"


CASES = (
    Case(
        name="growth",
        title="seconds and memory against the size of the disk and the number of versions",
        measure=measure_growth,
        regions=1,
    ),
)
