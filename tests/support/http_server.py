"""A small web server on loopback, plain or TLS, with pages that a test can change at any time."""

import re
import select
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast

_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(slots=True, kw_only=True)
class Page:
    """The response of the server for one path."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"1"'})
    ranges: bool = True
    """Whether the server supports Range."""
    redirect: str | None = None
    redirects: list[str] = field(default_factory=list)
    """The targets of redirects, one per request, before `redirect`."""
    statuses: list[int] = field(default_factory=list)
    """First responses, one per request, without a body."""
    cut_bytes: int | None = None
    """The connection breaks once after this number of bytes of the body; afterwards the value is None."""
    held_at: range = range(0)
    """Requests of a range that begins at one of these offsets wait until the value is empty."""
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for each waiting request."""


@dataclass(slots=True, kw_only=True)
class WebServer:
    """A running server."""

    port: int
    scheme: str
    pages: dict[str, Page]
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(path with query, Host, Authorization) of each request."""
    is_dead: bool = False
    """Whether connections are closed without a response."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the URL of a page."""
        return f"{self.scheme}://{host}:{self.port}{path}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: WebServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the errors of a handler, except those of a client that has left before the end of the answer."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLEOFError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web = cast("_Server", self.server).web
        web.requests.append((self.path, self.headers.get("Host", ""), self.headers.get("Authorization", "")))
        if web.is_dead:
            self.close_connection = True
            return
        page = web.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(404, {}, b"")
        elif page.statuses:
            self._answer(page.statuses.pop(0), {}, b"")
        elif page.redirects or page.redirect is not None:
            target = page.redirects.pop(0) if page.redirects else page.redirect
            self._answer(302, {"Location": str(target)}, b"")
        else:
            self._give(page)

    def _give(self, page: Page) -> None:
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        total = len(page.body)
        if asked is None or not page.ranges:
            self._answer(200, page.headers, page.body, page)
        elif (first := int(asked[1])) >= total:
            self._answer(416, page.headers | {"Content-Range": f"bytes */{total}"}, b"")
        else:
            if first in page.held_at:
                page.held.release()
                while page.held_at:
                    if self._has_hung_up():
                        return
            body = page.body[first : int(asked[2]) + 1]
            told = {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{total}"}
            self._answer(206, page.headers | told, body, page)

    def _has_hung_up(self) -> bool:
        """Wait a moment for the client to disconnect."""
        readable, _, _ = select.select([self.connection], [], [], 0.02)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, page: Page | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if page is not None and page.cut_bytes is not None:
            body, page.cut_bytes = body[: page.cut_bytes], None
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Log nothing."""


@contextmanager
def start_web(
    pages: dict[str, Page], *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> Iterator[WebServer]:
    """Serve until the block ends."""
    server = _Server((address, 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.web = WebServer(port=server.server_address[1], scheme="http" if tls is None else "https", pages=pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
