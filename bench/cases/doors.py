"""The blob door: an upload with curl over TLS until it is a disk, and the server's memory under ten at once."""

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
from bench.processes import Finished, run_timed
from bench.results import Door, Goal, Unit, ratio
from bench.synthetic import make_sparse_vhd

UPLOADS = 10
ISLANDS_PER_GIB = 128
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

    def send(self, url: str, file: Path) -> Finished:
        """The file through the door."""
        return run_timed(["curl", "-sS", "-f", "--cacert", self.bundle, "-T", file, url])

    def take_in(self, name: str) -> Finished:
        """What was sent becomes the disk."""
        return self.installation.run("disk", "revoke-access", "-g", GROUP, "-n", name)

    @property
    def peak_bytes(self) -> int:
        """Its greatest resident memory so far (proc(5), VmHWM)."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found, "every process has one"
        return int(found[1]) * 1024


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
                for name in in_turn(["direct", "door"], number):
                    warm(file)
                    if name == "direct":
                        (gallery,) = world.galleries(f"direct{number}")
                        timed(samples, "direct_seconds", Door.PUBLIC, gallery.publish, "1.0.0", file)
                    else:
                        _through_the_door(samples, server, f"door{number}", file)
    _memory(world, samples)
    figures = samples.figures()
    figures["door_ratio"] = ratio(
        figures["direct_seconds"], figures["door_seconds"], "seconds of image-version create / those of the door"
    )
    goals = [
        Goal.of("door_ratio", figures, at_least=0.5),
        Goal.of("server_peak_bytes", figures, at_most=SERVER_BYTES_MAX),
    ]
    return Found(figures=figures, goals=goals, notes=_NOTES)


_NOTES = (
    "direct: `image-version create` of the file; the door: curl over TLS, then `disk revoke-access`, which takes it in",
    "each into a pool that knows nothing: the disk of the round before is deleted and collected",
    f"memory: {UPLOADS} uploads at once, an eighth of each of them data",
)


def _through_the_door(samples: Samples, server: Server, name: str, file: Path) -> None:
    url = server.make(name, file)
    sent = timed(samples, "door_send_seconds", Door.PUBLIC, server.send, url, file)
    taken = server.take_in(name)
    samples.add("door_take_in_seconds", taken.seconds, Unit.SECONDS, Door.PUBLIC)
    samples.add("door_seconds", sent.seconds + taken.seconds, Unit.SECONDS, Door.PUBLIC, "both")
    server.installation.run("disk", "delete", "-g", GROUP, "-n", name, "--yes")
    for _ in range(2):  # condemned, then collected
        server.installation.run("gc", "--grace-hours", "0", "--yes")


def _memory(world: World, samples: Samples) -> None:
    size = world.sized(8 * GIB, 64 * MIB)
    with new_file(world, "many.vhd") as file, _serving(world.installation) as server:
        make_sparse_vhd(file, size, islands=world.sized(8 * ISLANDS_PER_GIB, 8))
        urls = [server.make(f"many{number}", file) for number in range(UPLOADS)]
        done = at_once([partial(server.send, url, file) for url in urls])
        samples.add("many_seconds", done.seconds, Unit.SECONDS, Door.PUBLIC, "until the last of ten was sent")
        samples.add("server_peak_bytes", server.peak_bytes, Unit.BYTES, Door.PUBLIC, "greatest resident memory")


CASES = (Case(name="blob", title="v2 through the blob door, and ten uploads at once", measure=measure_blob, regions=1),)
