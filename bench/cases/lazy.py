"""A disk that is read while it is fetched: the first 4 KiB, and reads of a disk that the host has already."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.block_servers import (
    IMGSTORE,
    LOCAL,
    REMOTE,
    BlockServer,
    Origin,
    find_servers,
    store_whole,
)
from bench.disks import BLOCK_BYTES, DiskName, raw_path
from bench.measuring import Case, Found, Samples, World, in_turn, real_pieces
from bench.nbd_client import NbdClient, NbdFailed
from bench.peers import beside_python
from bench.results import Door, Figure, Goal, Unit, ratio
from imgstore.domain.storage.sizes import PIECE_BYTES

_COPY_SECONDS_MAX = 60
_READY_SECONDS_MAX = 60.0
_DEPTH = 32
_ADDED_SECONDS_MAX, _INSIDE_SECONDS_MAX = 0.05, 0.02
_WARM_SECONDS_MAX = 150e-6
_SEQUENTIAL_LEAST, _RANDOM_LEAST = 1e9, 0.25


def measure_lazy(world: World) -> Found:
    samples = world.samples()
    servers, absent = find_servers([IMGSTORE, *LOCAL, *REMOTE])
    origin = make_origin(world, make_disk(world))
    failed: dict[str, str] = {}
    for server in servers:
        try:
            server.prepare(origin)
        except (OSError, subprocess.SubprocessError) as error:
            failed[server.name] = f"cannot store the disk: {error}"
    for number in range(world.rounds):
        for server in in_turn([each for each in servers if each.name not in failed], number):
            try:
                _measure(world, samples, server, origin, number)
            except (OSError, NbdFailed, subprocess.SubprocessError) as error:
                failed[server.name] = f"failed in round {number + 1}: {type(error).__name__}"
        _measure_starts(samples, origin)
    figures = samples.figures()
    _compare(figures, origin.file.stat().st_size)
    return Found(figures=figures, goals=_goals(figures), notes=(*_NOTES, *_gaps(absent | failed)))


_NOTES = (
    "the disk is content of v2 without its holes, so that all servers move equal bytes",
    "cold: from the start of the command to the first 4 KiB, with empty caches; without imgstore's start: inside",
    "warm: after a copy of the whole disk; the peers that keep nothing ask the store again",
    "random: reads of 4 KiB with 32 of them unanswered, by one connection",
)


def _gaps(faults: dict[str, str]) -> list[str]:
    return [f"{name} is not in it: {fault}" for name, fault in faults.items()]


def make_disk(world: World) -> Path:
    """A raw disk of content of v2, without its holes."""
    path = world.scratch / "lazy.raw"
    pieces = real_pieces(raw_path(world.disks, DiskName.V2), world.sized(64, 4), PIECE_BYTES)
    path.write_bytes(b"".join(pieces))
    return path


def make_origin(world: World, disk: Path) -> Origin:
    """The disk in all the forms that the servers read."""
    (gallery,) = world.galleries("lazy")
    gallery.publish("1.0.0", disk)
    origin = Origin(
        file=disk,
        bucket=world.bucket("whole-disk"),
        blocks=world.bucket("disk-blocks"),
        gallery=gallery,
        version="1.0.0",
        cache=world.scratch / "segment-cache",
        folder=world.scratch / "peer",
    )
    store_whole(origin)
    return origin


def _measure(world: World, samples: Samples, server: BlockServer, origin: Origin, number: int) -> None:
    """Cold, then warm, one server."""
    label, door = server.label, Door.PUBLIC if server is IMGSTORE else Door.PEER
    socket = world.scratch / f"{label}.sock"
    server.forget(origin)
    samples.settle()
    began = time.perf_counter()
    with server.serve(origin, socket):
        with NbdClient(socket, wait_seconds=_READY_SECONDS_MAX) as client:
            found = client.read(0, BLOCK_BYTES)
            samples.add(f"{label}_cold_seconds", time.perf_counter() - began, Unit.SECONDS, door)
        with origin.file.open("rb") as file:
            assert found == file.read(BLOCK_BYTES), f"{server.name} serves other bytes"
        _copy(socket)
        seconds = min(_copy(socket) for _ in range(2)) if server.is_local or server is IMGSTORE else _copy(socket)
        samples.add(f"{label}_sequential_rate", origin.file.stat().st_size / seconds, Unit.BYTES_PER_SECOND, door)
        is_near = server.is_local or server is IMGSTORE
        count = world.sized(4_000 if is_near else 400, 40)
        offsets = _offsets(origin, 2 * count, number)
        with NbdClient(socket) as client:
            client.seconds_each(offsets[:20], BLOCK_BYTES)
            each = sorted(client.seconds_each(offsets[:count], BLOCK_BYTES))
            samples.add(f"{label}_warm_seconds", each[count // 2], Unit.SECONDS, door, "4 KiB, depth 1, p50")
            samples.add(f"{label}_warm_p99_seconds", each[count * 99 // 100], Unit.SECONDS, door, "4 KiB, depth 1")
            seconds = client.read_at_depth(offsets[count:], BLOCK_BYTES, _DEPTH)
            samples.add(f"{label}_random_rate", count / seconds, Unit.PER_SECOND, door, "4 KiB, depth 32")


def _copy(socket: Path) -> float:
    """Reads the whole disk with nbdcopy; gives the seconds."""
    began = time.perf_counter()
    words = ["nbdcopy", f"nbd+unix:///?socket={socket}", "null:"]
    subprocess.run(words, check=True, capture_output=True, timeout=_COPY_SECONDS_MAX)
    return time.perf_counter() - began


def _offsets(origin: Origin, count: int, seed: int) -> Sequence[int]:
    blocks = origin.file.stat().st_size // BLOCK_BYTES
    found: list[int] = (np.random.default_rng(seed).integers(0, blocks, count) * BLOCK_BYTES).tolist()
    return found


def _measure_starts(samples: Samples, origin: Origin) -> None:
    """The start of a short command, and an attach in a process that has attached another disk before."""
    samples.settle()
    began = time.perf_counter()
    environment = {**os.environ, **origin.gallery.installation.environment}
    words: list[str | Path] = [beside_python("imgstore"), "sig", "list"]
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=_READY_SECONDS_MAX)
    samples.add("list_seconds", time.perf_counter() - began, Unit.SECONDS, Door.PUBLIC)
    IMGSTORE.forget(origin)
    socket = origin.folder / "inside.sock"
    words = [sys.executable, "-m", "bench.inside_attach", origin.gallery.name, origin.version, socket]
    environment |= IMGSTORE.environment(origin)
    done = subprocess.run(words, env=environment, check=True, capture_output=True, timeout=_READY_SECONDS_MAX)
    seconds = json.loads(done.stdout)
    samples.add("imgstore_inside_seconds", seconds, Unit.SECONDS, Door.INSIDE, "from the call to the first 4 KiB")
    shutil.rmtree(origin.cache, ignore_errors=True)


def _compare(figures: dict[str, Figure], length: int) -> None:
    """Adds the differences and ratios."""
    added = figures["imgstore_cold_seconds"].value - figures["list_seconds"].value
    said = "imgstore_cold_seconds - list_seconds"
    figures["added_seconds"] = Figure(value=round(added, 6), unit=Unit.SECONDS, door=Door.DERIVED, said=said)
    figures["disk_bytes"] = Figure(value=length, unit=Unit.BYTES, door=Door.DERIVED, said="the disk")
    for kind in ("sequential", "random"):
        for name in ("qemu_nbd", "nbdkit_file"):
            if theirs := figures.get(f"{name}_{kind}_rate"):
                ours = figures[f"imgstore_{kind}_rate"]
                figures[f"{kind}_{name}_ratio"] = ratio(ours, theirs, f"imgstore's rate / that of {name}")
    remote = [each.label for each in REMOTE if f"{each.label}_cold_seconds" in figures]
    kinds: Sequence[tuple[str, Callable[[Sequence[float]], float]]] = (
        ("cold_seconds", min), ("warm_seconds", min), ("random_rate", max), ("sequential_rate", max),
    )  # fmt: skip
    for kind, choose in kinds:
        values = {label: figures[f"{label}_{kind}"] for label in remote if f"{label}_{kind}" in figures}
        if not values:
            continue
        best = choose([figure.value for figure in values.values()])
        name = next(label for label, figure in values.items() if figure.value == best)
        ours = figures[f"imgstore_{kind}"]
        one, other = (values[name], ours) if choose is min else (ours, values[name])
        value = round(one.value / max(other.value, 1e-9), 2)
        said = f"against the best peer of the same store, {name}"
        kind_name = kind.rpartition("_")[0]
        figures[f"{kind_name}_remote_ratio"] = Figure(value=value, unit=Unit.RATIO, door=Door.DERIVED, said=said)


def _goals(figures: dict[str, Figure]) -> list[Goal]:
    goals = [
        Goal.of("imgstore_inside_seconds", figures, at_most=_INSIDE_SECONDS_MAX),
        Goal.of("added_seconds", figures, at_most=_ADDED_SECONDS_MAX),
        Goal.of("imgstore_warm_seconds", figures, at_most=_WARM_SECONDS_MAX),
        Goal.of("imgstore_sequential_rate", figures, at_least=_SEQUENTIAL_LEAST),
    ]
    if "random_qemu_nbd_ratio" in figures:
        goals.append(Goal.of("random_qemu_nbd_ratio", figures, at_least=_RANDOM_LEAST))
    return goals


CASES = (
    Case(
        name="lazy",
        title="a lazy disk: the first 4 KiB, and warm reads one by one, in order and at depth 32",
        measure=measure_lazy,
        regions=1,
    ),
)
