"""Serves: a socket, uvicorn over it, and a worker beside, until SIGTERM or Ctrl-C."""

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from imgstore.domain.access import administrator
from imgstore.domain.errors import InvalidInput
from imgstore.operations.installation import Installation
from imgstore.operations.workers import run_worker

_GRACE_SECONDS: Final = 20
"""What requests under way may still take at the end; works stop at their next request to a store."""
_log: Final = logging.getLogger("imgstore.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the server listens, and with which certificate; without one it speaks plain http."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


class _Uvicorn(uvicorn.Server):
    """Ends by itself on a signal: uvicorn's own would raise the signal again, and kill the process before its end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed SIGTERM and SIGINT while it serves."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(door: Door) -> socket.socket:
    """A socket that listens.

    Raises:
        InvalidInput: nobody can listen there, or the certificate can't be used.
    """
    if door.certificate is not None:
        _check_certificate(door.certificate, door.key)
    try:
        family = socket.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((door.host, door.port), family=family)
    except OSError as error:
        raise InvalidInput(
            f"The server can't listen on {door.host} port {door.port}.",
            found=str(error),
            expected="an address of this machine, and a port that nobody has",
            hint="choose another --port",
            target="port",
        ) from error


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


def serve(
    app: FastAPI,
    installation: Installation,
    door: Door,
    listening: socket.socket,
    *,
    worker: bool,
    ready: Callable[[Callable[[], None]], None] = lambda stop: None,
) -> None:
    """Serve until a signal comes.

    Args:
        app: what answers.
        installation: whose replicas the worker makes.
        door: what `listening` was made from.
        listening: the socket.
        worker: whether one runs in this process.
        ready: told how to stop, when the server takes requests.
    """
    config = uvicorn.Config(
        app,
        ssl_certfile=door.certificate,
        ssl_keyfile=door.key,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Uvicorn(config)

    def stop() -> None:
        server.should_exit = True

    async def served() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not (server.started or task.done()):
            await asyncio.sleep(0.01)
        if server.started:
            ready(stop)
        await task

    with _working(installation) if worker else _idle():
        asyncio.run(served())


@contextmanager
def _working(installation: Installation) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        try:
            run_worker(installation, administrator("server"), stop=stop)
        except Exception:
            _log.exception("the worker ended")

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _idle() -> Iterator[None]:
    yield
