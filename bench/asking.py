"""A client that is cheap enough not to be the limit: one connection, requests made beforehand, answers hardly read.

`bench.api` runs some of these, each a process: ``python -m bench.asking``. It is told `Errand` as JSON in the first line
of its input, connects, asks a few times, says ``ready``, and when it is told to go asks until its time is over. Then it
tells the seconds of every request, as a JSON list.
"""

import itertools
import json
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

HEAD_END = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length: "
RECEIVED_BYTES = 1 << 16
WARM_REQUESTS = 100
"""Before anything is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Whom to ask for what."""

    host: str
    port: int
    roots: str
    """A file of PEM."""
    token: str
    paths: list[str]
    """Asked for in turn."""
    seconds: float

    def told(self) -> str:
        """As a client reads it."""
        return json.dumps(asdict(self))


def main() -> None:
    """Do the errand that the input tells.

    Raises:
        RuntimeError: an answer was not 200, or ended early.
    """
    errand = Errand(**json.loads(sys.stdin.readline()))
    context = ssl.create_default_context(cafile=errand.roots)
    with (
        socket.create_connection((errand.host, errand.port)) as plain,
        context.wrap_socket(plain, server_hostname=errand.host) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = [_request(errand, path) for path in errand.paths]
        for request in requests[:WARM_REQUESTS]:
            _ask(connection, request)
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(list(_timed(connection, requests, errand.seconds))))


def _timed(connection: ssl.SSLSocket, requests: list[bytes], seconds: float) -> Iterator[float]:
    end = time.perf_counter() + seconds
    for request in itertools.cycle(requests):
        began = time.perf_counter()
        if began >= end:
            return
        _ask(connection, request)
        yield time.perf_counter() - began


def _request(errand: Errand, path: str) -> bytes:
    lines = f"GET {path} HTTP/1.1", f"Host: {errand.host}:{errand.port}", f"Authorization: Bearer {errand.token}"
    return "".join(f"{line}\r\n" for line in (*lines, "Accept: application/json", "")).encode()


def _ask(connection: ssl.SSLSocket, request: bytes) -> None:
    connection.sendall(request)
    answer = b""
    while (at := answer.find(HEAD_END)) < 0:
        answer += _received(connection)
    head = answer[:at].lower()
    if not head.startswith(b"http/1.1 200 "):
        raise RuntimeError(f"expected 200, found {answer[:500]!r}")
    length_bytes = int(head.partition(LENGTH)[2].partition(b"\r")[0])
    left_bytes = at + len(HEAD_END) + length_bytes - len(answer)
    while left_bytes > 0:
        left_bytes -= len(_received(connection))


def _received(connection: ssl.SSLSocket) -> bytes:
    received = connection.recv(RECEIVED_BYTES)
    if not received:
        raise RuntimeError("the server closed the connection")
    return received


if __name__ == "__main__":
    main()
