"""Test the limit of repeated log lines: ten a minute, with a count."""

import logging

from imgstore.api.http.log_limits import RepeatedLines


def test_repeated_lines_are_dropped_and_counted() -> None:
    now = 0.0
    lines = RepeatedLines(lambda: now)
    written: list[str] = []

    def log(template: str, *values: object, level: int = logging.WARNING) -> None:
        record = logging.LogRecord("imgstore.api", level, __file__, 1, template, values, None)
        if lines.filter(record):
            written.append(record.getMessage())

    for number in range(500):
        log("a connection of %s was refused", number)
    log("another line")
    log("socket.accept() out of system resource\nsocket: <0x7f>")
    assert len(written) == 12
    now = 61.0
    log("a connection of %s was refused", "x")
    assert written[-1] == "a connection of x was refused (repeated 490 times before)"
    log("a connection of %s was refused", "y")
    assert written[-1] == "a connection of y was refused"
