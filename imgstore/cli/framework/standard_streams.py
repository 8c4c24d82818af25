"""Keep the standard streams from stopping a command.

Standard error carries reports: progress, warnings, log records and messages. A report that cannot be delivered is
dropped. So a full disk, a closed descriptor, a missing terminal or a pipe without a reader neither fails nor delays the
work. Standard output carries results. An error during the write of a result is an error of the command.
"""

import io
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

WAITING_BYTES_MAX: Final = 64 * 1024
"""The largest number of bytes that wait for a reader. Further reports are dropped."""
FLUSH_SECONDS_MAX: Final = 0.5
"""The time that `ReportStream.flush` waits for a reader. The next wait begins after the reader has read bytes."""
END_SECONDS_MAX: Final = 2.0
"""The time that the last reports of a process wait for a reader."""

_ENCODING: Final = "utf-8"


class ReportStream(io.TextIOBase):
    """A text stream whose methods neither raise an error of the system nor wait for a reader without a bound.

    A thread writes to the descriptor, because a write to a pipe, a terminal or a network file may block for ever.
    """

    def __init__(self, descriptor: int, encoding: str = _ENCODING) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._dropped = 0
        self._stalled = False
        self._ended = False
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The name of the encoding."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """The handling of characters that the encoding does not have."""
        return "backslashreplace"

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Queue a text for the descriptor, or drop the text if `WAITING_BYTES_MAX` wait. Return the length of the text."""
        data = text.encode(self._encoding, self.errors)
        with self._changed:
            if self._ended or not self._has_thread():
                _write(self._descriptor, data, lambda: _is_writable(self._descriptor, FLUSH_SECONDS_MAX))
            elif self._waiting_bytes and self._waiting_bytes + len(data) > WAITING_BYTES_MAX:
                self._dropped += 1
            elif data:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Wait until all is written, at most `FLUSH_SECONDS_MAX` once for each stall."""
        with self._changed:
            if not self._stalled:
                self._stalled = not self._is_drained(FLUSH_SECONDS_MAX)

    def end(self) -> None:
        """Wait at most `END_SECONDS_MAX` until all is written. Later texts are written by the calling thread."""
        with self._changed:
            self._is_drained(END_SECONDS_MAX)
            self._ended = True

    def _is_drained(self, seconds: float) -> bool:
        return self._changed.wait_for(lambda: not self._waiting_bytes, seconds)

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="reports", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data, self._waiting = b"".join(self._waiting), []
                dropped, self._dropped = self._dropped, 0
            notice = f"({dropped} messages are missing here, because the reader was too slow)\n" if dropped else ""
            _write(self._descriptor, data + notice.encode(), lambda: _is_writable(self._descriptor))
            with self._changed:
                self._waiting_bytes -= len(data)
                self._stalled = False
                self._changed.notify_all()


class UnwrittenResult(OSError):
    """A result that standard output does not take. The class is an OSError, for callers that do not know the class."""


class _ResultFile(io.FileIO):
    """Standard output. A write waits if a descriptor in non-blocking mode takes no more bytes."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write some of `data` and return the number of bytes.

        Raises:
            UnwrittenResult: the operating system refused.
            BrokenPipeError: the reader has ended, as `head` does. No message is due.
        """
        try:
            while (count := super().write(data)) is None:
                _is_writable(self.fileno())
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UnwrittenResult(error.errno, error.strerror) from error
        return count


def prepare_streams() -> ReportStream:
    """Make the standard streams of this process usable, also if the parent process has closed some.

    A closed standard descriptor is opened on /dev/null for reading. Otherwise the next file, which may be the catalog,
    would get the number of the descriptor and then the messages. Results and reports for a closed descriptor are
    dropped. An export to standard output is refused, because the descriptor takes no bytes.

    Returns:
        The new `sys.stderr`.
    """
    closed = {descriptor for descriptor in range(3) if _open_if_closed(descriptor)}
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding=_ENCODING)  # noqa: SIM115 - for the life of the process
    if 1 in closed:
        drop_output()
    else:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_ResultFile(1, "w", closefd=False)),
            encoding=getattr(sys.stdout, "encoding", None) or _ENCODING,
            errors="backslashreplace",
            line_buffering=os.isatty(1),
        )
    reports = ReportStream(2, getattr(sys.stderr, "encoding", None) or _ENCODING)
    sys.stderr = reports
    return reports


def _open_if_closed(descriptor: int) -> bool:
    """Open a closed descriptor on /dev/null for reading. The lower descriptors are open."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
        return True
    return False


def drop_output() -> None:
    """Drop all further output. Otherwise the write of buffered output would fail again at the end of the process."""
    sys.stdout = open(os.devnull, "w", encoding=_ENCODING)  # noqa: SIM115 - for the life of the process


def _write(descriptor: int, data: bytes, may_wait: Callable[[], bool]) -> None:
    """Write `data`. Stop at an error, or if the descriptor would block and `may_wait` returns False."""
    rest = memoryview(data)
    try:
        while rest and may_wait():
            try:
                rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
    except OSError:
        return


def _is_writable(descriptor: int, seconds: float | None = None) -> bool:
    """Wait until a write would not block, at most `seconds`. The write reports an error of the descriptor."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
