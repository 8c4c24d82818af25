"""Run the server until SIGTERM or Ctrl-C: a listening socket, uvicorn, and optionally a worker in a thread."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
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
from imgstore.api.server_certificate import CertificateFiles, CertificateWatch, check_validity, load_certificate
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import administrator
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.worker import run_worker

_GRACE_SECONDS: Final = 14
"""The time for running requests after the signal. Works stop at the next request to a store."""
_END_SECONDS_MAX: Final = 19
"""The maximum time from a signal to the end of the process. Threads that still run then are abandoned, as if the process
were killed, because a thread that waits for a store or a name server can't be stopped otherwise."""
_GOODBYE_SECONDS: Final = 1
"""The time for a client to close a connection on which all data was sent."""
_NEVER_SECONDS: Final = 86_400
"""A value that disables uvicorn's limit of idle connections. `connection_limits` has a limit instead."""
_CERTIFICATE_SECONDS: Final = 1
"""The time between two looks at the files of the certificate."""
_log: Final = logging.getLogger("imgstore.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """The address and the certificate of a server. Without a certificate the server uses plain http."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    @property
    def files(self) -> CertificateFiles | None:
        """The files of the certificate, or None for plain http."""
        return None if self.certificate is None or self.key is None else CertificateFiles(self.certificate, self.key)


class _Uvicorn(uvicorn.Server):
    """A uvicorn server with callbacks for start and shutdown, and with signal handlers of its own.

    uvicorn raises a received signal again after shutdown, which would kill the process before the cleanup.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        connections: ConnectionLimits,
        trusted: tuple[Network, ...],
        metrics: RequestMetrics,
        certificate: CertificateWatch | None,
        ready: Callable[[], None],
        ending: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._limits = connections
        self._trusted = trusted
        self._metrics = metrics
        self._ready = ready
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests. `Acceptor` accepts the connections instead of uvicorn."""
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
                metrics=self._metrics,
            )
            acceptor.start()
            self.servers.append(acceptor)  # type: ignore[arg-type] # uvicorn closes the entries of this list
        self._look_at_certificate()
        self._ready()

    def _look_at_certificate(self) -> None:
        """Give new connections the present certificate. Open connections keep the certificate of their handshake."""
        if self._certificate is not None:
            asyncio.get_running_loop().call_later(_CERTIFICATE_SECONDS, self._look_at_certificate)
            self._certificate.look()
            self.config.ssl = self._certificate.context

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, finish the running requests, and close the connections."""
        aborting = asyncio.create_task(self._abort_closing_connections())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            aborting.cancel()

    async def _abort_closing_connections(self) -> None:
        """Abort connections that the server has closed and the client has not.

        TLS would wait 30 seconds for the close message of each client. A client with a pool of idle connections sends no
        such message, so each restart would use up the time for running requests.
        """
        while True:
            await asyncio.sleep(_GOODBYE_SECONDS)
            for connection in list(self.server_state.connections):
                transport = connection.transport
                if transport.is_closing() and not transport.get_write_buffer_size():
                    transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown. A second signal ends the server without a wait for requests."""
        if not self.should_exit:
            _end_process_later()
        self._ending()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT while the server runs. Outside the main thread, install no handlers."""
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
    """Start a timer that ends the process after `_END_SECONDS_MAX`."""

    def end() -> None:
        _log.error("the server did not end within %s seconds and abandons the running threads", _END_SECONDS_MAX)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(_END_SECONDS_MAX, end)
    timer.daemon = True
    timer.start()


def listen(address: ListenAddress, now: datetime | None = None) -> socket.socket:
    """Open a listening socket.

    Raises:
        InvalidInput: the address can't be used, or the certificate can't be used now.
    """
    if address.files is not None:
        check_validity(load_certificate(address.files), now or datetime.now(UTC))
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidInput(
            f"The server can't listen on {address.host} port {address.port}.",
            found=str(error),
            expected="an address of this machine, and a port that no other process uses",
            hint="choose another --port",
            target="port",
        ) from error
    # Accepted sockets inherit the option. asyncio sets the option only on sockets with proto=IPPROTO_TCP. Without the
    # option, the body of an answer waits for the ACK of the head, which costs 40 ms a request.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def make_uvicorn_config(app: ASGIApp, address: ListenAddress) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application. The benchmarks use the same configuration."""
    return uvicorn.Config(
        app,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
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
    address: ListenAddress,
    listening: socket.socket,
    *,
    worker: bool,
    ready: Callable[[Callable[[], None]], None],
) -> None:
    """Run the server until a signal. Then accept no more connections, and stop works at the next request to a store.

    Args:
        app: the application.
        installation: the installation of the application and of the worker.
        address: the argument of `listen`.
        listening: the socket from `listen`.
        worker: whether to run a worker in this process.
        ready: called with a function that stops the server, as soon as the server accepts requests.
    """
    ended = threading.Event()

    def ending() -> None:
        ended.set()
        installation.keeper.interrupt()

    def stop() -> None:
        ending()
        server.should_exit = True

    server = _Uvicorn(
        make_uvicorn_config(app, address),
        app.state.connections,
        app.state.server.trusted_proxies,
        app.state.metrics,
        certificate=None if address.files is None else CertificateWatch(address.files, installation.effects.now),
        ready=lambda: ready(stop),
        ending=ending,
    )
    with _write_log(installation), _run_worker_thread(installation, ended) if worker else nullcontext():
        server.run(sockets=[listening])


@contextmanager
def _write_log(installation: Installation) -> Iterator[None]:
    """Write warnings and errors to standard error, with limits for repeated lines and for bytes (`log_limits`)."""
    handler = BoundedLogHandler(installation.effects.monotonic)
    handler.addFilter(RepeatedLines(installation.effects.monotonic))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _run_worker_thread(installation: Installation, ended: threading.Event) -> Iterator[None]:
    def work() -> None:
        try:
            run_worker(installation, administrator("server"), stop=ended)
        except Exception:
            _log.exception("the worker of the server failed")
            raise

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
