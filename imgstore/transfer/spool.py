"""An upload spool: a sparse file, and a journal of the ranges that the file has received.

A range counts as received only after its record, which carries the XXH3 of the range, is in the journal. A killed
process leaves ranges without a record. A machine that lost unwritten pages leaves records without bytes. After a crash,
every range is therefore read and hashed, and a range that does not match was never received. So no write is flushed
during the upload. A journal that ends with a seal was closed in order and is trusted.

`transfer/spool_journal.py` has the bytes of the journal. A journal is rewritten if it has more than 65,536 records and
less than half of them describe received ranges. Pages that are sent repeatedly therefore do not grow it without bound.
"""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import xxhash

from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import StoreError, StoreFull, WorkHeld
from imgstore.domain.host import file_systems
from imgstore.domain.host.os_errors import advise, describe, is_full
from imgstore.domain.host.private_files import make_private_folder
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.storage.sizes import MIB
from imgstore.formats.files.atomic_file import write_all
from imgstore.formats.files.holes import clear_range
from imgstore.transfer.received_ranges import ReceivedRange, ReceivedRanges
from imgstore.transfer.spool_journal import (
    DATA_FILE,
    JOURNAL_FILE,
    RecordKind,
    pack_header,
    pack_record,
    parse_journal,
    read_file_bytes,
    record_fields,
)

_ZEROS: Final = bytes(MIB)
_GLANCE_BYTES: Final = 4096
_RECORDS_KEPT: Final = 65_536
"""A journal of at most this many records, 2 MiB, is never rewritten."""
_REMOVALS_MAX: Final = 100
"""The number of removals of a folder during its opening after which the error has another cause."""
Bytes = bytes | bytearray


class Spool:
    """An upload, and a `ByteSource` of the received bytes.

    A single process has the spool open at a time. Safe for several threads and requests of that process. If two writers
    write the same range at once, either may win, but the range counts as received only with the bytes of a single
    writer.
    """

    def __init__(
        self,
        folder: Path,
        file_bytes: int,
        *,
        keep_waiting: Callable[[], bool] = lambda: False,
        space: DiskSpace | None = None,
    ) -> None:
        """Open or create the spool. After a crash, each range is compared with its hash.

        Args:
            folder: the folder of the files.
            file_bytes: the length of the whole upload.
            keep_waiting: called repeatedly while another process has the spool open; False gives up.
            space: the disk space whose reserve received bytes must leave free; None has no reserve.

        Raises:
            WorkHeld: another process has the spool open.
            StoreError: the files can't be created or read.
        """
        self.path: Final = folder / DATA_FILE
        self.file_bytes: Final = file_bytes
        self._space = space
        self._ranges = ReceivedRanges()
        self._lock = threading.Lock()
        self._records = 0
        self._in_journal = 0
        self._open = True
        self._writers = 0
        self._sealed = False
        with ExitStack() as opened:  # An open lock file would keep the upload locked.
            try:
                self._lock_fd = _make_locked(folder, keep_waiting)
                opened.callback(os.close, self._lock_fd)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
                opened.callback(os.close, self._file)
                if os.fstat(self._file).st_size != file_bytes:
                    os.ftruncate(self._file, file_bytes)
                self._journal = os.open(folder / JOURNAL_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                opened.callback(os.close, self._journal)
                if not self._read_journal():
                    self._withdraw_lost()
            except OSError as error:
                raise spool_error(error, folder) from error
            opened.pop_all()

    @property
    def revision(self) -> int:
        """A number that grows with every write."""
        return self._records

    @property
    def received_bytes(self) -> int:
        """The number of bytes that were received from the beginning without a gap."""
        end = 0
        with self._lock:
            for each in self._ranges:
                if each.begin > end:
                    break
                end = each.end
        return end

    @property
    def has_any(self) -> bool:
        """Whether any byte was received."""
        with self._lock:
            return any(True for _ in self._ranges)

    def extents(self, begin: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Return the ranges that hold data and overlap [begin, end), in order."""
        with self._lock:
            found = self._ranges.overlapping(begin, self.file_bytes if end is None else end)
        return (Extent(offset=each.begin, length=each.end - each.begin) for each in found if each.digest is not None)

    def write(self, offset: int, parts: Sequence[Bytes]) -> None:
        """Write bytes to the file, then a range to the journal. Zeros stay holes. Waits for the medium.

        Args:
            offset: the offset of the first part.
            parts: consecutive parts, which are not joined, since joining would copy the bytes.

        Raises:
            OSError: the write failed, or the upload was closed.
            StoreFull: the write would use the reserve of free space.
        """
        length = sum(map(len, parts))
        if not length:
            return
        with self._hold_open():
            if all(map(is_zero, parts)):
                self.write_zeros(offset, length)
                return
            if self._space is not None:
                self._space.check_free_space(self.path, length)
            self.begin_write(offset, length)
            at = offset
            for part in parts:
                write_all(self._file, part, at)
                at += len(part)
            self.record_write(offset, *parts)

    def begin_write(self, offset: int, length: int) -> None:
        """Withdraw a range before its bytes are overwritten."""
        with self._lock:
            self._withdraw(offset, offset + length)

    def record_write(self, offset: int, *parts: Bytes) -> None:
        """Record the range from `offset`, after `begin_write` and after all parts were written."""
        hasher, end = xxhash.xxh3_64(), offset
        for part in parts:
            hasher.update(part)
            end += len(part)
        with self._lock:
            self._withdraw(offset, end)
            self._add(ReceivedRange(offset, end, hasher.intdigest()))

    def write_zeros(self, offset: int, length: int) -> None:
        """Fill a range with zeros, as a hole in the file, and record the range."""
        with self._lock:
            touched = self._ranges.overlapping(offset, offset + length)
            unknown = any(each.digest is not None for each in touched) or not self._is_hole(offset, length)
            self._withdraw(offset, offset + length)
            if unknown:
                clear_range(self._file, offset, length)
            self._add(ReceivedRange(offset, offset + length, None))

    def clear(self) -> None:
        """Withdraw all ranges and clear the file."""
        with self._lock:
            self._withdraw(0, self.file_bytes)
            self._ranges = ReceivedRanges()
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, self.file_bytes)

    def identity(self) -> SourceIdentity:
        """Return the identity of the received bytes as a source.

        The stamp is the XXH3 of the ranges and their hashes.
        """
        with self._lock:
            records = b"".join(pack_record(*record_fields(each)) for each in self._ranges)
        stamp = f"xxh3:{xxhash.xxh3_64_hexdigest(records)}"
        return SourceIdentity(location=self.path.parent.name, file_bytes=self.file_bytes, stamp=stamp)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read received bytes. Other bytes are zeros, whatever a failed write left in the file."""
        with self._lock:
            here = self._ranges.overlapping(offset, offset + length)
        out = bytearray(os.pread(self._file, length, offset))
        at = offset
        for each in here:
            if each.begin > at:
                out[at - offset : each.begin - offset] = bytes(each.begin - at)
            at = each.end
        if at < offset + length:
            out[at - offset :] = bytes(offset + length - at)
        return bytes(out)

    def close(self) -> None:
        """Seal the journal and release the spool after the last writer. May be called twice."""
        with self._lock:
            self._open = False
            self._seal()

    @contextmanager
    def _hold_open(self) -> Iterator[None]:
        """Keep the files open during a write, because a writing thread may outlive its request."""
        with self._lock:
            if not self._open:
                raise OSError(errno.EBADF, "the upload was closed")
            self._writers += 1
        try:
            yield
        finally:
            with self._lock:
                self._writers -= 1
                self._seal()

    def _seal(self) -> None:
        """Seal the journal and close the files, once, if the spool is closed and has no writer."""
        if self._open or self._writers or self._sealed:
            return
        self._sealed = True
        try:
            self._write((0, 0, RecordKind.SEAL, 0))
        finally:
            for fd in (self._journal, self._file, self._lock_fd):
                os.close(fd)

    def _is_hole(self, offset: int, length: int) -> bool:
        """Return whether the range is a hole. A broken write may have left data without a record."""
        try:
            return os.lseek(self._file, offset, os.SEEK_DATA) >= offset + length
        except OSError as error:
            return error.errno == errno.ENXIO

    def _withdraw(self, begin: int, end: int) -> None:
        """Withdraw a range, first in the journal. The remaining parts of overlapping ranges get new hashes."""
        touched = self._ranges.overlapping(begin, end)
        if not touched:
            return
        kept = [
            ReceivedRange(low, high, self._digest(low, high))
            for each in touched
            if each.digest is not None
            for low, high in ((each.begin, begin), (end, each.end))
            if low < high
        ]
        self._write((begin, end - begin, RecordKind.CUT, 0), *map(record_fields, kept))
        self._ranges.remove(begin, end)
        for each in kept:
            self._ranges.add(each)

    def _add(self, arrived: ReceivedRange) -> None:
        self._write(record_fields(arrived))
        self._ranges.add(arrived)
        if self._in_journal > _RECORDS_KEPT and self._in_journal > 2 * len(self._ranges):
            with suppress(OSError):  # The old journal remains in use.
                self._rewrite_journal()

    def _rewrite_journal(self) -> None:
        """Replace the journal by a journal of the received ranges only.

        A crash leaves a complete journal, old or new.
        """
        kept = [record_fields(each) for each in self._ranges]
        records = [(self._records, 0, RecordKind.COUNT, 0), *kept]
        replacement = self.path.with_name(f"{JOURNAL_FILE}.new")
        with suppress(FileNotFoundError):
            os.unlink(replacement)
        journal = os.open(replacement, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            write_all(journal, pack_header(self.file_bytes) + b"".join(pack_record(*each) for each in records), 0)
            os.fsync(journal)
            os.rename(replacement, self.path.with_name(JOURNAL_FILE))
        except BaseException:
            os.close(journal)
            raise
        os.close(self._journal)
        self._journal, self._in_journal = journal, len(records)
        self._records += len(records)

    def _write(self, *records: tuple[int, int, RecordKind, int]) -> None:
        data = b"".join(pack_record(*each) for each in records)
        written = os.write(self._journal, data)
        if written != len(data):
            # A torn record would end the journal for readers, and hide all later records.
            os.ftruncate(self._journal, os.fstat(self._journal).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._records += len(records)
        self._in_journal += len(records)

    def _digest(self, begin: int, end: int) -> int:
        hasher = xxhash.xxh3_64()
        for at in range(begin, end, MIB):
            hasher.update(os.pread(self._file, min(MIB, end - at), at))
        return hasher.intdigest()

    def _read_journal(self) -> bool:
        """Read the journal. Return True if the ranges need no check: the journal is new or ends with a seal."""
        size = os.fstat(self._journal).st_size
        data = os.pread(self._journal, size, 0)
        if read_file_bytes(data) != self.file_bytes:
            os.ftruncate(self._journal, 0)
            write_all(self._journal, pack_header(self.file_bytes), 0)
            return True
        content = parse_journal(data)
        self._ranges, self._records, self._in_journal = content.ranges, content.records, content.in_journal
        os.ftruncate(self._journal, content.valid_bytes)
        return content.is_sealed and content.valid_bytes == size

    def _withdraw_lost(self) -> None:
        """Withdraw every range with bytes that do not match its hash."""
        for each in list(self._ranges):
            if self._is_intact(each):
                continue
            self._write((each.begin, each.end - each.begin, RecordKind.CUT, 0))
            self._ranges.remove(each.begin, each.end)

    def _is_intact(self, arrived: ReceivedRange) -> bool:
        if arrived.digest is not None:
            return self._digest(arrived.begin, arrived.end) == arrived.digest
        spans = range(arrived.begin, arrived.end, MIB)
        return self._is_hole(arrived.begin, arrived.end - arrived.begin) or all(
            is_zero(os.pread(self._file, min(MIB, arrived.end - at), at)) for at in spans
        )


def is_zero(data: Bytes) -> bool:
    """Return whether at most a few MiB are all zero. The first bytes decide in most cases."""
    if data[:_GLANCE_BYTES] != _ZEROS[: min(len(data), _GLANCE_BYTES)]:
        return False
    return all(data[at : at + MIB] == _ZEROS[: len(data) - at] for at in range(0, len(data), MIB))


def uploads_folder(home: Path) -> Path:
    """Return the folder of all uploads, below the data home."""
    return home / "uploads"


def spool_folder(home: Path, disk_uid: str) -> Path:
    """Return the folder of a disk's upload, below the data home."""
    return uploads_folder(home) / disk_uid


def last_used_at(home: Path, disk_uid: str) -> datetime | None:
    """Return when the upload of a disk was last closed, by its file system's clock.

    None while a process has it open.
    """
    folder = spool_folder(home, disk_uid)
    try:
        held = _lock_upload(folder / "lock", lambda: False)
    except (OSError, WorkHeld):
        return None
    try:
        return max(datetime.fromtimestamp(each.stat().st_mtime, UTC) for each in folder.iterdir())
    except OSError:
        return None
    finally:
        os.close(held)


def remove_spool(home: Path, disk_uid: str) -> None:
    """Remove the upload of a disk. May be repeated."""
    shutil.rmtree(spool_folder(home, disk_uid), ignore_errors=True)


def spool_error(error: OSError, path: Path) -> StoreError:
    """Translate an error of the operating system."""
    kind = StoreFull if is_full(error) else StoreError
    return kind(
        "The upload can't be stored.",
        found=describe(error),
        expected="free space and write permission below the data home",
        hint=f"{advise(error, path)}, then send the missing ranges: accepted ranges are kept",
        target=str(path),
    )


def _make_locked(folder: Path, keep_waiting: Callable[[], bool]) -> int:
    """Make the folder of an upload and lock the upload. Begin again if another process has removed the folder.

    The lock of a removed file excludes no process that makes the folder again.
    """
    path = folder / "lock"
    for _ in range(_REMOVALS_MAX):
        make_private_folder(folder)
        with suppress(FileNotFoundError):
            held = _lock_upload(path, keep_waiting)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(held)):
                    return held
            os.close(held)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _lock_upload(path: Path, keep_waiting: Callable[[], bool]) -> int:
    """Lock an upload. The lock is held until its descriptor is closed."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            file_systems.lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            if keep_waiting():
                continue
            os.close(held)
            raise WorkHeld(
                "The upload is in use by another process.",
                found=f"a lock on {path}",
                expected="an upload that no other process has open",
                hint="wait until the other transfer ends, then try again",
                target=str(path),
            ) from None
        except OSError:
            os.close(held)
            raise
        return held
