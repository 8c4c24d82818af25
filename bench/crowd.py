"""Many disks of one version by the threads of a process: ``python -m bench.crowd read GALLERY PREFIX COUNT THREADS``.

`create` makes the disks, `read` makes them beforehand and reads all of each. A process says when it is ready, waits for a
line on its input, so that all processes begin at once, and prints `Crowd` as JSON. `bench.cases.scale` runs several. The
installation comes from the environment, as for the command line.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

from bench.engines import SOURCE_REGION
from bench.installation import DEFINITION, GROUP
from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.identity.access import administrator
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks import disks
from imgstore.operations.disks.reader import OpenDisk, open_disk_reader
from imgstore.operations.installation import Installation

VERSION = "1.0.0"
_READ_BYTES = 4 * MIB
_READY, _GO = "ready\n", "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What the threads of one or more processes did."""

    read_bytes: int
    by_replica: Mapping[str, int]
    """The number of disks of each replica, by ordinal."""

    def __add__(self, other: "Crowd") -> "Crowd":
        counts = Counter(self.by_replica) + Counter(other.by_replica)
        return Crowd(read_bytes=self.read_bytes + other.read_bytes, by_replica=dict(counts))


class Crowds:
    """Processes that begin at once."""

    def __init__(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str], stack: ExitStack) -> None:
        """Starts processes, and waits until all are ready.

        Args:
            commands: for each process verb, gallery, prefix, count and threads.
            environment: names the installation.
            stack: ends the processes.

        Raises:
            RuntimeError: a process failed.
        """
        line = [sys.executable, "-m", "bench.crowd"]
        self._started = list[Popen[str]]()
        for words in commands:
            process = Popen([*line, *words], stdin=PIPE, stdout=PIPE, text=True, env={**os.environ, **environment})
            stack.enter_context(process)
            stack.callback(process.kill)
            self._started.append(process)
        for process in self._started:
            assert process.stdout is not None
            if process.stdout.readline() != _READY:
                raise RuntimeError("a process of the crowd failed")

    def run(self) -> Crowd:
        """Lets all begin, and waits for the last.

        Raises:
            RuntimeError: a process failed.
        """
        for process in self._started:
            assert process.stdin is not None
            process.stdin.write(_GO)
            process.stdin.flush()
        found = Crowd(read_bytes=0, by_replica={})
        for process in self._started:
            assert process.stdout is not None
            text = process.stdout.readline()
            if not text:
                raise RuntimeError("a process of the crowd failed")
            found += Crowd(**json.loads(text))
        return found


def main(verb: str, gallery: str, prefix: str, count: str, threads: str) -> None:
    """Create or read disks."""
    settings = Settings(
        home=Path(os.environ["IMGSTORE_HOME"]),
        regions=Path(os.environ["IMGSTORE_REGIONS"]),
        database=os.environ.get("IMGSTORE_DATABASE") or None,
    )
    with open_installation(settings) as installation, ThreadPoolExecutor(int(threads)) as pool:
        names = [f"{prefix}-{number}" for number in range(int(count))]
        make = partial(_create, installation, gallery)
        if verb == "create":
            _await_start()
            made, read_bytes = list(pool.map(make, names)), 0
        else:
            made = list(pool.map(make, names))
            # A cache of its own for each reader, which keeps nothing: the readers of one host share their fetches.
            opened = [
                open_disk_reader(installation, each, installation.host_cache.switch_off().open()) for each in made
            ]
            _await_start()
            read_bytes = sum(pool.map(_read, opened))
        counts = dict(Counter(str(each.slot.key.ordinal) for each in made))
        print(json.dumps(asdict(Crowd(read_bytes=read_bytes, by_replica=counts))), flush=True)


def _await_start() -> None:
    print(_READY, end="", flush=True)
    sys.stdin.readline()


def _create(installation: Installation, gallery: str, name: str) -> ManagedDisk:
    reference = ImageReference(group=GROUP, gallery=gallery, definition=DEFINITION, version=VersionName.parse(VERSION))
    request = DiskOfImageRequest(group=GROUP, name=name, location=SOURCE_REGION, reference=reference, lun=None)
    return disks.create_disk(installation, administrator("bench"), request)


def _read(disk: OpenDisk) -> int:
    length = disk.ranges.virtual_bytes
    return sum(len(disk.read_at(at, min(_READ_BYTES, length - at))) for at in range(0, length, _READ_BYTES))


if __name__ == "__main__":
    main(*sys.argv[1:])
