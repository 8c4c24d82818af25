"""Make files and folders that only their owner may use, whatever the umask says."""

import os
import stat
from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_STATUS: Final = Path("/proc/self/status")


def make_private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for this user only. One that exists stays as it is.

    The entry of each new folder is durable: it survives a power failure.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    try:
        os.mkdir(path, FOLDER_MODE)
        sync_folder(path.parent)
    except FileNotFoundError:
        make_private_folder(path.parent)
        make_private_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise


def sync_folder(folder: str | Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the file system could not.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tighten_folder(path: Path) -> None:
    """Take a folder from everybody but its owner, if this user owns it: an older imgstore left it to the umask.

    A folder that others share by its sticky bit, such as /tmp, and one that is missing stay as they are.

    Raises:
        OSError: its mode cannot be changed.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    shared = not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_ISVTX
    if found.st_uid == os.geteuid() and found.st_mode & _OTHERS and not shared:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def open_private(path: str, flags: int) -> int:
    """Open a file, made for this user only: an `opener` of `open`."""
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


def usual_file_mode() -> int:
    """The mode that a new file gets by this process's umask.

    The kernel shows the umask; to set it and set it back would change what other threads make meanwhile.
    """
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        umask = int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)
    except (OSError, StopIteration, ValueError):
        umask = os.umask(_OTHERS)
        os.umask(umask)
    return 0o666 & ~umask
