"""Writes a file that appears completely or not at all.

The file is written under a temporary name in the same folder, and renamed at the end. If the path is a link, the file
is made at the target of the link, and the link stays.

The temporary name is `.<name>.imgstore-<random>`. Only the owner may read the temporary file; the final file gets the
mode of the umask, unless the caller names a mode. The writer holds an advisory lock (flock) on the temporary file
until the process ends, in any way. A later writer of the same file can therefore recognize and remove files of dead
writers.
"""

import contextlib
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
from imgstore.domain.host import file_systems
from imgstore.domain.host.os_errors import advise, describe
from imgstore.domain.host.private_files import FILE_MODE, usual_file_mode
from imgstore.formats.files.direct_io import DirectWriter

_RANDOM_BYTES: Final = 8
_WRITE_BACK_BYTES: Final = 128 << 20
"""Writing to the medium begins after so many waiting bytes."""

_NAME_BYTES_MAX: Final = 200
"""A name may have 255 bytes; this limit leaves space for the prefix and the suffix."""


def output_error(error: OSError, path: Path) -> OutputError:
    """Translate `error`, which the operating system returned while `path` was written."""
    return OutputError(
        f"{path} cannot be written.",
        found=describe(error, path),
        expected="a folder that exists, may be written to, and has free space",
        hint=f"{advise(error, path)}, or write to another folder",
        target=str(path),
    )


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Call `pwrite` until all bytes are written, because the kernel may write fewer bytes at a time."""
    rest = memoryview(data)
    while rest:
        taken = os.pwrite(fd, rest, offset)
        offset, rest = offset + taken, rest[taken:]


class _WriteBack:
    """A background writer of the page cache to the medium, so that the `fsync` at the end is short."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-back")
        self._running: Future[None] | None = None

    def add_written(self, length: int) -> None:
        """Count bytes that were written to the page cache."""
        with self._lock:
            self._waiting_bytes += length
            if self._waiting_bytes < _WRITE_BACK_BYTES or (self._running and not self._running.done()):
                return
            self._waiting_bytes = 0
            before, self._running = self._running, self._thread.submit(os.fdatasync, self._fd)
        if before is not None:
            before.result()

    def end(self) -> None:
        """Wait for the running write.

        Raises:
            OSError: the medium refused the bytes. The kernel reports such an error only once, here or in `add_written`.
        """
        self._thread.shutdown()
        running, self._running = self._running, None
        if running is not None:
            running.result()


class PendingFile:
    """A file under its temporary name. `publish` or `discard` ends the temporary file."""

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool,
        read_soon: bool = False,
        mode: int | None = None,
        effects: Effects | None = None,
    ) -> None:
        """Create the temporary file, after a check of `path`.

        Args:
            path: the path of the new file, or a link to that path.
            overwrite: whether an existing file may be replaced.
            read_soon: whether the written bytes should be in the page cache.
            mode: the mode of the file. None means the mode of the umask.
            effects: the source of the temporary name.

        Raises:
            OutputError: a file exists and `overwrite` is not set, `path` is no file, the folder is missing, or
                permission is missing.
        """
        self.path = _follow_link(path.absolute())
        self._overwrite = overwrite
        self._mode = mode
        _check_target(self.path, overwrite=overwrite)
        _remove_leftovers(self.path)
        try:
            self.temporary, self.fd = _create_temporary(self.path, effects or Effects())
        except OSError as error:
            raise output_error(error, self.path) from error
        self._write_back = _WriteBack(self.fd)
        self._direct = None if read_soon else DirectWriter(self.temporary)

    def write(self, data: bytes | memoryview, offset: int, *, read_soon: bool = False) -> None:
        """Write `data` at `offset`, into the page cache if the data is read soon. Safe for several threads.

        Raises:
            OutputError: too little space, or an error of the medium.
        """
        with translate_errors(self.path):
            rest = memoryview(data).cast("B")
            done = self._direct.write(rest, offset) if self._direct and not read_soon else 0
            if done < len(rest):
                write_all(self.fd, rest[done:], offset + done)
                self._write_back.add_written(len(rest) - done)

    def publish(self) -> int:
        """Write the bytes to the medium, then rename the file, then write the name to the medium.

        Returns:
            The length of the file.

        Raises:
            OutputError: too little space, or a file now exists at the path. Then nothing was published.
        """
        with translate_errors(self.path):
            self._write_back.end()
            file_systems.set_mode(self.fd, usual_file_mode() if self._mode is None else self._mode)
            os.fsync(self.fd)
            file_bytes = os.fstat(self.fd).st_size
            self._take_name()
            self._close()
            file_systems.sync_folder(self.path.parent)
        return file_bytes

    def discard(self) -> None:
        """Remove the temporary file. May be called twice, and after `publish`."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):  # The refused bytes are discarded in any case.
                self._write_back.end()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
            self._close()

    def _take_name(self) -> None:
        if self._overwrite:
            file_systems.replace(self.temporary, self.path)
            return
        try:
            file_systems.publish(self.temporary, self.path)
        except FileExistsError as error:
            raise _exists_error(self.path) from error

    def _close(self) -> None:
        if self._direct:
            self._direct.close()
        fd, self.fd = self.fd, -1
        os.close(fd)


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translate errors of the operating system about `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(error, path) from error


def _follow_link(path: Path) -> Path:
    """Return the path that a link names, whether a file is there or not. A path that is no link is returned unchanged.

    Raises:
        OutputError: the link leads to itself, or may not be followed.
    """
    if not path.is_symlink():
        return path
    with translate_errors(path), contextlib.suppress(FileNotFoundError):
        os.stat(path)  # The kernel refuses a loop, and a link of another user in a shared folder.
    return Path(os.path.realpath(path))


def _check_target(path: Path, *, overwrite: bool) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(error, path) from error
    if not stat.S_ISREG(mode):
        raise OutputError(
            f"{path} is in the way, and is no regular file.",
            found="a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket",
            expected="no file yet, or a regular one with `--overwrite`",
            hint="choose another name",
            target=str(path),
        )
    if not overwrite:
        raise _exists_error(path)


def _exists_error(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists already.",
        found="a file of that name",
        expected="no file yet",
        hint="choose another name, or give `--overwrite`",
        target=str(path),
    )


def _temporary_prefix(path: Path) -> str:
    whole_characters = os.fsencode(path.name)[:_NAME_BYTES_MAX].decode("utf-8", "ignore")
    name = os.fsdecode(whole_characters.encode())  # The locale may have another encoding than UTF-8.
    return f".{name}.imgstore-"


def _create_temporary(path: Path, effects: Effects) -> tuple[Path, int]:
    """Create a temporary file, locked. Try again if another writer removed the file just before the lock."""
    while True:
        temporary = path.with_name(_temporary_prefix(path) + effects.random_bytes(_RANDOM_BYTES).hex())
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            file_systems.lock(fd, fcntl.LOCK_EX, temporary)
        if os.fstat(fd).st_nlink:
            return temporary, fd
        os.close(fd)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of dead writers of `path`: the files without a lock."""
    for leftover in path.parent.glob(glob.escape(_temporary_prefix(path)) + "*"):
        with contextlib.suppress(OSError):
            fd = os.open(leftover, os.O_RDWR)
            try:
                file_systems.lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, leftover)
                os.unlink(leftover)
            finally:
                os.close(fd)
