"""Connections to S3 with time limits for progress: a transfer continues while bytes move, however slow the link.

urllib3 sends a body in a single call within the connect timeout. The response must begin within another limit, although
megabytes of the body may still be in the kernel's buffer. A body of 4 MiB over a link of 64 KiB/s therefore never
arrives. Here a body is sent in small pieces with a limit for each piece, and the wait for the response continues while
the kernel's buffer shrinks.

Bytes that a proxy has received and not yet forwarded are invisible. For a body, the wait therefore also continues if
the store answers another request.

A request that deletes has a fixed limit in any case, because garbage collection depends on that limit (invariants G6
and G7).
"""

import array
import fcntl
import socket
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from urllib3.util.wait import wait_for_read

from imgstore.stores.wrappers.hedging import note_progress

_PIECE_BYTES: Final = 1 << 16
"""Sent under one limit: 20 s for a piece are 3 KiB/s."""
_FIRST_POLL_SECONDS: Final = 0.05
"""The first interval between looks at the kernel's buffer, doubled after each look.

A frozen store takes its last bytes at once.
"""
_POLL_SECONDS: Final = 1.0
"""The longest interval between looks at the kernel's buffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """The time limits of a request to S3, in seconds."""

    connect_seconds: float = 3.1
    """Time to connect. TCP sends a lost packet of the handshake again after one second."""
    read_seconds: float = 10.0
    """For GET and HEAD: time until the response begins, and for any pause in the response."""
    write_seconds: float = 30.0
    """For PUT: any pause in which no byte of the body leaves, and then the time until the response begins."""
    fixed_seconds: float = 60.0
    """For every other request, such as deletes: time until the response begins."""
    bytes_per_second_min: int = 8 << 10
    """For PUT: a body with a smaller mean rate is given up, although bytes move."""

    def total_seconds(self, body_bytes: int) -> float:
        """Return the limit of a whole PUT."""
        return self.write_seconds + body_bytes / self.bytes_per_second_min


_given_up = threading.local()
"""The part of a body that this thread sends; None if the thread awaits the answers of its requests."""


@contextmanager
def give_up_requests(*, body_part: float = 1.0) -> Iterator[None]:
    """Send the requests of this thread in the block, and close each connection without waiting for the answer.

    Args:
        body_part: the part of a body that is sent, from 0 to 1. With less than 1, the body breaks off.
    """
    _given_up.body_part = body_part
    try:
        yield
    finally:
        _given_up.body_part = None


class _ProgressConnection:
    """A mixin for botocore's connections with limits for progress."""

    limits = TimeLimits()
    is_alive: Callable[[], bool]
    """Sends a small request to the store, and returns whether the store answered."""
    count: Callable[[], object]
    """Called before each request."""
    _body_bytes = 0
    _began = 0.0
    sock: socket.socket
    timeout: float | None
    _method: str | None  # http.client's attribute of the current request

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Begin a request."""
        self.count()
        self._began, self._body_bytes = time.monotonic(), 0
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send in pieces, with a limit for a pause at each piece."""
        body_part = getattr(_given_up, "body_part", None)
        if body_part is not None and body_part < 1 and isinstance(data, memoryview):
            super().send(data.cast("B")[: int(data.nbytes * body_part)])  # type: ignore[misc]
            raise TimeoutError("given up")
        if not isinstance(data, memoryview) or data.nbytes <= _PIECE_BYTES:
            super().send(data)  # type: ignore[misc]
            return
        self._body_bytes = data.nbytes
        self.sock.settimeout(self.limits.write_seconds)
        flat = data.cast("B")
        for at in range(0, flat.nbytes, _PIECE_BYTES):
            super().send(flat[at : at + _PIECE_BYTES])  # type: ignore[misc]
            note_progress()
            self._check_total()

    def getresponse(self) -> Any:
        """Wait for the response within the limit of the method."""
        if getattr(_given_up, "body_part", None) is not None:
            raise TimeoutError("given up")
        if self._method in {"GET", "HEAD"}:
            self.timeout = self.limits.read_seconds
        elif self._method == "PUT":
            self.timeout = self.limits.write_seconds
            self._wait_while_moving()
        else:
            self.timeout = self.limits.fixed_seconds
        response = super().getresponse()  # type: ignore[misc]
        _last.response = weakref.ref(response)
        return response

    def _wait_while_moving(self) -> None:
        """Wait until bytes arrive. The limit starts again when bytes leave the kernel's buffer."""
        moved_at = time.monotonic()
        left = _unsent_bytes(self.sock)
        poll_seconds = _FIRST_POLL_SECONDS
        while not wait_for_read(self.sock, min(poll_seconds, self.limits.write_seconds)):
            poll_seconds = min(2 * poll_seconds, _POLL_SECONDS)
            self._check_total()
            now, still = time.monotonic(), _unsent_bytes(self.sock)
            if still < left:
                left, moved_at = still, now
                if self._body_bytes:
                    note_progress()
            elif now - moved_at > self.limits.write_seconds:
                if still or not self._body_bytes or not self.is_alive():
                    raise TimeoutError("timed out")
                moved_at = time.monotonic()

    def _check_total(self) -> None:
        if time.monotonic() - self._began > self.limits.total_seconds(self._body_bytes):
            raise TimeoutError("timed out")


_last = threading.local()
"""The last response of each thread."""


def close_last_response() -> None:
    """Close the connection of this thread's last response, which botocore could not parse and left open."""
    response = getattr(_last, "response", lambda: None)()
    if response is not None:
        response.close()


def _unsent_bytes(sock: socket.socket) -> int:
    """Return the bytes in the kernel's buffer that the peer has not confirmed; 0 if the kernel reports none.

    SIOCOUTQ: https://man7.org/linux/man-pages/man7/tcp.7.html. The ioctl has the number of TIOCOUTQ.
    """
    count = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]


def use_progress_timeouts(
    client: Any, limits: TimeLimits, is_alive: Callable[[], bool], count: Callable[[], object]
) -> None:
    """Make botocore's client use these connections. If this botocore has other internals, botocore's own limits apply.

    Args:
        client: the client before its first request.
        limits: the limits of every request.
        is_alive: sends a small request to the store, and returns whether the store answered.
        count: called before each request.
    """

    class Plain(_ProgressConnection, AWSHTTPConnection):  # type: ignore[misc]
        pass

    class Secure(_ProgressConnection, AWSHTTPSConnection):  # type: ignore[misc]
        pass

    class PlainPool(AWSHTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(AWSHTTPSConnectionPool):
        ConnectionCls = Secure

    for kind in (Plain, Secure):
        kind.limits, kind.is_alive, kind.count = limits, staticmethod(is_alive), staticmethod(count)
    http_session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pools = getattr(http_session, "_pool_classes_by_scheme", None)  # shared with the connection managers
    if isinstance(pools, dict):
        pools.update(http=PlainPool, https=SecurePool)
