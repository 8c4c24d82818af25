"""The abilities of file systems, and file operations that give the same guarantees on all of them (invariant E8).

SMB, exFAT, FAT and many FUSE file systems have no hard links. Some have no RENAME_NOREPLACE, no file locks, no modes or
no fsync of folders. An ability is found by its use in the folder concerned, and remembered for the file system.

A file that must not replace another file gets its name in one of three ways. Each way is one atomic step, so a killed
process leaves either no file or the complete file:

1. link(), which fails if the name exists,
2. renameat2() with RENAME_NOREPLACE,
3. a check of the name and rename(), both under a lock (flock) on the folder. The kernel releases the lock of a killed
   process. `replace` takes the same lock there, so that a replacement never falls between check and rename.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
"""Linux's numbers: https://man7.org/linux/man-pages/man2/rename.2.html"""
_MOUNTS: Final = Path("/proc/self/mountinfo")

_MISSING: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENODEV, errno.ENOTTY, errno.ENOLCK}
)
"""The errors of operations that a file system or kernel does not implement."""
_REFUSED: Final = _MISSING | {errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EACCES}
"""The errors of link() and fallocate() without the ability. FAT reports EPERM, as for a missing right."""


class _Way(Enum):
    """A way to name a file without replacing another file."""

    LINK = auto()
    RENAME = auto()
    LOCK = auto()


class AbilityMissing(OSError):
    """An operation that needs an ability which the file system does not have."""

    def __init__(self, ability: str, path: str | Path) -> None:
        super().__init__(errno.ENOTSUP, f"the file system ({file_system_type(path)}) has no {ability}")
        self.ability = ability


_ways: dict[int, _Way] = {}
"""The way of each file system, by st_dev. Threads that find the way at the same time find the same way."""


def is_missing_ability(error: OSError) -> bool:
    """Return whether an optional operation failed because the file system or kernel does not implement it."""
    return error.errno in _MISSING


def may_be_missing_ability(error: OSError) -> bool:
    """Return whether an optional operation may have failed because the file system does not implement it.

    The errors include EPERM and EACCES, so the caller must fall back to an operation that reports a missing right.
    """
    return error.errno in _REFUSED


def file_system_type(path: str | Path) -> str:
    """Return the type of the file system of a path, as mount names the type; "unknown" if the kernel does not tell."""
    try:
        device = os.stat(path).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split()
            if fields[2] == name:
                return fields[fields.index("-", 6) + 1]
    except (OSError, ValueError, IndexError):
        pass
    return "unknown"


def publish(temporary: str | Path, path: str | Path) -> None:
    """Give a complete file its final name in the same folder, without replacing another file.

    Raises:
        FileExistsError: the name exists already.
        AbilityMissing: the file system has no way to do this.
        OSError: the file system reports another error.
    """
    device = os.stat(temporary).st_dev
    way, is_known = _find_way(temporary, device)
    try:
        if way is _Way.LINK:
            os.link(temporary, path)
            with suppress(OSError):  # The file is published. A leftover of its second name is removed later.
                os.unlink(temporary)
        elif way is _Way.RENAME:
            _rename_without_replacement(temporary, path)
        else:
            with _lock_folder(path):
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
                os.rename(temporary, path)
    except OSError as error:
        if not is_known or way is _Way.LOCK or not may_be_missing_ability(error):
            raise
        _ways.pop(device, None)  # The number belongs to another file system since a mount.
        publish(temporary, path)


def replace(temporary: str | Path, path: str | Path) -> None:
    """Give a complete file its final name in the same folder. Another file of this name is replaced.

    Raises:
        OSError: the file system reports an error.
    """
    with ExitStack() as stack:
        if _find_way(temporary, os.stat(temporary).st_dev)[0] is _Way.LOCK:
            with suppress(AbilityMissing):  # Then no process can publish a file here.
                stack.enter_context(_lock_folder(path))
        os.rename(temporary, path)


def _find_way(temporary: str | Path, device: int) -> tuple[_Way, bool]:
    """Return the way of a file system, and whether the way was known. Try the ways with a second name of the file."""
    if (known := _ways.get(device)) is not None:
        return known, True
    probe = f"{os.fspath(temporary)}-probe"
    try:
        os.link(temporary, probe)
        os.unlink(probe)
        way = _Way.LINK
    except OSError as error:
        if not may_be_missing_ability(error):
            raise
        way = _Way.RENAME if _can_rename(temporary, probe) else _Way.LOCK
    _ways[device] = way
    return way, False


def _can_rename(temporary: str | Path, probe: str) -> bool:
    try:
        _rename_without_replacement(temporary, probe)
        os.rename(probe, temporary)
    except OSError as error:
        if not is_missing_ability(error):
            raise
        return False
    return True


def lock(descriptor: int, operation: int, path: str | Path) -> None:
    """Take or test a lock (flock) on an open file or folder. The kernel releases the lock when the process ends.

    Args:
        descriptor: the open file or folder.
        operation: LOCK_SH or LOCK_EX of `fcntl`, perhaps with LOCK_NB.
        path: the path of the file, for the error.

    Raises:
        BlockingIOError: with LOCK_NB, another process has the lock.
        AbilityMissing: the file system has no locks.
        OSError: the file system reports another error.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if is_missing_ability(error) or error.errno == errno.EBADF:  # EBADF: NFS locks no file without a writer.
            raise AbilityMissing("file locks", path) from error
        raise


def check_locks(descriptor: int, path: str | Path) -> None:
    """Refuse a file system without the two kinds of locks that a home needs: flock, and fcntl for SQLite.

    Args:
        descriptor: a file that is open for reading and writing, and that no other lock of `fcntl` protects.
        path: the path of the file, for the error.

    Raises:
        AbilityMissing: the file system has no locks.
        OSError: the file system reports another error.
    """
    try:
        with suppress(BlockingIOError):
            lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, path)
        with suppress(BlockingIOError, PermissionError):  # Another process has an exclusive lock.
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
    except AbilityMissing:
        raise
    except OSError as error:
        if is_missing_ability(error):
            raise AbilityMissing("file locks", path) from error
        raise


def check_free_bytes(path: Path, needed_bytes: int) -> None:
    """Refuse a file system without the bytes that a write needs. A file system that reports no size is not refused.

    Raises:
        OSError: ENOSPC, or the path cannot be read.
    """
    found = os.statvfs(path)
    free_blocks = found.f_bavail if os.geteuid() else found.f_bfree
    if found.f_blocks and free_blocks * found.f_frsize < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def sync_folder(folder: str | Path) -> None:
    """Make the names in a folder durable, as far as the file system can.

    Raises:
        OSError: the file system reports an error.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_missing_ability(error):
            raise
    finally:
        os.close(descriptor)


def set_mode(target: int | Path, mode: int) -> None:
    """Set the mode of a file or folder. A file system without modes keeps the mode of the mount.

    Raises:
        OSError: the file system reports an error.
    """
    try:
        os.chmod(target, mode)
    except OSError as error:
        if not may_be_missing_ability(error):
            raise


@contextmanager
def _lock_folder(path: str | Path) -> Iterator[None]:
    """Hold a lock on the folder of `path`. Threads and processes of this machine exclude each other."""
    folder = os.path.dirname(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            lock(descriptor, fcntl.LOCK_EX, folder)
        except AbilityMissing as error:
            raise AbilityMissing("hard links, no RENAME_NOREPLACE and no file locks", folder) from error
        yield
    finally:
        os.close(descriptor)


def _rename_without_replacement(temporary: str | Path, path: str | Path) -> None:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # another C library, or another system
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(path))
