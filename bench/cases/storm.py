"""A boot storm: many guests of one host boot from one version at once, and a replica fails during a boot.

Each guest replays the reads of a recorded boot of v2 over an `imgstore disk attach` of its own, a process as for a real
machine. The processes share the segment cache of the host. Peers serve the raw disk as one object: nbdkit with its curl
plugin and its cache filter, one process for all guests, and rclone's mount with its file cache.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.disks import DiskName, raw_path
from bench.engines import SOURCE_REGION, Bucket
from bench.installation import DEFINITION, GROUP, Gallery, Installation
from bench.measuring import Case, Found, Samples, World, in_turn
from bench.nbd_client import NbdClient
from bench.peers import RCLONE, PeerMissing, beside_python
from bench.replay import Latency, Replayed, guests, measure_readers, replay, run_guests
from bench.results import Door, Figure, Goal, Unit, ratio
from bench.traces import Trace, boot_trace
from bench.zoned import ZonedSite
from imgstore.domain.storage.sizes import GIB
from imgstore.testing.engines import S3Engine, start_minio_cluster

GUESTS, READERS = 16, 200
VERSION = "1.0.0"
_KEY = "v2.raw"
_READER_SECONDS = 10.0
_REFUSED_SECONDS_MAX, _FROZEN_SECONDS_MAX = 1.0, 3.0
_MOUNT_SECONDS_MAX = 20.0
_QUOTIENTS = (
    ("storm_ratio", "storm_moved_bytes", "alone_moved_bytes", "bytes of all boots at once / of one boot"),
    (
        "readers_ratio",
        "readers_p99_seconds",
        "readers_p50_seconds",
        "mean of a reader's reads: p99 / p50 of the readers",
    ),
    ("reads_ratio", "reads_p99_seconds", "reads_p50_seconds", "single reads: p99 / p50"),
)
"""The smaller, the better, so `compare` does not see these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine with guests: an installation with a cache, and a published v2."""

    gallery: Gallery
    folder: Path
    """For sockets."""

    @property
    def cache(self) -> Path:
        """The folder of the segment cache."""
        return Path(self.gallery.installation.environment["IMGSTORE_HOME"]) / "cache"

    def forget(self) -> None:
        """Makes the host one that has booted nothing yet."""
        shutil.rmtree(self.cache, ignore_errors=True)

    @contextmanager
    def attached(self, count: int) -> Iterator[list[Path]]:
        """`count` processes of `disk attach`; gives their sockets, on which all of them listen."""
        reference = f"{GROUP}/{self.gallery.name}/{DEFINITION}/{VERSION}"
        command = [
            str(Path(sys.executable).parent / "imgstore"),
            "disk",
            "attach",
            "--gallery-image-reference",
            reference,
        ]
        environment = {**os.environ, **self.gallery.installation.environment, "IMGSTORE_CACHE_BYTES": str(10 * GIB)}
        sockets, said = [[self.folder / f"{number}.{kind}" for number in range(count)] for kind in ("sock", "log")]
        with ExitStack() as stack:
            try:
                # One after another: only the boots are measured.
                for socket, log in zip(sockets, said, strict=True):
                    words = [*command, "--location", SOURCE_REGION, "--socket", str(socket)]
                    errors = stack.enter_context(log.open("w"))
                    process = stack.enter_context(
                        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
                    )
                    stack.callback(process.terminate)
                    _await_listening(process)
                yield sockets
            except Exception as error:
                error.add_note("\n".join(f"{log.name}: {log.read_text()}" for log in said))
                raise


def _await_listening(process: subprocess.Popen[str]) -> None:
    """Waits until a command has printed its values, which it does when clients can connect."""
    assert process.stdout is not None
    if "}\n" not in iter(process.stdout.readline, ""):
        raise RuntimeError("disk attach ended")


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """A folder with a short path, because the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        yield Path(folder)


def measure_storm(world: World) -> Found:
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    trace, origin = boot_trace(disk, quick=world.quick)
    file = world.scratch / "trace.json"
    trace.save(file)
    (gallery,) = world.galleries("storm")
    gallery.publish(VERSION, disk)
    with _socket_folder() as folder:
        return _measure_all(world, samples, disk, trace, origin, Host(gallery=gallery, folder=folder), file)


def _measure_all(
    world: World, samples: Samples, disk: Path, trace: Trace, origin: str, host: Host, file: Path
) -> Found:
    count, readers = world.sized(GUESTS, 16), world.sized(READERS, 8)
    peers, absent = _peers(world, disk)
    notes = [f"the boot of v2 is {origin}: {len(trace.reads):,} reads", *absent]
    runs = {name: partial(_boot_peer, samples, world, name, serving, file, count) for name, serving in peers.items()}
    runs["imgstore"] = partial(_boot_alone_and_together, samples, world, host, file, count)
    for number in range(world.rounds):
        for name in in_turn(list(runs), number):
            runs[name]()
        with host.attached(1) as (socket,):
            _add_readers(samples, measure_readers(socket, file, readers, world.sized(_READER_SECONDS, 0.5)), readers)
    for number in range(world.rounds):
        _fail_over(samples, world, disk, trace, number)
    figures = samples.figures()
    for name, one, other, said in _QUOTIENTS:
        value = round(figures[one].value / figures[other].value, 3)
        figures[name] = Figure(value=value, unit=Unit.COEFFICIENT, door=Door.DERIVED, said=said)
    goals = [
        Goal.of("storm_ratio", figures, at_most=1.05),
        Goal.of("readers_ratio", figures, at_most=2.0),
        Goal.of("refused_slowest_seconds", figures, at_most=_REFUSED_SECONDS_MAX),
        Goal.of("frozen_slowest_seconds", figures, at_most=_FROZEN_SECONDS_MAX),
    ]
    for name in peers:
        said = f"{name} / imgstore, until the last of all boots has ended"
        figures[f"{name}_storm_ratio"] = ratio(figures[f"{name}_storm_seconds"], figures["storm_seconds"], said)
    return Found(figures=figures, goals=goals, notes=notes)


# -- boots ------------------------------------------------------------------------------------------------------------


def _boot_alone_and_together(samples: Samples, world: World, host: Host, trace: Path, count: int) -> None:
    """One boot on an empty host, then many on an empty host."""
    for name, number in (("alone", 1), ("storm", count)):
        host.forget()
        before = world.site.source.engine.traffic()[1]
        with host.attached(number) as sockets, guests(sockets, trace) as started:
            found = run_guests(started)
        _add_boots(samples, name, found, world.site.source.engine.traffic()[1] - before, Door.PUBLIC)


def _add_boots(samples: Samples, name: str, found: Sequence[Replayed], moved_bytes: int, door: Door) -> None:
    said = f"{len(found)} boots at once, until the last has read all of its trace"
    samples.add(f"{name}_seconds", max(each.seconds for each in found), Unit.SECONDS, door, said)
    samples.add(f"{name}_slowest_seconds", max(each.slowest_seconds for each in found), Unit.SECONDS, door, "one read")
    samples.add(f"{name}_moved_bytes", moved_bytes, Unit.BYTES, Door.STORE, "that the engine sent, by its counters")


def _add_readers(samples: Samples, found: Latency, count: int) -> None:
    said = f"4 KiB from the cache, {count} connections, each with one read at a time"
    samples.add("reads_p50_seconds", found.p50_seconds, Unit.SECONDS, Door.PUBLIC, said)
    samples.add("reads_p99_seconds", found.p99_seconds, Unit.SECONDS, Door.PUBLIC)
    samples.add("readers_p50_seconds", found.reader_p50_seconds, Unit.SECONDS, Door.PUBLIC, "mean of a reader's reads")
    samples.add("readers_p99_seconds", found.reader_p99_seconds, Unit.SECONDS, Door.PUBLIC)
    samples.add("readers_rate", found.per_second, Unit.PER_SECOND, Door.PUBLIC)


# -- peers ------------------------------------------------------------------------------------------------------------

Serving = Callable[[Path], Any]
"""Serves the raw disk with an empty cache in a folder; a context manager that gives the place to read at."""


def _peers(world: World, disk: Path) -> tuple[dict[str, Serving], list[str]]:
    """Those that are here, and what is the matter with the others."""
    found, absent = dict[str, Serving](), list[str]()
    bucket = world.bucket("storm-raw")
    client = bucket.engine.client()
    client.upload_file(str(disk), bucket.name, _KEY)
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket.name}/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    if _is_answering("nbdkit", "curl", "--dump-plugin"):
        found["nbdkit"] = lambda folder: _nbdkit(f"{bucket.engine.endpoint}/{bucket.name}/{_KEY}", folder)
    else:
        absent.append("nbdkit is not in it: apt install nbdkit nbdkit-plugin-curl")
    try:
        RCLONE.version()
    except PeerMissing as error:
        absent.append(f"rclone is not in it: {error}: {RCLONE.get}")
    else:
        if shutil.which("fusermount3") and Path("/dev/fuse").exists():
            found["rclone"] = lambda folder: _rclone(bucket, folder)
        else:
            absent.append("rclone is not in it: no FUSE: apt install fuse3")
    return found, absent


def _is_answering(*command: str) -> bool:
    with suppress(OSError):
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    return False


def _boot_peer(samples: Samples, world: World, name: str, serving: Serving, trace: Path, count: int) -> None:
    for kind, number in (("alone", 1), ("storm", count)):
        folder = world.scratch / f"of-{name}"
        folder.mkdir()
        before = world.site.source.engine.traffic()[1]
        with serving(folder) as place, guests([place] * number, trace) as started:
            found = run_guests(started)
        shutil.rmtree(folder)
        _add_boots(samples, f"{name}_{kind}", found, world.site.source.engine.traffic()[1] - before, Door.PEER)


@contextmanager
def _nbdkit(url: str, folder: Path) -> Iterator[Path]:
    """Serves by nbdkit with its curl plugin (man nbdkit-curl-plugin) and its cache filter (man nbdkit-cache-filter)."""
    # cache-on-read keeps what is read, and not only what is written. TMPDIR has the cache.
    with _socket_folder() as sockets:
        socket = sockets / "nbd.sock"
        words = ["nbdkit", "--foreground", "--readonly", "--unix", str(socket), "--filter=cache", "curl"]
        words += [f"url={url}", "cache-on-read=true"]
        with subprocess.Popen(words, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.DEVNULL) as server:
            try:
                _await(socket.exists, server)
                yield socket
            finally:
                server.terminate()


@contextmanager
def _rclone(bucket: Bucket, folder: Path) -> Iterator[Path]:
    """Serves by rclone's mount with its file cache (its manual, "VFS Cache Mode", full)."""
    place = folder / "mount"
    place.mkdir()
    words = [str(beside_python("rclone")), "mount", f"store:{bucket.name}", str(place), "--read-only"]
    words += ["--vfs-cache-mode", "full", "--cache-dir", str(folder / "cache"), "--dir-cache-time", "1h"]
    environment = {**os.environ, **RCLONE.remote(bucket, "store")}
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            _await((place / _KEY).exists, server)
            yield place / _KEY
        finally:
            subprocess.run(["fusermount3", "-u", str(place)], check=False, capture_output=True)
            server.terminate()


def _await(is_ready: Callable[[], bool], server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _MOUNT_SECONDS_MAX
    while not is_ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.args!r} did not get ready")
        time.sleep(0.05)


# -- a failing replica ------------------------------------------------------------------------------------------------


def _fail_over(samples: Samples, world: World, disk: Path, trace: Trace, number: int) -> None:
    """Boots from a version with two replicas, whose first engine is frozen, then killed, at half of the boot."""
    folder = world.scratch / f"failing-{number}"
    with start_minio_cluster(folder / "engines", 2) as engines, _socket_folder() as sockets:
        site = ZonedSite(regions=tuple(Bucket(engine=engine, name="imgstore-failing") for engine in engines))
        gallery = Installation.make(folder / "installation", site).make_gallery("failing")
        gallery.publish(VERSION, disk, [f"{SOURCE_REGION}=2"])
        host = Host(gallery=gallery, folder=sockets)
        for name, sent in (("frozen", signal.SIGSTOP), ("refused", signal.SIGKILL)):
            host.forget()
            with host.attached(1) as (socket,), NbdClient(socket) as client:
                failing = _find_serving(engines, client, trace)
                assert failing.pid is not None, "it was started here"
                half = len(trace.reads) // 2

                def fail(read: int, half: int = half, pid: int = failing.pid, sent: int = sent) -> None:
                    if read == half:
                        os.kill(pid, sent)

                try:
                    found = replay(client.read, trace, fail)
                finally:
                    with suppress(ProcessLookupError):
                        os.kill(failing.pid, signal.SIGCONT)
            samples.add(f"{name}_slowest_seconds", found.slowest_seconds, Unit.SECONDS, Door.PUBLIC, "the slowest read")
            samples.add(f"{name}_seconds", found.seconds, Unit.SECONDS, Door.PUBLIC, "all reads")
    shutil.rmtree(folder)


def _find_serving(engines: Sequence[S3Engine], client: NbdClient, trace: Trace) -> S3Engine:
    """The engine that served the first read."""
    before = [engine.traffic()[1] for engine in engines]
    client.read(*trace.reads[0])
    sent = [engine.traffic()[1] - was for engine, was in zip(engines, before, strict=True)]
    return engines[sent.index(max(sent))]


CASES = (
    Case(
        name="storm",
        title="many boots on one host at once, many readers of one server, and a replica that fails during a boot",
        measure=measure_storm,
        regions=1,
    ),
)
