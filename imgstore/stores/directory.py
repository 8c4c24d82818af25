"""A store in a directory, the embedded default, with atomic and durable file operations.

A put writes a file under ``.tmp/`` (a name that no key can have) and fsyncs the file. It then renames the file to its
key, without replacement if the key must be absent, and fsyncs the folder. One fsync is for the bytes and one for the
name. A reader therefore sees the old object or the new one, and a killed process or a power failure never leaves a part.
"""

import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from imgstore.domain.errors import StoreDenied, StoreError, StoreFull
from imgstore.domain.host import file_systems
from imgstore.domain.host.os_errors import advise, describe, is_denied, is_full
from imgstore.domain.host.private_files import FILE_MODE, FOLDER_MODE, make_private_folder
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.stores.errors import check_accepted, check_length, existing_object_error, missing_object_error
from imgstore.stores.interface import Accept, Body, ObjectInfo, StoreProperties, check_key

_TEMPORARY_FOLDER: Final = ".tmp"

_LEFTOVER_SECONDS: Final = 24 * 3600
"""A temporary file without writes for this time has no writer, because an object has megabytes at most.

If a writer still lives, its rename fails with an error, and nothing wrong becomes visible.
"""

_SMALL_BYTES: Final = 4096
"""Objects up to this size may use the reserve: marks and notes that deletes and garbage collection need."""

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})


class DirectoryStore:
    """Objects as files below `root`, which the first put creates."""

    properties = StoreProperties(verifies_checksum=True, server_side_copy=False, atomic_create=True)
    """A successful fsync is the file system's confirmation of the bytes.

    Copies are read and written by this process: a replica is a deep copy, never a link or shared extents.
    """

    def __init__(self, root: Path, space: DiskSpace | None = None, *, home: Path | None = None) -> None:
        """Create the store without opening or creating a folder.

        Args:
            root: the folder of the keys.
            space: the reserve that a put must keep; None keeps none.
            home: a folder above `root`. The entries of all folders between both are made durable, whichever process
                created the folders; None is the parent of `root`.
        """
        self._root = os.path.abspath(root)
        self._space = space
        self._writing_bytes = 0
        self._home = os.path.dirname(self._root) if home is None else os.path.abspath(home)
        self._pinned: tuple[int, int] | None = None
        self._numbers = itertools.count()
        self._folders: set[str] = set()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """See `Describes.name`."""
        return f"directory {self._root}"

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        with self._open_file(key) as descriptor:
            stored_bytes = os.fstat(descriptor).st_size
            check_length(self.name, key, stored_bytes)
            body = _read(descriptor, stored_bytes)
        return check_accepted(self.name, key, body, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        with self._open_file(key) as descriptor:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return _read(descriptor, min(length, max(0, os.fstat(descriptor).st_size - offset)))

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        with self._translate_errors(key), self._translate_absence(key):
            found = os.stat(self._path(key))
        if not stat.S_ISREG(found.st_mode):
            raise missing_object_error(self.name, key)
        return _info(key, found)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        with self._translate_errors(prefix):
            yield from self._walk(folder + "/" if folder else "", prefix)

    @contextmanager
    def _open_file(self, key: str) -> Iterator[int]:
        with self._translate_errors(key), self._translate_absence(key):
            # Without O_NONBLOCK, a pipe in place of an object would wait for a writer.
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise missing_object_error(self.name, key)
                yield descriptor
            finally:
                os.close(descriptor)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """List the objects below `folder` ("" or ending in "/") that begin with `prefix`, in the order of keys."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as found:
                entries = [(entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in found]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, entry in sorted(entries, key=lambda each: each[0]):
            key = folder + name
            if name.startswith(".") or not (key.startswith(prefix) or (name[-1] == "/" and prefix.startswith(key))):
                continue
            if name[-1] == "/":
                yield from self._walk(key, prefix)
            else:
                with suppress(FileNotFoundError):  # deleted after the listing of the folder
                    yield _info(key, entry.stat(follow_symlinks=False))

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        path = self._path(key)
        with self._translate_errors(key):
            try:
                with self._reserve_space(len(body)):
                    written = self._write_durably(path, body, only_if_absent=only_if_absent)
            except FileNotFoundError:  # another process removed a folder, or a temporary file that was a day old
                self._clear_folders()
                written = self._write_durably(path, body, only_if_absent=only_if_absent)
            except FileExistsError:
                if only_if_absent:
                    raise existing_object_error(self.name, key) from None
                raise
        return _info(key, written)

    @contextmanager
    def _reserve_space(self, needed_bytes: int) -> Iterator[None]:
        """Refuse a put that would use the reserve. Concurrent puts of other threads count."""
        if self._space is None or needed_bytes <= _SMALL_BYTES:
            yield
            return
        with self._lock:
            self._space.check_free_space(Path(self._root), self._writing_bytes + needed_bytes)
            self._writing_bytes += needed_bytes
        try:
            yield
        finally:
            with self._lock:
                self._writing_bytes -= needed_bytes

    def _write_durably(self, path: str, body: Body, *, only_if_absent: bool) -> os.stat_result:
        folder = os.path.dirname(path)
        self._ensure_folder(folder)
        with self._write_temporary(body) as (temporary, written):
            if only_if_absent:
                file_systems.publish(temporary, path)
            else:
                file_systems.replace(temporary, path)
        file_systems.sync_folder(folder)
        return written

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`. Durable: each folder with a removed file is fsynced once."""
        touched: dict[str, None] = {}
        for key in keys:
            path = self._path(key)
            with self._translate_errors(key):
                try:
                    os.unlink(path)
                except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    continue
                touched[os.path.dirname(path)] = None
        for folder in touched:
            with self._translate_errors(folder):
                file_systems.sync_folder(folder)
        return True

    def prune(self, prefix: str) -> None:
        """Remove the empty folders below a prefix that ends in "/", and the folder of the prefix. Not durable.

        Raises:
            StoreError: the file system fails. A folder with an object stays.
        """
        top = self._path(prefix.removesuffix("/"))
        with self._translate_errors(prefix):
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError as error:
                    if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                        raise
        self._clear_folders()

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`."""
        return self.put(target_key, self.get(source_key))

    @contextmanager
    def _write_temporary(self, body: Body) -> Iterator[tuple[str, os.stat_result]]:
        """Write the body durably to a temporary file, which is removed after the block unless it was renamed."""
        name = f"{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}-{os.urandom(4).hex()}"
        temporary = os.path.join(self._root, _TEMPORARY_FOLDER, name)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                _write(descriptor, body)
                os.fsync(descriptor)
                written = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            yield temporary, written
        finally:
            with suppress(OSError):  # renamed, or the file system failed and an error was already raised
                os.unlink(temporary)

    def _ensure_folder(self, folder: str) -> None:
        """Create the folder and its parents durably.

        A folder of another process may not be durable yet, so each process syncs each folder once.
        """
        if folder in self._folders:
            return
        with self._lock:
            if self._root not in self._folders:
                self._begin()
            self._ensure_durable(folder)

    def _clear_folders(self) -> None:
        """Let the next put create and sync the folders again. Waits while another thread creates folders."""
        with self._lock:
            self._folders.clear()

    def pin(self) -> None:
        """Pin the store to the present folder at `root`, and never create `root` again.

        A mounted or unmounted file system makes the path another folder.

        Raises:
            StoreError: the folder does not exist.
        """
        with self._translate_errors(""):
            found = os.stat(self._root)
        with self._lock:  # Another thread may be creating folders.
            self._folders.clear()
            self._pinned = found.st_dev, found.st_ino

    def unpin(self) -> None:
        """Accept any folder at `root`. The next put creates a missing folder."""
        self._pinned = None

    def is_pinned(self) -> bool:
        """Return whether `root` is the pinned folder."""
        try:
            found = os.stat(self._root)
        except OSError:
            return False
        return self._pinned == (found.st_dev, found.st_ino)

    def _begin(self) -> None:
        if self._pinned is not None and not self.is_pinned():
            raise FileNotFoundError(errno.ENOENT, "the folder was unmounted, moved or replaced while it was in use")
        make_private_folder(Path(self._root))
        above = self._root
        while above != self._home and above != os.path.dirname(above):
            above = os.path.dirname(above)
            file_systems.sync_folder(above)
        temporaries = os.path.join(self._root, _TEMPORARY_FOLDER)
        make_private_folder(Path(temporaries))
        self._folders.add(self._root)
        _remove_leftovers(temporaries)

    def _ensure_durable(self, folder: str) -> None:
        if folder in self._folders:
            return
        above = os.path.dirname(folder)
        self._ensure_durable(above)
        with suppress(FileExistsError):
            os.mkdir(folder, FOLDER_MODE)
        file_systems.sync_folder(above)
        self._folders.add(folder)

    # -- shared -------------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return os.path.join(self._root, check_key(key))

    @contextmanager
    def _translate_absence(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _ABSENT:
                raise missing_object_error(self.name, key) from error
            raise

    @contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        """Translate an OSError into an error of stores."""
        try:
            yield
        except OSError as error:
            raise self._create_error(key, error) from error

    def _create_error(self, key: str, error: OSError) -> StoreError:
        found = f"{describe(error)} in {self._root}"
        hint = f"{advise(error, self._root)}, then run the same command again, which resumes the work"
        if is_full(error):
            return StoreFull(
                "The store is full.", found=found, expected="free space for the object", hint=hint, target=key
            )
        if is_denied(error):
            return StoreDenied(
                f"The file system refuses access to '{key}'.",
                found=found,
                expected=f"read and write access for user {os.geteuid()}",
                hint=hint,
                target=key,
            )
        return StoreError(
            f"The file system failed on '{key}'.",
            found=found,
            expected="a file system without errors",
            hint=hint,
            target=key,
        )


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    time = datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1_000_000, UTC)
    return ObjectInfo(key=key, stored_bytes=found.st_size, last_modified=time, checksum=None)


def _read(descriptor: int, length: int) -> bytes:
    """Read `length` bytes, without a copy if a single read returns all bytes."""
    first = os.read(descriptor, length)
    if len(first) == length:
        return first
    parts = [first]
    while parts[-1] and (missing := length - sum(map(len, parts))):
        parts.append(os.read(descriptor, missing))
    return b"".join(parts)


def _write(descriptor: int, body: Body) -> None:
    left = memoryview(body)
    while left:
        left = left[os.write(descriptor, left) :]


def _remove_leftovers(temporaries: str) -> None:
    """Remove the temporary files of dead processes.

    The file system's own clock decides the age, so that writers of other machines are safe on a network file system.
    """
    probe = os.path.join(temporaries, f"now-{os.urandom(8).hex()}")
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    now = os.stat(probe).st_mtime
    os.unlink(probe)
    with os.scandir(temporaries) as found:
        for entry in found:
            with suppress(FileNotFoundError):
                if now - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_SECONDS:
                    os.unlink(entry.path)
