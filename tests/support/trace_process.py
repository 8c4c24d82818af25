"""A process that publishes the trace of a boot, and kills itself at a chosen step (`crash_process.StepCounter`)."""

import json
import os
import signal
import sys

from imgstore.bootstrap import open_installation
from imgstore.operations.disks.boot_traces import publish_trace
from imgstore.operations.disks.lazy import open_lazy_image
from imgstore.stores.s3.store import S3Store
from tests.support import sample_gallery
from tests.support.crash_process import StepCounter, parse_settings
from tests.support.sample_gallery import ADMIN


def main() -> None:
    """Run the orders in the only argument, and print the number of steps."""
    orders = json.loads(sys.argv[1])
    steps = StepCounter(orders["fatal"], signal.SIGKILL)
    with (
        open_installation(parse_settings(orders)) as installation,
        open_lazy_image(installation, ADMIN, reference=sample_gallery.reference("1.0.0")) as opened,
    ):
        for name in ("fsync", "rename", "link", "unlink", "pwrite"):
            steps.around(os, name)
        for name in ("put", "delete", "get", "list"):
            steps.around(S3Store, name)
        steps.wrap_commits()
        size = opened.virtual_bytes
        reports = publish_trace(installation, ADMIN, opened=opened, virtual_bytes=size, blocks=orders["blocks"])
        assert all(report.problem is None for report in reports), reports
    print(steps.count)


if __name__ == "__main__":
    main()
