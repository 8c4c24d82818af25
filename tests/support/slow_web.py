"""A web server on loopback with a chosen kind of slowness."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

_HEAD: Final = b"HTTP/1.1 206 Partial Content\r\nETag: x\r\nContent-Range: bytes 0-0/1000000\r\nContent-Length: 1\r\n"


class Slowness(Enum):
    """The behaviour of the server after a request."""

    SILENT = auto()
    """The server accepts the connection and sends nothing."""
    HEAD = auto()
    """The server sends a header per tick, and never the end of the head."""
    BODY = auto()
    """The server answers the first request of each connection, and sends the second body with a byte per tick."""
    SECOND_SILENT = auto()
    """The server answers the first request of each connection with a byte, and the second request never."""


@dataclass(slots=True, kw_only=True)
class SlowWeb:
    """A running server."""

    port: int
    connections: list[socket.socket] = field(default_factory=list)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for each delayed request."""

    def url(self, name: str) -> str:
        """Return a URL with a slow answer."""
        return f"http://127.0.0.1:{self.port}/{name}"


@contextmanager
def start_slow_web(slowness: Slowness, *, tick_seconds: float = 0.05) -> Iterator[SlowWeb]:
    """Serve until the block ends."""
    ended = threading.Event()

    def serve_one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65_536)
            if slowness in {Slowness.BODY, Slowness.SECOND_SILENT}:
                connection.sendall(_HEAD + b"\r\n\0")
                connection.recv(65_536)
            web.asked.release()
            if slowness is Slowness.HEAD:
                connection.sendall(b"HTTP/1.1 206 Partial Content\r\n")
            elif slowness is Slowness.BODY:
                connection.sendall(_HEAD.replace(b"Length: 1\r", b"Length: 1000\r") + b"\r\n")
            while not ended.wait(tick_seconds):
                if slowness in {Slowness.HEAD, Slowness.BODY}:
                    connection.sendall(b"X-A: b\r\n" if slowness is Slowness.HEAD else b"\0")
                elif not connection.recv(1, socket.MSG_PEEK):
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            web.connections.append(connection)
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        web = SlowWeb(port=listening.getsockname()[1])
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield web
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for each in web.connections:
                each.close()
