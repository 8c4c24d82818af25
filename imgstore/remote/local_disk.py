"""Read a disk from a local file, piece by piece. Each piece is read once, hashed, and passed on if not zero.

The digest allows a comparison of the file with the disk on a server, after any order of transfers.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from imgstore.domain.disks.source_urls import S3Location, parse_location
from imgstore.domain.disks.sources import DiskFormat, DiskReader, Extent
from imgstore.domain.errors import InvalidInput, SourceChanged
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber
from imgstore.domain.storage.digests import Digest, digest_of, disk_digest
from imgstore.domain.storage.sizes import PIECE_BYTES, SECTOR_BYTES, ceil_div
from imgstore.formats import LocalFile, check_disk, open_disk
from imgstore.formats.files.sha256 import check_sha256
from imgstore.transfer.bounded_pool import BoundedPool

WORKERS: Final = 4
_AHEAD: Final = 8
_ZEROS: Final = bytes(PIECE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDisk:
    """A disk in a local file."""

    path: Path
    format: DiskFormat | None = None
    """The format, or None to detect the format."""
    sha256: str | None = None
    """The expected SHA-256 of the file, checked before the upload."""

    def check(self) -> None:
        """Check the header and the size of the file, without a conversion.

        Raises:
            InvalidInput: The file does not exist, or has a size that is invalid for a VHD.
            ImageRefused: The file is damaged or no disk, or the format is ambiguous.
        """
        source = LocalFile(self.path)
        try:
            virtual_bytes = check_disk(source, self.format)
        finally:
            source.close()
        if virtual_bytes is not None:
            self._check_size(virtual_bytes)

    @contextmanager
    def open(self, subscriber: Subscriber) -> Iterator[DiskReader]:
        """Open the disk for the duration of the block.

        Args:
            subscriber: The receiver of the progress of the check of the SHA-256.

        Raises:
            InvalidInput: The file does not exist, has another SHA-256, or has a size that is invalid for a VHD.
            ImageRefused: The file is damaged, or the format is ambiguous.
            SourceChanged: The file changed while the block ran.
        """
        with ExitStack() as stack:
            source = LocalFile(self.path)
            stack.callback(source.close)
            if self.sha256 is not None:
                with report_progress(subscriber, f"check {self.path.name}", source.file_bytes) as task:
                    check_sha256(source, self.sha256, task.advance)
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="imgstore-")))
            reader = open_disk(source, format=self.format, scratch=scratch)
            stack.callback(reader.close)
            self._check_size(reader.virtual_bytes)
            before = reader.identity()
            yield reader
            if reader.identity() != before:
                raise SourceChanged(
                    f"{self.path} changed while it was read.",
                    found=reader.identity().stamp,
                    expected=before.stamp,
                    hint="do not change the file while the command runs, and run the command again",
                    target=str(self.path),
                )

    def _check_size(self, virtual_bytes: int) -> None:
        if virtual_bytes % SECTOR_BYTES:
            raise InvalidInput(
                f"{self.path} cannot be uploaded to a server.",
                found=f"a disk of {virtual_bytes:,} bytes",
                expected=f"a multiple of {SECTOR_BYTES} bytes, because uploads are fixed VHDs",
                hint="pad the file with zeros (`truncate -s %512 FILE`), or publish the file from a local home",
                target=str(self.path),
            )


def local_path(uri: str) -> Path | None:
    """Return the path of a local file, or None for a URL that the server reads.

    Raises:
        InvalidInput: The URI is neither.
    """
    location = parse_location(uri)
    if isinstance(location, S3Location):
        raise InvalidInput(
            "A server reads no source of the scheme 's3'.",
            found=uri,
            expected="a local path, file://, or an https:// URL that the server reads",
            hint="fetch the file and name the path, or name a signed https URL",
            target="osVhdUri",
        )
    return location if isinstance(location, Path) else None


class Task:
    """Progress of a task. Several threads may call `advance`."""

    def __init__(self, subscriber: Subscriber, name: str, total_bytes: int) -> None:
        self._subscriber, self._name, self._total_bytes, self._done_bytes = subscriber, name, total_bytes, 0
        self._lock = threading.Lock()
        self._report(Stage.STARTED)

    def advance(self, moved_bytes: int) -> None:
        """Report further bytes."""
        with self._lock:
            self._done_bytes += moved_bytes
        self._report(Stage.MOVED)

    def advance_to(self, percent: float) -> None:
        """Report the progress in percent of all bytes."""
        with self._lock:
            self._done_bytes = int(self._total_bytes * min(percent, 100) / 100)
        self._report(Stage.MOVED)

    def end(self) -> None:
        """Report the end of the task."""
        self._done_bytes = self._total_bytes
        self._report(Stage.COMPLETED)

    def fail(self) -> None:
        """Report that the task failed. The caller raises the error."""
        self._report(Stage.FAILED)

    def _report(self, stage: Stage) -> None:
        self._subscriber(
            ProgressEvent(task=self._name, stage=stage, bytes_done=self._done_bytes, bytes_total=self._total_bytes)
        )


@contextmanager
def report_progress(subscriber: Subscriber, name: str, total_bytes: int) -> Iterator[Task]:
    """Report the start and the end of a task around the block."""
    task = Task(subscriber, name, total_bytes)
    try:
        yield task
    except Exception:
        task.fail()
        raise
    task.end()


def piece_indexes(extents: Iterator[Extent], virtual_bytes: int) -> list[int]:
    """Return the indexes of the pieces that extents touch, in order, without duplicates."""
    found: list[int] = []
    for extent in extents:
        last = ceil_div(min(extent.end, virtual_bytes), PIECE_BYTES)
        found += range(max(extent.offset // PIECE_BYTES, found[-1] + 1 if found else 0), last)
    return found


def digest_pieces(
    subscriber: Subscriber, name: str, reader: DiskReader, use: Callable[[int, bytes], None] = lambda _at, _data: None
) -> Digest:
    """Read the disk once, several pieces in parallel, and return the disk digest.

    Args:
        subscriber: The receiver of progress.
        name: The name of the task.
        reader: The disk.
        use: Called with the offset and the bytes of each piece that is not zero. Several threads call the function.
    """
    indexes = piece_indexes(reader.extents(), reader.virtual_bytes)
    digests: dict[int, Digest] = {}

    def take(index: int) -> None:
        at = index * PIECE_BYTES
        length = min(PIECE_BYTES, reader.virtual_bytes - at)
        data = reader.read_at(at, length)
        if data != _ZEROS[:length]:
            digests[index] = digest_of(data)
            use(at, data)
        task.advance(length)

    with (
        report_progress(subscriber, name, len(indexes) * PIECE_BYTES) as task,
        BoundedPool(WORKERS, _AHEAD, "piece") as threads,
    ):
        for index in indexes:
            threads.submit(take, index)
    return disk_digest(reader.virtual_bytes, sorted(digests.items()))
