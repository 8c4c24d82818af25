"""The engine without the start-up: imgstore.operations, called and timed in a process that has started already.

`installation` runs this as a process of its own: ``python -m bench.inside publish GALLERY VERSION FILE REGION ...``, or
``... export GALLERY VERSION FILE REGION``; a region may say how many replicas (``eastus=2``). Home and regions come from the environment, as they do for the command line.
Prints `Timing` as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.installation import DEFINITION, GROUP, Timing
from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.identity.access import administrator
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import VersionRequest, VersionSource
from imgstore.operations.disks import export as disks_export
from imgstore.operations.installation import Installation
from imgstore.operations.versions import create as versions_create
from imgstore.wire.requests.arguments import parse_target_regions


def main(verb: str, gallery: str, version: str, file: str, *regions: str) -> None:
    """Runs one operation and prints how long it took.

    Raises:
        ImgstoreError: it failed.
    """
    settings = Settings(home=Path(os.environ["IMGSTORE_HOME"]), regions=Path(os.environ["IMGSTORE_REGIONS"]))
    timing, act = Timing(), {"publish": publish, "export": export}[verb]
    began = 0.0

    def note(event: ProgressEvent) -> None:
        if event.stage is Stage.COMPLETED:
            timing.completed[event.task.partition("/")[0]] = time.perf_counter() - began

    with open_installation(settings, note) as installation:
        run = act(gallery, VersionName.parse(version), file, regions)
        began = time.perf_counter()
        run(installation)
        timing.seconds = time.perf_counter() - began
    print(json.dumps(asdict(timing)))


def publish(gallery: str, version: VersionName, file: str, regions: Sequence[str]) -> Callable[[Installation], object]:
    """The operation behind `sig image-version create`, the first region being the source."""
    request = VersionRequest(
        group=GROUP,
        gallery=gallery,
        definition=DEFINITION,
        version=version,
        source=VersionSource(os_vhd_uri=file),
        location=regions[0].partition("=")[0],
        target_regions=parse_target_regions(regions),
    )
    return lambda installation: versions_create.create_version(installation, administrator("bench"), request)


def export(gallery: str, version: VersionName, file: str, regions: Sequence[str]) -> Callable[[Installation], object]:
    """The operation behind `disk export --gallery-image-reference`."""
    reference = ImageReference(group=GROUP, gallery=gallery, definition=DEFINITION, version=version)
    return lambda installation: disks_export.export_image(
        installation,
        administrator("bench"),
        reference=reference,
        location=regions[0],
        path=Path(file),
        format=DiskFormat.RAW,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
