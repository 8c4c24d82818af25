"""An upload on its way in: a sparse file, and a journal of what has arrived in it.

What lies in the file counts only once its record stands in the journal; a record carries the XXH3 of its range. A
process that was killed, or a machine that lost what it had not written back yet, left ranges without a record, or
records whose bytes are not there: after a crash every range is read and hashed, and what does not match never arrived.
So nothing is flushed while bytes come in. A journal that ends in a seal was closed in order, and is believed.

File ``journal``: magic ``IMGSTSPL`` (8), version 1 (4), zero (4), bytes of the upload (8); then records of 32 bytes,
little-endian: offset u64, length u64, kind u32, low half of the XXH3 of the record's other fields u32, XXH3 of the range
u64. The first record that does not match itself ends the journal. A journal of more than 65,536 records, of which less
than a half tell of what is there, is written anew and takes the old one's place: pages that are sent again and again do
not make it grow without bound.
"""

import errno
import fcntl
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Final

import xxhash

from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import StoreError, StoreFull, WorkHeld
from imgstore.domain.private_files import make_private_folder
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.storage.sizes import MIB
from imgstore.formats.files.atomic_file import write_all
from imgstore.formats.files.holes import clear_range
from imgstore.transfer.received_ranges import ReceivedRange, ReceivedRanges

_MAGIC: Final = b"IMGSTSPL"
_HEADER: Final = struct.Struct("<8sIIQ")
_RECORD: Final = struct.Struct("<QQIIQ")
_ZEROS: Final = bytes(MIB)
_GLANCE_BYTES: Final = 4096
_RECORDS_KEPT: Final = 65_536
"""A journal of no more records, 2 MiB, is never rewritten."""
Bytes = bytes | bytearray


class _RecordKind(IntEnum):
    DATA = 1
    ZEROS = 2
    CUT = 3
    """What lay in the range has not arrived; what a range that it cuts keeps follows as records of its own."""
    SEAL = 4
    COUNT = 5
    """Its offset is the number of all records before it, those too that were left out when the journal was rewritten."""


class Spool:
    """One upload, and a `ByteSource` of what has arrived.

    One process has it open at a time; safe from several threads and requests of that one.
    Two writers of the same range at once are the client's own fault: which of them wins is not told, but the range has
    arrived only if its bytes are one's.
    """

    def __init__(
        self,
        folder: Path,
        file_bytes: int,
        *,
        keep_waiting: Callable[[], bool] = lambda: False,
        space: DiskSpace | None = None,
    ) -> None:
        """Open the upload, made where it is missing; after a crash each range is compared with its hash.

        Args:
            folder: where its files are.
            file_bytes: of the upload in all.
            keep_waiting: asked while another process has it; False gives up.
            space: whose reserve of free space what arrives must keep; None keeps none.

        Raises:
            WorkHeld: another process has it.
            StoreError: the files can't be made or read.
        """
        self.path: Final = folder / "data"
        self.file_bytes: Final = file_bytes
        self._space = space
        self._ranges = ReceivedRanges()
        self._lock = threading.Lock()
        self._records = 0
        self._in_journal = 0
        self._open = True
        self._writers = 0
        self._sealed = False
        try:
            make_private_folder(folder)
            self._lock_fd = _lock_upload(folder / "lock", keep_waiting)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.fstat(self._file).st_size != file_bytes:
                os.ftruncate(self._file, file_bytes)
            self._journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            if not self._read_journal():
                self._withdraw_lost()
        except OSError as error:
            raise spool_error(error, folder) from error

    @property
    def revision(self) -> int:
        """Grows with all that is written."""
        return self._records

    @property
    def received_bytes(self) -> int:
        """How many bytes have arrived from the beginning on, without a gap."""
        end = 0
        with self._lock:
            for each in self._ranges:
                if each.begin > end:
                    break
                end = each.end
        return end

    @property
    def has_any(self) -> bool:
        """Whether a byte has arrived anywhere."""
        with self._lock:
            return any(True for _ in self._ranges)

    def extents(self, begin: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Return the ranges that hold data and touch [begin, end), in order."""
        with self._lock:
            found = self._ranges.overlapping(begin, self.file_bytes if end is None else end)
        return (Extent(offset=each.begin, length=each.end - each.begin) for each in found if each.digest is not None)

    def write(self, offset: int, parts: Sequence[Bytes]) -> None:
        """Have bytes arrive: into the file, then into the journal as one range; zeros stay holes. Waits for the medium.

        Args:
            offset: where the first part belongs.
            parts: what comes one after the other; joining them would only copy them.

        Raises:
            OSError: they can't be kept, or the upload was closed.
            StoreFull: only the reserve would be left, or not even that.
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
        """What lies in the range is about to be written over: it has not arrived any more."""
        with self._lock:
            self._withdraw(offset, offset + length)

    def record_write(self, offset: int, *parts: Bytes) -> None:
        """All parts were written from `offset` on, after `begin`."""
        hasher, end = xxhash.xxh3_64(), offset
        for part in parts:
            hasher.update(part)
            end += len(part)
        with self._lock:
            self._withdraw(offset, end)
            self._add(ReceivedRange(offset, end, hasher.intdigest()))

    def write_zeros(self, offset: int, length: int) -> None:
        """The range is zeros: a hole in the file."""
        with self._lock:
            touched = self._ranges.overlapping(offset, offset + length)
            unknown = any(each.digest is not None for each in touched) or not self._is_hole(offset, length)
            self._withdraw(offset, offset + length)
            if unknown:
                clear_range(self._file, offset, length)
            self._add(ReceivedRange(offset, offset + length, None))

    def clear(self) -> None:
        """Nothing has arrived."""
        with self._lock:
            self._withdraw(0, self.file_bytes)
            self._ranges = ReceivedRanges()
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, self.file_bytes)

    def identity(self) -> SourceIdentity:
        """What has arrived, as a source: its stamp is the XXH3 of the ranges and their hashes."""
        with self._lock:
            records = b"".join(_pack_record(*_record_fields(each)) for each in self._ranges)
        stamp = f"xxh3:{xxhash.xxh3_64_hexdigest(records)}"
        return SourceIdentity(location=self.path.parent.name, file_bytes=self.file_bytes, stamp=stamp)

    def read_at(self, offset: int, length: int) -> bytes:
        """What arrived; zeros where nothing did, whatever a broken write left in the file there."""
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
        """Seal it and let others have it, once nobody writes any more. May be called twice."""
        with self._lock:
            self._open = False
            self._seal()

    @contextmanager
    def _hold_open(self) -> Iterator[None]:
        """Keep it open meanwhile: a thread that writes outlives the request that it writes for."""
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
        """Once, when it is closed and nobody writes."""
        if self._open or self._writers or self._sealed:
            return
        self._sealed = True
        try:
            self._write((0, 0, _RecordKind.SEAL, 0))
        finally:
            for fd in (self._journal, self._file, self._lock_fd):
                os.close(fd)

    def _is_hole(self, offset: int, length: int) -> bool:
        """A write without a record may lie there: one that was broken off."""
        try:
            return os.lseek(self._file, offset, os.SEEK_DATA) >= offset + length
        except OSError as error:
            return error.errno == errno.ENXIO

    def _withdraw(self, begin: int, end: int) -> None:
        """Withdraw a range, in the journal first; what its neighbours keep gets hashes of its own."""
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
        self._write((begin, end - begin, _RecordKind.CUT, 0), *map(_record_fields, kept))
        self._ranges.remove(begin, end)
        for each in kept:
            self._ranges.add(each)

    def _add(self, arrived: ReceivedRange) -> None:
        self._write(_record_fields(arrived))
        self._ranges.add(arrived)
        if self._in_journal > _RECORDS_KEPT and self._in_journal > 2 * len(self._ranges):
            with suppress(OSError):  # The old one goes on.
                self._rewrite_journal()

    def _rewrite_journal(self) -> None:
        """Replace the journal by one that holds only what is there. A crash leaves the old one or the new one whole."""
        kept = [_record_fields(each) for each in self._ranges]
        records = [(self._records, 0, _RecordKind.COUNT, 0), *kept]
        beside = self.path.with_name("journal.new")
        with suppress(FileNotFoundError):
            os.unlink(beside)
        journal = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            write_all(journal, self._header() + b"".join(_pack_record(*each) for each in records), 0)
            os.fsync(journal)
            os.rename(beside, self.path.with_name("journal"))
        except BaseException:
            os.close(journal)
            raise
        os.close(self._journal)
        self._journal, self._in_journal = journal, len(records)
        self._records += len(records)

    def _header(self) -> bytes:
        return _HEADER.pack(_MAGIC, 1, 0, self.file_bytes)

    def _write(self, *records: tuple[int, int, _RecordKind, int]) -> None:
        data = b"".join(_pack_record(*each) for each in records)
        written = os.write(self._journal, data)
        if written != len(data):
            # A torn record would end the journal when it is read, with all that is added behind it.
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
        """What it says; whether it was sealed, and so is believed."""
        size = os.fstat(self._journal).st_size
        data = os.pread(self._journal, size, 0)
        head = self._header()
        if data[: len(head)] != head:
            os.ftruncate(self._journal, 0)
            os.write(self._journal, head)
            return True
        sealed, at = False, len(head)
        while at + _RECORD.size <= size:
            offset, length, kind, check, digest = _RECORD.unpack_from(data, at)
            if check != _record_checksum(offset, length, kind, digest):
                break
            at += _RECORD.size
            self._records += 1
            self._in_journal += 1
            sealed = kind == _RecordKind.SEAL
            if kind == _RecordKind.COUNT:
                self._records += offset
            if kind in (_RecordKind.SEAL, _RecordKind.COUNT):
                continue
            self._ranges.remove(offset, offset + length)
            if kind != _RecordKind.CUT:
                self._ranges.add(ReceivedRange(offset, offset + length, digest if kind == _RecordKind.DATA else None))
        os.ftruncate(self._journal, at)
        return sealed and at == size

    def _withdraw_lost(self) -> None:
        """Withdraw every range whose bytes are not those that arrived."""
        for each in list(self._ranges):
            if self._is_intact(each):
                continue
            self._write((each.begin, each.end - each.begin, _RecordKind.CUT, 0))
            self._ranges.remove(each.begin, each.end)

    def _is_intact(self, arrived: ReceivedRange) -> bool:
        if arrived.digest is not None:
            return self._digest(arrived.begin, arrived.end) == arrived.digest
        spans = range(arrived.begin, arrived.end, MIB)
        return self._is_hole(arrived.begin, arrived.end - arrived.begin) or all(
            is_zero(os.pread(self._file, min(MIB, arrived.end - at), at)) for at in spans
        )


def is_zero(data: Bytes) -> bool:
    """Whether there is nothing but zeros in at most some MiB. Most of what holds data tells by its beginning."""
    if data[:_GLANCE_BYTES] != _ZEROS[: min(len(data), _GLANCE_BYTES)]:
        return False
    return all(data[at : at + MIB] == _ZEROS[: len(data) - at] for at in range(0, len(data), MIB))


def spool_folder(home: Path, disk_uid: str) -> Path:
    """Where the upload of a disk lies, below the data home."""
    return home / "uploads" / disk_uid


def last_used_at(home: Path, disk_uid: str) -> datetime | None:
    """When the upload of a disk was last closed, by its file system's clock; None while a process has it open."""
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
    """Take an upload away. May be repeated."""
    shutil.rmtree(spool_folder(home, disk_uid), ignore_errors=True)


def spool_error(error: OSError, path: Path) -> StoreError:
    """What the medium said, in our words."""
    kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
    return kind(
        "The upload can't be kept.",
        found=error.strerror,
        expected="room and permission below the data home",
        hint="make room, then send what is missing: what was accepted stays",
        target=str(path),
    )


def _lock_upload(path: Path, keep_waiting: Callable[[], bool]) -> int:
    """The lock of an upload, for as long as its descriptor is open."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if keep_waiting():
                continue
            os.close(held)
            raise WorkHeld(
                "The upload is in use by another process.",
                found=f"{path} locked",
                expected="nobody at it",
                hint="let what is being sent end, then try again",
                target=str(path),
            ) from None
        return held


def _record_fields(arrived: ReceivedRange) -> tuple[int, int, _RecordKind, int]:
    kind = _RecordKind.ZEROS if arrived.digest is None else _RecordKind.DATA
    return arrived.begin, arrived.end - arrived.begin, kind, arrived.digest or 0


def _pack_record(offset: int, length: int, kind: int, digest: int) -> bytes:
    return _RECORD.pack(offset, length, kind, _record_checksum(offset, length, kind, digest), digest)


def _record_checksum(offset: int, length: int, kind: int, digest: int) -> int:
    return xxhash.xxh3_64_intdigest(struct.pack("<QQIQ", offset, length, kind, digest)) & 0xFFFFFFFF
