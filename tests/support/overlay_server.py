"""An NBD server of an overlay over a disk of zeros, for tests that kill it: ``overlay_server FOLDER SOCKET BYTES``.

The process prints a line when clients can connect, and serves until it is killed or its input ends.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from imgstore.domain.disks.sources import Extent
from imgstore.nbd.listeners import listen_unix
from imgstore.nbd.server import NbdServer
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.journal import OverlayBase
from imgstore.transfer.overlay.overlay import open_overlay


class ZeroDisk:
    """A read-only disk of zeros."""

    is_read_only = True

    def __init__(self, virtual_bytes: int) -> None:
        self.virtual_bytes = virtual_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def read_cached(self, offset: int, length: int) -> bytes:
        return self.read_at(offset, length)

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        return iter(())

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        raise AssertionError

    def write_zeroes(self, offset: int, length: int) -> None:
        raise AssertionError

    def flush(self) -> None:
        """Do nothing."""

    def prefetch(self, offset: int, length: int) -> None:
        """Do nothing."""


def serve(folder: Path, path: Path, virtual_bytes: int) -> None:
    base = OverlayBase(
        virtual_bytes=virtual_bytes, disk_digest=bytes(32), location="/zeros", disk_key="os", region="here"
    )
    with closing(open_overlay(folder, base)) as overlay, listen_unix(path) as listener:
        server = NbdServer(OverlayDevice(ZeroDisk(virtual_bytes), overlay), description="zeros")
        server.start(listener)
        print("ready", flush=True)
        sys.stdin.read()
        server.stop()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
