"""A file that appears whole or not at all: written under a temporary name beside its own, renamed at the end.

The temporary name is `.<name>.imgstore-<random>`, and only its owner may read it; the file gets the mode of the umask with
its name. Its writer holds an advisory lock (flock) on it as long as it lives,
however it dies; so a later writer of the same file can tell a leftover from work in progress, and removes it.
"""

import contextlib
import errno
import fcntl
import glob
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from imgstore.domain.effects import Effects
from imgstore.domain.errors import OutputError
from imgstore.domain.private_files import FILE_MODE, usual_file_mode
from imgstore.formats.files.direct_io import DirectWriter

_RANDOM_BYTES: Final = 8
_WRITE_BACK_BYTES: Final = 128 << 20
"""Writing back begins when so much waits."""

_NAME_BYTES_MAX: Final = 200
"""Of 255 that a name may have, less what is put before and behind."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What link() answers on file systems that have no hard links (FAT, some network and user-space ones)."""

_HINTS: Final = {
    errno.ENOSPC: "free some space, or write to another disk; nothing was left behind",
    errno.EDQUOT: "free some of your quota, or write to another disk; nothing was left behind",
    errno.ENOENT: "make the folder first (`mkdir -p`)",
    errno.ENOTDIR: "a part of the path is a file: check the path's spelling",
    errno.EACCES: "write to a folder that you may write to",
    errno.EPERM: "write to a folder that you may write to",
    errno.EROFS: "the file system is mounted read-only: write to another one",
    errno.EFBIG: "the file system can't hold so large a file: write to another one",
    errno.EEXIST: "choose another name, or give `--overwrite`",
}


def output_error(error: OSError, path: Path) -> OutputError:
    """`error`, which the operating system answered while `path` was written, in our words."""
    return OutputError(
        f"{path} cannot be written.",
        found=error.strerror or str(error),
        expected="a folder that exists, may be written to, and has room",
        hint=_HINTS.get(error.errno or 0, "check the disk and the file system (`dmesg` tells more)"),
        target=str(path),
    )


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """`pwrite` until nothing is left: the kernel may take less at a time."""
    rest = memoryview(data)
    while rest:
        taken = os.pwrite(fd, rest, offset)
        offset, rest = offset + taken, rest[taken:]


class _WriteBack:
    """Brings what was written to the medium while more is written, so that the `fsync` at the end has little left."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-back")
        self._running: Future[None] | None = None

    def wrote(self, length: int) -> None:
        """So many bytes more wait in the page cache."""
        with self._lock:
            self._waiting_bytes += length
            if self._waiting_bytes < _WRITE_BACK_BYTES or (self._running and not self._running.done()):
                return
            self._waiting_bytes = 0
            before, self._running = self._running, self._thread.submit(os.fdatasync, self._fd)
        if before is not None:
            before.result()

    def end(self) -> None:
        """Wait for what is under way.

        Raises:
            OSError: the medium did not take it. The kernel tells so once only, so it is told here, if not to `wrote`.
        """
        self._thread.shutdown()
        running, self._running = self._running, None
        if running is not None:
            running.result()


class PendingFile:
    """A file under its temporary name. `publish` or `discard` ends it."""

    def __init__(self, path: Path, *, overwrite: bool, read_soon: bool = False, effects: Effects | None = None) -> None:
        """Make the temporary file, after a look at what lies at `path`.

        Args:
            path: where the file will be.
            overwrite: whether one that is there may be replaced.
            read_soon: whether the page cache is to hold what is written.
            effects: where the temporary name comes from.

        Raises:
            OutputError: there is a file and `overwrite` is not set, something that is no file, no folder, or no
                permission.
        """
        self.path = path.absolute()
        self._overwrite = overwrite
        _check_target(self.path, overwrite=overwrite)
        _sweep(self.path)
        try:
            self.temporary, self.fd = _create(self.path, effects or Effects())
        except OSError as error:
            raise output_error(error, self.path) from error
        self._write_back = _WriteBack(self.fd)
        self._direct = None if read_soon else DirectWriter(self.temporary)

    def write(self, data: bytes | memoryview, offset: int, *, read_soon: bool = False) -> None:
        """Put `data` at `offset`, into the page cache where it is read soon. Safe from several threads.

        Raises:
            OutputError: no room, or the medium refuses.
        """
        with translate_errors(self.path):
            rest = memoryview(data).cast("B")
            done = self._direct.write(rest, offset) if self._direct and not read_soon else 0
            if done < len(rest):
                write_all(self.fd, rest[done:], offset + done)
                self._write_back.wrote(len(rest) - done)

    def publish(self) -> None:
        """Bring the bytes to the medium, then the file to its name, then the name to the medium.

        Raises:
            OutputError: no room, or a file came to lie at the path meanwhile. Then nothing was published.
        """
        with translate_errors(self.path):
            self._write_back.end()
            with contextlib.suppress(PermissionError):  # file systems without modes
                os.fchmod(self.fd, usual_file_mode())
            os.fsync(self.fd)
            self._take_name()
            self._close()
            _fsync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file. May be called twice, and after `publish`."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):  # What the medium refused is thrown away in any case.
                self._write_back.end()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
            self._close()

    def _take_name(self) -> None:
        if self._overwrite:
            os.rename(self.temporary, self.path)
            return
        try:
            os.link(self.temporary, self.path)  # unlike rename, never replaces
        except FileExistsError as error:
            raise _exists(self.path) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _check_target(self.path, overwrite=False)  # leaves a gap as short as these two lines
            os.rename(self.temporary, self.path)
            return
        os.unlink(self.temporary)

    def _close(self) -> None:
        if self._direct:
            self._direct.close()
        fd, self.fd = self.fd, -1
        os.close(fd)


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translate what the operating system answers about `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(error, path) from error


def _check_target(path: Path, *, overwrite: bool) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(error, path) from error
    if not stat.S_ISREG(mode):
        raise OutputError(
            f"{path} is in the way.",
            found="a folder" if stat.S_ISDIR(mode) else "a link, device, pipe or socket",
            expected="no file yet, or a regular one with `--overwrite`",
            hint="choose another name",
            target=str(path),
        )
    if not overwrite:
        raise _exists(path)


def _exists(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists already.",
        found="a file of that name",
        expected="no file yet",
        hint="choose another name, or give `--overwrite`",
        target=str(path),
    )


def _prefix(path: Path) -> str:
    name = os.fsencode(path.name)[:_NAME_BYTES_MAX].decode("utf-8", "ignore")
    return f".{name}.imgstore-"


def _create(path: Path, effects: Effects) -> tuple[Path, int]:
    """A new temporary file, locked. Made again if a sweeper took it in the instant before its lock."""
    while True:
        temporary = path.with_name(_prefix(path) + effects.random_bytes(_RANDOM_BYTES).hex())
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return temporary, fd
        os.close(fd)


def _sweep(path: Path) -> None:
    """Remove the temporary files of writers of `path` that died: those which nobody locks."""
    for leftover in path.parent.glob(glob.escape(_prefix(path)) + "*"):
        with contextlib.suppress(OSError):
            fd = os.open(leftover, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(leftover)
            finally:
                os.close(fd)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
