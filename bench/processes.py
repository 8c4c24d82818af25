"""Running a program and telling how long it took and how much memory it held."""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Command = Sequence[str | Path]

SAID_CHARACTERS_MAX = 4000
"""So much of a failed program's output goes into the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended well."""

    seconds: float
    """From before its start to after its end, its own start-up included, as a user waits for it."""
    peak_bytes: int
    """Greatest resident memory of it or of any of its own children (getrusage(2), ru_maxrss).

    The kernel counts the moment between fork and exec too, so never less than this bench's own tens of MB."""
    output: str
    """Its standard output."""


class ProgramFailed(RuntimeError):
    """A program under measurement ended with another code than 0: no figure can come of it."""

    def __init__(self, command: Sequence[str], code: int, said: str) -> None:
        super().__init__(f"{Path(command[0]).name} ended with {code}: {' '.join(command[1:])}\n{said}")
        self.code = code


def run_timed(command: Command, environment: Mapping[str, str] | None = None) -> Finished:
    """Runs a program to its end, with nothing else going on in this process.

    Args:
        command: the program and its arguments.
        environment: set on top of this process's own.

    Raises:
        ProgramFailed: it ended with another code than 0.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ProgramFailed(words, process.returncode, _read(errors)[-SAID_CHARACTERS_MAX:])
        return Finished(seconds=seconds, peak_bytes=usage.ru_maxrss * 1024, output=_read(output))


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
