"""Reads a local file as a source of bytes."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import ImageRefused, ImageTruncated, InvalidInput, SourceChanged, SourceNotFound, StoreError
from imgstore.domain.host.file_systems import is_missing_ability
from imgstore.domain.host.os_errors import advise, describe, is_absent


class LocalFile:
    """A `ByteSource` over a regular file or a block device.

    Reads use `pread`, so any number of threads may share an instance.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` for reading.

        Raises:
            SourceNotFound: the file is missing.
            InvalidInput: the path is neither a file nor a block device, or may not be read.
            ImageRefused: the file is empty.
        """
        self._fd = _open(path.absolute())
        self.path = Path(os.path.realpath(path))
        self._file_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        if not self._file_bytes:
            self.close()
            raise ImageRefused(
                f"{self.path} is empty.",
                found="0 bytes",
                expected="a disk image",
                hint="check that the image was written or downloaded to its end",
                target=str(self.path),
            )

    @property
    def file_bytes(self) -> int:
        """Length of the file, or size of the device, when it was opened."""
        return self._file_bytes

    def identity(self) -> SourceIdentity:
        """Return the identity of the file that is now at the path. The inode shows whether the file was replaced.

        Raises:
            SourceChanged: no file is at the path any more.
        """
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise SourceChanged(
                f"{self.path} is no longer there.",
                found=describe(error),
                expected="the file that was opened",
                hint="leave the file in place until the command has ended, and run the command again",
                target=str(self.path),
            ) from error
        length = status.st_size if stat.S_ISREG(status.st_mode) else self._file_bytes
        stamp = f"{status.st_mtime_ns}:{status.st_ino}"
        return SourceIdentity(location=str(self.path), file_bytes=length, stamp=stamp)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`: a single `pread`, unless the kernel returns fewer bytes.

        Raises:
            ImageTruncated: the file ends before `offset + length`.
            StoreError: the medium or the file system failed.
        """
        data = self._pread(offset, length)
        while len(data) < length:
            more = self._pread(offset + len(data), length - len(data))
            if not more:
                raise ImageTruncated(
                    f"{self.path} ends too early.",
                    found=f"the end of the file at {offset + len(data):,}",
                    expected=f"{length:,} bytes at {offset:,}",
                    hint="the file is truncated, perhaps during the read: fetch or build it again",
                    target=str(self.path),
                )
            data += more
        return data

    def extents(self) -> Iterator[Extent]:
        """Return the ranges between the file's holes, by SEEK_DATA and SEEK_HOLE.

        Return a single extent if holes are unknown.
        """
        position = 0
        while position < self._file_bytes:
            start = self._seek(position, os.SEEK_DATA)
            if start is None or start >= self._file_bytes:
                return
            hole = self._seek(start, os.SEEK_HOLE)
            position = self._file_bytes if hole is None else min(hole, self._file_bytes)
            yield Extent(offset=start, length=position - start)

    def close(self) -> None:
        """Close the file. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._read_error(error) from error

    def _seek(self, position: int, whence: int) -> int | None:
        """Return the beginning of data or of a hole; None after the last.

        The call does not share a position, so threads do not interfere.
        """
        try:
            return os.lseek(self._fd, position, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            if is_missing_ability(error):  # The file system reports no holes.
                return position if whence == os.SEEK_DATA else self._file_bytes
            raise self._read_error(error) from error

    def _read_error(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.path} cannot be read.",
            found=describe(error),
            expected="a readable file",
            hint=f"{advise(error, self.path)}, then run the same command again",
            target=str(self.path),
        )


def _open(path: Path) -> int:
    """Open `path`. O_NONBLOCK prevents hanging on a pipe without a writer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise _open_error(path, error) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return fd
    os.close(fd)
    raise InvalidInput(
        f"{path} is not a disk image.",
        found="a folder" if stat.S_ISDIR(mode) else "a pipe, socket or character device",
        expected="a regular file or a block device",
        hint="name the image file itself",
        target=str(path),
    )


def _open_error(path: Path, error: OSError) -> InvalidInput:
    missing = is_absent(error)
    if missing and path.is_symlink():
        target = os.readlink(path)
        return SourceNotFound(
            f"{path} is a link to a missing file.",
            found=f"a symbolic link to '{target}'",
            expected="a disk image that may be read",
            hint="fetch the file with `git annex get`" if "annex/objects/" in target else "correct the link",
            target=str(path),
        )
    return (SourceNotFound if missing else InvalidInput)(
        f"There is no file {path}." if missing else f"{path} cannot be opened.",
        found=describe(error, path),
        expected="a disk image that may be read",
        hint="check the path's spelling; a relative path starts at the current folder"
        if missing
        else advise(error, path),
        target=str(path),
    )
