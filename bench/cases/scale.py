"""Scaling out: the throughput of 1 to 10 replicas, each behind a link of 10 MB/s, and the disks of 1,000 instances at once.

A zone is an engine in a network namespace with a limited link, and a version has a replica in each zone. Many readers get
disks of the version, which are handed out round robin, and read them whole.
"""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.crowd import VERSION, Crowds
from bench.engines import SOURCE_REGION, Bucket
from bench.installation import Gallery, Installation
from bench.measuring import Case, Found, Samples, World, at_once
from bench.narrow import NarrowMissing, start_narrow_engines
from bench.peers import S5CMD, Place
from bench.results import Chart, Door, Figure, Goal, Unit
from bench.scalability import fit
from bench.synthetic import make_dense
from bench.zoned import ZonedSite
from imgstore.domain.storage.sizes import MIB
from imgstore.testing.engines import EngineMissing, start_pgbouncer, start_postgresql

LINK_BYTES_PER_SECOND = 10_000_000
REPLICAS_MAX = 10
READERS_PER_REPLICA = 4
PROCESSES = 2
"""Of readers: one for each core."""
INSTANCES, INSTANCE_PROCESSES, INSTANCE_THREADS = 1_000, 4, 64
_NOTES = (
    "each replica is in a MinIO process in a network namespace; tc tbf limits its link to 10 MB/s, headers included",
    "4 readers for each replica; each reads a disk of random data whole, from the replica that round robin chose",
    "efficiency: throughput of 10 replicas / 10 x the throughput of one",
    "alpha, beta: Gunther's Universal Scalability Law (arXiv:0808.1431), least squares",
)


def measure_scale(world: World) -> Found:
    samples = world.samples()
    counts = world.sized(tuple(range(1, REPLICAS_MAX + 1)), (1, 2))
    try:
        _measure_replicas(world, samples, counts)
    except NarrowMissing as missing:
        return Found(figures={}, notes=(f"not measured: {missing}",))
    figures = samples.figures()
    chart = _fit(figures, counts)
    return Found(figures=figures, goals=[Goal.of("efficiency", figures, at_least=0.95)], notes=_NOTES, charts=[chart])


def measure_instances(world: World) -> Found:
    samples, notes = world.samples(), list[str]()
    _measure_instances(world, samples, notes)
    figures = samples.figures()
    goals = list[Goal]()
    for name, seconds_max in (("sqlite", 10.0), ("postgresql", 5.0)):
        if f"{name}_create_seconds" in figures:
            goals.append(Goal.of(f"{name}_create_seconds", figures, at_most=seconds_max))
            goals.append(Goal.of(f"{name}_create_spread", figures, at_most=1))
    return Found(figures=figures, goals=goals, notes=notes)


# -- replicas ---------------------------------------------------------------------------------------------------------


def _measure_replicas(world: World, samples: Samples, counts: tuple[int, ...]) -> None:
    disk = world.scratch / "dense.raw"
    make_dense(disk, world.sized(16 * MIB, 4 * MIB))
    folder = world.scratch / "narrow"
    with start_narrow_engines(folder, counts[-1], LINK_BYTES_PER_SECOND) as engines:
        site = ZonedSite(regions=tuple(Bucket(engine=engine, name="imgstore-scale") for engine in engines))
        gallery = Installation.make(folder / "installation", site).make_gallery("scale")
        gallery.publish(VERSION, disk)
        for count in counts:
            if count > 1:
                gallery.retarget(VERSION, [f"{SOURCE_REGION}={count}"])
            for number in range(world.rounds):
                _read_all(samples, gallery, count, f"n{count}r{number}")
        if S5CMD in world.roll.peers():
            _read_by_s5cmd(world, samples, site, disk, (counts[0], counts[-1]))
    disk.unlink()


def _read_all(samples: Samples, gallery: Gallery, count: int, prefix: str) -> None:
    """Reads by all readers at once."""
    each = READERS_PER_REPLICA * count // PROCESSES
    commands = [("read", gallery.name, f"{prefix}p{number}", str(each), str(each)) for number in range(PROCESSES)]
    with ExitStack() as stack:
        crowds = Crowds(commands, gallery.installation.environment, stack)
        began = time.perf_counter()
        found = crowds.run()
        rate = found.read_bytes / (time.perf_counter() - began)
    samples.add(f"replicas_{count}_rate", rate, Unit.BYTES_PER_SECOND, Door.INSIDE, "of the content of disks")
    spread = max(found.by_replica.values()) - min(found.by_replica.values())
    assert len(found.by_replica) == count, "each replica has readers"
    samples.add(f"replicas_{count}_spread", spread, Unit.COUNT, Door.INSIDE, "most readers of a replica - fewest")


def _read_by_s5cmd(world: World, samples: Samples, site: ZonedSite, disk: Path, counts: tuple[int, ...]) -> None:
    """The same objects by as many processes of s5cmd, which the bench hands out evenly."""
    places = []
    for bucket in site.regions:
        whole = Bucket(engine=bucket.engine, name="whole")
        whole.engine.make_bucket(whole.name)
        whole.engine.client().upload_file(str(disk), whole.name, disk.name)
        places.append(Place(bucket=whole, folder=world.scratch))
    for count in counts:
        readers = [
            (place, world.scratch / f"s5cmd-{count}-{number}") for number, place in enumerate(places[:count] * 4)
        ]
        for _ in range(world.rounds):
            done = at_once([partial(S5CMD.download, place, disk.name, to) for place, to in readers])
            rate = len(readers) * disk.stat().st_size / done.seconds
            samples.add(f"s5cmd_{count}_rate", rate, Unit.BYTES_PER_SECOND, Door.PEER, "processes with their starts")
            for _, to in readers:
                to.unlink()


def _fit(figures: dict[str, Figure], counts: tuple[int, ...]) -> Chart:
    """Adds efficiency and law to the figures; gives the chart."""
    measured = {count: figures[f"replicas_{count}_rate"].value for count in counts}
    law, last = fit(measured), counts[-1]
    efficiency = measured[last] / last / measured[1]
    figures["efficiency"] = _derived(round(efficiency, 3), Unit.COEFFICIENT, f"X({last}) / {last} X(1)")
    figures["alpha"] = _derived(round(law.alpha, 5), Unit.COEFFICIENT, "contention")
    figures["beta"] = _derived(round(law.beta, 6), Unit.COEFFICIENT, "coherency")
    for count in counts:
        figures[f"law_{count}_rate"] = _derived(
            round(law.throughput(count)), Unit.BYTES_PER_SECOND, "by the fitted law"
        )
        figures[f"even_{count}_rate"] = _derived(round(measured[1] * count), Unit.BYTES_PER_SECOND, "N times one")
    lines = {
        "imgstore": {str(count): f"replicas_{count}_rate" for count in counts},
        "Universal Scalability Law": {str(count): f"law_{count}_rate" for count in counts},
        "N x one replica": {str(count): f"even_{count}_rate" for count in counts},
    }
    title = f"throughput of all readers: efficiency {efficiency:.3f}, alpha {law.alpha:.4f}, beta {law.beta:.5f}"
    return Chart(name="throughput", title=title, lines=lines, below="replicas, each behind 10 MB/s")


def _derived(value: float, unit: Unit, said: str) -> Figure:
    return Figure(value=value, unit=unit, door=Door.DERIVED, said=said)


# -- instances --------------------------------------------------------------------------------------------------------


def _measure_instances(world: World, samples: Samples, notes: list[str]) -> None:
    """Creates disks of a version with ten replicas, by the threads of several processes."""
    disk = world.scratch / "small.raw"
    make_dense(disk, MIB)
    _create_all(world, samples, "sqlite", {}, disk)
    try:
        # PostgreSQL accepts 100 connections by default, and each thread may need one.
        with (
            start_postgresql(world.scratch) as server,
            server.database() as url,
            start_pgbouncer(world.scratch / "pgbouncer", server, default_pool_size="20") as bouncer,
        ):
            _create_all(world, samples, "postgresql", {"IMGSTORE_DATABASE": bouncer.url(url)}, disk)
    except EngineMissing as missing:
        notes.append(f"PostgreSQL is not in it: {missing}")


def _create_all(world: World, samples: Samples, name: str, database: dict[str, str], disk: Path) -> None:
    site = ZonedSite(regions=(Bucket(engine=world.site.source.engine, name=f"instances-{name}"),))
    installation = Installation.make(world.scratch / f"instances-{name}", site, database)
    gallery = installation.make_gallery(name)
    gallery.publish(VERSION, disk, [f"{SOURCE_REGION}={REPLICAS_MAX}"])
    total, processes = world.sized(INSTANCES, 20), world.sized(INSTANCE_PROCESSES, 2)
    threads = world.sized(INSTANCE_THREADS, 4)
    for number in range(world.rounds):
        commands = [
            ("create", gallery.name, f"r{number}p{process}", str(total // processes), str(threads))
            for process in range(processes)
        ]
        with ExitStack() as stack:
            crowds = Crowds(commands, gallery.installation.environment, stack)
            samples.settle()
            began = time.perf_counter()
            found = crowds.run()
            seconds = time.perf_counter() - began
        said = f"{total} disks by {threads} threads in each of {processes} processes"
        samples.add(f"{name}_create_seconds", seconds, Unit.SECONDS, Door.INSIDE, said)
        spread = max(found.by_replica.values()) - min(found.by_replica.values())
        assert sum(found.by_replica.values()) == total
        samples.add(f"{name}_create_spread", spread, Unit.COUNT, Door.INSIDE, "most disks of a replica - fewest")


CASES = (
    Case(
        name="scale",
        title="the throughput of 1 to 10 replicas, each behind a link of 10 MB/s",
        measure=measure_scale,
        peers=("s5cmd",),
        regions=1,
    ),
    Case(
        name="instances",
        title="1,000 disks of one version at once by 64 threads in each of four processes",
        measure=measure_instances,
        regions=1,
    ),
)
