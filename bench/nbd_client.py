"""A client of a block device over NBD, too simple to lose time: the same for all servers under measurement.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Replies are simple ones.
"""

import socket
import statistics
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from imgstore.nbd.protocol import (
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    Command,
    Option,
)

ANSWER_SECONDS_MAX = 60.0
"""A server that is silent for so long gives no figure."""
_LOOK_SECONDS = 0.0005
_FIXED_NEWSTYLE_NO_ZEROES = 3
_REPLY_ACK = 1
_EXPORT = struct.Struct(">HQH")
"""NBD_INFO_EXPORT: type, size of the export, flags."""


class NbdFailed(RuntimeError):
    """A server refused a read, or left."""


class NbdClient:
    """One connection to the default export of a server at a Unix socket."""

    def __init__(self, path: Path, *, wait_seconds: float = 0.0) -> None:
        """Connects, and runs the handshake.

        Args:
            path: of the socket.
            wait_seconds: how long the server may take until it listens.

        Raises:
            OSError: nobody listens, or the server is silent.
            NbdFailed: the server refuses.
        """
        self._socket = _connect(path, time.perf_counter() + wait_seconds)
        self._socket.settimeout(ANSWER_SECONDS_MAX)
        self._receive(18)
        self._socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE_NO_ZEROES))
        self.virtual_bytes = self._go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0))
        self._socket.close()

    def read(self, offset: int, length: int) -> bytearray:
        """Reads a range, and waits for it.

        Raises:
            NbdFailed: the server refuses.
        """
        self._ask(offset, length)
        return self._answer(length)

    def seconds_each(self, offsets: Sequence[int], length: int) -> list[float]:
        """Reads ranges one after another; gives the seconds of each."""
        found = []
        for offset in offsets:
            began = time.perf_counter()
            self.read(offset, length)
            found.append(time.perf_counter() - began)
        return found

    def read_at_depth(self, offsets: Sequence[int], length: int, depth: int) -> float:
        """Reads ranges with `depth` of them asked for and not answered; gives the seconds of all."""
        waiting = deque(offsets)
        began = time.perf_counter()
        for _ in range(min(depth, len(waiting))):
            self._ask(waiting.popleft(), length)
        for _ in offsets:
            self._answer(length)
            if waiting:
                self._ask(waiting.popleft(), length)
        return time.perf_counter() - began

    def _go(self) -> int:
        self._socket.sendall(OPTION.pack(OPTION_MAGIC, Option.GO, 6) + bytes(6))
        virtual_bytes = 0
        while True:
            _, _, kind, length = OPTION_REPLY.unpack(self._receive(OPTION_REPLY.size))
            body = self._receive(length)
            if kind == _REPLY_ACK:
                return virtual_bytes
            if kind >> 31:
                raise NbdFailed(f"the handshake is refused with {kind:#x}")
            if length == _EXPORT.size and body[:2] == bytes(2):
                _, virtual_bytes, _ = _EXPORT.unpack(body)

    def _ask(self, offset: int, length: int) -> None:
        self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, Command.READ, 1, offset, length))

    def _answer(self, length: int) -> bytearray:
        _, error, _ = SIMPLE_REPLY.unpack(self._receive(SIMPLE_REPLY.size))
        if error:
            raise NbdFailed(f"a read is refused with {error}")
        return self._receive(length)

    def _receive(self, length: int) -> bytearray:
        found = bytearray(length)
        left = memoryview(found)
        while left:
            count = self._socket.recv_into(left)
            if not count:
                raise NbdFailed("the server left")
            left = left[count:]
        return found


def _connect(path: Path, deadline: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.perf_counter() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return connection


def percentile(seconds: Sequence[float], part: int) -> float:
    """The value that `part` of a hundred do not exceed."""
    return statistics.quantiles(seconds, n=100)[part - 1]
