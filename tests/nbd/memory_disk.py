"""A disk in memory for tests of the NBD server, and a client that can send any bytes."""

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import ImgstoreError, StoreUnreachable
from imgstore.nbd.protocol import OPTION, OPTION_MAGIC, OPTION_REPLY, REQUEST, REQUEST_MAGIC, Option

BLOCK = 4096


@dataclass(slots=True, kw_only=True)
class MemoryDisk:
    """A disk in memory. A block that was never written, or was zeroed, is a hole."""

    virtual_bytes: int
    is_read_only: bool = False
    content: bytearray = field(init=False)
    data: set[int] = field(default_factory=set)
    """The blocks with data."""
    flushes: int = 0
    prefetched: list[tuple[int, int]] = field(default_factory=list)
    broken_from: int | None = None
    """Reads from this offset fail."""
    write_fault: ImgstoreError | None = None
    """The error of each write."""
    reads: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    """Reads wait for the event."""
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by each read that begins to wait."""

    def __post_init__(self) -> None:
        self.content = bytearray(self.virtual_bytes)
        self.gate.set()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read bytes."""
        self.reads += 1
        if not self.gate.is_set():
            self.waiting.release()
            self.gate.wait()
        if self.broken_from is not None and offset + length > self.broken_from:
            raise StoreUnreachable("The store does not answer.", found="silence", expected="an answer", hint="wait")
        return bytes(self.content[offset : offset + length])

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Iterate over the blocks with data."""
        for block in range(begin // BLOCK, -(-end // BLOCK)):
            if block in self.data:
                first = block * BLOCK
                yield Extent(offset=first, length=min(BLOCK, self.virtual_bytes - first))

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes."""
        if self.write_fault is not None:
            raise self.write_fault
        self.content[offset : offset + len(data)] = data
        self.data.update(range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range zero."""
        self.content[offset : offset + length] = bytes(length)
        self.data.difference_update(range(-(-offset // BLOCK), (offset + length) // BLOCK))

    def flush(self) -> None:
        """Count the call."""
        self.flushes += 1

    def prefetch(self, offset: int, length: int) -> None:
        """Record the range."""
        self.prefetched.append((offset, length))


class Client:
    """A connection with the methods of a client, which also sends wrong bytes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        assert self.receive(18)[:8] == b"NBDMAGIC"

    def receive(self, length: int) -> bytes:
        """Receive exactly `length` bytes."""
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            assert part, f"the server closed the connection after {data!r}"
            data += part
        return data

    def is_closed(self) -> bool:
        """Wait for the end of the connection, and return whether the server sent nothing before."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def option(self, number: int, body: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option, and return the replies up to the acknowledgment or error."""
        self.socket.sendall(OPTION.pack(OPTION_MAGIC, number, len(body)) + body)
        replies: list[tuple[int, bytes]] = []
        while not replies or not (replies[-1][0] == 1 or replies[-1][0] >> 31):
            _, _, kind, length = OPTION_REPLY.unpack(self.receive(OPTION_REPLY.size))
            replies.append((kind, self.receive(length)))
        return replies

    def start(self, *, structured: bool = True) -> None:
        """Run the handshake."""
        self.socket.sendall(struct.pack(">I", 3))
        if structured:
            self.option(Option.STRUCTURED_REPLY)
            self.option(Option.SET_META_CONTEXT, struct.pack(">III", 0, 1, 15) + b"base:allocation")
        assert self.option(Option.GO, struct.pack(">IH", 0, 0))[-1] == (1, b"")

    def request(self, command: int, offset: int = 0, length: int = 0, flags: int = 0, payload: bytes = b"") -> None:
        """Send a request with the cookie 7."""
        self.socket.sendall(REQUEST.pack(REQUEST_MAGIC, flags, command, 7, offset, length) + payload)

    def simple(self) -> int:
        """Receive a simple reply without data, and return the error."""
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert (magic, cookie) == (0x67446698, 7)
        return int(error)

    def chunks(self) -> list[tuple[int, bytes]]:
        """Receive the chunks of a structured reply: types and payloads."""
        found: list[tuple[int, bytes]] = []
        flags = 0
        while not flags & 1:
            magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.receive(20))
            assert (magic, cookie) == (0x668E33EF, 7)
            found.append((kind, self.receive(length)))
        return found
