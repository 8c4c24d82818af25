"""The process that watches one machine: ``python -m imgstore.cli.commands.machines.supervisor MACHINE RUN``.

The environment names the installation. The process prints one line of JSON: an empty object when the machine runs, otherwise
the parts of the error.
"""

import json
import os
import resource
import sys
from pathlib import Path

from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.errors import ImgstoreError, error_parts
from imgstore.operations.machines.supervisor import supervise


def main() -> int:
    """Run the supervisor until the machine ends."""
    machine_uid, run_uid = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A core file of QEMU has the memory of the guest.
    environ = os.environ
    settings = Settings(
        home=Path(environ["IMGSTORE_HOME"]),
        regions=Path(environ["IMGSTORE_REGIONS"]) if environ.get("IMGSTORE_REGIONS") else None,
        database=environ.get("IMGSTORE_DATABASE") or None,
        subscription=environ.get("IMGSTORE_SUBSCRIPTION") or None,
        may_read_only=False,
    )
    try:
        with open_installation(settings) as installation:
            supervise(installation, machine_uid, run_uid, lambda: _print({}))
    except ImgstoreError as error:
        _print(error_parts(error))
        return 1
    return 0


def _print(document: dict[str, str | None]) -> None:
    """Print the answer, and close standard output. The process that waits may have been killed."""
    try:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        pass
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)


if __name__ == "__main__":
    if os.fork():  # The parent ends at once, so no process has to wait for the supervisor.
        os._exit(0)
    sys.exit(main())
