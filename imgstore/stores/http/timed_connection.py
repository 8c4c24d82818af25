"""Connections of urllib3 that end at a deadline, however slow the bytes, and that another thread can close.

The read timeout of urllib3 is for each `recv`: a server that sends a byte every few seconds never exceeds this timeout.
"""

import io
import math
import os
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import urllib3


class RequestTimer(threading.local):
    """The deadline of a thread's request. Each thread has its own deadline."""

    def __init__(self, idle_seconds: float, monotonic: Callable[[], float]) -> None:
        self._idle_seconds = idle_seconds
        self._monotonic = monotonic
        self._deadline = math.inf
        self._what = ""

    def begin(self, seconds: float, what: str) -> None:
        """Set the deadline in `seconds` from now. `what` describes the late part."""
        self._deadline, self._what = self._monotonic() + seconds, what

    def seconds_left(self) -> float:
        """Return the seconds that the next step may take.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise TimeoutError(self._what)
        return min(left, self._idle_seconds)

    @property
    def reason(self) -> str:
        """The description of the timeout."""
        late = self._monotonic() >= self._deadline
        return self._what if late else f"no byte for {self._idle_seconds:g} seconds"


class SourceConnections:
    """All connections of one source."""

    def __init__(self, timer: RequestTimer) -> None:
        self.timer = timer
        self.lock = threading.RLock()
        """Held while a socket is closed or shut down, so that no reused descriptor is affected."""
        self._sockets: weakref.WeakSet[_TimedSocket] = weakref.WeakSet()
        self._disconnected = False

    def watch(self, pool: urllib3.HTTPConnectionPool) -> None:
        """Apply the deadline of the thread to every connection of a new pool."""
        base = pool.ConnectionCls
        line = self

        class Timed(base):  # type: ignore[valid-type, misc] # the pool's own class
            """A connection that reads through a `_TimedSocket`."""

            def connect(self) -> None:
                """Connect, then watch the socket."""
                super().connect()
                connected = self.sock  # type: ignore[has-type] # urllib3's, of either base
                self.sock = cast("socket.socket", line.watch_socket(connected))

        pool.ConnectionCls = Timed

    def watch_socket(self, sock: socket.socket) -> "_TimedSocket":
        """Wrap a socket, and register it for `disconnect`."""
        timed = _TimedSocket(sock, self)
        with self.lock:
            self._sockets.add(timed)
            if self._disconnected:
                timed.shut_down()
        return timed

    def disconnect(self) -> None:
        """End every present and later connection. Any thread may call this method. Readers see the end of their stream."""
        with self.lock:
            self._disconnected = True
            for each in list(self._sockets):
                each.shut_down()


class _TimedSocket:
    """A socket with a deadline for reads. Other methods are the socket's own."""

    def __init__(self, sock: socket.socket, line: SourceConnections) -> None:
        self._sock = sock
        self._line = line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, _mode: str = "r", *_: Any, **__: Any) -> io.BufferedReader:
        """Create the stream that http.client reads."""
        return io.BufferedReader(_TimedReader(self, self._sock.makefile("rb", buffering=0), self._line))

    def close(self) -> None:
        """See `socket.close`."""
        with self._line.lock:
            self._sock.close()

    def shut_down(self) -> None:
        """End the connection below TLS, with the lock held. The reader still closes the socket."""
        number = self._sock.fileno()
        if number < 0:
            return
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as same:
            same.shutdown(socket.SHUT_RDWR)


class _TimedReader(io.RawIOBase):
    """The stream of a socket, with the remaining time as the limit of each read."""

    def __init__(self, sock: _TimedSocket, raw: Any, line: SourceConnections) -> None:
        super().__init__()
        self._sock = sock
        self._raw = raw
        self._line = line

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See `RawIOBase.readinto`.

        Raises:
            TimeoutError: no byte arrived in time.
        """
        self._sock.settimeout(self._line.timer.seconds_left())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        """See `RawIOBase.close`."""
        with self._line.lock:
            self._raw.close()
        super().close()
