"""Limit the log: the lines of one template in a minute, the length of a line, and the bytes in a minute."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LINE_HEAD_CHARACTERS: Final = 2_000
LINE_TAIL_CHARACTERS: Final = 6_000
"""The end of a traceback names the error."""
WINDOW_BYTES_MAX: Final = 500_000
"""The bytes of all lines in a minute. Lines below ERROR use at most half, so that warnings do not displace errors."""
_FORMAT: Final = "%(levelname)s: %(message)s"
_WINDOW_SECONDS: Final = 60.0
_LINES_PER_WINDOW: Final = 10
_KEYS_MAX: Final = 1_000


@dataclass(slots=True)
class _Lines:
    began_at: float
    written: int = 0
    left_out: int = 0


class RepeatedLines(logging.Filter):
    """A filter that passes ten lines a minute with the same logger, level and template.

    The first line after the minute reports the number of dropped lines: "(repeated 512 times before)".
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._lines: OrderedDict[tuple[str, int, str], _Lines] = OrderedDict()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line. Add the number of lines that were dropped before this line."""
        key, now = (record.name, record.levelno, str(record.msg).partition("\n")[0][:100]), self._monotonic()
        with self._lock:
            lines = self._lines.get(key)
            left_out = 0
            if lines is None or now - lines.began_at >= _WINDOW_SECONDS:
                left_out = 0 if lines is None else lines.left_out
                lines = self._lines[key] = _Lines(began_at=now)
                self._lines.move_to_end(key)
                if len(self._lines) > _KEYS_MAX:
                    self._lines.popitem(last=False)
            if lines.written >= _LINES_PER_WINDOW:
                lines.left_out += 1
                return False
            lines.written += 1
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (repeated {left_out} times before)", ()
        return True


class BoundedLogHandler(logging.StreamHandler):  # type: ignore[type-arg] # generic in typeshed alone
    """A log handler that writes at most half a megabyte a minute, and cuts the middle out of long lines.

    `RepeatedLines` bounds the lines of one template. A line may quote input of a caller, and a library may put that input
    into the template. Bytes therefore have a bound as well. The first line of a later minute reports the number of
    dropped lines.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.setFormatter(logging.Formatter(_FORMAT))
        self._monotonic = monotonic
        self._began_at = monotonic()
        self._written_bytes = 0
        self._left_out = 0

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a line. Cut the middle out of a line that is too long."""
        text = super().format(record)
        cut = len(text) - LINE_HEAD_CHARACTERS - LINE_TAIL_CHARACTERS
        if cut <= 0:
            return text
        return f"{text[:LINE_HEAD_CHARACTERS]} ... ({cut} characters) ... {text[-LINE_TAIL_CHARACTERS:]}"

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if the bytes of the minute allow the line. logging calls this method with the handler's lock."""
        try:
            line_bytes = len(self.format(record).encode(errors="backslashreplace")) + 1
        except Exception:  # noqa: BLE001 - the values do not fit the template: logging reports that
            self.handleError(record)
            return
        now = self._monotonic()
        if now - self._began_at >= _WINDOW_SECONDS:
            self._report_left_out()
            self._began_at, self._written_bytes, self._left_out = now, 0, 0
        bytes_max = WINDOW_BYTES_MAX if record.levelno >= logging.ERROR else WINDOW_BYTES_MAX // 2
        if self._written_bytes + line_bytes > bytes_max:
            self._left_out += 1
            return
        self._written_bytes += line_bytes
        super().emit(record)

    def _report_left_out(self) -> None:
        if self._left_out:
            text = f"{self._left_out} lines were dropped: the log grows by at most {WINDOW_BYTES_MAX} bytes a minute"
            super().emit(logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": text}))
