"""What was chosen, beside what might have been instead: the ways of `bench.choices`, in turn."""

import time

import numpy as np

from bench.choices import CHOICES, PIECE_BYTES, Choice, Stage
from bench.disks import DiskName, raw_path
from bench.frames import Layout, lay_out
from bench.measuring import Case, Found, Samples, World, in_turn, real_pieces
from bench.results import Door, Unit, ratio
from bench.traces import boot_trace


def measure_choices(world: World) -> Found:
    return _measure_all(world, "choices")


def measure_frames(world: World) -> Found:
    return _measure_all(world, "frames")


def _measure_all(world: World, case: str) -> Found:
    samples = world.samples()
    chosen = [choice for choice in CHOICES if choice.case == case]
    count = world.sized(64, 4)
    rng = np.random.default_rng(5)
    folder = world.scratch / "choices"
    folder.mkdir()
    disk = raw_path(world.disks, DiskName.V2)
    trace, origin = boot_trace(disk, quick=world.quick or case != "frames")
    stage = Stage(
        real=real_pieces(disk, count, PIECE_BYTES),
        random=[rng.bytes(PIECE_BYTES) for _ in range(count)],
        engine=world.site.source.engine,
        bucket=world.bucket("choices").name,
        known_blocks=world.sized(1 << 20, 1 << 17),
        folder=folder,
        layout=lay_out(disk) if case == "frames" else Layout(contents=(), places={}),
        trace=trace,
        single_reads=world.sized(200, 4),
    )
    for choice in chosen:
        _measure(world, samples, choice, stage)
        world.bucket("choices").forget()
    figures = samples.figures()
    for choice in chosen:
        first, *others = (f"{choice.name}_{way}_rate" for way in choice.ways)
        for other in others:
            if other in figures:
                said = "imgstore's way / this one"
                figures[other.removesuffix("rate") + "ratio"] = ratio(figures[first], figures[other], said)
    return Found(figures=figures, notes=(f"the boot of v2 is {origin}",) if case == "frames" else ())


def _measure(world: World, samples: Samples, choice: Choice, stage: Stage) -> None:
    unit = Unit.PER_SECOND if choice.counts else Unit.BYTES_PER_SECOND
    with choice.opened(stage) as ways:
        for number in range(world.rounds):
            for name in in_turn(list(ways), number):
                samples.settle()
                began = time.perf_counter()
                did = ways[name]()
                seconds = time.perf_counter() - began
                said = f"{choice.question}: {choice.ways[name]}"
                samples.add(f"{choice.name}_{name}_rate", did.amount / seconds, unit, Door.INSIDE, said)
                if did.kept_bytes is not None:
                    smaller = did.amount / did.kept_bytes
                    samples.add(f"{choice.name}_{name}_smaller", smaller, Unit.RATIO, Door.INSIDE, "given / kept")
                if did.moved_bytes is not None:
                    moved = "that the store sent, for each read" if choice.counts else "that the store sent"
                    samples.add(f"{choice.name}_{name}_moved_bytes", did.moved_bytes, Unit.BYTES, Door.INSIDE, moved)
                if did.requests is not None and not choice.counts:
                    samples.add(f"{choice.name}_{name}_requests", did.requests, Unit.REQUESTS, Door.INSIDE)


CASES = (
    Case(
        name="choices",
        title="what was chosen in the data plane, beside what might have been",
        measure=measure_choices,
        regions=1,
    ),
    Case(
        name="frames",
        title="a segment of one zstd frame, beside segments of independent frames and a boot pack",
        measure=measure_frames,
        regions=1,
    ),
)
