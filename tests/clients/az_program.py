"""az, unmodified, run in this process by its own door for that: a process each would mostly be spent on imports.

Imported by the programs beside it, which run in an environment of their own, so it imports nothing of ours.
"""

import functools
import importlib
import io
import os
import shlex
import subprocess
import sys
import time
from typing import Any

core: Any = importlib.import_module("azure.cli.core")
_sleep = time.sleep
# az waits at least a second between two polls. The length of the pauses is no part of the protocol.
time.sleep = lambda seconds: _sleep(min(float(seconds), 0.1))

URL = os.environ["IMGSTORE_URL"]


@functools.cache
def program() -> Any:
    """az, made when it is logged in: it reads its files once."""
    return core.get_default_cli()


def run(line: str) -> int:
    """The exit code of a command."""
    try:
        return int(program().invoke([*shlex.split(line), "--only-show-errors"], out_file=io.StringIO()))
    except SystemExit as end:
        return int(end.code or 0)


def az(line: str) -> Any:
    """The result of a command that succeeds."""
    code = run(line)
    assert code == 0, f"az {line}: {program().result.error}"
    return program().result.result


def fails(line: str) -> str:
    """The error of one that does not."""
    assert run(line), f"az {line} was not refused"
    return str(program().result.error)


def log_in() -> None:
    """As it is pasted into a shell, each in a process of its own."""
    secret = "--service-principal -u $IMGSTORE_CLIENT_ID -p $IMGSTORE_CLIENT_SECRET --tenant $IMGSTORE_TENANT_ID"
    for line in (
        f"cloud register -n imgstore --endpoint-resource-manager {URL}",
        "cloud set -n imgstore",
        f"login {secret}",
    ):
        command = [sys.executable, "-m", "azure.cli", *shlex.split(os.path.expandvars(line)), "--only-show-errors"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
