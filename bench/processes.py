"""Running a program and telling how long it took, how much of the processors, and how much memory it held."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Command = Sequence[str | Path]

SAID_CHARACTERS_MAX = 4000
"""So much of a failed program's output goes into the error."""

LAUNCHER = """
import json, os, sys, time
report, words = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(report, False)
began = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawnp(words[0], words, os.environ), 0)
seconds, code = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
with os.fdopen(report, "w") as file:
    json.dump([code, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024], file)
"""
"""Starts the program from a small process: the kernel counts the moment between fork and exec to a program's memory, and
from here that would be all that the bench itself holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended well."""

    seconds: float
    """From before its start to after its end, its own start-up included, as a user waits for it."""
    cpu_seconds: float
    """Of all its threads and of the children that it waited for, in user and in system mode (wait4(2))."""
    peak_bytes: int
    """Greatest resident memory of it or of any of its own children (getrusage(2), ru_maxrss); never less than the 10 MB
    of the process that starts it."""
    output: str
    """Its standard output."""


class ProgramFailed(RuntimeError):
    """A program under measurement ended with another code than 0: no figure can come of it."""

    def __init__(self, command: Sequence[str], code: int, said: str) -> None:
        super().__init__(f"{Path(command[0]).name} ended with {code}: {' '.join(command[1:])}\n{said}")
        self.code = code


def run_timed(
    command: Command, environment: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> Finished:
    """Runs a program to its end, with nothing else going on in this process.

    Args:
        command: the program and its arguments.
        environment: set on top of this process's own.
        folder: where it runs; None is here.

    Raises:
        ProgramFailed: it ended with another code than 0.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as report:
        launcher = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", LAUNCHER, str(report.fileno()), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            pass_fds=[report.fileno()],
            start_new_session=True,  # so that both can be ended together
        )
        try:
            launcher.wait()
        except BaseException:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            raise
        said = _read(errors)[-SAID_CHARACTERS_MAX:]
        if launcher.returncode:
            raise ProgramFailed(words, launcher.returncode, said)
        code, seconds, cpu_seconds, peak_bytes = json.loads(_read(report))
        if code:
            raise ProgramFailed(words, code, said)
        return Finished(seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=peak_bytes, output=_read(output))


def cpu_seconds_of(pid: int) -> float:
    """What a living process has had of the processors so far, its threads included (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes_of(pid: int) -> int:
    """The greatest resident memory that a living process has had so far (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
