"""Replays a trace of reads as a boot does: ``python -m bench.replay guest PLACE TRACE``, a process for each guest.

The place is the Unix socket of an NBD server, or a file. A process says when it is connected, waits for a line on its
input, so that all guests begin at once, and prints `Replayed` as JSON. ``python -m bench.replay readers SOCKET TRACE COUNT
SECONDS`` is a process with many connections, each of which reads 4 KiB after 4 KiB of the trace, and prints `Latency`.
"""

import json
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from stat import S_ISSOCK
from subprocess import PIPE, Popen

import numpy as np

from bench.disks import BLOCK_BYTES
from bench.nbd_client import NbdClient, percentile
from bench.processes import Command, run_timed
from bench.traces import Trace

_WAIT_SECONDS = 300.0
Read = Callable[[int, int], bytes | bytearray]
"""Reads a range: offset and length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How long the reads of one guest took."""

    seconds: float
    slowest_seconds: float
    read_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Reads of 4 KiB by many readers of one server."""

    p50_seconds: float
    p99_seconds: float
    reader_p50_seconds: float
    """Of each reader the mean of its reads."""
    reader_p99_seconds: float
    per_second: float


class SteppedClient(NbdClient):
    """A connection whose requests and answers are separate, for a selector."""

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    def ask(self, offset: int) -> None:
        """Asks for a block."""
        self._ask(offset, BLOCK_BYTES)

    def answer(self) -> None:
        """Receives the block."""
        self._answer(BLOCK_BYTES)


def replay(read: Read, trace: Trace, before: Callable[[int], None] = lambda _number: None) -> Replayed:
    """Reads each range after the one before, as a guest with one processor mostly does.

    Args:
        read: reads a range.
        trace: the ranges.
        before: called with the number of each read, from 0, outside of the time of the slowest read.
    """
    slowest, total, began = 0.0, 0, time.perf_counter()
    for number, (offset, length) in enumerate(trace.reads):
        before(number)
        asked = time.perf_counter()
        total += len(read(offset, length))
        slowest = max(slowest, time.perf_counter() - asked)
    return Replayed(seconds=time.perf_counter() - began, slowest_seconds=slowest, read_bytes=total)


@contextmanager
def guests(places: Sequence[Path], trace: Path) -> Iterator[list[Popen[str]]]:
    """A process for each place, connected and waiting for `run_guests`."""
    command = [sys.executable, "-m", "bench.replay", "guest"]
    with ExitStack() as stack:
        started = [
            stack.enter_context(Popen([*command, str(place), str(trace)], stdin=PIPE, stdout=PIPE, text=True))
            for place in places
        ]
        try:
            for guest in started:
                assert guest.stdout is not None
                if guest.stdout.readline() != "connected\n":
                    raise RuntimeError("a guest could not connect")
            yield started
        finally:
            for guest in started:
                guest.kill()


def run_guests(started: Sequence[Popen[str]]) -> list[Replayed]:
    """Lets all guests begin, and waits for their ends.

    Raises:
        RuntimeError: a read failed.
    """
    for guest in started:
        assert guest.stdin is not None
        guest.stdin.write("\n")
        guest.stdin.flush()
    found = []
    for guest in started:
        assert guest.stdout is not None
        line = guest.stdout.readline()
        if not line:
            raise RuntimeError("a guest failed")
        found.append(Replayed(**json.loads(line)))
    return found


def measure_readers(socket: Path, trace: Path, count: int, seconds: float) -> Latency:
    """What `read_together` finds in a process of its own."""
    words: Command = [sys.executable, "-m", "bench.replay", "readers", socket, trace, str(count), str(seconds)]
    return Latency(**json.loads(run_timed(words).output))


def read_together(path: Path, trace: Trace, count: int, seconds: float) -> Latency:
    """Reads random blocks of a trace by `count` connections, each one block after another, for some seconds."""
    blocks = trace.blocks()
    rng = np.random.default_rng(17)
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        clients = [stack.enter_context(SteppedClient(path, wait_seconds=_WAIT_SECONDS)) for _ in range(count)]
        asked, done = [0.0] * count, [0] * count
        found = list[float]()

        def ask(number: int) -> None:
            asked[number] = time.perf_counter()
            clients[number].ask(blocks[int(rng.integers(len(blocks)))] * BLOCK_BYTES)

        for number, client in enumerate(clients):
            waiting.register(client, selectors.EVENT_READ, number)
            ask(number)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for key, _ in waiting.select():
                number = key.data
                clients[number].answer()
                found.append(time.perf_counter() - asked[number])
                done[number] += 1
                ask(number)
        for client in clients:
            client.answer()
    means = [seconds / max(each, 1) for each in done]
    return Latency(
        p50_seconds=percentile(found, 50),
        p99_seconds=percentile(found, 99),
        reader_p50_seconds=percentile(means, 50),
        reader_p99_seconds=percentile(means, 99),
        per_second=len(found) / seconds,
    )


@contextmanager
def _opened(place: Path) -> Iterator[Read]:
    """Reads of an NBD server at a socket, or of a file."""
    if S_ISSOCK(place.stat().st_mode):
        with NbdClient(place, wait_seconds=_WAIT_SECONDS) as client:
            yield client.read
        return
    file = os.open(place, os.O_RDONLY)
    try:
        yield lambda offset, length: os.pread(file, length, offset)
    finally:
        os.close(file)


def main(verb: str, place: str, trace: str, *more: str) -> None:
    """Run a guest, or many readers."""
    reads = Trace.load(Path(trace))
    if verb == "readers":
        count, seconds = more
        print(json.dumps(asdict(read_together(Path(place), reads, int(count), float(seconds)))))
        return
    with _opened(Path(place)) as read:
        print("connected", flush=True)
        sys.stdin.readline()
        print(json.dumps(asdict(replay(read, reads))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
