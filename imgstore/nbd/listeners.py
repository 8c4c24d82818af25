"""Listening sockets: a Unix socket for the user alone, or TCP."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISSOCK
from typing import Final
from urllib.parse import quote

from imgstore.domain.errors import InvalidInput, OutputError

_BACKLOG: Final = 32
_PATH_BYTES_MAX: Final = 107
_MODE: Final = 0o600


@contextmanager
def listen_unix(path: Path) -> Iterator[socket.socket]:
    """Listen at a Unix socket with mode 0600, and remove the socket at the end. A socket of a dead server is replaced.

    Raises:
        InvalidInput: the path is too long for a socket.
        OutputError: a server listens at the path, or the path is another file, or cannot be made.
    """
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise InvalidInput(
            "The path of the socket is too long.",
            found=f"{len(os.fsencode(path))} bytes",
            expected=f"at most {_PATH_BYTES_MAX} bytes",
            hint="choose a shorter path, such as a path below /run",
            target="socket",
        )
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            os.fchmod(listener.fileno(), _MODE)  # Linux makes the file with this mode, so no other user can be first.
            with _lock_folder(path.parent):
                _remove_stale(path)
                listener.bind(os.fspath(path))
                made = path.lstat().st_ino
            listener.listen(_BACKLOG)
        except OSError as error:
            raise OutputError(
                f"The socket {path} cannot be made.",
                found=error.strerror or str(error),
                expected="a folder that this user can write",
                hint="choose another path",
                target="socket",
            ) from error
        try:
            yield listener
        finally:
            with suppress(OSError):
                if path.lstat().st_ino == made:
                    path.unlink()


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder against other servers, so that two servers never replace the same stale socket."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Remove a socket at which no server listens.

    Raises:
        OutputError: the path is another file, or a server listens at the socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not S_ISSOCK(mode):
        raise OutputError(
            f"The path {path} exists.",
            found="a file that is no socket",
            expected="no file, or the socket of a dead server",
            hint="choose another path",
            target="socket",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # The backlog of a live server is full.
            pass
    raise OutputError(
        f"A server listens at the socket {path}.",
        found="a live server",
        expected="no server",
        hint="choose another path, or end the other server",
        target="socket",
    )


@contextmanager
def listen_tcp(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at a TCP address. Port 0 chooses a free port.

    Raises:
        OutputError: the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OutputError(
            f"The address {host}:{port} cannot be used.",
            found=error.strerror or str(error),
            expected="a free port of an address of this machine",
            hint="choose another address or port",
            target="listen",
        ) from error
    with listener:
        yield listener


def uri_of(listener: socket.socket) -> str:
    """Return the URI of a listener for NBD clients.

    Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
    """
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"nbd+unix:///?socket={quote(os.path.abspath(address))}"
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"nbds://{host}:{address[1]}/"
