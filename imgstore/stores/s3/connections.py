"""Connections to S3 whose time limits follow progress: a body that moves is alive, however slow the link.

What urllib3 does by itself: a body is sent in one piece within the time limit for connecting, and the answer must begin
within a limit that counts from then on, though megabytes of the body may still wait in the kernel's buffer. So a body of
4 MiB over a link of 64 KiB/s never arrives. Here a body is sent in small pieces, each with a limit of its own; and while
the kernel still gets rid of bytes, the wait for the answer goes on. What a proxy on the way has taken and not passed on is
seen by nobody: for a body, the wait goes on as well where the store answers another request meanwhile.

A request that deletes keeps a fixed limit, whatever moves: garbage collection relies on it (invariants G6 and G7).
"""

import array
import fcntl
import socket
import termios
import time
from collections.abc import Callable
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
"""Sent under one limit: 20 s for it are 3 KiB/s."""
_FIRST_LOOK_SECONDS: Final = 0.05
"""After this time the kernel's buffer is looked at first, and after twice the time then: a store that froze took its last
bytes at once."""
_LOOK_SECONDS: Final = 1.0
"""How often the kernel's buffer is looked at in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """How long one request to S3 may take, in seconds."""

    connect_seconds: float = 3.1
    """For a connection to be made: a lost packet of it is sent again after one second."""
    read_seconds: float = 10.0
    """Of GET and HEAD: until the answer begins, and for any pause in it."""
    write_seconds: float = 30.0
    """Of PUT: for any pause in which no byte of the body leaves, and until the answer begins after that."""
    fixed_seconds: float = 60.0
    """Of every other request, such as deletes: until the answer begins."""
    bytes_per_second_min: int = 8 << 10
    """Of PUT: a body that is slower on average is given up, though it moves."""

    def total_seconds(self, body_bytes: int) -> float:
        """How long a PUT may take in all."""
        return self.write_seconds + body_bytes / self.bytes_per_second_min


class _SteadyConnection:
    """A mixin for botocore's connections."""

    limits = TimeLimits()
    is_alive: Callable[[], bool]
    """Asks the store something small."""
    _body_bytes = 0
    _began = 0.0
    sock: socket.socket
    timeout: float | None
    _method: str | None  # http.client's, of the request under way

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Begin a request."""
        self._began, self._body_bytes = time.monotonic(), 0
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send in pieces, each under the limit for a pause."""
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
        """Wait for the answer as long as the method allows."""
        if self._method in {"GET", "HEAD"}:
            self.timeout = self.limits.read_seconds
        elif self._method == "PUT":
            self.timeout = self.limits.write_seconds
            self._wait_while_moving()
        else:
            self.timeout = self.limits.fixed_seconds
        return super().getresponse()  # type: ignore[misc]

    def _wait_while_moving(self) -> None:
        """Wait until something comes. Bytes that leave the kernel's buffer begin the limit anew."""
        moved_at = time.monotonic()
        left = _unsent_bytes(self.sock)
        look_seconds = _FIRST_LOOK_SECONDS
        while not wait_for_read(self.sock, min(look_seconds, self.limits.write_seconds)):
            look_seconds = min(2 * look_seconds, _LOOK_SECONDS)
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


def _unsent_bytes(sock: socket.socket) -> int:
    """What the kernel holds that the other side has not confirmed; 0 where it does not tell.

    SIOCOUTQ: https://man7.org/linux/man-pages/man7/tcp.7.html. It has the number of TIOCOUTQ.
    """
    told = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, told)
    except OSError:
        return 0
    return told[0]


def use_progress_timeouts(client: Any, limits: TimeLimits, is_alive: Callable[[], bool]) -> None:
    """Have botocore's client make such connections.

    Args:
        client: before its first request.
        is_alive: asks the store something small, and tells whether it answered.
        limits: of every request. Where this botocore keeps its parts elsewhere, its own limits hold.
    """

    class Plain(_SteadyConnection, AWSHTTPConnection):  # type: ignore[misc]
        pass

    class Secure(_SteadyConnection, AWSHTTPSConnection):  # type: ignore[misc]
        pass

    class PlainPool(AWSHTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(AWSHTTPSConnectionPool):
        ConnectionCls = Secure

    for kind in (Plain, Secure):
        kind.limits, kind.is_alive = limits, staticmethod(is_alive)
    http_session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pools = getattr(http_session, "_pool_classes_by_scheme", None)  # shared with the managers of connections
    if isinstance(pools, dict):
        pools.update(http=PlainPool, https=SecurePool)
