"""A server with arbitrary responses, for tests of hostile servers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class HostileServer:
    """A server that sends the same bytes to every request, and closes the connection."""

    def __init__(self) -> None:
        self.answer = b""
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                asked = b""
                # A TLS handshake asks whether this server speaks TLS. It has no blank line.
                while b"\r\n\r\n" not in asked and asked[:1] != b"\x16" and (more := connection.recv(65_536)):
                    asked += more
                if asked.startswith(b"END"):
                    return
                try:
                    connection.sendall(self.answer)
                except OSError:
                    continue

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"END\r\n\r\n")
        self._thread.join()
        self._listening.close()


@contextmanager
def start_hostile() -> Iterator[HostileServer]:
    """Run a server until the block ends."""
    server = HostileServer()
    try:
        yield server
    finally:
        server.close()
