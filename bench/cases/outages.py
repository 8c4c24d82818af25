"""A store that is frozen (SIGSTOP): what a create of a disk costs then, the first and every later one.

A region has three zones on three engines, and a version two replicas there. The engine of one is frozen: it accepts
connections and answers none. The first create meets it when its turn comes; those that follow, in the same process and
in another one of the same host, should pass it by.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np

from bench.disks import MIB
from bench.measuring import Case, Found, Samples, World
from bench.results import Door, Goal, Unit
from imgstore.domain.resources import ManagedDisk
from imgstore.operations.installation import Installation
from imgstore.testing.engines import S3Engine, start_minio_cluster
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.sample_gallery import make_disk, publish

_REGION, _VERSION = "westus2", "1.0.0"
_LATER = 10
"""Creates after the first."""
_FIRST_SECONDS_MAX, _LATER_SECONDS_MAX = 3.0, 0.2


def measure_outages(world: World) -> Found:
    samples, folder = world.samples(), world.scratch / "outages"
    with start_minio_cluster(folder / "engines", 3) as engines:
        scene = create_minio_scene(folder / "scene", engines, "outages")
        scene.prepare()
        _publish(scene, folder / "disk.raw")
        for number in range(world.rounds):
            _freeze(samples, scene, engines, f"r{number}")
    figures = samples.figures()
    return Found(
        figures=figures,
        goals=[
            Goal.of("frozen_first_seconds", figures, at_most=_FIRST_SECONDS_MAX),
            Goal.of("frozen_later_seconds", figures, at_most=_LATER_SECONDS_MAX),
        ],
        notes=(
            "later: the slowest of ten creates of a round",
            "other process: the first create of an installation that is opened then, which makes its connections, too",
        ),
    )


def _publish(scene: CrashScene, disk: Path) -> None:
    disk.write_bytes(np.random.default_rng(3).bytes(8 * MIB))
    with scene.open() as installation:
        publish(installation, disk, _VERSION, targets=[f"{_REGION}=2"], location=_REGION)


def _freeze(samples: Samples, scene: CrashScene, engines: tuple[S3Engine, ...], name: str) -> None:
    with scene.open() as installation:
        disk = _timed(installation, f"{name}-a")[1]
        _timed(installation, f"{name}-b")
        pid = engines[int(disk.slot.zone) - 1].pid
        assert pid is not None, "it was started here"
        os.kill(pid, signal.SIGSTOP)
        try:
            samples.add("frozen_first_seconds", _timed(installation, f"{name}-0")[0], Unit.SECONDS, Door.INSIDE)
            later = [_timed(installation, f"{name}-{number}")[0] for number in range(1, 1 + _LATER)]
            samples.add("frozen_later_seconds", max(later), Unit.SECONDS, Door.INSIDE)
            _open_anew(samples, scene, f"{name}-frozen", "frozen_other_process_seconds")
        finally:
            os.kill(pid, signal.SIGCONT)
        while installation.locator.is_avoided(disk.slot):
            installation.effects.wait(0.1)
            installation.locator.health.refresh()
    _open_anew(samples, scene, f"{name}-well", "well_other_process_seconds")


def _open_anew(samples: Samples, scene: CrashScene, name: str, figure: str) -> None:
    """The first create of an installation that was opened just now: it makes its connections, too."""
    with scene.open() as installation:
        samples.add(figure, _timed(installation, name)[0], Unit.SECONDS, Door.INSIDE)


def _timed(installation: Installation, name: str) -> tuple[float, ManagedDisk]:
    began = time.perf_counter()
    disk = make_disk(installation, name, _REGION, _VERSION)
    return time.perf_counter() - began, disk


CASES = (Case(name="outages", title="creating disks while a store is frozen", measure=measure_outages),)
