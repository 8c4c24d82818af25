"""Connections that are opened and never finished, as many at once as are wanted, against a server over TLS.

A process of its own, so that its work is not the clients': ``python -m bench.half_open PORT CONNECTIONS``. Nine in ten begin
a TLS handshake and stop; the tenth ends it, and stops within the head of its request. What the server closes is opened
again. They come from several addresses of loopback, as strangers' do. It says ``ready`` when all are open, and goes on
until its input ends.
"""

import select
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.plain import HOST

CONNECTIONS_PER_ADDRESS: Final = 250
_HELLO: Final = b"\x16\x03\x01\x02\x00\x01"
"""The beginning of a ClientHello."""
_HALF_HEAD: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "
_WHOLE_HANDSHAKES: Final = 10
"""One connection in so many."""
_CONNECT_SECONDS_MAX: Final = 10


def main() -> None:
    """Hold the connections until the input ends."""
    port, connections = map(int, sys.argv[1:])
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    held = {number: _opened(port, number, context) for number in range(connections)}
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    numbers = {each.fileno(): number for number, each in held.items()}
    for file in numbers:
        poll.register(file, select.POLLIN | select.POLLHUP)
    print("ready", flush=True)
    while True:
        for file, _ in poll.poll():
            if file == sys.stdin.fileno():
                return
            number = numbers.pop(file)
            poll.unregister(file)
            held.pop(number).close()
            again = held[number] = _opened(port, number, context)
            numbers[again.fileno()] = number
            poll.register(again, select.POLLIN | select.POLLHUP)


def _opened(port: int, number: int, context: ssl.SSLContext) -> socket.socket:
    """One connection, as far as it goes. One that the server closes meanwhile is opened again."""
    source = (f"127.0.0.{2 + number // CONNECTIONS_PER_ADDRESS}", 0)
    while True:
        plain = socket.create_connection((HOST, port), timeout=_CONNECT_SECONDS_MAX, source_address=source)
        try:
            if number % _WHOLE_HANDSHAKES:
                plain.sendall(_HELLO)
                return plain
            whole = context.wrap_socket(plain)
            whole.settimeout(_CONNECT_SECONDS_MAX)
            whole.sendall(_HALF_HEAD)
        except OSError:
            plain.close()
        else:
            return whole


@contextmanager
def half_open(port: int, connections: int) -> Iterator[None]:
    """Hold so many half-open connections.

    Raises:
        RuntimeError: they could not be opened; why stands on the standard error.
    """
    command = [sys.executable, "-m", "bench.half_open", str(port), str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the half-open connections could not be opened")
            yield
        finally:
            process.stdin.close()


if __name__ == "__main__":
    main()
