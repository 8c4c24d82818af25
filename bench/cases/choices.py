"""What was chosen, beside what might have been instead: the ways of `bench.choices`, in turn."""

import time

import numpy as np

from bench.choices import CHOICES, PIECE_BYTES, Choice, Stage
from bench.disks import DiskName, raw_path
from bench.measuring import Case, Found, Samples, World, in_turn, real_pieces
from bench.results import Door, Unit, ratio


def measure_choices(world: World) -> Found:
    samples = world.samples()
    count = world.sized(64, 4)
    rng = np.random.default_rng(5)
    folder = world.scratch / "choices"
    folder.mkdir()
    stage = Stage(
        real=real_pieces(raw_path(world.disks, DiskName.V2), count, PIECE_BYTES),
        random=[rng.bytes(PIECE_BYTES) for _ in range(count)],
        engine=world.site.source.engine,
        bucket=world.bucket("choices").name,
        known_blocks=world.sized(1 << 20, 1 << 17),
        folder=folder,
    )
    for choice in CHOICES:
        _measure(world, samples, choice, stage)
        world.bucket("choices").forget()
    figures = samples.figures()
    for choice in CHOICES:
        first, *others = (f"{choice.name}_{way}_rate" for way in choice.ways)
        for other in others:
            if other in figures:
                said = "imgstore's way / this one"
                figures[other.removesuffix("rate") + "ratio"] = ratio(figures[first], figures[other], said)
    return Found(figures=figures)


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


CASES = (
    Case(
        name="choices",
        title="what was chosen in the data plane, beside what might have been",
        measure=measure_choices,
        regions=1,
    ),
)
