"""A process that starts a machine whose supervisor is killed at a chosen step.

Run as ``python -m tests.support.start_process ORDERS``. The orders are JSON: `home` and `fatal`. The supervisor counts each
commit, and each start of a process before and after. It ends by SIGKILL at the step `fatal`. The step 0 ends nothing.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from imgstore.cli.commands.machines import supervisor as supervisor_process
from imgstore.domain.errors import HostFault
from imgstore.operations.machines import running, supervisor
from tests.support.crash_process import StepCounter
from tests.support.sample_gallery import ADMIN, GROUP, open_home

_FATAL = "IMGSTORE_TEST_FATAL_STEP"


def count_steps(fatal: int) -> StepCounter:
    """Count each commit, and each start of a process before and after."""
    steps = StepCounter(fatal, signal.SIGKILL)
    steps.wrap_commits()
    steps.around(subprocess, "Popen")
    return steps


def start(orders: dict[str, Any]) -> None:
    """Start the machine vm1 of a home."""
    environ = os.environ | {_FATAL: str(orders["fatal"])}
    setattr(running, "_SUPERVISOR", "tests.support.start_process")  # noqa: B010 - mypy takes no other final value
    with suppress(HostFault), open_home(Path(orders["home"]), environ=environ) as installation:
        running.start_machine(installation, ADMIN, group=GROUP, name="vm1", request=running.StartRequest())


def supervise() -> None:
    """Supervise as `imgstore.cli.commands.machines.supervisor` does, and end at a step."""
    steps = count_steps(int(os.environ[_FATAL]))
    steps.around(supervisor, "start_qemu")
    if os.fork():
        os._exit(0)
    sys.exit(supervisor_process.main())


if __name__ == "__main__":
    if _FATAL in os.environ:
        supervise()
    else:
        start(json.loads(sys.argv[1]))
