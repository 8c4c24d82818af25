"""The blob door: an upload over TLS until it is a disk, and the server's memory under ten at once."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.disks import GIB, MIB, DiskName, make_fixed_vhd, raw_path
from bench.engines import SOURCE_REGION
from bench.installation import GROUP, Installation
from bench.measuring import Case, Found, Samples, World, at_once, in_turn, new_file, timed, warm
from bench.processes import Command, Finished, cpu_seconds_of, peak_bytes_of, run_timed
from bench.results import Door, Goal, Unit, ratio
from bench.synthetic import make_sparse_vhd

UPLOADS = 10
ISLANDS_PER_GIB = 128
GB = 1_000_000_000
SERVER_BYTES_MAX = 400 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running `imgstore serve`."""

    installation: Installation
    url: str
    bundle: Path
    pid: int

    def make(self, name: str, file: Path) -> str:
        """A disk that waits for a file; gives the signed URL."""
        names = "-g", GROUP, "-n", name
        size = "--upload-type", "Upload", "--upload-size-bytes", str(file.stat().st_size)
        self.installation.run("disk", "create", *names, "-l", SOURCE_REGION, *size)
        how = "--access-level", "Write", "--duration-in-seconds", "7200", "--url", self.url
        return self.installation.run(
            "disk", "grant-access", *names, *how, "--query", "accessSAS", "-o", "tsv"
        ).output.strip()

    def make_directly(self, name: str, file: Path) -> Finished:
        """The same disk from the file, without a server."""
        return self.installation.run("disk", "create", "-g", GROUP, "-n", name, "-l", SOURCE_REGION, "--source", file)

    def send(self, url: str, file: Path) -> Finished:
        """What the file holds, through the door by several connections; the output is how many bytes that was."""
        command: Command = [sys.executable, "-m", "bench.sending", "--roots", self.bundle, url, file]
        return run_timed(command, {"PYTHONPATH": os.pathsep.join(sys.path)})

    def send_whole(self, url: str, file: Path) -> Finished:
        """The file with all its zeros, by one connection."""
        return run_timed(["curl", "-sS", "-f", "--cacert", self.bundle, "-T", file, url])

    def forget(self, name: str) -> None:
        """The disk and its bytes, so that the next finds nothing of it."""
        self.installation.run("disk", "delete", "-g", GROUP, "-n", name, "--yes")
        for _ in range(2):  # condemned, then collected
            self.installation.run("gc", "--grace-hours", "0", "--yes")

    def take_in(self, name: str) -> Finished:
        """What was sent becomes the disk."""
        return self.installation.run("disk", "revoke-access", "-g", GROUP, "-n", name)


@contextmanager
def _serving(installation: Installation) -> Iterator[Server]:
    command = [str(Path(sys.executable).parent / "imgstore"), "serve", "--dev-tls", "--port", "0", "--no-worker"]
    environment = {**os.environ, **installation.environment}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            told = []
            for line in running.stdout:
                told.append(line)
                if line.startswith("az login"):
                    break
            url = re.search(r"serves (https://\S+:\d+)", "".join(told))
            bundle = re.search(r"REQUESTS_CA_BUNDLE=(.+)", "".join(told))
            assert url, "it tells where it is"
            assert bundle, "and whom to trust"
            yield Server(installation=installation, url=url[1], bundle=Path(bundle[1]), pid=running.pid)
        finally:
            running.terminate()


def measure_blob(world: World) -> Found:
    samples = world.samples()
    with new_file(world, "blob.vhd") as file:
        make_fixed_vhd(file, raw_path(world.disks, DiskName.V2))
        for number in range(world.rounds):
            with _serving(world.installation) as server:
                for name in in_turn(["direct", "door", "curl"], number):
                    warm(file)
                    disk = f"{name}{number}"
                    if name == "direct":
                        timed(samples, "direct_seconds", Door.PUBLIC, server.make_directly, disk, file)
                    else:
                        _through_the_door(samples, server, name, disk, file)
                    server.forget(disk)
    _memory(world, samples)
    figures = samples.figures()
    for name in ("door", "curl"):
        said = f"seconds of `disk create --source` / those of {_SAID[name]}"
        figures[f"{name}_ratio"] = ratio(figures["direct_seconds"], figures[f"{name}_seconds"], said)
    goals = [
        Goal.of("door_ratio", figures, at_least=0.5),
        Goal.of("server_peak_bytes", figures, at_most=SERVER_BYTES_MAX),
    ]
    return Found(figures=figures, goals=goals, notes=_NOTES)


_SAID = {
    "door": "the door: what the file holds, by four connections, then `disk revoke-access`",
    "curl": "curl -T: the file with all its zeros by one connection, then `disk revoke-access`",
}
_NOTES = (
    "all end with an Unattached disk; each into a pool that knows nothing: the disk before is deleted and collected",
    f"memory: {UPLOADS} uploads at once, by four connections each, an eighth of each of them data",
)


def _through_the_door(samples: Samples, server: Server, name: str, disk: str, file: Path) -> None:
    url = server.make(disk, file)
    cpu_seconds = cpu_seconds_of(server.pid)
    send = server.send if name == "door" else server.send_whole
    sent = timed(samples, f"{name}_send_seconds", Door.PUBLIC, send, url, file)
    bytes_sent = int(sent.output) if name == "door" else file.stat().st_size
    cpu_seconds = (cpu_seconds_of(server.pid) - cpu_seconds) / bytes_sent * GB
    said = "processor time of the server for 1,000,000,000 bytes that came"
    samples.add(f"{name}_gb_cpu_seconds", cpu_seconds, Unit.SECONDS, Door.PUBLIC, said)
    taken = server.take_in(disk)
    samples.add(f"{name}_take_in_seconds", taken.seconds, Unit.SECONDS, Door.PUBLIC)
    samples.add(f"{name}_seconds", sent.seconds + taken.seconds, Unit.SECONDS, Door.PUBLIC, "both")


def _memory(world: World, samples: Samples) -> None:
    size = world.sized(8 * GIB, 64 * MIB)
    with new_file(world, "many.vhd") as file, _serving(world.installation) as server:
        said = "greatest resident memory before any upload: the interpreter with its libraries, serving"
        samples.add("server_idle_bytes", peak_bytes_of(server.pid), Unit.BYTES, Door.PUBLIC, said)
        make_sparse_vhd(file, size, islands=world.sized(8 * ISLANDS_PER_GIB, 8))
        urls = [server.make(f"many{number}", file) for number in range(world.sized(UPLOADS, 2))]
        done = at_once([partial(server.send, url, file) for url in urls])
        samples.add("many_seconds", done.seconds, Unit.SECONDS, Door.PUBLIC, "until the last of ten was sent")
        samples.add("server_peak_bytes", peak_bytes_of(server.pid), Unit.BYTES, Door.PUBLIC, "greatest resident memory")


CASES = (Case(name="blob", title="v2 through the blob door, and ten uploads at once", measure=measure_blob, regions=1),)
