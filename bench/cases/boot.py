"""The first boot of a version on an empty host, from a store 20 ms away, until a service in the guest answers.

The guest is small, since a boot here is by emulation (TCG): SYSLINUX, Debian's cloud kernel and an initrd with busybox,
then content of v2 as the files of the system. The service reads some of these, spread over the disk, before its answer.
"""

import hashlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from backports import zstd

from bench.block_servers import (
    IMGSTORE,
    REMOTE,
    BlockServer,
    Origin,
    find_servers,
    running,
    store_whole,
)
from bench.disks import BLOCK_BYTES, MIB, DiskName, raw_path
from bench.engines import SOURCE_REGION, Bucket, Site
from bench.installation import Installation
from bench.measuring import Case, Found, Samples, World, in_turn, new_file, real_pieces
from bench.peers import S5CMD, Place
from bench.processes import ProgramFailed
from bench.results import Door, Figure, Goal, Unit
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.testing.engines import cache_folder, find, free_ports
from imgstore.testing.latency_proxy import start_toxiproxy
from tests.support.boot_disk import SHELL_PORT, find_kernel, make_boot_disk

ROUND_TRIP_SECONDS = 0.02
_READ_BYTES = MIB
_PART_BYTES = 64 << 10
_LOOK_SECONDS = 0.1
_BOOT_SECONDS_MAX = 600.0
_MEMORY_MIB = 512
_CHANGED_BYTES = MIB
_SHARE_MOST, _BYTES_MOST, _NEXT_MOST = 0.2, 1.05, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guest:
    """A disk that boots, and what its service reads and answers."""

    file: Path
    reads: Sequence[int]
    """Offsets, each of `_READ_BYTES`."""

    @property
    def question(self) -> bytes:
        """A line for the shell of the guest, which is the start of the service."""
        parts = " ".join(str(offset // _PART_BYTES) for offset in self.reads)
        read = f"dd if=/dev/vda bs={_PART_BYTES} skip=$each count={_READ_BYTES // _PART_BYTES} 2>/dev/null"
        return f"for each in {parts}; do {read}; done | md5sum\n".encode()

    def answer(self) -> bytes:
        """What a service with the right bytes answers."""
        found = hashlib.md5(usedforsecurity=False)
        with self.file.open("rb") as file:
            for offset in self.reads:
                file.seek(offset)
                found.update(file.read(_READ_BYTES))
        return found.hexdigest().encode()


def measure_boot(world: World) -> Found:
    for program in ("boot-disk", "qemu-system", "nbdkit"):
        find(program)
    samples = world.samples()
    first, second = _make_guests(world)
    servers, absent = find_servers(REMOTE)
    failed: dict[str, str] = {}
    with start_toxiproxy(world.scratch / "toxiproxy") as ways:
        way = ways.to(world.site.source.engine)
        origin = _make_origin(world, replace(world.site.source, engine=way.engine), first)
        for server in servers:
            try:
                server.prepare(origin)
            except (OSError, subprocess.SubprocessError) as error:
                failed[server.name] = f"cannot store the disk: {error}"
        origin.gallery.publish("3.0.0", second.file)
        way.set_round_trip(ROUND_TRIP_SECONDS)
        labels = ["local", "imgstore", "export", "s5cmd", *(each.name for each in servers if each.name not in failed)]
        labels = [label for label in labels if label != "s5cmd" or label in world.roll.present]
        for number in range(world.rounds):
            for label in in_turn(labels, number):
                server = next((each for each in servers if each.name == label), IMGSTORE)
                try:
                    _measure(world, samples, label, server, origin, first, second)
                except (OSError, ProgramFailed, subprocess.SubprocessError) as error:
                    failed[label] = f"failed in round {number + 1}: {type(error).__name__}"
    figures = samples.figures()
    _compare(figures)
    gaps = [f"{name} is not in it: {fault}" for name, fault in (absent | failed).items()]
    return Found(figures=figures, goals=_goals(figures), notes=(*_NOTES, *gaps))


_NOTES = (
    "the guest is a kernel with busybox, whose service reads 16 MiB of the disk, spread; it boots by emulation",
    "boot_seconds: from the start of the attach, export or download, until the service has answered with the right digest",
    "imgstore has no boot pack here",
    "fetched_bytes: bodies that the store has sent, by its own counter",
)


def _make_guests(world: World) -> tuple[_Guest, _Guest]:
    """The guest of v2 and the guest of v3, which differs in one MiB, half of which its service reads."""
    kernel = find_kernel(cache_folder())
    first = world.scratch / "boot-v2.raw"
    make_boot_disk(kernel, first)
    start = first.stat().st_size
    pieces = real_pieces(raw_path(world.disks, DiskName.V2), world.sized(128, 8), PIECE_BYTES)
    with first.open("r+b") as file:
        file.seek(start)
        for piece in pieces:
            file.write(piece)
    count = world.sized(16, 4)
    step = len(pieces) // count
    reads = [start + number * step * PIECE_BYTES + MIB for number in range(count)]
    second = world.scratch / "boot-v3.raw"
    shutil.copyfile(first, second)
    with second.open("r+b") as file:
        file.seek(reads[1] + _READ_BYTES // 2)
        old = np.frombuffer(file.read(_CHANGED_BYTES), dtype=np.uint8)
        file.seek(reads[1] + _READ_BYTES // 2)
        file.write((old ^ 0x5A).tobytes())
    return _Guest(file=first, reads=reads), _Guest(file=second, reads=reads)


def _make_origin(world: World, far: Bucket, guest: _Guest) -> Origin:
    installation = Installation.make(world.scratch / "far", Site(regions=(far,)))
    gallery = installation.make_gallery("boot")
    gallery.publish("2.0.0", guest.file)
    origin = Origin(
        file=guest.file,
        bucket=replace(world.bucket("whole-disk"), engine=far.engine),
        blocks=replace(world.bucket("disk-blocks"), engine=far.engine),
        gallery=gallery,
        version="2.0.0",
        cache=world.scratch / "segment-cache",
        folder=world.scratch / "peer",
    )
    store_whole(origin)
    return origin


# -- one boot ----------------------------------------------------------------------------------------------------------


def _measure(
    world: World, samples: Samples, label: str, server: BlockServer, origin: Origin, first: _Guest, second: _Guest
) -> None:
    """The boot of one contestant on an empty host; for imgstore then of v3 on the same host."""
    name = label.replace("-", "_")
    door = Door.PUBLIC if label in {"imgstore", "export"} else Door.PEER
    path = world.scratch / f"{name}.sock"
    server.forget(origin)
    samples.settle()
    before = world.site.source.sent_bytes()
    began = time.perf_counter()
    with new_file(world, f"{name}.raw") as file:
        if label == "local":
            log = world.scratch / "reads.log"
            words = "nbdkit", "--foreground", "--readonly", "--unix", path, "--filter=log", "file", first.file
            with running((*words, f"logfile={log}"), {}):
                _boot(first, path)
            _count_reads(samples, first, log)
            path.unlink(missing_ok=True)
        elif label in {"export", "s5cmd"}:
            if label == "export":
                origin.gallery.export(origin.version, SOURCE_REGION, file)
            else:
                S5CMD.download(Place(bucket=origin.bucket, folder=origin.folder), "disk.raw", file)
            with running(["qemu-nbd", "--read-only", "-k", path, "-f", "raw", file], {}):
                _boot(first, path)
        else:
            with server.serve(origin, path):
                _boot(first, path)
        samples.add(f"{name}_boot_seconds", time.perf_counter() - began, Unit.SECONDS, door)
    fetched = world.site.source.sent_bytes() - before
    samples.add(f"{name}_fetched_bytes", fetched, Unit.BYTES, Door.STORE)
    if label == "imgstore":
        before, began = world.site.source.sent_bytes(), time.perf_counter()
        with server.serve(replace(origin, version="3.0.0"), path):
            _boot(second, path)
        samples.add("imgstore_v3_boot_seconds", time.perf_counter() - began, Unit.SECONDS, door, "after v2")
        fetched = world.site.source.sent_bytes() - before
        samples.add("imgstore_v3_fetched_bytes", fetched, Unit.BYTES, Door.STORE, "after v2")


def _boot(guest: _Guest, path: Path) -> None:
    """Boots a guest from an NBD server, and waits for the answer of its service.

    Raises:
        TimeoutError: no answer.
        AssertionError: a wrong answer: the figure would be worth nothing.
    """
    _wait_for(path)
    (port,) = free_ports(1)
    with running(_qemu_words(path, port), {}) as program:
        deadline = time.monotonic() + _BOOT_SECONDS_MAX
        answer = b""
        while not answer.endswith(b"\n"):
            if time.monotonic() > deadline or program.poll() is not None:
                raise TimeoutError("the guest does not answer")
            answer = _ask(port, guest.question)
            time.sleep(_LOOK_SECONDS)
    assert answer.split()[0] == guest.answer(), "the guest has read other bytes"


def _qemu_words(path: Path, port: int) -> Sequence[str]:
    network = f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{SHELL_PORT}"
    drive = f"if=virtio,format=raw,snapshot=on,file=nbd+unix:///?socket={path}"
    plain = "-display", "none", "-serial", "none", "-monitor", "none", "-no-reboot"
    machine = "-accel", "tcg", "-cpu", "max", "-m", f"{_MEMORY_MIB}"
    return ["qemu-system-x86_64", *machine, *plain, "-drive", drive, "-nic", network]


def _ask(port: int, question: bytes) -> bytes:
    """Asks the service; nothing where it is not there yet."""
    found = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_BOOT_SECONDS_MAX) as connection:
        connection.sendall(question)
        while not found.endswith(b"\n") and (part := connection.recv(4096)):
            found += part
    return found


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _BOOT_SECONDS_MAX
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the server does not listen")
        time.sleep(0.002)


def _count_reads(samples: Samples, guest: _Guest, log: Path) -> None:
    """The distinct blocks that the guest has read and that are not zero, and their compressed size in this order."""
    blocks: dict[int, None] = {}
    for offset, length in re.findall(r"Read .*offset=0x([0-9a-f]+) count=0x([0-9a-f]+)", log.read_text()):
        begin, end = int(offset, 16), int(offset, 16) + int(length, 16)
        blocks.update(dict.fromkeys(range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES))))
    log.unlink()
    zero, content = bytes(BLOCK_BYTES), bytearray()
    with guest.file.open("rb") as file:
        for block in blocks:
            file.seek(block * BLOCK_BYTES)
            if (found := file.read(BLOCK_BYTES)) != zero:
                content += found
    said = "distinct blocks that the guest reads and that are not zero"
    samples.add("read_bytes", len(content), Unit.BYTES, Door.DERIVED, said)
    pieces = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
    compressed = sum(len(zstd.compress(bytes(piece), 1)) for piece in pieces)
    samples.add("read_compressed_bytes", compressed, Unit.BYTES, Door.DERIVED, "these blocks by zstd, level 1")


# -- ratios and goals --------------------------------------------------------------------------------------------------


def _compare(figures: dict[str, Figure]) -> None:
    """Adds the ratios: bytes, and the time beyond that of the local file against the best peer."""
    local = figures["local_boot_seconds"].value
    theirs = {
        name.removesuffix("_boot_seconds"): figure.value - local
        for name, figure in figures.items()
        if name.endswith("_boot_seconds") and figure.door is Door.PEER and not name.startswith("local_")
    }
    if theirs:
        best = min(theirs, key=lambda name: theirs[name])
        added = figures["imgstore_boot_seconds"].value - local
        figures["added_share"] = Figure(
            value=round(added / max(theirs[best], 0.001), 3),
            unit=Unit.SHARE,
            door=Door.DERIVED,
            said=f"(imgstore - local file) / ({best} - local file)",
        )
        figures["best_peer_ratio"] = Figure(
            value=round((theirs[best] + local) / figures["imgstore_boot_seconds"].value, 2),
            unit=Unit.RATIO,
            door=Door.DERIVED,
            said=f"seconds of {best} / imgstore's",
        )
    for name, one, other in (
        ("fetched_share", "imgstore_fetched_bytes", "read_compressed_bytes"),
        ("v3_share", "imgstore_v3_fetched_bytes", "imgstore_fetched_bytes"),
    ):
        value = round(figures[one].value / max(figures[other].value, 1), 4)
        figures[name] = Figure(value=value, unit=Unit.SHARE, door=Door.DERIVED, said=f"{one} / {other}")


def _goals(figures: dict[str, Figure]) -> list[Goal]:
    goals = [
        Goal.of("fetched_share", figures, at_most=_BYTES_MOST),
        Goal.of("v3_share", figures, at_most=_NEXT_MOST),
    ]
    if "added_share" in figures:
        goals.append(Goal.of("added_share", figures, at_most=_SHARE_MOST))
    return goals


CASES = (
    Case(
        name="boot",
        title="the first boot of a version on an empty host, from a store 20 ms away, until a service answers",
        measure=measure_boot,
        peers=("s5cmd",),
        regions=1,
    ),
)
