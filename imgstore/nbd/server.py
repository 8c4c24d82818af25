"""An NBD server for one block device.

Each connection has a thread that receives requests. Reads of cached bytes are answered by this thread, and all other
requests by a pool of threads that all connections share.

A client is not trusted: the handshake has a time limit, and the bytes of unanswered requests, the connections and the
time of a send without progress have limits. A slow client holds at most one thread of the pool.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from imgstore.domain.disks.block_device import BlockDevice
from imgstore.nbd.channels import Channel, PlainChannel, TlsChannel, limit_send_seconds
from imgstore.nbd.handshake import Export, Handshake, Phase
from imgstore.nbd.protocol import ProtocolError
from imgstore.nbd.session import ServerLimits, Session

_SEND_BUFFER_BYTES: Final = 1 << 20


class NbdServer:
    """A server of one device, for any number of listeners."""

    def __init__(
        self,
        device: BlockDevice,
        *,
        description: str,
        note: Callable[[str], None] = lambda _text: None,
        limits: ServerLimits = ServerLimits(),  # noqa: B008 - frozen
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a server.

        Args:
            device: the device.
            description: a text about the device for people.
            note: called with facts for the operator, from any thread.
            limits: the limits of clients.
            monotonic: seconds of a clock that never steps back.
        """
        self.device = device
        self.limits = limits
        self.note = note
        self.monotonic = monotonic
        self.export = Export(
            virtual_bytes=device.virtual_bytes, is_read_only=device.is_read_only, description=description
        )
        self.pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="nbd-worker")
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._listeners: list[tuple[socket.socket, threading.Thread]] = []
        self._served = 0
        self._changed = threading.Condition()
        self._is_stopping = False

    def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections of a listener in a thread. With `tls`, each client must use TLS."""
        thread = threading.Thread(target=self._accept, args=(listener, tls), name="nbd-accept", daemon=True)
        self._listeners.append((listener, thread))
        thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until a connection begins or ends, at most for some seconds."""
        with self._changed:
            self._changed.wait(seconds)

    @property
    def is_left(self) -> bool:
        """Whether at least one client has used the disk, and no connection is open."""
        with self._changed:
            return self._served > 0 and not self._connections

    def stop(self, seconds: float = 10.0) -> None:
        """End all connections after the replies to received requests, and flush the device.

        Args:
            seconds: the time for replies. Later connections are cut.

        Raises:
            ImgstoreError: the flush failed.
        """
        with self._changed:
            self._is_stopping = True
            connections = dict(self._connections)
        for listener, thread in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = self.monotonic() + seconds
        for thread in connections.values():
            thread.join(max(0.0, deadline - self.monotonic()))
        for connection, thread in connections.items():
            if thread.is_alive():
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.device.flush()

    def count_client(self) -> None:
        """Count a client that has finished the handshake."""
        with self._changed:
            self._served += 1
            self._changed.notify_all()

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._is_stopping:
                    return
                self.note(f"a connection cannot be accepted: {error.strerror}")
                self.wait(1.0)  # Too many open files, for example.
                continue
            with self._changed:
                is_refused = self._is_stopping or len(self._connections) >= self.limits.connections
                if not is_refused:
                    thread = threading.Thread(
                        target=self._run_connection, args=(connection, tls), name="nbd-connection", daemon=True
                    )
                    self._connections[connection] = thread
            if is_refused:
                self.note(f"a connection is refused: {self.limits.connections} connections are open")
                connection.close()
            else:
                thread.start()

    def _run_connection(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        try:
            negotiated = _negotiate(self, connection, tls)
            if negotiated is not None:
                self.count_client()
                channel, handshake = negotiated
                session = Session(
                    self.device, self.pool, connection, channel, handshake, limits=self.limits, note=self.note
                )
                session.run()
        except (ProtocolError, ssl.SSLError) as error:
            self.note(f"a client breaks the protocol: {error}")
        except OSError:
            pass  # The client left.
        finally:
            with self._changed:
                del self._connections[connection]
                self._changed.notify_all()
            connection.close()


def _negotiate(
    server: NbdServer, connection: socket.socket, tls: ssl.SSLContext | None
) -> tuple[Channel, Handshake] | None:
    """Run the handshake, and return the channel of the transmission, or None if the client leaves.

    Raises:
        ProtocolError: the client breaks the protocol.
        OSError: the client is too slow, or the connection is broken.
    """
    deadline = server.monotonic() + server.limits.handshake_seconds
    handshake = Handshake(server.export, needs_tls=tls is not None)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    channel: Channel = PlainChannel(connection)
    connection.settimeout(server.limits.handshake_seconds)
    channel.send([handshake.greeting])
    while True:
        left = deadline - server.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        data = channel.receive()
        if not data:
            return None
        answer = handshake.receive(data)
        if answer:
            channel.send([answer])
        match handshake.phase:
            case Phase.CLOSED:
                return None
            case Phase.TRANSMISSION:
                break
            case Phase.UPGRADE:
                assert tls is not None, "only a handshake with TLS is upgraded"
                handshake.start_secure()
                secure = TlsChannel(connection, tls)
                secure.handshake()
                channel = secure
            case Phase.OPTIONS:
                continue
    connection.settimeout(None)
    limit_send_seconds(connection, server.limits.send_seconds)
    return channel, handshake
