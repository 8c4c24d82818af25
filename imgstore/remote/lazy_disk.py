"""Read a managed disk of a server at offsets as a block device. A signed URL grants access.

The server compares each segment with its name. Received ranges are kept in an unnamed local file, so each range is fetched
once.
"""

import os
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice, takewhile
from typing import Final, NoReturn

from imgstore.domain.disks.outage import OUTAGE_SECONDS, Outage
from imgstore.domain.disks.sources import Extent
from imgstore.domain.effects import Effects
from imgstore.domain.errors import AccessDenied, OutputError, StoreError, Unauthenticated
from imgstore.domain.host.os_errors import describe
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.remote.arm_client import Server
from imgstore.remote.download import cut_extent, read_range, readable_url
from imgstore.remote.upload import GRANT_SECONDS, grant_access, page_list
from imgstore.wire.json_text import Json

_CHUNK_BYTES: Final = 256 << 10
"""The unit of the local file. A read of 4 KiB by a booting guest is followed by reads nearby."""
_CHUNKS_MAX: Final = 16
"""Chunks in one request: 4 MiB."""


class RemoteDisk:
    """A disk of a server as a read-only block device (`domain/disks/block_device.py`). Safe for several threads."""

    is_read_only: Final = True

    def __init__(self, server: Server, disk: Json, url: str, outage: Outage) -> None:
        """Open a disk.

        Args:
            server: the server.
            disk: the disk as JSON.
            url: a signed URL of the disk, granted just now.
            outage: waits for the server.
        """
        self._outage = outage
        self._server = server
        self._disk = disk
        self._url = url
        self._granted_at = server.connection.monotonic()
        self._renewing = threading.Lock()
        self.virtual_bytes: Final = int(disk["properties"]["diskSizeBytes"])
        within = (each for each in page_list(server, url) if each.offset < self.virtual_bytes)
        self._data = [cut_extent(each, self.virtual_bytes) for each in within]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the disk; see close
        self._present = bytearray(-(-self.virtual_bytes // _CHUNK_BYTES))
        self._claimed: set[int] = set()
        self._changed = threading.Condition()
        self._is_full = False
        self.fetched_bytes = 0

    @property
    def source(self) -> str:
        """The id of the disk."""
        return str(self._disk["id"])

    @property
    def replica(self) -> int:
        """The ordinal of the replica of the disk."""
        return int(self._disk["replica"])

    def check(self) -> None:
        """Renew the signed URL after half of its time.

        Raises:
            ImgstoreError: the server refuses access.
        """
        with self._renewing:
            now = self._server.connection.monotonic()
            if now - self._granted_at > GRANT_SECONDS / 2:
                self._url = grant_access(self._server, self.source, "Read")
                self._granted_at = now

    def read_at(self, offset: int, length: int) -> bytes:
        """Read bytes, and fetch missing ranges.

        Raises:
            StoreError: the server does not answer.
        """
        first, end = offset // _CHUNK_BYTES, -(-(offset + length) // _CHUNK_BYTES)
        if self._is_full:
            return self._fetch(offset, length)
        try:
            self._fill(first, end)
        except OSError as error:
            self._is_full = True  # Reads also work without the local file.
            text = f"received ranges are not kept: {describe(error)}"
            self._server.subscriber(ProgressEvent(task=self._disk["name"], stage=Stage.NOTE, detail=text))
            return self._fetch(offset, length)
        return os.pread(self._file.fileno(), length, offset)

    def read_cached(self, offset: int, length: int) -> bytes | None:
        """Read bytes of the local file, or return None."""
        first, end = offset // _CHUNK_BYTES, -(-(offset + length) // _CHUNK_BYTES)
        return os.pread(self._file.fileno(), length, offset) if all(self._present[first:end]) else None

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        """Iterate in order over the ranges with data that overlap [begin, end)."""
        later = islice(self._data, bisect_right(self._data, begin, key=lambda each: each.end), None)
        return takewhile(lambda each: each.offset < end, later)

    def prefetch(self, offset: int, length: int) -> None:
        """Fetch the missing ranges. A server that fails is no error."""
        try:
            self._fill(offset // _CHUNK_BYTES, -(-(offset + length) // _CHUNK_BYTES))
        except (StoreError, OSError):
            return

    def write_at(self, offset: int, data: bytes | memoryview) -> NoReturn:
        """Refuse the write."""
        self._refuse()

    def write_zeroes(self, offset: int, length: int) -> NoReturn:
        """Refuse the write."""
        self._refuse()

    def flush(self) -> None:
        """Do nothing: there are no writes."""

    def close(self) -> None:
        """Remove the local file."""
        self._file.close()

    def _refuse(self) -> NoReturn:
        raise OutputError(
            f"The disk {self.source} is read-only.",
            found="a write",
            expected="reads",
            hint="write to an overlay of the disk",
            target=self.source,
        )

    def _fill(self, first: int, end: int) -> None:
        """Fetch the missing chunks of a range. A chunk that another thread fetches is awaited.

        Raises:
            StoreError: the server does not answer.
            OSError: the local file cannot be written.
        """
        while True:
            with self._changed:
                missing = [chunk for chunk in range(first, end) if not self._present[chunk]]
                if not missing:
                    return
                free = [chunk for chunk in missing if chunk not in self._claimed]
                if not free:
                    self._changed.wait()
                    continue
                begin = free[0]
                count = next((i for i, chunk in enumerate(free) if chunk != begin + i), len(free))
                mine = range(begin, begin + min(count, _CHUNKS_MAX))
                self._claimed.update(mine)
            try:
                at = mine.start * _CHUNK_BYTES
                self._store(at, min(len(mine) * _CHUNK_BYTES, self.virtual_bytes - at))
                for chunk in mine:
                    self._present[chunk] = 1
            finally:
                with self._changed:
                    self._claimed.difference_update(mine)
                    self._changed.notify_all()

    def _store(self, offset: int, length: int) -> None:
        """Fetch a range into the local file. Ranges without data stay holes."""
        if any(True for _ in self.extents(offset, offset + length)):
            data = memoryview(self._fetch(offset, length))
            while data:
                written = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[written:], offset + written

    def _fetch(self, offset: int, length: int) -> bytes:
        data = self._outage.wait_out(lambda: self._fetch_once(offset, length), self.check)
        with self._changed:
            self.fetched_bytes += length
        return data

    def _fetch_once(self, offset: int, length: int) -> bytes:
        try:
            return read_range(self._server, self._url, offset, length)
        except (AccessDenied, Unauthenticated):  # This machine slept longer than the time of the URL.
            with self._renewing:
                self._url = grant_access(self._server, self.source, "Read")
            return read_range(self._server, self._url, offset, length)


@contextmanager
def open_remote_disk(server: Server, disk: Json, outage_seconds: float = OUTAGE_SECONDS) -> Iterator[RemoteDisk]:
    """Open a managed disk of a server. The disk cannot be deleted inside the block, because its signed URL is valid.

    Args:
        server: the server.
        disk: the disk as JSON.
        outage_seconds: the longest wait of reads for the server while it does not answer.

    Raises:
        StoreUnreachable: the server does not answer.
    """
    with (
        readable_url(server, disk) as url,
        closing(Outage(outage_seconds, Effects())) as outage,
        closing(RemoteDisk(server, disk, url, outage)) as opened,
    ):
        yield opened
