"""Create files and folders with access for the owner only, independent of the umask."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from imgstore.domain.host.file_systems import set_mode, sync_folder

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_STATUS: Final = Path("/proc/self/status")


def make_private_folder(path: Path) -> None:
    """Create a folder and missing parent folders, with access for this user only. An existing folder stays unchanged.

    The entry of each new folder is durable, and survives a power failure.

    Raises:
        OSError: the folder cannot be created, or the name belongs to another kind of file.
    """
    try:
        _make_folder(path)
    except FileNotFoundError:
        make_private_folder(path.parent)
        _make_folder(path)


def _make_folder(path: Path) -> None:
    try:
        os.mkdir(path, FOLDER_MODE)
        sync_folder(path.parent)
    except FileExistsError:
        if not path.is_dir():
            raise


def tighten_folder(path: Path) -> None:
    """Remove the access of other users to a folder that belongs to this user. Older releases used the umask.

    A shared folder with the sticky bit, such as /tmp, and a missing folder stay unchanged. So does a folder in a file
    system without modes.

    Raises:
        OSError: the mode cannot be changed.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    shared = not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_ISVTX
    if found.st_uid == os.geteuid() and found.st_mode & _OTHERS and not shared:
        set_mode(path, stat.S_IMODE(found.st_mode) & ~_OTHERS)


def open_private(path: str, flags: int) -> int:
    """Open a file, and create a missing file for this user only: an `opener` for `open`."""
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


def write_private_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write a new file for this user only. The bytes are durable, and the name is not.

    Raises:
        OSError: the file exists or cannot be written.
    """
    with open(path, "xb", opener=open_private) as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def keep_own_access() -> None:
    """Let this user use the files that this process creates. A umask such as 777 would make a home unusable.

    Call at the start, before other threads create files.
    """
    os.umask(os.umask(_OTHERS) & _OTHERS)


def usual_file_mode() -> int:
    """Return the mode of new files under the umask of this process.

    The kernel shows the umask. Setting and resetting the umask would affect files that other threads create at that
    time.
    """
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        umask = int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)
    except (OSError, StopIteration, ValueError):
        umask = os.umask(_OTHERS)
        os.umask(umask)
    return 0o666 & ~umask
