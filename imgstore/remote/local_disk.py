"""A disk in a file here, piece by piece: each is read once, hashed, and handed on if it is not zero.

So what a server keeps in the end can be compared with the file, whichever of its bytes arrived when.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import unquote

from imgstore.domain.disks.source_urls import split_uri
from imgstore.domain.disks.sources import DiskFormat, DiskReader, Extent
from imgstore.domain.errors import InvalidInput, SourceChanged
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber
from imgstore.domain.storage.digests import Digest, digest_of, disk_digest
from imgstore.domain.storage.sizes import PIECE_BYTES, SECTOR_BYTES, ceil_div
from imgstore.formats import LocalFile, open_disk
from imgstore.formats.files.sha256 import check_sha256
from imgstore.transfer.bounded_pool import BoundedPool

WORKERS: Final = 4
_AHEAD: Final = 8
_ZEROS: Final = bytes(PIECE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDisk:
    """A disk in a file here."""

    path: Path
    format: DiskFormat | None = None
    """What the file is; None looks at it."""
    sha256: str | None = None
    """Of the file, checked before anything is sent."""

    @contextmanager
    def open(self) -> Iterator[DiskReader]:
        """The disk, while the block runs.

        Raises:
            InvalidInput: no such file, another SHA-256, or a size that no VHD has.
            ImageRefused: it is damaged, or its format in doubt.
            SourceChanged: the file is another one at the end than it was.
        """
        with ExitStack() as stack:
            source = LocalFile(self.path)
            stack.callback(source.close)
            if self.sha256 is not None:
                check_sha256(source, self.sha256)
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="imgstore-")))
            reader = open_disk(source, format=self.format, scratch=scratch)
            stack.callback(reader.close)
            self._check_size(reader)
            before = reader.identity()
            yield reader
            if reader.identity() != before:
                raise SourceChanged(
                    f"{self.path} changed while it was read.",
                    found=reader.identity().stamp,
                    expected=before.stamp,
                    hint="leave the file alone until the command has ended, and run it again",
                    target=str(self.path),
                )

    def _check_size(self, reader: DiskReader) -> None:
        if reader.virtual_bytes % SECTOR_BYTES:
            raise InvalidInput(
                f"{self.path} cannot be sent to a server.",
                found=f"a disk of {reader.virtual_bytes:,} bytes",
                expected=f"a multiple of {SECTOR_BYTES} bytes: disks are uploaded as fixed VHDs",
                hint="pad the file with zeros (`truncate -s %512 FILE`), or publish it from a home",
                target=str(self.path),
            )


def local_path(uri: str) -> Path | None:
    """The file here that a URI names; None is a URL that the server reads itself.

    Raises:
        InvalidInput: it is neither.
    """
    parts = split_uri(uri)
    scheme = parts.scheme.lower() if "://" in uri or uri.lower().startswith("file:") else ""
    if scheme in ("https", "http"):
        return None
    if scheme in ("", "file"):
        return Path(unquote(parts.path)) if scheme else Path(uri)
    raise InvalidInput(
        f"A source of the scheme '{scheme}' is not read over a server.",
        found=uri,
        expected="a path here, file://, or an https:// URL that the server reads",
        hint="fetch the file first and give its path, or a signed https URL of it",
        target="osVhdUri",
    )


class Task:
    """Tells how far a task is. `advance` may be called from several threads."""

    def __init__(self, subscriber: Subscriber, name: str, total_bytes: int) -> None:
        self._subscriber, self._name, self._total, self._finish_and_show = subscriber, name, total_bytes, 0
        self._lock = threading.Lock()
        self._tell(Stage.STARTED)

    def advance(self, moved_bytes: int) -> None:
        """So many more."""
        with self._lock:
            self._finish_and_show += moved_bytes
        self._tell(Stage.MOVED)

    def end(self) -> None:
        """All is done."""
        self._finish_and_show = self._total
        self._tell(Stage.COMPLETED)

    def fail(self, detail: str) -> None:
        """It ended with an error."""
        self._tell(Stage.FAILED, detail)

    def _tell(self, stage: Stage, detail: str = "") -> None:
        self._subscriber(
            ProgressEvent(
                task=self._name, stage=stage, bytes_done=self._finish_and_show, bytes_total=self._total, detail=detail
            )
        )


@contextmanager
def report_progress(subscriber: Subscriber, name: str, total_bytes: int) -> Iterator[Task]:
    """A task for as long as the block runs."""
    task = Task(subscriber, name, total_bytes)
    try:
        yield task
    except Exception as error:
        task.fail(str(error))
        raise
    task.end()


def piece_indexes(extents: Iterator[Extent], virtual_bytes: int) -> list[int]:
    """The indexes of the pieces that extents touch, each once, in order."""
    found: list[int] = []
    for extent in extents:
        last = ceil_div(min(extent.end, virtual_bytes), PIECE_BYTES)
        found += range(max(extent.offset // PIECE_BYTES, found[-1] + 1 if found else 0), last)
    return found


def digest_pieces(
    subscriber: Subscriber, name: str, reader: DiskReader, use: Callable[[int, bytes], None] = lambda _at, _data: None
) -> Digest:
    """Read the disk once, several pieces at a time; the digest of it.

    Args:
        subscriber: is told how far it is.
        name: the task's.
        reader: the disk.
        use: what is done with the bytes of a piece that is not all zero, at their offset; called from several threads.
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
