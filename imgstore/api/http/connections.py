"""Accept connections within limits, watch the connections, and close the connections with a client that is too slow.

uvicorn has no deadline for the head of a request, for the body or for a TLS handshake. asyncio's server logs each accept
without a free file descriptor, 2,048 times a tick. Therefore this module accepts the connections. A subclass of uvicorn's
protocol reports the phase of each connection.
"""

import asyncio
import errno
import logging
import resource
import socket
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from imgstore.api.http.client_addresses import Network, address_group, is_trusted
from imgstore.api.http.connection_limits import (
    ConnectionLimits,
    ConnectionState,
    ConnectionTable,
    Phase,
    find_close_reason,
)
from imgstore.api.http.limited_parser import LimitedParser
from imgstore.api.middleware import HEAD_BYTES_MAX, RequestMetrics

_LOOK_SECONDS: Final = 1.0
_ACCEPTED_AT_ONCE: Final = 64
"""The maximum number of accepts before the event loop continues with other callbacks."""
_PAUSE_SECONDS: Final = 0.1
"""The pause after a failed accept."""
BACKLOG: Final = 2_048
_FILES_MAX: Final = 65_536
_NO_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_log: Final = logging.getLogger("imgstore.api")


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit. Return the number of files that the process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return _FILES_MAX if soft == resource.RLIM_INFINITY else soft


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with reports of the phase to the table of connections."""

    conn: LimitedParser

    def __init__(self, connection: "Connection", config: uvicorn.Config, state: ServerState, app_state: Any) -> None:
        super().__init__(config=config, server_state=state, app_state=app_state, _loop=asyncio.get_running_loop())
        self.conn = LimitedParser(h11.SERVER, config.h11_max_incomplete_event_size or HEAD_BYTES_MAX)
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Enter the phase HEAD."""
        super().connection_made(transport)
        self._connection.protocol = self
        self._connection.enter(Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the table."""
        self._connection.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and update the phase."""
        self._connection.state.body_bytes += len(data)
        super().data_received(data)
        self._connection.enter(self.phase())

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that can't be parsed. Abort the connection if an answer has begun."""
        if self.cycle is not None:
            # The application may still process the request, and must not send a second answer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(self.conn.refusal or msg)
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Update the phase: the client sends the next head or the rest of the body."""
        super().on_response_complete()
        self._connection.enter(self.phase())

    def phase(self) -> Phase:
        """Return the phase of the connection."""
        if self.transport.is_closing():
            return Phase.CLOSING
        if self.cycle is not None and not self.cycle.response_complete:
            return Phase.BODY if self.cycle.more_body else Phase.ANSWER
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.REST
        return Phase.IDLE if self.cycle is not None and not self.conn.trailing_data[0] else Phase.HEAD

    def is_starved(self) -> bool:
        """Return whether the application has read all received bytes of the body, and more bytes are missing."""
        cycle = self.cycle
        return self.phase() is Phase.BODY and not cycle.body and not cycle.waiting_for_100_continue

    def time_out(self) -> None:
        """Close the connection after a missed deadline. Answer 408 if no answer has begun."""
        waits = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        if self.phase() in (Phase.HEAD, Phase.BODY) and waits:
            self.transport.write(_TIMED_OUT)
            self.transport.close()
            self._connection.enter(Phase.CLOSING)
        else:
            self.transport.abort()


class Connection:
    """An accepted connection."""

    def __init__(self, acceptor: "Acceptor", state: ConnectionState) -> None:
        self.state = state
        self.protocol: LimitedProtocol | None = None
        self.handshake: asyncio.Task[object] | None = None
        self._acceptor = acceptor

    def enter(self, phase: Phase) -> None:
        """Set the phase. Do nothing if the phase is the same."""
        self._acceptor.table.move(self.state, phase, self._acceptor.now())

    def end(self) -> None:
        """Remove the connection from the table."""
        self._acceptor.remove(self)

    def find_close_reason(self, limits: ConnectionLimits, now: float) -> str | None:
        """Return the reason to close the connection, or None."""
        protocol = self.protocol
        if protocol is not None:
            self.enter(protocol.phase())
            unsent = protocol.transport.get_write_buffer_size()
            self.state.observe(now, starved=protocol.is_starved(), unsent_bytes=unsent)
        return find_close_reason(self.state, limits, now)

    def close(self) -> None:
        """Close the connection. Answer 408 if the phase allows an answer."""
        if self.protocol is not None:
            self.protocol.time_out()
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, without an answer."""
        if self.protocol is not None:
            self.protocol.transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()


class Acceptor:
    """A listening socket with limits of the connections. uvicorn closes an acceptor like a server."""

    def __init__(
        self,
        listening: socket.socket,
        config: uvicorn.Config,
        state: ServerState,
        app_state: Any,
        *,
        limits: ConnectionLimits,
        trusted: tuple[Network, ...],
        metrics: RequestMetrics,
    ) -> None:
        """Prepare the acceptor. `start` begins to accept.

        Args:
            listening: the listening socket.
            config: the configuration of uvicorn, with the TLS context.
            state: the state of uvicorn's server.
            app_state: the state of the application's lifespan.
            limits: the limits of connections.
            trusted: the networks of trusted proxies. The limit for each address does not apply to these proxies.
            metrics: the metrics of the server.
        """
        self._listening, self._config, self._state, self._app_state = listening, config, state, app_state
        self._limits, self._trusted, self._closed = limits, trusted, metrics.count_closed_connection
        self._loop = asyncio.get_running_loop()
        self.table = ConnectionTable(limits, limits.within(raise_file_limit()))
        self._connections: dict[ConnectionState, Connection] = {}
        metrics.watch_connections(lambda: len(self.table))
        self._timer: asyncio.TimerHandle | None = None
        self._paused: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Return the time of the event loop in seconds."""
        return self._loop.time()

    def start(self) -> None:
        """Start to accept connections, and start the periodic check of open connections."""
        self._listening.settimeout(0)
        self._listening.listen(BACKLOG)
        self._resume()
        self._look()

    def close(self) -> None:
        """Stop accepting connections. Open connections stay open, and the periodic check continues."""
        self._loop.remove_reader(self._listening.fileno())
        if self._paused is not None:
            self._paused.cancel()

    async def wait_closed(self) -> None:
        """Stop the periodic check, and abort the remaining connections, which are in a TLS handshake."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections.values()):
            connection.abort()

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has ended from the table."""
        self.table.remove(connection.state)
        self._connections.pop(connection.state, None)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._take(accepted, str(peer[0]))

    def _pause(self, error: OSError) -> None:
        """Close a connection if resources are missing, and pause: the system would report the waiting connection at once."""
        _log.error("could not accept a connection: %s", error)
        if error.errno in _NO_RESOURCES and (next_to_close := self.table.next_to_close()) is not None:
            self._drop(next_to_close, "files")
        self._loop.remove_reader(self._listening.fileno())
        self._paused = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _take(self, accepted: socket.socket, address: str) -> None:
        group = None if is_trusted(address, self._trusted) else address_group(address)
        is_accepted, next_to_close = self.table.check_capacity(group)
        if next_to_close is not None:
            self._drop(next_to_close, "room")
        if not is_accepted:
            _log.warning("refused a connection of %s: too many connections are open", address)
            self._closed("refused")
            accepted.close()
            return
        accepted.settimeout(0)
        state = ConnectionState(group=group, phase=Phase.HANDSHAKE, since=self.now())
        connection = self._connections[state] = Connection(self, state)
        self.table.add(state)
        connecting = self._loop.connect_accepted_socket(
            lambda: LimitedProtocol(connection, self._config, self._state, self._app_state),
            accepted,
            ssl=self._config.ssl,
            ssl_handshake_timeout=self._limits.head_seconds if self._config.ssl else None,
        )

        def clean_up(task: "asyncio.Task[object]") -> None:
            # The handshake failed, was too slow, or was aborted in favour of another connection.
            if task.cancelled() or task.exception() is not None:
                accepted.close()
                connection.end()

        connection.handshake = self._loop.create_task(connecting)
        connection.handshake.add_done_callback(clean_up)

    def _drop(self, state: ConnectionState, reason: str) -> None:
        connection = self._connections[state]
        self._closed(reason)
        # Update the table before the transport has ended: the decision about the next connection comes earlier.
        self.remove(connection)
        connection.abort()

    def _look(self) -> None:
        """Close the overdue connections, once a second."""
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)
        now = self.now()
        for connection in list(self._connections.values()):
            reason = connection.find_close_reason(self._limits, now)
            if reason is not None:
                _log.info("closed a connection of %s: %s", connection.state.group or "a proxy", reason)
                self._closed(reason)
                connection.close()
