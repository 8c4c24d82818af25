"""A proxy in front of an S3 server that refuses chosen requests, changes chosen answers and records every request."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, TypeAlias

_STATUSES = {
    "AccessDenied": 403,
    "XMinioStorageFull": 507,
    "XMinioAdminBucketQuotaExceeded": 400,
    "EntityTooLarge": 413,
}


@dataclass(kw_only=True)
class ProxiedRequest:
    """A request of the client. `path` has the query."""

    method: str
    path: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes
    is_whole: bool
    """False if the client broke the body off. Then `forward` sends nothing, and the answer gets lost."""
    connection: socket.socket

    def is_given_up(self, within_seconds: float) -> bool:
        """Return whether the client closes the connection within a time."""
        self.connection.settimeout(within_seconds)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(None)


@dataclass(kw_only=True)
class ProxiedAnswer:
    """An answer to the client."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int
    """The Content-Length, also of an answer to HEAD."""


Forward: TypeAlias = Callable[[], ProxiedAnswer]
"""Sends the request to the server and returns the answer of the server."""


class Exchange(Protocol):
    """Answers a request."""

    def __call__(self, request: ProxiedRequest, forward: Forward) -> ProxiedAnswer: ...


def refuse(code: str, method: str) -> ProxiedAnswer:
    """Make an error answer of S3."""
    error = f"<Error><Code>{code}</Code><Message>for a reason</Message></Error>".encode()
    return ProxiedAnswer(status=_STATUSES[code], headers={}, body=b"" if method == "HEAD" else error, length=len(error))


def pass_through(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
    """Answer as the server does."""
    return forward()


@dataclass
class S3Proxy:
    """A running proxy. The client's Host header is forwarded, so signatures stay valid."""

    endpoint: str
    refusal: Callable[[str, str], str | None] = lambda _method, _path: None
    """Called with method and path with query. Returns the code of S3's error; None forwards the request."""
    exchange: Exchange = pass_through
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method, and path with query, of every request."""


@contextmanager
def start_s3_proxy(target: str) -> Iterator[S3Proxy]:
    """Run a proxy in front of the server at `target`, such as "http://127.0.0.1:9000"."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Print nothing."""

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            proxy.requests.append((self.command, self.path))
            if code := proxy.refusal(self.command, self.path):
                self._send(refuse(code, self.command))
                return
            request = ProxiedRequest(
                method=self.command,
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=body,
                is_whole=len(body) == length,
                connection=self.connection,
            )
            if request.is_whole:
                self._send(proxy.exchange(request, self._forwarder(body)))
            else:
                proxy.exchange(request, lambda: ProxiedAnswer(status=0, headers={}, body=b"", length=0))
                self.close_connection = True

        def _forwarder(self, body: bytes) -> Forward:
            def forward() -> ProxiedAnswer:
                connection = http.client.HTTPConnection(target.removeprefix("http://"))
                try:
                    connection.request(self.command, self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    found = answer.read()
                    length = int(answer.headers.get("Content-Length") or len(found))
                    hops = {"content-length", "transfer-encoding", "connection"}
                    kept = {name: value for name, value in answer.getheaders() if name.lower() not in hops}
                    return ProxiedAnswer(status=answer.status, headers=kept, body=found, length=length)
                finally:
                    connection.close()

            return forward

        def _send(self, answer: ProxiedAnswer) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(answer.length))
            try:
                self.end_headers()
                self.wfile.write(answer.body)
            except OSError:  # The client gave the request up.
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names of the base class

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Print nothing: a client gave a request up."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy = S3Proxy(endpoint=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
