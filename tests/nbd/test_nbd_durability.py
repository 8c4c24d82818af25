"""An overlay behind a server that is killed during writes of several connections, compared with a model (D14).

A kill loses no acknowledged request. A block has the bytes of a request that no later acknowledged request replaced: later
means sent after the acknowledgment of the first.
"""

import random
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from imgstore.nbd.protocol import REQUEST, REQUEST_MAGIC, Command, CommandFlag
from tests.nbd.memory_disk import BLOCK, Client
from tests.support.mounted_folder import mount_small

BLOCKS: Final = 96
CONNECTIONS: Final = 3
NEVER: Final = float("inf")
_REPLY: Final = struct.Struct(">IIQ")


@dataclass(slots=True)
class Change:
    """A write or a discard of a block, with the places of request and acknowledgment in the order of all events."""

    value: int
    """The repeated number in the block. 0 is a block of zeros."""
    sent: int
    acknowledged: float = NEVER


@dataclass
class Model:
    """The requests of all connections. Safe for several threads."""

    changes: dict[int, list[Change]] = field(default_factory=lambda: defaultdict(lambda: [Change(0, -1, -1)]))
    events: Iterator[int] = field(default_factory=count)
    values: Iterator[int] = field(default_factory=lambda: count(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, block: int, blocks: int, *, zero: bool) -> tuple[int, list[Change]]:
        """Note a request, and return its value and the changed blocks."""
        with self.lock:
            value, now = (0 if zero else next(self.values)), next(self.events)
            made = [Change(value, now) for _ in range(blocks)]
            for number, each in enumerate(made):
                self.changes[block + number].append(each)
            return value, made

    def acknowledge(self, made: list[Change]) -> None:
        with self.lock:
            now = next(self.events)
            for each in made:
                each.acknowledged = now

    def permitted(self, block: int) -> set[int]:
        """Return the values that the block may have."""
        changes = self.changes[block]
        newest = max(each.sent for each in changes if each.acknowledged < NEVER)
        return {each.value for each in changes if each.acknowledged > newest or each.sent == newest}

    def settle(self, block: int, value: int) -> None:
        """Continue with the value that a block was found to have."""
        self.changes[block] = [Change(value, -1, -1)]


@contextmanager
def start_server(folder: Path) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", "tests.support.overlay_server", str(folder / "o"), str(folder / "s")]
    with subprocess.Popen(
        [*line, str(BLOCKS * BLOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def content(value: int, blocks: int) -> bytes:
    return value.to_bytes(8, "little") * (blocks * BLOCK // 8)


def change(
    path: Path, model: Model, draw: random.Random, killed: threading.Event, acknowledged: threading.Semaphore
) -> None:
    """Send random changes with several requests in flight, until the server dies."""
    client = Client(path)
    pending: dict[int, list[Change]] = {}
    with suppress(OSError, AssertionError):  # The server dies in any of these calls.
        client.start(structured=False)
        for cookie in count():
            blocks = draw.choice((1, 1, 2, 7))
            block = draw.randrange(BLOCKS - blocks)
            command = draw.choice((Command.WRITE,) * 6 + (Command.WRITE_ZEROES, Command.TRIM, Command.FLUSH))
            flags = CommandFlag.FUA if draw.random() < 0.2 else CommandFlag(0)
            payload, offset, length = b"", block * BLOCK, blocks * BLOCK
            pending[cookie] = []
            if command == Command.FLUSH:
                flags, offset, length = CommandFlag(0), 0, 0
            else:
                value, pending[cookie] = model.send(block, blocks, zero=command != Command.WRITE)
                payload = content(value, blocks) if command == Command.WRITE else b""
            client.socket.sendall(REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length) + payload)
            while len(pending) >= 8:
                _, error, done = _REPLY.unpack(client.receive(_REPLY.size))
                assert error == 0
                model.acknowledge(pending.pop(done))
                acknowledged.release()
            if killed.is_set():
                break
    client.socket.close()


def read_values(path: Path) -> list[int]:
    """Read all blocks. Each block must have the bytes of one request."""
    client = Client(path)
    client.start(structured=False)
    client.request(Command.READ, 0, BLOCKS * BLOCK)
    assert client.simple() == 0
    whole = client.receive(BLOCKS * BLOCK)
    client.socket.close()
    values = []
    for at in range(0, len(whole), BLOCK):
        block = whole[at : at + BLOCK]
        values.append(int.from_bytes(block[:8], "little"))
        assert block == content(values[-1], 1), "a block is a mixture of two writes"
    return values


@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 2), *(pytest.param(each, 8, marks=pytest.mark.long) for each in range(2, 20))]
)
def test_a_killed_server_keeps_each_acknowledged_change_of_all_connections(
    tmp_path: Path, seed: int, rounds: int
) -> None:
    draw, model = random.Random(seed), Model()
    (folder := tmp_path / "d").mkdir()
    for _ in range(rounds):
        with start_server(folder) as process:
            check(model, folder / "s")
            killed, acknowledged = threading.Event(), threading.Semaphore(0)
            clients = [
                threading.Thread(
                    target=change, args=(folder / "s", model, random.Random(draw.random()), killed, acknowledged)
                )
                for _ in range(CONNECTIONS)
            ]
            for each in clients:
                each.start()
            for _ in range(draw.randrange(10, 200)):
                assert acknowledged.acquire(timeout=60)
            process.kill()
            killed.set()
            for each in clients:
                each.join()
    with start_server(folder):
        check(model, folder / "s")


def check(model: Model, path: Path) -> None:
    """Compare all blocks with the model, and continue with the found values."""
    for block, value in enumerate(read_values(path)):
        assert value in model.permitted(block), f"block {block}"
        model.settle(block, value)


def test_a_full_disk_under_the_overlay_loses_no_acknowledged_write(tmp_path: Path) -> None:
    with mount_small(tmp_path / "small", "256k") as folder:
        client: Client | None = None
        written: dict[int, int] = {}
        with start_server(folder) as process:
            client = Client(folder / "s")
            client.start(structured=False)
            errors = set[int]()
            for number in range(1, 3 * BLOCKS):
                block = number % BLOCKS
                client.request(Command.WRITE, block * BLOCK, BLOCK, CommandFlag.FUA, content(number, 1))
                error = client.simple()
                errors.add(error)
                if error == 0:
                    written[block] = number
            assert errors == {0, 28}, "a write without space is ENOSPC"
            process.kill()
            client.socket.close()
        with start_server(folder):
            values = read_values(folder / "s")
            assert {block: values[block] for block in written} == written
            subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
            client = Client(folder / "s")
            client.start(structured=False)
            for block in range(BLOCKS):
                client.request(Command.WRITE, block * BLOCK, BLOCK, CommandFlag.FUA, content(block + 1, 1))
                assert client.simple() == 0
            client.socket.close()
        with start_server(folder):
            assert read_values(folder / "s") == list(range(1, BLOCKS + 1))
