"""A proxy in front of an S3 server that refuses chosen requests and records every request."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_STATUSES = {"AccessDenied": 403, "XMinioStorageFull": 507, "XMinioAdminBucketQuotaExceeded": 400, "SlowDown": 503}


@dataclass
class S3Proxy:
    """A running proxy. The client's Host header is forwarded, so signatures stay valid."""

    endpoint: str
    refusal: Callable[[str, str], str | None] = lambda _method, _path: None
    """Called with method and path with query. Returns the code of S3's error; None forwards the request."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method, and path with query, of every request."""


@contextmanager
def start_s3_proxy(target: str) -> Iterator[S3Proxy]:
    """Run a proxy in front of the server at `target`, such as "http://127.0.0.1:9000"."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Print nothing."""

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append((self.command, self.path))
            if code := proxy.refusal(self.command, self.path):
                error = f"<Error><Code>{code}</Code><Message>for a reason</Message></Error>".encode()
                self._send(_STATUSES[code], [], b"" if self.command == "HEAD" else error, len(error))
                return
            connection = http.client.HTTPConnection(target.removeprefix("http://"))
            try:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                kept = [
                    (name, value)
                    for name, value in answer.getheaders()
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}
                ]
                found = answer.read()
                self._send(answer.status, kept, found, int(answer.headers.get("Content-Length") or len(found)))
            finally:
                connection.close()

        def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names of the base class

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = S3Proxy(endpoint=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
