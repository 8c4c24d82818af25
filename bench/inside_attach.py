"""An attach without the start-up: ``python -m bench.inside_attach GALLERY VERSION SOCKET`` prints seconds as JSON.

The process has opened the store before, with another attach. The segment cache is emptied in between. Home, regions and
cache come from the environment.
"""

import json
import os
import sys
import time
from pathlib import Path

from bench.disks import BLOCK_BYTES
from bench.installation import DEFINITION, GROUP
from bench.nbd_client import NbdClient
from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.identity.access import administrator
from imgstore.domain.names import ImageReference, VersionName
from imgstore.nbd.listeners import listen_unix
from imgstore.nbd.server import NbdServer
from imgstore.operations.disks.lazy import open_lazy_image
from imgstore.operations.installation import Installation


def main(gallery: str, version: str, socket: str) -> None:
    """Attaches twice and prints the seconds of the second time, from the call to the first 4 KiB."""
    reference = ImageReference(group=GROUP, gallery=gallery, definition=DEFINITION, version=VersionName.parse(version))
    settings = Settings(home=Path(os.environ["IMGSTORE_HOME"]), regions=Path(os.environ["IMGSTORE_REGIONS"]))
    with open_installation(settings, lambda _event: None) as installation:
        attach(installation, reference, Path(socket))
        installation.host_cache.open().clear()
        seconds = attach(installation, reference, Path(socket))
    print(json.dumps(seconds))


def attach(installation: Installation, reference: ImageReference, socket: Path) -> float:
    """Serves an image, reads 4 KiB as a client, and gives the seconds until then."""
    began = time.perf_counter()
    with open_lazy_image(installation, administrator("bench"), reference=reference) as device:
        server = NbdServer(device, description="bench")
        with listen_unix(socket) as listener:
            server.start(listener)
            with NbdClient(socket) as client:
                client.read(0, BLOCK_BYTES)
                seconds = time.perf_counter() - began
            server.stop()
    return seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
