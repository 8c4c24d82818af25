"""Environments of Azure's own clients: each built once from a lock file, since they can't share one with each other."""

import fcntl
import hashlib
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

import imgstore

LOCKS: Final = Path(imgstore.__file__).parents[1] / "tests" / "clients"
"""The lock files, and the programs that run in what they make."""


class NotBuilt(Exception):
    """The environment is not there and could not be made."""


def environment(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The Python of the environment that ``tests/clients/<name>.txt`` locks, made now if it is not in the cache.

    Args:
        name: the lock file's.
        cache: where environments are kept, by what they are made from.
        say: told when one is made, which takes a minute.

    Raises:
        NotBuilt: no such lock file, or pip could not install what it names.
    """
    lock = LOCKS / f"{name}.txt"
    if not lock.exists():
        raise NotBuilt(f"no {lock.name} beside the tests")
    made_from = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"{name}-{made_from}"
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "env" / "bin" / "python"
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            say(f"installing the clients of {lock.name} once ...")
            _build(folder / "env", python, lock)
            (folder / "ready").touch()
    return python


def _build(folder: Path, python: Path, lock: Path) -> None:
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotBuilt(f"pip could not install {lock.name}: {done.stderr.strip()[-300:]}")
