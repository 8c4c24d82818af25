"""Reads a stored disk like a file: the disk is assembled by segment in a local file on demand."""

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
from imgstore.formats.files.atomic_file import write_all
from imgstore.segments.manifest import Column, Manifest
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.slot_access import CheckCancelled


class StoredDisk:
    """A `DiskReader` over a manifest and its slots. Safe for several threads.

    Reading the first piece fetches only that piece, for readers of the partition table. Any other read fetches the
    whole disk, each segment once, every piece verified (invariant D6).
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
        on_complete: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare the disk of `manifest`, without fetching anything.

        Args:
            manifest: the disk.
            reader: the source of the segments.
            location: the resource id for messages and for the identity.
            digest: the digest of the manifest.
            scratch: a folder for the file, which is sparse.
            check_scratch: called with the file before the disk is fetched, and before each request.
            workers: threads that fetch.
            check_cancelled: called before each request.
            on_moved: called with the number of fetched bytes of the disk.
            on_complete: called after the whole disk was fetched, before a reader gets more than the first piece. A disk
                may have no content after the first piece. With the result False, the next read calls again.
        """
        self.digest = digest
        self.is_complete = False
        """Whether the whole disk was fetched, and `on_complete` returned True."""
        self._manifest = manifest
        self._reader = reader
        self._location = location
        self._workers = workers
        self._check_cancelled = check_cancelled
        self._on_moved = on_moved
        self._on_complete = on_complete
        self._has_first_piece = False
        self._has_all_pieces = False
        self._lock = threading.Lock()
        self._check_scratch = check_scratch
        # The file has a name, so that scratch accounting counts its bytes.
        self._file = tempfile.NamedTemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - lives as long as the reader

    @property
    def virtual_bytes(self) -> int:
        """Size of the disk."""
        return self._manifest.virtual_bytes

    @property
    def stored_bytes(self) -> int:
        """The stored bytes of all segments."""
        return self._manifest.stored_bytes

    @property
    def container_metadata(self) -> ContainerMetadata:
        """The metadata of the disk's first container."""
        return self._manifest.container_metadata

    def extents(self) -> Iterator[Extent]:
        """Return the ranges that hold data."""
        return iter(self._manifest.extents())

    def identity(self) -> SourceIdentity:
        """Return the identity for plans (invariant W4). The content never changes."""
        return SourceIdentity(
            location=self._location, file_bytes=self.virtual_bytes, stamp=self._manifest.disk_digest.hex()
        )

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes of the disk from `offset`.

        Raises:
            ObjectCorrupt: a piece does not match its digest.
            StoreError: no slot serves a segment.
        """
        self._fetch_until(offset + length)
        return self._read(offset, length)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _fetch_until(self, end: int) -> None:
        with self._lock:
            if self.is_complete:
                return
            pieces = self._manifest.pieces.index
            if end <= PIECE_BYTES and (pieces > 0).any():
                if not self._has_first_piece:
                    self._fetch(pieces[pieces == 0])
                    self._has_first_piece = True
                return
            if not self._has_all_pieces:
                self._fetch(pieces)
                self._has_all_pieces = True
            self.is_complete = self._on_complete()

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
    """The file as a target of `scatter`."""

    def __init__(self, descriptor: int, read_at: Callable[[int, int], bytes]) -> None:
        self._descriptor = descriptor
        self.read_at = read_at

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        """Write `data` at `offset`."""
        write_all(self._descriptor, data, offset)
