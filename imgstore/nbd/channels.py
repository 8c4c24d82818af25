"""Connections of clients: plain sockets, and sockets with TLS."""

import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from imgstore.domain.errors import InvalidInput
from imgstore.nbd.protocol import ProtocolError

_RECEIVE_BYTES: Final = 256 << 10
_BUFFERS_MAX: Final = 512
"""Buffers in one call of sendmsg. Linux accepts 1,024 (IOV_MAX)."""
_TLS_RECORD_BYTES: Final = 1 << 20
_TIMEVAL: Final = struct.Struct("ll")
CERTIFICATES: Final = ("ca-cert.pem", "server-cert.pem", "server-key.pem")
"""The files of a folder with certificates, named as nbdkit and QEMU name the files."""


class Channel(Protocol):
    """A connection. One thread receives, and one thread at a time sends."""

    def receive(self) -> memoryview | bytes:
        """Wait for bytes. The result is empty at the end of the connection, and valid until the next call.

        Raises:
            OSError: the connection is broken, or a time limit has passed.
        """
        ...

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send all buffers.

        Raises:
            OSError: the connection is broken, or a time limit has passed.
        """
        ...


class PlainChannel:
    """A socket without TLS."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)

    def receive(self) -> memoryview:
        """See `Channel.receive`."""
        return self._view[: self._socket.recv_into(self._buffer)]

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """See `Channel.send`."""
        for first in range(0, len(buffers), _BUFFERS_MAX):
            part = buffers[first : first + _BUFFERS_MAX]
            sent = self._socket.sendmsg(part)
            for each in part:
                if sent < len(each):
                    self._socket.sendall(memoryview(each)[sent:])
                sent = max(0, sent - len(each))


class TlsChannel:
    """A socket with TLS.

    OpenSSL permits one thread at a time in a connection. A receiving thread waits for the socket without the lock, so
    another thread can send meanwhile.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()

    def handshake(self) -> None:
        """Run the handshake of TLS.

        Raises:
            ProtocolError: the client ends the connection.
            ssl.SSLError: the client has no accepted certificate.
            OSError: the connection is broken, or a time limit has passed.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise ProtocolError("the client left during the handshake of TLS") from None
                self._incoming.write(data)
            except ssl.SSLError:
                self._flush()  # The alert names the reason.
                raise
            else:
                self._flush()
                return

    def receive(self) -> bytes:
        """See `Channel.receive`."""
        while True:
            with self._lock:
                try:
                    return self._tls.read(_RECEIVE_BYTES)
                except ssl.SSLWantReadError:
                    self._flush()
                except ssl.SSLZeroReturnError:
                    return b""
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                return b""
            self._incoming.write(data)

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """See `Channel.send`."""
        joined = memoryview(b"".join(buffers))
        for first in range(0, len(joined), _TLS_RECORD_BYTES):
            with self._lock:
                self._tls.write(joined[first : first + _TLS_RECORD_BYTES])
                self._flush()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._socket.sendall(data)


def limit_send_seconds(connection: socket.socket, seconds: float) -> None:
    """Let a send fail that makes no progress for some time. A receive may wait without a limit."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), 0))


def load_certificates(folder: Path) -> ssl.SSLContext:
    """Load the certificates of a server that accepts only clients with certificates of the same authority.

    Args:
        folder: a folder with ca-cert.pem, server-cert.pem and server-key.pem.

    Raises:
        InvalidInput: a file is missing, or is no certificate or key.
    """
    authority, certificate, key = (folder / name for name in CERTIFICATES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The certificates in {folder} cannot be used.",
            found=str(error),
            expected=", ".join(CERTIFICATES),
            hint="make the files with certtool or openssl, as `man nbdkit-tls` shows",
            target="tls-certificates",
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context
