"""A process that adopts buckets, and kills itself at a call of a function.

Started with ``python -m`` and the orders as JSON. A fresh process has no threads of other tests, which a fork copies
with their locks.
"""

import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from imgstore.domain.recovery import BucketAdoptionReport
from imgstore.operations.recovery.adopt_buckets import adopt_buckets
from imgstore.operations.recovery.recovery_file import read_recovery_file
from tests.support.catalog_dump import PASSPHRASE
from tests.support.crash_process import StepCounter
from tests.support.sample_gallery import ADMIN, open_home

_ROOT = Path(__file__).parents[2]


def run_adoption(home: Path, file: Path, regions: Sequence[str]) -> BucketAdoptionReport:
    """Adopt the buckets of regions with the keys of a recovery file. The file of the regions is beside the home."""
    keys = read_recovery_file(file, PASSPHRASE)[0]
    with open_home(home, regions=home.parent / "regions.yaml") as installation:
        return adopt_buckets(installation, ADMIN, regions=regions, keys=keys, dry_run=False)


def kill_adoption(home: Path, file: Path, regions: Sequence[str], function: str, fatal: int) -> None:
    """Run an adoption in a process that is killed before (odd) or after (even) a call of a function.

    Args:
        home: the home that adopts.
        file: the recovery file of the other home.
        regions: the adopted regions.
        function: the function, as ``module:name`` or ``module:class.name``.
        fatal: the step that kills the process.

    Raises:
        AssertionError: the process ended before the step.
    """
    orders = {"home": str(home), "file": str(file), "regions": list(regions), "function": function, "fatal": fatal}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.adoption_process", json.dumps(orders)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"{function}, step {fatal}: {done.stderr}"


def _main() -> None:
    orders = json.loads(sys.argv[1])
    module_name, _, path = orders["function"].partition(":")
    *holders, name = path.split(".")
    module = importlib.import_module(module_name)
    holder = getattr(module, holders[0]) if holders else module
    StepCounter(orders["fatal"], signal.SIGKILL).around(holder, name)
    run_adoption(Path(orders["home"]), Path(orders["file"]), orders["regions"])


if __name__ == "__main__":
    _main()
