"""Environments of Azure's own clients, each built once from a lock file. The clients cannot share an environment."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

import imgstore

LOCKS: Final = Path(imgstore.__file__).parents[1] / "tests" / "clients"
"""The lock files, and the programs for the environments."""


class ClientBuildError(Exception):
    """The environment is missing and could not be built."""


def environment(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the Python of the environment of ``tests/clients/<name>.txt``, and build a missing environment.

    Args:
        name: the name of the lock file.
        cache: the folder of environments, by the digest of the lock files.
        say: called before a build, which takes a minute.

    Raises:
        ClientBuildError: the lock file is missing, or pip could not install the packages.
    """
    lock = LOCKS / f"{name}.txt"

    def build(folder: Path) -> None:
        venv.create(folder / "env", with_pip=True, clear=True)
        pip = [str(folder / "env" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        _run([*pip, "--requirement", str(lock)], folder)

    return _build_once(name, (lock,), sys.version, cache, say, build) / "env" / "bin" / "python"


def node_modules(cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder with the ``node_modules`` of ``tests/clients/node``. Raises `ClientBuildError`."""
    locks = tuple(LOCKS / "node" / name for name in ("package.json", "package-lock.json"))

    def build(folder: Path) -> None:
        for lock in locks:
            shutil.copy(lock, folder)
        _run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], folder)

    return _build_once("node", locks, "", cache, say, build)


def go_client(cache: Path, say: Callable[[str], None]) -> Path:
    """Return the program of ``tests/clients/go``. Raises `ClientBuildError`."""
    sources = tuple(LOCKS / "go" / name for name in ("main.go", "go.mod", "go.sum"))

    def build(folder: Path) -> None:
        _run(["go", "build", "-o", str(folder / "client"), "."], LOCKS / "go")

    return _build_once("go", sources, "", cache, say, build) / "client"


def _build_once(
    name: str,
    files: tuple[Path, ...],
    more: str,
    cache: Path,
    say: Callable[[str], None],
    build: Callable[[Path], None],
) -> Path:
    """Return the folder that `build` fills, once for equal files."""
    if missing := [file.name for file in files if not file.exists()]:
        raise ClientBuildError(f"no {missing[0]} in the folder of the tests")
    made_from = hashlib.sha256(b"".join(file.read_bytes() for file in files) + more.encode()).hexdigest()[:16]
    folder = cache / f"{name}-{made_from}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            say(f"installing the clients of {files[0].parent.name}/{files[0].name} once ...")
            build(folder)
            (folder / "ready").touch()
    return folder


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClientBuildError(f"no {command[0]} on PATH") from error
    if done.returncode:
        raise ClientBuildError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}")
