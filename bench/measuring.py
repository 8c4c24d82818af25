"""What cases are made of: the world that they are given, samples, and ways to measure alike for all contestants.

Contestants take turns within a round, each round beginning with another one, so that a slow minute of the machine hits
all alike; before each run the source is in the page cache and nothing waits to be written. All see the same engine, the
same file and the same folder.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import ParamSpec, TypeVar

import imgstore
from bench.disks import GIB, MIB, data_extents
from bench.engines import Bucket, Site
from bench.installation import Gallery, Installation
from bench.peers import Peer, Place, Roll
from bench.processes import Finished
from bench.results import Chart, Door, Figure, Goal, Machine, Result, Unit, installed_versions, median

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """What a case is given to work with."""

    site: Site
    disks: Path
    """The folder with the four disks, and in folders of it those of other file systems."""
    scratch: Path
    """A folder for files that come and go, on the same file system."""
    rounds: int
    quick: bool
    roll: Roll
    """The peers that were asked for."""
    say: Callable[[str], None]
    """Told of each run as it ends."""

    @cached_property
    def installation(self) -> Installation:
        """The command line on a fresh home over these engines; made when first asked for."""
        return Installation.make(self.scratch / "installation", self.site)

    def galleries(self, *names: str) -> tuple[Gallery, ...]:
        """New galleries: none of them knows anything yet, since each is a pool of its own."""
        return tuple(self.installation.make_gallery(name) for name in names)

    def bucket(self, name: str, side: Bucket | None = None) -> Bucket:
        """A bucket on the same engine as `side`, or the source region's; made when first asked for."""
        engine = (side or self.site.source).engine
        client = engine.client()
        if name not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)
        return Bucket(engine=engine, name=name)

    def place(self, peer: Peer) -> Place:
        """Where a peer keeps things, emptied and made ready."""
        place = Place(bucket=self.bucket(f"of-{peer.name}"), folder=self.scratch / f"of-{peer.name}")
        place.forget()
        peer.prepare(place)
        return place

    def samples(self) -> "Samples":
        """For the figures of a case."""
        return Samples(say=self.say, quick=self.quick)

    def sized(self, whole: T, quick: T) -> T:
        """`whole`, or what stands in for it where the case is only to be seen to run."""
        return quick if self.quick else whole


@dataclass(slots=True)
class Samples:
    """Figures in the making: each round adds one sample to each name."""

    say: Callable[[str], None]
    quick: bool = False
    """Nothing is to be measured: the machine is not made ready for it."""
    _kept: dict[str, tuple[Unit, Door, str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: Unit, door: Door, said: str = "") -> None:
        """One more sample of a figure."""
        self._kept.setdefault(name, (unit, door, said, []))[3].append(value)
        self.say(f"{name}: {value:,.2f} {unit}")

    def settle(self) -> None:
        """Lets the run before finish its writing, which would otherwise be charged to the next."""
        if not self.quick:
            os.sync()

    def figures(self) -> dict[str, Figure]:
        """The medians so far."""
        return {name: median(values, unit, door, said) for name, (unit, door, said, values) in self._kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a case found, before it is dated and signed."""

    figures: Mapping[str, Figure]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row of the table: data and one function."""

    name: str
    title: str
    measure: Callable[[World], Found]
    peers: tuple[str, ...] = ()
    """Whom it is measured against unless others are asked for."""
    packages: tuple[str, ...] = ()
    """The packages whose versions the result must tell, beside imgstore's and the peers'."""
    regions: int = 2
    """How many engines it needs."""

    def run(self, world: World) -> Result:
        """Measures the case once through."""
        found = self.measure(world)
        engine = world.site.source.engine.found
        absent = [f"{name} is not in it: {why}" for name, why in world.roll.missing.items()]
        return Result(
            case=self.name,
            title=self.title,
            date=datetime.now(UTC).date().isoformat(),
            rounds=world.rounds,
            quick=world.quick,
            machine=Machine.here(),
            versions={
                "imgstore": imgstore.__version__,
                **installed_versions(*self.packages),
                **world.roll.present,
                engine.name: engine.version,
            },
            figures=found.figures,
            goals=tuple(found.goals),
            notes=(*found.notes, *absent),
            charts=tuple(found.charts),
        )


# -- before and after a run --------------------------------------------------------------------------------------------


_BACKED_BYTES_MAX = 9 * GIB
"""A whole disk of 8 GiB and what a program needs besides."""


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


def real_pieces(disk: Path, count: int, piece_bytes: int) -> list[bytes]:
    """The first `count` pieces of a disk's data."""
    found = list[bytes]()
    with disk.open("rb", buffering=0) as file:
        for start, length in data_extents(file.fileno()):
            for offset in range(start, start + length - piece_bytes + 1, piece_bytes):
                found.append(os.pread(file.fileno(), piece_bytes, offset))
                if len(found) == count:
                    return found
    return found


@contextmanager
def new_file(world: World, name: str) -> Iterator[Path]:
    """A path where nothing is, given back so."""
    path = world.scratch / name
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


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


def in_turn(contestants: Sequence[T], number: int) -> Sequence[T]:
    """The contestants of round `number`, from 0: each round another one is first."""
    first = number % len(contestants) if contestants else 0
    return [*contestants[first:], *contestants[:first]]


# -- ways to measure ---------------------------------------------------------------------------------------------------


def timed(
    samples: Samples, name: str, door: Door, run: Callable[P, Finished], *args: P.args, **kwargs: P.kwargs
) -> Finished:
    """One run with these arguments, its seconds kept as a sample."""
    samples.settle()
    if not samples.quick:
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
    samples.settle()
    durable = finished.seconds + time.perf_counter() - began
    samples.add(f"{name}_durable_seconds", durable, Unit.SECONDS, door, "and the file safe on the disk")
    return finished


def weighed(
    world: World,
    samples: Samples,
    name: str,
    door: Door,
    stored_bytes: Callable[[], int],
    run: Callable[P, Finished],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Finished:
    """`timed`, and what it took of the machine and the store: processors, memory, bytes moved and kept."""
    source = world.site.source
    stored, moved, engine_cpu = stored_bytes(), source.moved_bytes(), source.engine_cpu_seconds()
    finished = timed(samples, f"{name}_seconds", door, run, *args, **kwargs)
    engine_cpu = source.engine_cpu_seconds() - engine_cpu
    samples.add(f"{name}_cpu_seconds", finished.cpu_seconds, Unit.SECONDS, door, "processor time of the program")
    samples.add(f"{name}_engine_cpu_seconds", engine_cpu, Unit.SECONDS, Door.STORE, "processor time of the engine")
    samples.add(f"{name}_peak_bytes", finished.peak_bytes, Unit.BYTES, Door.STORE, "greatest resident memory")
    said = "bodies that the engine received and sent, by its counters"
    samples.add(f"{name}_moved_bytes", source.moved_bytes() - moved, Unit.BYTES, Door.STORE, said)
    samples.add(f"{name}_stored_bytes", stored_bytes() - stored, Unit.BYTES, Door.STORE, "growth of what is kept")
    return finished


def at_once(runs: Sequence[Callable[[], Finished]]) -> Finished:
    """All of them beside each other, as one: seconds until the last has ended, memory and processors added up."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(runs)) as pool:
        done = [each.result() for each in [pool.submit(run) for run in runs]]
    return Finished(
        seconds=time.perf_counter() - began,
        cpu_seconds=sum(each.cpu_seconds for each in done),
        peak_bytes=sum(each.peak_bytes for each in done),
        output="",
    )


def best(figures: Mapping[str, Figure], ending: str, names: Sequence[str] | None = None) -> Figure | None:
    """The quickest peer's figure among those of one kind, or None where no peer has one.

    Args:
        figures: among these.
        ending: of the figure's name, after the peer's.
        names: of these peers alone; None is all.
    """
    chosen = [
        figure
        for name, figure in figures.items()
        if figure.door is Door.PEER
        and name.endswith(ending)
        and (names is None or name.removesuffix(ending) in {each.replace("-", "_") for each in names})
    ]
    return min(chosen, key=lambda figure: figure.value, default=None)


def bars(name: str, title: str, figures: Mapping[str, Figure], ending: str) -> Chart:
    """A chart of everyone's figure of one kind."""
    lines = {found.removesuffix(ending): found for found in figures if found.endswith(ending)}
    return Chart(name=name, title=title, lines={"": lines})
