"""The translation of errors of the operating system (invariant E9).

A module that uses a file knows the place of an error and names it: the store of a region, a source, an export. The
description of the cause and the steps to correct the cause are the same for each place, and come from this module.
`host_fault` translates an error that no module expected, at the edges: commands, workers and the server.
"""

import errno
import os
import pwd
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from imgstore.domain.errors import HostFault, ImgstoreError, StoreFull
from imgstore.domain.host.file_systems import AbilityMissing, file_system_type

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})

_OF_THE_PROCESS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Errors that say nothing about the file that a call names."""
_FILES_OF_SQLITE: Final = 4
"""The catalog, the log and its index, and the folder of these files."""

_FAILED_DISK: Final = "check the health of the disk and the kernel's log (`dmesg`)"
_RAISE_FILE_SIZE: Final = (
    "raise the limit of file sizes of the process (`ulimit -f unlimited`, or LimitFSIZE= of systemd)"
)
_LEAVE_FOLDER: Final = "leave the current folder, which was deleted, with `cd`"
_NO_THREAD: Final = "can't start new thread"
"""The text of Python's RuntimeError: https://docs.python.org/3/library/threading.html#threading.Thread.start"""
_HINTS: Final = {
    errno.ENOSPC: "free some space in the file system of {place}",
    errno.EDQUOT: "free some space of your quota in the file system of {place}, or raise the quota",
    errno.EFBIG: "use another file system than that of {place}: it cannot hold such a large file",
    errno.EROFS: "mount the file system of {place} writable, or use a folder of another file system",
    errno.ENOENT: "check the path's spelling, and make the missing folder of a new file first (`mkdir -p`)",
    errno.ENOTDIR: "check the path's spelling: a part of {place} is a file and no folder",
    errno.EISDIR: "name a file: {place} is a folder",
    errno.EEXIST: "choose another name, or move {place} away",
    errno.ELOOP: "correct the symbolic link: {place} leads back to itself",
    errno.ENAMETOOLONG: "use a shorter path: a name may have 255 bytes, and a path 4,095 bytes",
    errno.EMFILE: "raise the limit of open files of the process (`ulimit -n 4096`, or LimitNOFILE= of systemd)",
    errno.ENFILE: "close programs with many open files, or raise the limit of the machine (`sysctl fs.file-max`)",
    errno.ENOMEM: "free some memory, or raise the memory limit of the process",
    errno.EAGAIN: "raise the limit of processes and threads (`ulimit -u`, or TasksMax= of systemd), or of memory "
    "(`ulimit -v`)",
    errno.EBUSY: "end the program that uses {place}",
    errno.ETXTBSY: "end the program that runs {place}",
    errno.EXDEV: "use a folder of one file system: {place} crosses to another",
    errno.ESTALE: "mount the network file system of {place} again",
    errno.ENODEV: "connect and mount the device of {place} again",
    errno.ENXIO: "connect and mount the device of {place} again",
    errno.ENOTCONN: "mount the file system of {place} again: its server or its program has ended",
    errno.ETIMEDOUT: "check the network and the server of the file system of {place}",
    errno.EHOSTDOWN: "check the network and the server of the file system of {place}",
    errno.EHOSTUNREACH: "check the network and the server of the file system of {place}",
    errno.EIO: _FAILED_DISK,
    errno.EUCLEAN: "repair the file system of {place} (`fsck`)",
}


def is_full(error: OSError) -> bool:
    """Return whether no space is left, a quota is used up, or a file is too large for the file system."""
    return error.errno in _FULL


def is_denied(error: OSError) -> bool:
    """Return whether a right is missing, or the file system is read-only."""
    return error.errno in _DENIED


def is_write_fault(error: OSError) -> bool:
    """Return whether a file or folder may still be read after this error of a write."""
    return error.errno in _DENIED | {errno.ENOSPC, errno.EDQUOT}


def find_os_error(error: BaseException) -> OSError | None:
    """Return the error of the operating system. Python reports missing memory and a refused thread as other classes.

    Returns:
        None if the operating system is not the cause.
    """
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, RuntimeError) and str(error).startswith(_NO_THREAD):
        return OSError(errno.EAGAIN, str(error))
    return None


def is_absent(error: OSError) -> bool:
    """Return whether there is no file of that name."""
    return error.errno in _NO_FILE


def find_open_fault(place: str | Path) -> OSError | None:
    """Return a fault for which a library could not open a file, if the library does not report the number of the error.

    Args:
        place: the file, which is not opened: closing it would release the locks of SQLite.
    """
    if os.path.isdir(place):
        return OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
    opened = list[int]()
    try:
        for _ in range(_FILES_OF_SQLITE):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return None


def describe(error: OSError, place: str | Path | None = None) -> str:
    """Describe an error for `found`: the text of the system, and the name of the number for searches.

    Args:
        error: the error.
        place: the file or folder. If access is refused, the description names owner, mode and type of file system. None
            for errors that callers over the network see.
    """
    text = (error.strerror or str(error) or type(error).__name__).strip()
    name = errno.errorcode.get(error.errno or 0)
    if name is not None and not isinstance(error, AbilityMissing):
        text = f"{text} ({name})"
    return text + (_owner(place) if place is not None and error.errno in (errno.EACCES, errno.EPERM) else "")


def advise(error: OSError, place: str | Path) -> str:
    """Return the steps to correct the cause of an error, for `hint`.

    Args:
        error: the error.
        place: the file or folder that the error is about.
    """
    if isinstance(error, AbilityMissing):
        return f"use a local file system, such as ext4 or XFS, in place of that of {place}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"check owner, mode (`chmod`) and mount options of {place}, or run as another user"
    if error.errno == errno.EFBIG and is_file_size_limited():
        return _RAISE_FILE_SIZE
    if error.errno == errno.ENOENT and not os.path.isabs(place) and _is_current_folder_deleted():
        return _LEAVE_FOLDER
    return _HINTS.get(error.errno or 0, _FAILED_DISK).format(place=place)


def advise_failed_io(place: str | Path) -> str:
    """Return the checks after a failed read or write, if a library does not report the number of the error.

    Args:
        place: the file that could not be read or written.
    """
    checks = f"check the free space of {place}, the health of the disk and the kernel's log (`dmesg`)"
    return f"{_RAISE_FILE_SIZE}, or {checks}" if is_file_size_limited() else checks


def is_file_size_limited() -> bool:
    """Return whether this process has a limit of file sizes."""
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def host_fault(error: OSError) -> ImgstoreError:
    """Translate an error that no module expected. Callers over the network see neither path nor number.

    Returns:
        StoreFull for missing space, else HostFault.
    """
    place = None if error.errno in _OF_THE_PROCESS else _file_name(error)
    kind = StoreFull if is_full(error) else HostFault
    fault = kind(
        f"{place} cannot be used." if place else "The operating system refused an operation.",
        found=describe(error, place),
        expected="a machine with free space, free memory, free file descriptors and working file systems",
        hint=f"{advise(error, place or 'the command')}, then run the same command again",
        target=place,
    )
    fault.public = kind("The server cannot perform the request now.", hint="send the same request again in a moment")
    return fault


@contextmanager
def translate_host_faults() -> Iterator[None]:
    """Translate each error of the operating system that leaves the block, see `find_os_error`.

    Raises:
        StoreFull: no space is left.
        HostFault: another error of the operating system.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        found = find_os_error(error)
        if found is None:
            raise
        raise host_fault(found) from error


def _is_current_folder_deleted() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _file_name(error: OSError) -> str | None:
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else None


def _owner(place: str | Path) -> str:
    """Return owner, mode and file system of the first existing folder or file of a path."""
    for each in (Path(place), *Path(place).absolute().parents):
        try:
            found = each.stat()
        except OSError:
            continue
        mode = stat.filemode(found.st_mode)
        return f"; {each} belongs to {_user(found.st_uid)}, mode {mode}, file system {file_system_type(each)}"
    return ""


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except (KeyError, OSError):
        return f"user {number}"
