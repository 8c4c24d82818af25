"""A disk that is stored here, read as if it were a file: put together by segment in a local file when it is wanted."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from imgstore.domain.disks.sources import ContainerMetadata, Extent, SourceIdentity
from imgstore.domain.settings.disk_space import CheckScratch, allow_all_scratch
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.segments.manifest import Column, Manifest
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.slot_access import CheckCancelled


class StoredDisk:
    """A `DiskReader` over a manifest and its slots. Safe to read from several threads at once.

    The first piece comes alone, for those who only look at a partition table; whatever lies behind it brings the whole
    disk, each segment once, every piece checked (rules.md, rule 15).
    """

    def __init__(
        self,
        manifest: Manifest,
        reader: SegmentReader,
        *,
        location: str,
        digest: Digest,
        scratch: Path,
        check_scratch: CheckScratch = allow_all_scratch,
        workers: int,
        check_cancelled: CheckCancelled,
        on_moved: Callable[[int], None] = lambda _bytes: None,
        on_complete: Callable[[], None] = lambda: None,
    ) -> None:
        """Read what `manifest` says.

        Args:
            manifest: the disk.
            reader: where its segments are.
            location: the resource id that it is known by.
            digest: the manifest's own.
            scratch: a folder for the file, which is sparse.
            check_scratch: called with the file before the disk is fetched, and before each request.
            workers: threads that fetch.
            check_cancelled: called before each request.
            on_moved: told the bytes of the disk that came.
            on_complete: called when all of it has come, before anybody gets more of it than the first piece.
        """
        self.digest = digest
        self.is_complete = False
        """Whether all of it was brought."""
        self._manifest = manifest
        self._reader = reader
        self._location = location
        self._workers = workers
        self._check_cancelled = check_cancelled
        self._on_moved = on_moved
        self._on_complete = on_complete
        self._has_first_piece = False
        self._lock = threading.Lock()
        self._check_scratch = check_scratch
        # With a name, so that its bytes are found when those of all works are counted.
        self._file = tempfile.NamedTemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - lives as long as the reader

    @property
    def virtual_bytes(self) -> int:
        """Size of the disk."""
        return self._manifest.virtual_bytes

    @property
    def container_metadata(self) -> ContainerMetadata:
        """What the file that it first came in held beside the disk."""
        return self._manifest.container_metadata

    def extents(self) -> Iterator[Extent]:
        """The ranges that hold data."""
        return iter(self._manifest.extents())

    def identity(self) -> SourceIdentity:
        """What it is known by (rules.md, rule 2): its content never changes."""
        return SourceIdentity(
            location=self._location, file_bytes=self.virtual_bytes, stamp=self._manifest.disk_digest.hex()
        )

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the disk from `offset`.

        Raises:
            ObjectCorrupt: a piece does not match its digest.
            StoreError: a segment can be had from no slot.
        """
        self._fetch_until(offset + length)
        return self._read(offset, length)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _fetch_until(self, end: int) -> None:
        with self._lock:
            if self.is_complete or (self._has_first_piece and end <= PIECE_BYTES):
                return
            pieces = self._manifest.pieces.index
            if end <= PIECE_BYTES:
                self._fetch(pieces[pieces == 0])
                self._has_first_piece = True
            else:
                self._fetch(pieces)
                self._on_complete()
                self.is_complete = True

    def _fetch(self, pieces: Column) -> None:
        if len(pieces):
            path = Path(self._file.name)
            self._check_scratch(path, min(len(pieces) * PIECE_BYTES, self._manifest.content_bytes))
            scatter(
                self._manifest,
                self._reader,
                _FileTarget(self._file.fileno(), self._read),
                workers=self._workers,
                check_cancelled=lambda: self._check_request(path),
                on_moved=self._on_moved,
                only=np.asarray(pieces),
            )

    def _check_request(self, path: Path) -> None:
        self._check_cancelled()
        self._check_scratch(path, 0)

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset).ljust(length, b"\0")


class _FileTarget:
    """The file as `scatter` wants it."""

    def __init__(self, descriptor: int, read_at: Callable[[int, int], bytes]) -> None:
        self._descriptor = descriptor
        self.read_at = read_at

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Put `data` at `offset`."""
        os.pwrite(self._descriptor, data, offset)
