"""The folder of the cache: names, locks, the count of bytes, and the eviction."""

import errno
import fcntl
import os
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import xxhash

from imgstore.domain.host.file_systems import check_locks, set_mode
from imgstore.domain.host.private_files import FILE_MODE, FOLDER_MODE, make_private_folder
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import KIB, round_up
from imgstore.transfer.segment_cache.segment_file import (
    OPEN_FLAGS,
    SegmentFile,
    UnusableFile,
    encode_trailer,
    file_bytes,
)

LAYOUT: Final = "segments-1"
PATIENCE_SECONDS: Final = 15.0
"""The longest wait for another process. A frozen process keeps its locks."""
_USAGE_PATIENCE_SECONDS: Final = 0.5
"""The longest wait for the count. Then the segment is not cached."""
_PAUSE_SECONDS_MIN: Final = 0.000_5
_PAUSE_SECONDS_MAX: Final = 0.016
_TAG_FILE: Final = "CACHEDIR.TAG"
_TAG: Final = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# Cached segments of imgstore. The content may be deleted.\n"
)
"""https://bford.info/cachedir/"""
_USAGE: Final = struct.Struct("<8sQQ")
_USAGE_MAGIC: Final = b"IMGSUSED"
_NEW: Final = "new-"
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_EVICTED_DIVISOR: Final = 16
"""An eviction makes room for a sixteenth of the limit, so that the folder is listed rarely."""
_WRITE_BYTES: Final = 256 * KIB
"""The bytes of one write. A virtual machine with ext4 and Linux 6.18 took 0.8 ms for 4 MiB in such parts, and 10 to 28 ms
in one part."""
_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on 64 bits: type, whence, begin, length, process."""
_LOCK_PLACES: Final = 1 << 62
_NO_FILE: Final = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
"""The errors of `open` for a link, a folder and a pipe or socket."""
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OWN_FILE: Final = re.compile(r"new-\d+-\d+|[0-9A-Za-z-]+-[0-9a-f]{64}")


class CacheUnusable(OSError):
    """The folder cannot be used as a cache. The message tells the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """The content of a cache folder."""

    segments: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the folder."""

    used_ns: int
    name: str
    size: int


class CacheFolder:
    """The open folder. Safe for several threads and processes."""

    def __init__(self, path: Path, pause: Callable[[float], None]) -> None:
        """Open the folder, and create missing parts.

        Args:
            path: the folder.
            pause: waits for the given seconds.

        Raises:
            CacheUnusable: the folder belongs to another user, is a link, or has no locks.
            OSError: the folder cannot be created or opened.
        """
        self._pause = pause
        self._numbers = count(1)
        self._mutex = threading.Lock()
        self._is_count_free = True
        """Whether the last wait for the count ended with the lock."""
        self._folder = -1
        self._usage = -1
        make_private_folder(path)
        top = _open_top(path)
        try:
            with suppress(FileExistsError):
                os.mkdir(LAYOUT, FOLDER_MODE, dir_fd=top)
            self._folder = _open_own_folder(LAYOUT, top)
            with suppress(OSError):
                _write_tag(top)
        finally:
            os.close(top)
        self._usage = os.open("usage", _CREATE, FILE_MODE, dir_fd=self._folder)
        check_locks(self._usage, path)
        fcntl.flock(self._usage, fcntl.LOCK_UN)
        os.close(self._open_flights())

    def __del__(self) -> None:
        for each in (self._folder, self._usage):
            if each >= 0:
                os.close(each)

    @property
    def is_deleted(self) -> bool:
        """Whether the folder was deleted since it was opened."""
        return not os.fstat(self._folder).st_nlink

    # -- segments

    def open_segment(self, file: str, name: Digest) -> SegmentFile | None:
        """Open the file of a segment. A file that is no intact segment is removed.

        Raises:
            OSError: the file cannot be opened, except that it is missing.
        """
        try:
            descriptor = os.open(file, OPEN_FLAGS, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            self._unlink(file)
            return None
        try:
            return SegmentFile(descriptor, name)
        except UnusableFile:
            self._unlink(file)
            return None

    def remove(self, file: str, opened: SegmentFile) -> None:
        """Remove a damaged segment, unless another process has replaced the file."""
        with suppress(OSError):
            found = os.stat(file, dir_fd=self._folder, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == opened.inode:
                os.unlink(file, dir_fd=self._folder)

    def add(self, file: str, name: Digest, blocks: memoryview, limit_bytes: int) -> bool:
        """Write a segment. Return whether the segment is in the cache.

        Raises:
            OSError: the file cannot be written. No partial file remains.
        """
        trailer = encode_trailer(name, blocks)
        new = self._reserve(file_bytes(len(blocks)), limit_bytes)
        if new is None:
            return False
        descriptor, temporary = new
        try:
            _write_at(descriptor, blocks, 0)
            _write_at(descriptor, memoryview(trailer), len(blocks))
            os.rename(temporary, file, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            self._unlink(temporary)
            raise
        finally:
            os.close(descriptor)
        return True

    # -- flights

    @contextmanager
    def hold_flight(self, name: Digest, check_cancelled: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of a segment inside the block, or hold nothing after `PATIENCE_SECONDS`."""
        descriptor = -1
        with suppress(OSError):  # Without the lock, another process may fetch the segment too.
            descriptor = self._open_flights()
        try:
            place = int.from_bytes(name[:8], "little") % _LOCK_PLACES
            request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
            for seconds in _pauses(PATIENCE_SECONDS if descriptor >= 0 else 0):
                try:
                    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
                    break
                except (BlockingIOError, PermissionError):
                    check_cancelled()
                    self._pause(seconds)
                except OSError:
                    break
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open_flights(self) -> int:
        return os.open("flights", _CREATE, FILE_MODE, dir_fd=self._folder)

    # -- count and eviction

    def measure(self) -> CacheUsage:
        """Count the segments and the bytes of all files."""
        entries = self._list()
        return CacheUsage(
            segments=sum(not each.name.startswith(_NEW) for each in entries),
            used_bytes=sum(each.size for each in entries),
        )

    def clear(self) -> CacheUsage:
        """Remove all segments. Return the removed segments.

        Raises:
            CacheUnusable: another process holds the count for too long.
        """
        with self._hold_usage() as held:
            if not held:
                raise CacheUnusable("another process holds the lock of the cache")
            before = self.measure()
            self._write_usage(self._evict(-1))
        after = self.measure()
        return CacheUsage(
            segments=before.segments - after.segments, used_bytes=max(0, before.used_bytes - after.used_bytes)
        )

    def _reserve(self, size: int, limit_bytes: int) -> tuple[int, str] | None:
        """Make a locked file of `size` bytes below the limit.

        Returns:
            The descriptor and the temporary name. None if there is no room, or another process holds the count.
        """
        exact, size = size, round_up(size, 4 * KIB)
        if size > limit_bytes:
            return None
        with self._hold_usage() as held:
            if not held:
                return None
            used_bytes = self._read_usage()
            if used_bytes is None or used_bytes + size > limit_bytes:
                used_bytes = self._evict(max(0, limit_bytes - max(size, limit_bytes // _EVICTED_DIVISOR)))
            if used_bytes + size > limit_bytes:  # Other processes write the rest.
                self._write_usage(used_bytes)
                return None
            self._write_usage(used_bytes + size)  # First, so that a kill never leaves bytes that are not counted.
            descriptor, temporary = self._make_new()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, exact)
            except OSError:
                os.close(descriptor)
                self._unlink(temporary)
                raise
            return descriptor, temporary

    def _make_new(self) -> tuple[int, str]:
        while True:
            name = f"{_NEW}{os.getpid()}-{next(self._numbers)}"
            with suppress(FileExistsError):
                return os.open(name, _CREATE | os.O_EXCL, FILE_MODE, dir_fd=self._folder), name

    def _list(self) -> list[_Entry]:
        """List the files of this layout."""
        entries: list[_Entry] = []
        with os.scandir(self._folder) as found:
            for each in found:
                if not _OWN_FILE.fullmatch(each.name):
                    continue
                with suppress(FileNotFoundError):
                    status = each.stat(follow_symlinks=False)
                    entries.append(_Entry(status.st_mtime_ns, each.name, round_up(status.st_size, 4 * KIB)))
        return entries

    def _evict(self, goal_bytes: int) -> int:
        """Remove the files with the oldest use until at most `goal_bytes` remain. Return the remaining bytes.

        Files that a living process writes stay. The caller holds the count.
        """
        entries = sorted(self._list(), key=lambda each: (not each.name.startswith(_NEW), each.used_ns, each.name))
        remaining = sum(each.size for each in entries)
        for each in entries:
            is_new = each.name.startswith(_NEW)
            if (is_new or remaining > goal_bytes) and self._free(each.name, may_be_locked=not is_new):
                remaining -= each.size
        return remaining

    def _free(self, file: str, *, may_be_locked: bool) -> bool:
        """Remove a file, and free the space also if another process has the file open for reading."""
        try:
            descriptor = os.open(file, OPEN_FLAGS, dir_fd=self._folder)
        except OSError:  # A link, a folder, or a file without rights.
            return self._unlink(file)
        try:
            is_free = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                is_free = False
            if not is_free and not may_be_locked:
                return False
            found = os.fstat(descriptor)
            removed = self._unlink(file)
            # A file with another name is perhaps not part of the cache.
            if removed and is_free and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
            return removed
        finally:
            os.close(descriptor)

    def _unlink(self, file: str) -> bool:
        try:
            os.unlink(file, dir_fd=self._folder)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    @contextmanager
    def _hold_usage(self) -> Iterator[bool]:
        """Hold the lock of the count inside the block. Yield False if another process holds the lock for too long."""
        with self._mutex:
            is_held = False
            # A frozen holder delays one segment, and not each segment of an export.
            for seconds in _pauses(_USAGE_PATIENCE_SECONDS) if self._is_count_free else (_PAUSE_SECONDS_MIN,):
                try:
                    fcntl.flock(self._usage, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_held = True
                    break
                except BlockingIOError:
                    self._pause(seconds)
            self._is_count_free = is_held
            try:
                yield is_held
            finally:
                if is_held:
                    fcntl.flock(self._usage, fcntl.LOCK_UN)

    def _read_usage(self) -> int | None:
        """Return the counted bytes, or None if the count is missing or damaged."""
        data = os.pread(self._usage, _USAGE.size + 1, 0)
        if len(data) != _USAGE.size:
            return None
        magic, used_bytes, seal = _USAGE.unpack(data)
        if magic != _USAGE_MAGIC or seal != xxhash.xxh3_64_intdigest(data[: -struct.calcsize("<Q")]):
            return None
        return int(used_bytes)

    def _write_usage(self, used_bytes: int) -> None:
        body = _USAGE_MAGIC + struct.pack("<Q", used_bytes)
        os.pwrite(self._usage, body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)), 0)


def _pauses(patience_seconds: float) -> Iterator[float]:
    """Yield growing pauses until their sum reaches `patience_seconds`."""
    seconds, total = _PAUSE_SECONDS_MIN, 0.0
    while total < patience_seconds:
        yield seconds
        total += seconds
        seconds = min(2 * seconds, _PAUSE_SECONDS_MAX)


def _open_top(path: Path) -> int:
    """Open the folder that a person has chosen.

    Raises:
        CacheUnusable: other users may replace the content.
        OSError: no folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if found.st_uid in {0, os.geteuid()} and (not found.st_mode & _WRITABLE or found.st_mode & stat.S_ISVTX):
        return descriptor
    os.close(descriptor)
    raise CacheUnusable(f"other users may write to the folder {path}")


def _open_own_folder(name: str, parent: int) -> int:
    """Open an own folder, and close the folder to other users.

    Raises:
        CacheUnusable: the folder belongs to another user.
        OSError: no folder, or a link.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise CacheUnusable(f"the folder {name} belongs to the user with the number {found.st_uid}")
        if found.st_mode & _OTHERS:
            set_mode(descriptor, FOLDER_MODE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _write_tag(folder: int) -> None:
    descriptor = os.open(_TAG_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE, dir_fd=folder)
    try:
        os.write(descriptor, _TAG)
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written : written + _WRITE_BYTES], offset + written)
