"""Serves: a socket, uvicorn over it, and a worker beside, until SIGTERM or Ctrl-C."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from imgstore.api.http.client_addresses import Network
from imgstore.api.http.connection_limits import ConnectionLimits
from imgstore.api.http.connections import BACKLOG, Acceptor
from imgstore.api.http.log_limits import BoundedLogHandler, RepeatedLines
from imgstore.api.middleware import HEAD_BYTES_MAX, RequestMetrics
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import administrator
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.worker import run_worker

_GRACE_SECONDS: Final = 14
"""What requests under way may still take at the end; works stop at their next request to a store."""
_END_SECONDS_MAX: Final = 19
"""The time from a signal to the end of the process. What still runs then is abandoned, as if the process were killed: a
thread that waits for a store or a name server can't be ended in another way."""
_GOODBYE_SECONDS: Final = 1
"""What a client has to close its side of a connection on which nothing is left to be sent."""
_NEVER_SECONDS: Final = 86_400
"""uvicorn's own limit of idle connections is not used: `connection_limits` has one."""
_log: Final = logging.getLogger("imgstore.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """Where the server listens, and with which certificate; without one it speaks plain http."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


class _Uvicorn(uvicorn.Server):
    """Tells when it is ready and when it is to end, and ends by itself on a signal.

    uvicorn's own raises the signal again at the end, which would kill the process before it has tidied up.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        connections: ConnectionLimits,
        trusted: tuple[Network, ...],
        counts: RequestMetrics,
        ready: Callable[[], None],
        ending: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._limits = connections
        self._trusted = trusted
        self._counts = counts
        self._ready = ready
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests. Connections are accepted by `Acceptor`, not by uvicorn."""
        await super().startup(sockets=[])
        if not self.started:
            return
        for each in sockets or ():
            acceptor = Acceptor(
                each,
                self.config,
                self.server_state,
                self.lifespan.state,
                limits=self._limits,
                trusted=self._trusted,
                counts=self._counts,
            )
            acceptor.start()
            self.servers.append(acceptor)  # type: ignore[arg-type] # uvicorn closes what it finds there
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in any more, answer who asked, and hang up."""
        hanging_up = asyncio.create_task(self._hang_up())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            hanging_up.cancel()

    async def _hang_up(self) -> None:
        """Ends closed connections whose clients do not say goodbye: TLS would wait half a minute for each of them.

        A client that keeps a pool of connections and is not about to ask says nothing: each restart would take all the
        grace that is meant for requests.
        """
        while True:
            await asyncio.sleep(_GOODBYE_SECONDS)
            for connection in list(self.server_state.connections):
                transport = connection.transport
                if transport.is_closing() and not transport.get_write_buffer_size():
                    transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came; a second one does not wait for anybody."""
        if not self.should_exit:
            _end_process_later()
        self._ending()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed SIGTERM and SIGINT while it serves."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_process_later() -> None:
    """End the process after `_END_SECONDS_MAX`, unless it has ended by then."""

    def end() -> None:
        _log.error("the server did not end in %s seconds; what still runs is abandoned", _END_SECONDS_MAX)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(_END_SECONDS_MAX, end)
    timer.daemon = True
    timer.start()


def listen(door: ListenAddress) -> socket.socket:
    """A socket that listens.

    Raises:
        InvalidInput: nobody can listen there, or the certificate can't be used.
    """
    if door.certificate is not None:
        _check_certificate(door.certificate, door.key)
    try:
        family = socket.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((door.host, door.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidInput(
            f"The server can't listen on {door.host} port {door.port}.",
            found=str(error),
            expected="an address of this machine, and a port that nobody has",
            hint="choose another --port",
            target="port",
        ) from error
    # Inherited by what is accepted. asyncio sets it only on sockets that were made with proto=IPPROTO_TCP, and without it
    # the body of an answer waits for the ACK of its head: 40 ms a request.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _check_certificate(certificate: Path, key: Path | None) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:
        raise InvalidInput(
            "The certificate can't be used.",
            found=str(error),
            expected=f"a certificate in {certificate} and its key in {key}, as PEM",
            hint="give --tls-cert and --tls-key, or --dev-tls",
            target="tls-cert",
        ) from error


def make_uvicorn_config(app: ASGIApp, door: ListenAddress) -> uvicorn.Config:
    """How uvicorn serves an application there; the benches serve one that does nothing in the same way."""
    return uvicorn.Config(
        app,
        ssl_certfile=door.certificate,
        ssl_keyfile=door.key,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        log_config=None,
        timeout_keep_alive=_NEVER_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def serve(
    app: FastAPI,
    installation: Installation,
    door: ListenAddress,
    listening: socket.socket,
    *,
    worker: bool,
    ready: Callable[[Callable[[], None]], None],
) -> None:
    """Serve until a signal comes. Then nobody is let in any more, and what runs stops at its next request to a store.

    Args:
        app: what answers.
        installation: whose replicas the worker makes.
        door: what `listening` was made from.
        listening: the socket.
        worker: whether one runs in this process.
        ready: told how to stop, when the server takes requests.
    """
    ended = threading.Event()

    def ending() -> None:
        ended.set()
        installation.keeper.interrupt()

    def stop() -> None:
        ending()
        server.should_exit = True

    server = _Uvicorn(
        make_uvicorn_config(app, door),
        app.state.connections,
        app.state.server.trusted_proxies,
        app.state.counts,
        ready=lambda: ready(stop),
        ending=ending,
    )
    with _logging(installation), _working(installation, ended) if worker else nullcontext():
        server.run(sockets=[listening])


@contextmanager
def _logging(installation: Installation) -> Iterator[None]:
    """Write warnings and errors to standard error, repeated ones a few times a minute."""
    handler = BoundedLogHandler(installation.effects.monotonic)
    handler.addFilter(RepeatedLines(installation.effects.monotonic))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _working(installation: Installation, ended: threading.Event) -> Iterator[None]:
    def work() -> None:
        try:
            run_worker(installation, administrator("server"), stop=ended)
        except Exception:
            _log.exception("the worker ended")
            raise

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
