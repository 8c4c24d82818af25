"""Test the bounds of the log: bytes in a minute and characters of a line."""

import io
import logging

from imgstore.api.http.log_limits import WINDOW_BYTES_MAX, BoundedLogHandler


class Log:
    """A handler with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.handler = BoundedLogHandler(lambda: self.now)
        self.handler.setStream(self.stream)

    def write(self, template: str, *values: object, level: int = logging.WARNING) -> None:
        self.handler.handle(logging.LogRecord("any", level, __file__, 1, template, values, None))

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_bytes_of_different_lines_are_bounded() -> None:
    log = Log()
    for number in range(20_000):
        log.write(f"the template {number} is of a caller: {chr(0x1F600) * 100}")
    log.write("an error is still seen", level=logging.ERROR)
    assert log.lines[-1] == "ERROR: an error is still seen"
    for number in range(20_000):
        log.write(f"the error {number} is of a caller: {chr(0x1F600) * 100}", level=logging.ERROR)
    written = len(log.lines)
    assert len(log.stream.getvalue().encode()) <= WINDOW_BYTES_MAX
    log.now = 61.0
    log.write("another minute")
    left_out = 40_001 - written
    assert log.lines[written:] == [
        f"WARNING: {left_out} lines were dropped: the log grows by at most 500000 bytes a minute",
        "WARNING: another minute",
    ]
    log.now = 122.0
    log.write("a third one")
    assert log.lines[-2:] == ["WARNING: another minute", "WARNING: a third one"]


def test_middle_of_a_long_line_is_cut() -> None:
    log = Log()
    log.write("found: %s, and the end", "x" * 4_000_000)
    (line,) = log.lines
    assert line.startswith("WARNING: found: xxx")
    assert " ... (3992029 characters) ... x" in line
    assert line.endswith("xxx, and the end")
    assert len(line) < 8_100


def test_line_with_wrong_arguments_raises_no_error() -> None:
    log = Log()
    log.write("%d of %d", "one")
    log.write("the next one")
    assert log.lines[-1] == "WARNING: the next one"
