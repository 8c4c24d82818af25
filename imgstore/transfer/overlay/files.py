"""The files of an overlay. Tests replace this layer by one that loses what was not synced."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from imgstore.domain.errors import WorkHeld
from imgstore.domain.host import file_systems
from imgstore.domain.host.private_files import FILE_MODE, make_private_folder
from imgstore.formats.files.atomic_file import write_all
from imgstore.formats.files.holes import clear_range

LOCK_FILE: Final = "lock"


class OverlayFile(Protocol):
    """A file with reads and writes at offsets. Each method raises OSError."""

    def file_bytes(self) -> int:
        """Return the length."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all bytes."""
        ...

    def truncate(self, length: int) -> None:
        """Set the length."""
        ...

    def punch(self, offset: int, length: int) -> None:
        """Make a range inside the file a hole."""
        ...

    def sync(self) -> None:
        """Make the written bytes and the length durable."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class OverlayFolder(Protocol):
    """The folder of an overlay, locked for this process. Each method raises OSError."""

    @property
    def label(self) -> str:
        """The path, for messages."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        ...

    def open(self, name: str, *, is_new: bool = False) -> OverlayFile:
        """Open a file for reading and writing. With `is_new`, an old file of that name is removed first."""
        ...

    def replace(self, temporary: str, name: str) -> None:
        """Give a file another name, and make the name durable. Another file of that name is replaced."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if the file exists."""
        ...

    def close(self) -> None:
        """Release the lock."""
        ...


class _LocalFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def file_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        write_all(self._descriptor, data, offset)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)

    def punch(self, offset: int, length: int) -> None:
        clear_range(self._descriptor, offset, length)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class LocalFolder:
    """A folder of the operating system. The lock excludes other processes, and other openings in this process."""

    def __init__(self, path: Path) -> None:
        """Make the folder if it is missing, and lock it.

        Raises:
            WorkHeld: another process has the overlay open.
            OSError: the folder cannot be used.
        """
        self._path = path
        make_private_folder(path)
        self._lock = lock_folder(path)

    @property
    def label(self) -> str:
        """The path, for messages."""
        return str(self._path)

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return (self._path / name).exists()

    def open(self, name: str, *, is_new: bool = False) -> OverlayFile:
        """Open a file for this user only. A link is refused."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        if is_new:
            self.remove(name)
            flags |= os.O_EXCL
        return _LocalFile(os.open(self._path / name, flags, FILE_MODE))

    def replace(self, temporary: str, name: str) -> None:
        """Give a file another name, and make the name durable."""
        file_systems.replace(self._path / temporary, self._path / name)
        file_systems.sync_folder(self._path)

    def remove(self, name: str) -> None:
        """Remove a file if the file exists."""
        with suppress(FileNotFoundError):
            os.unlink(self._path / name)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


def lock_folder(path: Path) -> int:
    """Lock the overlay in a folder. The lock is held until the descriptor is closed.

    Raises:
        WorkHeld: another process has the overlay open.
        OSError: the lock file cannot be made.
    """
    held = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        file_systems.lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    except BlockingIOError:
        os.close(held)
        raise WorkHeld(
            f"The overlay {path} is in use.",
            found="a lock of another process, such as `imgstore disk attach`",
            expected="an overlay that no process has open",
            hint="end the process that serves the disk, then try again",
            target=str(path),
        ) from None
    except BaseException:
        os.close(held)
        raise
    return held
