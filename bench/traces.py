"""Traces of reads: the ranges of a disk that a boot reads, in order.

A trace is recorded from a real boot of a disk in QEMU: a server of ours offers the disk over NBD and notes each read.
The kernel and its initrd are taken out of the disk beforehand, since the disks have no boot loader. The guest's writes
go to a temporary file of QEMU. QEMU emulates the processor (TCG), so a boot takes a minute; a trace is recorded once for
each disk and kept beside the disk.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

import numpy as np

from bench.disks import BLOCK_BYTES, PARTITION_OFFSET, data_extents
from imgstore.domain.disks.sources import Extent
from imgstore.domain.storage.sizes import KIB
from imgstore.nbd.listeners import listen_unix, uri_of
from imgstore.nbd.server import NbdServer

READY = re.compile(rb"Started .*nginx.*login: ", re.DOTALL)
"""What the console says when a service answers and people can log in."""
BOOT_SECONDS_MAX = 300.0
_LOOK_SECONDS = 0.1
_APPEND = "root=/dev/vda1 rw console=ttyS0 mitigations=off net.ifnames=0 systemd.show_status=1"


class BootFailed(RuntimeError):
    """A guest did not come up; the end of its console is told."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Reads in their order: offsets and lengths."""

    reads: tuple[tuple[int, int], ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The trace in a file."""
        return cls(tuple((offset, length) for offset, length in json.loads(path.read_text())))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.reads) + "\n")

    def blocks(self) -> list[int]:
        """The numbers of the blocks of 4 KiB that are read, each once, in the order of their first reads."""
        found = dict[int, None]()
        for offset, length in self.reads:
            found.update(dict.fromkeys(range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))))
        return list(found)


def boot_trace(disk: Path, *, quick: bool) -> tuple[Trace, str]:
    """The trace of a boot of a disk, and where it is from.

    Args:
        disk: a raw disk of `bench.disks`.
        quick: nothing is to be measured, so a made-up trace is enough.
    """
    missing = [program for program in ("qemu-system-x86_64", "debugfs") if _find(program) is None]
    if quick or missing:
        return made_up_trace(disk, 0.005 if quick else 0.07), "made up: " + (
            f"no {' and no '.join(missing)}" if missing else "small disks"
        )
    kept = disk.with_suffix(".trace.json")
    if not kept.exists() or kept.stat().st_mtime < disk.stat().st_mtime:
        trace = record_boot(disk)
        trace.save(kept)
    return Trace.load(kept), "recorded from a boot in QEMU until nginx had started"


def made_up_trace(disk: Path, share: float) -> Trace:
    """Reads of 4 to 128 KiB at scattered places, until `share` of the data is read; the same each time.

    AWS Lambda reads 6.4% of an image ("On-demand Container Loading in AWS Lambda", USENIX ATC 2023).
    """
    rng = np.random.default_rng(11)
    with disk.open("rb", buffering=0) as file:
        extents = list(data_extents(file.fileno()))
    starts = np.cumsum([0, *(length for _, length in extents)])
    left = int(starts[-1] * share)
    reads = list[tuple[int, int]]()
    while left > 0:
        at = int(rng.integers(starts[-1]) // BLOCK_BYTES * BLOCK_BYTES)
        number = int(np.searchsorted(starts, at, side="right")) - 1
        start, length = extents[number]
        inside = at - int(starts[number])
        count = min(int(4 * KIB << int(rng.integers(6))), length - inside)
        reads.append((start + inside, count))
        left -= count
    return Trace(tuple(reads))


def record_boot(disk: Path) -> Trace:
    """Boots a disk of `bench.disks` once, and gives what was read until the services had started.

    Raises:
        BootFailed: the guest did not come up.
        subprocess.CalledProcessError: the disk has no kernel.
    """
    with tempfile.TemporaryDirectory(prefix="imgstore-trace-") as temporary:
        folder = Path(temporary)
        kernel, initrd = take_kernel(disk, folder)
        recorder = RecordingDisk(disk)
        with serving(recorder, folder / "nbd") as uri:
            words = ["qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none"]
            words += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", _APPEND]
            words += ["-drive", f"file={uri},format=raw,if=virtio,snapshot=on"]
            _run_until_ready(words, folder / "console")
        return Trace(tuple(recorder.reads))


def take_kernel(disk: Path, folder: Path) -> tuple[Path, Path]:
    """Copies the kernel and the initrd of a disk into a folder.

    Raises:
        subprocess.CalledProcessError: the disk has none.
    """
    image = f"{disk}?offset={PARTITION_OFFSET}"
    listed = _debugfs(image, "ls -p /boot")
    for name in ("vmlinuz", "initrd.img"):
        found = re.search(rf"/({name}-[^/]+)/", listed)
        if found is None:
            raise BootFailed(f"{disk.name} has no /boot/{name}")
        _debugfs(image, f"dump /boot/{found[1]} {folder / name}")
    return folder / "vmlinuz", folder / "initrd.img"


def _debugfs(image: str, request: str) -> str:
    done = subprocess.run([_find("debugfs") or "debugfs", "-R", request, image], capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run_until_ready(words: list[str], console: Path) -> None:
    deadline = time.monotonic() + BOOT_SECONDS_MAX
    with (
        console.open("wb") as output,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT) as guest,
    ):
        try:
            while not READY.search(console.read_bytes()):
                if guest.poll() is not None or time.monotonic() > deadline:
                    raise BootFailed(console.read_text(errors="replace")[-2000:])
                time.sleep(_LOOK_SECONDS)
        finally:
            guest.kill()


@dataclass(slots=True)
class RecordingDisk:
    """A raw file as a read-only block device that notes all reads."""

    path: Path
    virtual_bytes: int = field(init=False)
    is_read_only: bool = field(default=True, init=False)
    reads: list[tuple[int, int]] = field(default_factory=list, init=False)
    _data: tuple[Extent, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.virtual_bytes = self.path.stat().st_size
        with self.path.open("rb", buffering=0) as file:
            self._data = tuple(Extent(offset=start, length=length) for start, length in data_extents(file.fileno()))

    def read_at(self, offset: int, length: int) -> bytes:
        """Reads bytes, and notes the read."""
        self.reads.append((offset, length))
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """The ranges with data that overlap [begin, end)."""
        return (each for each in self._data if each.end > begin and each.offset < end)

    def write_at(self, offset: int, data: bytes | memoryview) -> NoReturn:
        """Refuses; the server refuses writes before."""
        raise NotImplementedError

    def write_zeroes(self, offset: int, length: int) -> NoReturn:
        """Refuses; the server refuses writes before."""
        raise NotImplementedError

    def flush(self) -> None:
        """Does nothing: there are no writes."""

    def prefetch(self, offset: int, length: int) -> None:
        """Does nothing: the file is here."""


@contextmanager
def serving(device: RecordingDisk, path: Path) -> Iterator[str]:
    """Offers a device at a Unix socket; gives the URI."""
    server = NbdServer(device, description="a disk under measurement")
    with listen_unix(path) as listener:
        server.start(listener)
        try:
            yield uri_of(listener)
        finally:
            server.stop()
