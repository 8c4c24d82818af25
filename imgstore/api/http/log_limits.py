"""A filter of log lines: of lines that repeat, a few a minute are written, and how many were left out."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_WINDOW_SECONDS: Final = 60.0
_LINES_PER_WINDOW: Final = 10
_KEYS_MAX: Final = 1_000


@dataclass(slots=True)
class _Lines:
    began_at: float
    written: int = 0
    left_out: int = 0


class RepeatedLines(logging.Filter):
    """Lets ten lines a minute through of those with the same logger, level and template.

    The next line after the minute says how many were left out: "(repeated 512 times)".
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._lines: OrderedDict[tuple[str, int, str], _Lines] = OrderedDict()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether a line is written, and add the count of those that were left out before it."""
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
