"""Keep the last bytes of a serial console in two files, so that a guest cannot fill the disk of the host.

``console.log`` grows to half of the limit. Then the file becomes ``console.log.1``, and a new file begins. Readers join both.
"""

import os
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 1 << 20
"""The maximum size of both files together."""

_NAME: Final = "console.log"


class ConsoleLog:
    """The console log of a machine, opened for writing by one process."""

    def __init__(self, folder: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        """Open the log, and continue a present log.

        Raises:
            OSError: the files cannot be opened.
        """
        self._folder = folder
        self._half = bytes_max // 2
        self._open()

    def write(self, data: bytes) -> None:
        """Append bytes of the console.

        Raises:
            OSError: the file cannot be written.
        """
        for begin in range(0, len(data), self._half):
            piece = data[begin : begin + self._half]
            if self._bytes + len(piece) > self._half:
                os.close(self._fd)
                (self._folder / _NAME).replace(self._folder / f"{_NAME}.1")
                self._open()
            os.write(self._fd, piece)
            self._bytes += len(piece)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> None:
        self._fd = os.open(self._folder / _NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._bytes = os.fstat(self._fd).st_size


def read_console(folder: Path) -> bytes:
    """Return the last bytes of the console. Missing files are empty."""
    return b"".join(_read(folder / name) for name in (f"{_NAME}.1", _NAME))


def clear_console(folder: Path) -> None:
    """Remove the log of an earlier start."""
    for name in (f"{_NAME}.1", _NAME):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
