"""Locks of restores on a home, and of copies and restores on a new SQLite catalog with a temporary name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB
from pathlib import Path

from imgstore.domain.errors import WorkHeld
from imgstore.domain.host import file_systems
from imgstore.domain.host.private_files import make_private_folder, open_private


def lock_path(file: Path) -> Path:
    """Return the file with the lock on a catalog. A killed process leaves the file without a lock."""
    return file.with_name(f".{file.name}.held")


@contextmanager
def hold_lock_file(path: Path, busy: WorkHeld) -> Iterator[int]:
    """Make and lock a file, which the holder may remove at the end, and yield its descriptor.

    Args:
        path: the file.
        busy: the error if another process has the lock.

    Raises:
        WorkHeld: another process has the lock.
        OSError: the file cannot be made.
    """
    descriptor = open_private(str(path), os.O_RDWR | os.O_CREAT)
    try:
        try:
            file_systems.lock(descriptor, LOCK_EX | LOCK_NB, path)
        except BlockingIOError as error:
            raise busy from error
        if not os.fstat(descriptor).st_nlink:  # The other process has just ended.
            raise busy
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def hold_file(file: Path) -> Iterator[None]:
    """Keep other copies and restores into the same file away, because the temporary files have fixed names.

    A missing folder is made.

    Raises:
        WorkHeld: another process copies or restores into the file.
        OSError: the folder cannot be written.
    """
    make_private_folder(file.parent)
    held = lock_path(file)
    with hold_lock_file(held, _busy_error(file, held)):
        try:
            yield
        finally:
            held.unlink()


def _busy_error(file: Path, held: Path) -> WorkHeld:
    return WorkHeld(
        f"Another process copies or restores a catalog into {file}.",
        found=f"a lock on {held}",
        expected="one copy or restore into a file at a time",
        hint="wait for the other process to end, or name another file",
        target=str(file),
    )
